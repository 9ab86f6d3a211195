"""Maximum-likelihood fit of water, fat, R2* and field in each voxel, with standard errors.

Minimises |y - s(theta)|^2 over theta by Levenberg-Marquardt, s(t) = (W + F c(t)) exp(i 2 pi f t - R2* t):

- free: W and F complex and independent (6 unknowns);
- constrained: W and F real behind one common phase (5 unknowns), with a Gaussian prior on f;
- without fat: W real behind a phase (4 unknowns), with the same prior.

Standard errors are the square roots of the diagonal of the inverse Fisher information Re(J^H J) / sigma^2, the prior's
information included.
"""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray

FREE, CONSTRAINED, NO_FAT = 1, 2, 3
_MAX_ITERATIONS = 40


@numba.njit(cache=True)
def _solve(matrix: AnyArray, n: int, inverse: AnyArray) -> bool:  # pragma: no cover - compiled
    """Cholesky inverse of the leading n x n block; False if it is not positive definite."""
    factor = np.zeros((6, 6))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                if total <= 1e-14:
                    return False
                factor[i, i] = np.sqrt(total)
            else:
                factor[i, j] = total / factor[j, j]
    for c in range(n):
        column = np.zeros(6)
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(i):
                total -= factor[i, k] * column[k]
            column[i] = total / factor[i, i]
        for i in range(n - 1, -1, -1):
            total = column[i]
            for k in range(i + 1, n):
                total -= factor[k, i] * column[k]
            column[i] = total / factor[i, i]
        for i in range(n):
            inverse[i, c] = column[i]
    return True


@numba.njit(cache=True)
def _evaluate(
    kind: int, theta: AnyArray, t: AnyArray, fat: AnyArray, y: AnyArray, model: AnyArray, jacobian: AnyArray
) -> float:  # pragma: no cover - compiled
    """Model, Jacobian (echo, parameter) and squared residual. theta: 0 f/100 Hz, 1 R2*/100, then the linear unknowns."""
    total = 0.0
    for e in range(t.size):
        growth = np.exp(2j * np.pi * 100 * theta[0] * t[e] - 100 * theta[1] * t[e])
        if kind == FREE:
            w = complex(theta[2], theta[3])
            f = complex(theta[4], theta[5])
            jacobian[e, 2] = growth
            jacobian[e, 3] = 1j * growth
            jacobian[e, 4] = fat[e] * growth
            jacobian[e, 5] = 1j * fat[e] * growth
            value = (w + f * fat[e]) * growth
        else:
            common = np.exp(1j * theta[2]) * growth
            share = theta[3] + (theta[4] * fat[e] if kind == CONSTRAINED else 0j)
            value = share * common
            jacobian[e, 2] = 1j * value
            jacobian[e, 3] = common
            if kind == CONSTRAINED:
                jacobian[e, 4] = fat[e] * common
        jacobian[e, 0] = 2j * np.pi * 100 * t[e] * value
        jacobian[e, 1] = -100 * t[e] * value
        model[e] = value
        difference = y[e] - value
        total += difference.real**2 + difference.imag**2
    return total


