"""Linear regression with few, unequal clusters: OLS, CR2 standard errors, Satterthwaite degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams

METHODS = {"hqsm": "delta_lic_hqsm_mg_g_per_year", "r2star": "delta_lic_r2star_mg_g_per_year"}
TERMS = ("intercept", "iron_in", "chelator")


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterFit:
    """An OLS fit with cluster-robust inference; all arrays (term,) except ``residuals`` (observation,)."""

    coefficients: FloatArray
    standard_errors: FloatArray
    degrees_of_freedom: FloatArray
    p_values: FloatArray
    residuals: FloatArray
    r_squared: float
    rmse: float


def ols_cr2(design: FloatArray, outcome: FloatArray, clusters: AnyArray) -> ClusterFit:
    """Ordinary least squares with CR2 standard errors.

    Bell and McCaffrey, Surv Methodol 2002;28:169; Pustejovsky and Tipton, J Bus Econ Stat 2018;36:672, with an
    identity working covariance, as R's clubSandwich does.

    Parameters
    ----------
    design
        (observation, term), the intercept's column of ones included.
    outcome
        (observation,).
    clusters
        (observation,) label of the participant.

    Raises
    ------
    ValueError
        If the design has not full column rank.
    """
    n, p = design.shape
    if np.linalg.matrix_rank(design) < p:
        raise ValueError("the terms of the regression cannot be told apart (collinear design)")
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ design.T @ outcome
    residuals = outcome - design @ coefficients
    rows = [np.flatnonzero(clusters == label) for label in pd.unique(pd.Series(clusters))]
    meat = np.zeros((p, p))
    annihilator = np.eye(n) - design @ bread @ design.T
    adjusted = []
    for index in rows:
        x = design[index]
        values, vectors = np.linalg.eigh(annihilator[np.ix_(index, index)])
        powers = np.where(values > 1e-10, 1 / np.sqrt(np.maximum(values, 1e-10)), 0)
        correction = vectors @ np.diag(powers) @ vectors.T
        score = x.T @ correction @ residuals[index]
        meat += np.outer(score, score)
        adjusted.append(annihilator[:, index] @ correction @ x @ bread)
    variance = bread @ meat @ bread
    errors = np.sqrt(np.diag(variance))
    df = np.empty(p)
    for term in range(p):
        vectors_of_term = np.stack([a[:, term] for a in adjusted], axis=1)
        gram = vectors_of_term.T @ vectors_of_term
        df[term] = np.trace(gram) ** 2 / np.sum(gram**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = 2 * stats.t.sf(np.abs(coefficients / errors), df)
    total = float(((outcome - outcome.mean()) ** 2).sum())
    rss = float(residuals @ residuals)
    return ClusterFit(
        coefficients=coefficients,
        standard_errors=errors,
        degrees_of_freedom=df,
        p_values=p_values,
        residuals=residuals,
        r_squared=1 - rss / total if total > 0 else float("nan"),
        rmse=float(np.sqrt(rss / n)),
    )


def design_matrix(frame: pd.DataFrame) -> FloatArray:
    """Columns intercept, iron in [mg/kg/year], chelator [g/kg/year]."""
    iron = frame["iron_in_mg_per_kg_per_year"].to_numpy(float)
    chelator = frame["chelator_g_per_kg_per_year"].to_numpy(float)
    return np.stack([np.ones_like(iron), iron, chelator], axis=1)


def regression_rows(annual_change: pd.DataFrame, params: StatisticsParams) -> list[dict[str, Any]]:
    """Rows of regression.tsv: per analysis, method and term. What cannot be estimated is NaN with a note."""
    included = annual_change[annual_change["included"] == 1]
    analyses = {
        "primary": included,
        "first_interval": included.sort_values("start_session").drop_duplicates("participant_id"),
        "measured_haematocrit": included[~included["flags"].str.contains("hct_imputed", regex=False)],
    }
    rows = []
    for analysis, frame in analyses.items():
        for method, column in METHODS.items():
            usable = frame[np.isfinite(frame[column].to_numpy(float))]
            rows += _fit_rows(analysis, method, usable, column, params)
    return rows


def _fit_rows(analysis: str, method: str, frame: pd.DataFrame, column: str, params: StatisticsParams) -> list[dict[str, Any]]:
    common: dict[str, Any] = {
        "analysis": analysis,
        "method": method,
        "n_intervals": len(frame),
        "n_subjects": frame["participant_id"].nunique(),
    }
    note = ""
    if len(frame) <= len(TERMS) + 1 or common["n_subjects"] < 3:
        note = f"{len(frame)} intervals of {common['n_subjects']} participants are too few"
    else:
        try:
            clusters = frame["participant_id"].to_numpy()
            fit = ols_cr2(design_matrix(frame), frame[column].to_numpy(float), clusters)
        except ValueError as error:
            note = str(error)
    if note:
        return [{**common, "term": term, "note": note} for term in TERMS]
    half = stats.t.ppf(0.5 + params.confidence_level / 2, fit.degrees_of_freedom) * fit.standard_errors
    return [
        {
            **common,
            "term": term,
            "estimate": fit.coefficients[k],
            "std_error": fit.standard_errors[k],
            "df": fit.degrees_of_freedom[k],
            "ci_lo": fit.coefficients[k] - half[k],
            "ci_hi": fit.coefficients[k] + half[k],
            "p_value": fit.p_values[k],
            "r_squared": fit.r_squared,
            "rmse": fit.rmse,
        }
        for k, term in enumerate(TERMS)
    ]
