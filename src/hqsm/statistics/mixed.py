"""Random-intercept linear model by REML, with Satterthwaite and Kenward-Roger degrees of freedom.

statsmodels' MixedLM has the same estimates but tests by z, which with some twenty participants is far too bold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from hqsm.arrays import AnyArray, FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomInterceptFit:
    """y = X b + u_participant + e; all arrays (term,). ``sd_participant`` and ``sd_residual`` in the unit of y."""

    coefficients: FloatArray
    standard_errors: FloatArray
    degrees_of_freedom: FloatArray
    """Satterthwaite."""
    p_values: FloatArray
    kenward_roger_errors: FloatArray
    kenward_roger_df: FloatArray
    sd_participant: float
    sd_residual: float
    criterion: float
    """-2 log restricted likelihood."""
    at_boundary: bool
    """The variance between participants was estimated as zero."""


def random_intercept(design: FloatArray, outcome: FloatArray, clusters: AnyArray) -> RandomInterceptFit:
    """Fit by restricted maximum likelihood.

    The criterion is profiled over the residual variance and minimised over one number, the variance ratio
    gamma = sd_participant^2 / sd_residual^2 (Pinheiro and Bates 2000, section 2.2). Covariance and df: Kenward and Roger,
    Biometrics 1997;53:983, and Fai and Cornelius 1996 (Satterthwaite), here with both variances as parameters.

    Parameters
    ----------
    design, outcome, clusters
        (observation, term), (observation,), (observation,) label of the participant.

    Raises
    ------
    ValueError
        If no participant has two observations, or the design has not full column rank.
    """
    n, p = design.shape
    labels, index = np.unique(clusters, return_inverse=True)
    if np.linalg.matrix_rank(design) < p:
        raise ValueError("the terms of the regression cannot be told apart (collinear design)")
    if labels.size == n or labels.size < 2:
        raise ValueError("a random intercept needs participants with several intervals, and several participants")
    same = (index[:, None] == index[None, :]).astype(float)

    def profile(gamma: float) -> tuple[float, float]:
        v = np.eye(n) + gamma * same
        vx = np.linalg.solve(v, design)
        xvx = design.T @ vx
        beta = np.linalg.solve(xvx, vx.T @ outcome)
        residual = outcome - design @ beta
        sigma2 = float(residual @ np.linalg.solve(v, residual)) / (n - p)
        logdet = float(np.linalg.slogdet(v)[1] + np.linalg.slogdet(xvx)[1])
        return (n - p) * (1 + np.log(2 * np.pi * sigma2)) + logdet, sigma2

    found = optimize.minimize_scalar(lambda s: profile(s**2)[0], bounds=(0, 30), method="bounded", options={"xatol": 1e-9})
    root = float(found.x)
    if profile(0.0)[0] <= profile(root**2)[0] + 1e-9:
        root = 0.0
    criterion, sigma2 = profile(root**2)
    variances = np.array([root**2 * sigma2, sigma2])
    v_inverse = np.linalg.inv(variances[0] * same + variances[1] * np.eye(n))
    phi = np.linalg.inv(design.T @ v_inverse @ design)
    beta = phi @ design.T @ v_inverse @ outcome
    errors = np.sqrt(np.diag(phi))
    boundary = root == 0.0
    parts = [np.eye(n)] if boundary else [same, np.eye(n)]
    df = _satterthwaite(design, outcome, v_inverse, phi, parts)
    kr_errors, kr_df = _kenward_roger(design, v_inverse, phi, parts)
    return RandomInterceptFit(
        coefficients=beta,
        standard_errors=errors,
        degrees_of_freedom=df,
        p_values=2 * stats.t.sf(np.abs(beta / errors), df),
        kenward_roger_errors=kr_errors,
        kenward_roger_df=kr_df,
        sd_participant=float(np.sqrt(variances[0])),
        sd_residual=float(np.sqrt(variances[1])),
        criterion=float(criterion),
        at_boundary=boundary,
    )


def _satterthwaite(x: FloatArray, y: FloatArray, v_inverse: FloatArray, phi: FloatArray, parts: list[FloatArray]) -> FloatArray:
    """Df = 2 (l' Phi l)^2 / (g' A g): A the inverse of the observed information of the variances, g the gradient.

    With P = V^-1 - V^-1 X Phi X' V^-1, the second derivative of -2 log restricted likelihood with respect to
    variances r and s is 2 y' P V_r P V_s P y - tr(P V_r P V_s); A is twice its inverse.
    """
    projector = v_inverse - v_inverse @ x @ phi @ x.T @ v_inverse
    py = projector @ y
    pv = [projector @ part for part in parts]
    hessian = np.array(
        [[2 * py @ a @ projector @ b @ py - np.trace(pv[r] @ pv[s]) for s, b in enumerate(parts)] for r, a in enumerate(parts)]
    )
    covariance = 2 * np.linalg.inv(hessian)
    gradient = np.stack([np.diag(phi @ x.T @ v_inverse @ part @ v_inverse @ x @ phi) for part in parts])
    spread = np.einsum("rt,rs,st->t", gradient, covariance, gradient)
    df: FloatArray = 2 * np.diag(phi) ** 2 / spread
    return df


def _kenward_roger(x: FloatArray, v_inverse: FloatArray, phi: FloatArray, parts: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Adjusted standard errors and df of each coefficient; variances enter V linearly, so the R_rs terms vanish."""
    p_terms = [-x.T @ v_inverse @ part @ v_inverse @ x for part in parts]
    q_terms = [[x.T @ v_inverse @ a @ v_inverse @ b @ v_inverse @ x for b in parts] for a in parts]
    m = len(parts)
    information = np.empty((m, m))
    for r in range(m):
        for s in range(m):
            information[r, s] = 0.5 * (
                np.trace(v_inverse @ parts[r] @ v_inverse @ parts[s])
                - 2 * np.trace(phi @ q_terms[r][s])
                + np.trace(phi @ p_terms[r] @ phi @ p_terms[s])
            )
    w = np.linalg.inv(information)
    inner = sum(w[r, s] * (q_terms[r][s] - p_terms[r] @ phi @ p_terms[s]) for r in range(m) for s in range(m))
    adjusted = phi + 2 * phi @ inner @ phi
    errors = np.sqrt(np.diag(adjusted))
    df = np.empty(len(phi))
    for term in range(len(phi)):
        theta = np.zeros_like(phi)
        theta[term, term] = 1 / phi[term, term]
        # for one coefficient A1 = A2, and the paper's moments reduce to df = 2 / A2
        a2 = sum(w[r, s] * np.trace(theta @ phi @ p_terms[r] @ phi @ theta @ phi @ p_terms[s] @ phi) for r in range(m) for s in range(m))
        df[term] = 2 / a2
    return errors, df