@numba.njit(cache=True, parallel=True)
def fit_voxels(
    kinds: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    prior_field: AnyArray,
    prior_precision: AnyArray,
    sigma: float,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit every voxel with its kind of model.

    Parameters
    ----------
    kinds
        (voxel,) FREE, CONSTRAINED or NO_FAT; 0 skips the voxel.
    signal
        (voxel, echo) complex.
    t, fat
        (echo,) echo times [s] and fat signal c(t).
    start_field, start_r2star
        (voxel,) where to start [Hz], [1/s].
    prior_field, prior_precision
        (voxel,) mean [Hz] and inverse variance [1/Hz2] of the field's prior; precision 0 is no prior.
    sigma
        Noise SD of the real part.

    Returns
    -------
    linear, nonlinear, errors, residual
        (voxel, 2) complex W and F; (voxel, 2) field and R2*; (voxel, 3) standard errors of field [Hz], R2* [1/s],
        PDFF [points]; (voxel,) squared residual, NaN where the fit did not converge.
    """
    n_voxels, n_echoes = signal.shape
    linear = np.full((n_voxels, 2), np.nan + 0j, np.complex128)
    nonlinear = np.full((n_voxels, 2), np.nan)
    errors = np.full((n_voxels, 3), np.nan)
    residuals = np.full(n_voxels, np.nan)
    for v in numba.prange(n_voxels):
        kind = kinds[v]
        if kind == 0:
            continue
        y = signal[v]
        n = 6 if kind == FREE else (5 if kind == CONSTRAINED else 4)
        theta = np.zeros(6)
        theta[0] = start_field[v] / 100
        theta[1] = start_r2star[v] / 100
        # linear unknowns by least squares at the start: 2x2 normal equations
        a11 = a22 = 0.0
        a12 = b1 = b2 = 0j
        for e in range(n_echoes):
            growth = np.exp(2j * np.pi * start_field[v] * t[e] - start_r2star[v] * t[e])
            g2 = growth.real**2 + growth.imag**2
            z = np.conj(growth) * y[e]
            a11 += g2
            a12 += g2 * fat[e]
            a22 += g2 * (fat[e].real ** 2 + fat[e].imag ** 2)
            b1 += z
            b2 += np.conj(fat[e]) * z
        determinant = a11 * a22 - (a12.real**2 + a12.imag**2)
        w = (a22 * b1 - a12 * b2) / determinant
        f = (a11 * b2 - np.conj(a12) * b1) / determinant
        if kind == FREE:
            theta[2], theta[3], theta[4], theta[5] = w.real, w.imag, f.real, f.imag
        else:
            together = w + f if kind == CONSTRAINED else b1 / a11
            phase = np.arctan2(together.imag, together.real)
            turn = np.exp(-1j * phase)
            theta[2] = phase
            theta[3] = (w * turn).real if kind == CONSTRAINED else abs(together)
            if kind == CONSTRAINED:
                theta[4] = (f * turn).real
        precision = prior_precision[v] * 1e4 * sigma**2
        centre = prior_field[v] / 100
        model = np.empty(n_echoes, np.complex128)
        jacobian = np.zeros((n_echoes, 6), np.complex128)
        trial_model = np.empty(n_echoes, np.complex128)
        trial_jacobian = np.zeros((n_echoes, 6), np.complex128)
        cost = _evaluate(kind, theta, t, fat, y, model, jacobian) + precision * (theta[0] - centre) ** 2
        damping = 1e-3
        converged = False
        normal = np.zeros((6, 6))
        damped = np.zeros((6, 6))
        gradient = np.zeros(6)
        inverse = np.zeros((6, 6))
        for _ in range(_MAX_ITERATIONS):
            for i in range(n):
                gradient[i] = 0.0
                for j in range(i + 1):
                    total = 0.0
                    for e in range(n_echoes):
                        total += jacobian[e, i].real * jacobian[e, j].real + jacobian[e, i].imag * jacobian[e, j].imag
                    normal[i, j] = total
                    normal[j, i] = total
                for e in range(n_echoes):
                    d = y[e] - model[e]
                    gradient[i] += jacobian[e, i].real * d.real + jacobian[e, i].imag * d.imag
            normal[0, 0] += precision
            gradient[0] -= precision * (theta[0] - centre)
            improved = False
            for _attempt in range(8):
                for i in range(n):
                    for j in range(n):
                        damped[i, j] = normal[i, j]
                    damped[i, i] += damping * normal[i, i] + 1e-12
                if _solve(damped, n, inverse):
                    trial = theta.copy()
                    size = 0.0
                    for i in range(n):
                        move = 0.0
                        for j in range(n):
                            move += inverse[i, j] * gradient[j]
                        trial[i] += move
                        if i < 2:
                            size = max(size, abs(move))
                    trial_cost = _evaluate(kind, trial, t, fat, y, trial_model, trial_jacobian)
                    trial_cost += precision * (trial[0] - centre) ** 2
                    if trial_cost <= cost * (1 + 1e-12):
                        improved = True
                        converged = size < 1e-4 or cost - trial_cost < 1e-9 * cost
                        theta[:] = trial
                        cost = trial_cost
                        model[:] = trial_model
                        jacobian[:, :] = trial_jacobian
                        damping = max(damping * 0.2, 1e-9)
                        break
                damping *= 8
            if converged or not improved:
                converged = converged or not improved
                break
        if not converged or not np.isfinite(cost):
            continue
        for i in range(n):
            for j in range(i + 1):
                total = 0.0
                for e in range(n_echoes):
                    total += jacobian[e, i].real * jacobian[e, j].real + jacobian[e, i].imag * jacobian[e, j].imag
                normal[i, j] = total
                normal[j, i] = total
        normal[0, 0] += precision
        if not _solve(normal, n, inverse):
            continue
        if kind == FREE:
            w = complex(theta[2], theta[3])
            f = complex(theta[4], theta[5])
        else:
            turn = np.exp(1j * theta[2])
            w = theta[3] * turn
            f = theta[4] * turn if kind == CONSTRAINED else 0j
        linear[v, 0] = w
        linear[v, 1] = f
        nonlinear[v, 0] = 100 * theta[0]
        nonlinear[v, 1] = 100 * theta[1]
        errors[v, 0] = 100 * sigma * np.sqrt(inverse[0, 0])
        errors[v, 1] = 100 * sigma * np.sqrt(inverse[1, 1])
        residuals[v] = max(cost - precision * (theta[0] - centre) ** 2, 0.0)
        if kind == CONSTRAINED:
            whole = theta[3] + theta[4]
            dw, df = -theta[4] / whole**2, theta[3] / whole**2
            variance = dw * dw * inverse[3, 3] + 2 * dw * df * inverse[3, 4] + df * df * inverse[4, 4]
            errors[v, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
        elif kind == FREE:
            # PDFF by magnitude discrimination: 1 - |W|/|W+F| where water dominates, |F|/|W+F| where fat does
            whole = w + f
            s = abs(whole)
            part = w if abs(w) >= abs(f) else f
            p = max(abs(part), 1e-12)
            gradient[2] = gradient[3] = gradient[4] = gradient[5] = 0.0
            own = 2 if abs(w) >= abs(f) else 4
            for offset in (2, 4):
                gradient[offset] -= p * whole.real / s**3
                gradient[offset + 1] -= p * whole.imag / s**3
            gradient[own] += part.real / (p * s)
            gradient[own + 1] += part.imag / (p * s)
            variance = 0.0
            for i in range(2, 6):
                for j in range(2, 6):
                    variance += gradient[i] * inverse[i, j] * gradient[j]
            errors[v, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
    return linear, nonlinear, errors, residuals
