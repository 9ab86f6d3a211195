"""Linear regression with few, unequal clusters: OLS, CR2 standard errors, Satterthwaite degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.mixed import random_intercept

METHODS = {"hqsm": "delta_lic_hqsm_mg_g_per_year", "r2star": "delta_lic_r2star_mg_g_per_year"}
TERMS = ("intercept", "iron_in", "chelator")
LEAST_DF = 4
"""Below it Satterthwaite's approximation does not hold its level (Tipton, Psychol Methods 2015;20:375)."""
Correction = Literal["CR0", "CR1", "CR1S", "CR2", "CR3"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterFit:
    """An OLS fit with cluster-robust inference; all arrays (term,) except ``residuals`` (observation,).

    ``sigma`` is the residual SD over n - p degrees of freedom, ``rmse`` over n; both in the unit of the outcome.
    """

    coefficients: FloatArray
    standard_errors: FloatArray
    degrees_of_freedom: FloatArray
    p_values: FloatArray
    residuals: FloatArray
    r_squared: float
    adjusted_r_squared: float
    rmse: float
    sigma: float

    def interval(self, level: float) -> tuple[FloatArray, FloatArray]:
        """Both ends of the confidence interval of each coefficient."""
        half = stats.t.ppf(0.5 + level / 2, self.degrees_of_freedom) * self.standard_errors
        return self.coefficients - half, self.coefficients + half


def ols_cluster(design: FloatArray, outcome: FloatArray, clusters: AnyArray, correction: Correction = "CR2") -> ClusterFit:
    """Ordinary least squares with cluster-robust standard errors and Satterthwaite degrees of freedom.

    Bell and McCaffrey, Surv Methodol 2002;28:169; Pustejovsky and Tipton, J Bus Econ Stat 2018;36:672, with an
    identity working covariance, as R's clubSandwich does. statsmodels has CR0 and CR1S only.

    Parameters
    ----------
    design
        (observation, term), the intercept's column of ones included.
    outcome
        (observation,).
    clusters
        (observation,) label of the participant.
    correction
        How residuals of a cluster are adjusted with its leverage H_g: CR2 (I - H_g)^(-1/2), CR3 (I - H_g)^-1, CR0 not
        at all; CR1 and CR1S scale CR0 by g/(g-1) and by g(n-1)/((g-1)(n-p)).

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
    g = len(rows)
    scale = {"CR1": np.sqrt(g / max(g - 1, 1)), "CR1S": np.sqrt(g * (n - 1) / (max(g - 1, 1) * (n - p)))}.get(correction, 1.0)
    power = {"CR2": -0.5, "CR3": -1.0}.get(correction, 0.0)
    for index in rows:
        x = design[index]
        values, vectors = np.linalg.eigh(annihilator[np.ix_(index, index)])
        powers = np.where(values > 1e-10, np.maximum(values, 1e-10) ** power, 0 if power else 1)
        adjustment = scale * (vectors @ np.diag(powers) @ vectors.T)
        score = x.T @ adjustment @ residuals[index]
        meat += np.outer(score, score)
        adjusted.append(annihilator[:, index] @ adjustment @ x @ bread)
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
    r_squared = 1 - rss / total if total > 0 else float("nan")
    return ClusterFit(
        coefficients=coefficients,
        standard_errors=errors,
        degrees_of_freedom=df,
        p_values=p_values,
        residuals=residuals,
        r_squared=r_squared,
        adjusted_r_squared=1 - (1 - r_squared) * (n - 1) / (n - p) if n > p else float("nan"),
        rmse=float(np.sqrt(rss / n)),
        sigma=float(np.sqrt(rss / (n - p))) if n > p else float("nan"),
    )


def leave_one_participant_out(design: FloatArray, outcome: FloatArray, clusters: AnyArray) -> tuple[FloatArray, FloatArray]:
    """Prediction of each observation from the others' participants, and the coefficients without each participant.

    Returns
    -------
    predicted, coefficients
        (observation,), and (participant, term) in the order of ``numpy.unique``; NaN where the rest cannot be fitted.
    """
    labels = np.unique(clusters)
    predicted = np.full(outcome.size, np.nan)
    coefficients = np.full((labels.size, design.shape[1]), np.nan)
    for k, label in enumerate(labels):
        out = clusters == label
        if np.linalg.matrix_rank(design[~out]) == design.shape[1]:
            coefficients[k] = np.linalg.lstsq(design[~out], outcome[~out], rcond=None)[0]
            predicted[out] = design[out] @ coefficients[k]
    return predicted, coefficients


def variance_inflation(design: FloatArray) -> FloatArray:
    """Variance inflation factor of each term but the intercept: the diagonal of the inverse correlation matrix."""
    if design.shape[1] < 3:
        return np.ones(design.shape[1] - 1)
    inverse: FloatArray = np.linalg.inv(np.corrcoef(design[:, 1:], rowvar=False))
    return np.diag(inverse)


def condition_number(design: FloatArray) -> float:
    """Condition number of the design with every column but the first standardised; infinite where one is constant."""
    rest = design[:, 1:] - design[:, 1:].mean(axis=0)
    spread = rest.std(axis=0)
    if (spread == 0).any():
        return float("inf")
    return float(np.linalg.cond(np.column_stack([design[:, 0], rest / spread])))


Row = dict[str, Any]

_COVARIATES = {"baseline_lic": "baseline_lic", "age": "age_years", "splenectomy": "splenectomy", "interaction": "interaction"}
"""Term that a sensitivity analysis adds to the primary design, and the column that it comes from."""


def design_matrix(frame: pd.DataFrame, chelator: str = "chelator_g_per_kg_per_year") -> FloatArray:
    """Columns intercept, iron in [mg/kg/year], chelator [g/kg/year]."""
    iron = frame["iron_in_mg_per_kg_per_year"].to_numpy(float)
    return np.stack([np.ones_like(iron), iron, frame[chelator].to_numpy(float)], axis=1)


def first_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The earliest interval of each participant; rows are in the order of time, as the exposure's are."""
    return frame.drop_duplicates("participant_id")


def usable_intervals(annual_change: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The included intervals in which every one of ``columns`` is known."""
    frame = annual_change[annual_change["included"] == 1]
    known = np.isfinite(frame[list(columns)].to_numpy(float)).all(axis=1)
    kept: pd.DataFrame = frame.loc[known]
    return kept


def regression_rows(annual_change: pd.DataFrame, params: StatisticsParams) -> list[Row]:
    """Rows of regression.tsv: per analysis, method and term. What cannot be estimated is NaN with a note.

    The primary analysis comes first, then the sensitivity analyses that ``params`` names, in its order.
    """
    rows = []
    for analysis in ("primary", *params.sensitivity_analyses):
        for method, column in METHODS.items():
            rows += _analysis_rows(analysis, method, usable_intervals(annual_change, column), column, params)
    return rows


def _analysis_rows(analysis: str, method: str, frame: pd.DataFrame, outcome: str, params: StatisticsParams) -> list[Row]:
    terms = list(TERMS)
    needed = ["iron_in_mg_per_kg_per_year", "chelator_g_per_kg_per_year"]
    if analysis == "first_interval":
        frame = first_intervals(frame)
    elif analysis == "measured_haematocrit":
        frame = frame[~frame["flags"].str.contains("hct_imputed", regex=False)]
    elif analysis == "adherence_corrected":
        needed[1] = "chelator_adherence_g_per_kg_per_year"
    elif analysis in _COVARIATES:
        terms.append(analysis)
        frame = _with_covariate(frame, analysis, method)
        needed.append(_COVARIATES[analysis])
    known = np.isfinite(frame[needed].to_numpy(float)).all(axis=1)
    dropped = int((~known).sum())
    frame = frame[known]
    design = np.column_stack([np.ones(len(frame)), frame[needed].to_numpy(float)])
    common: Row = {"analysis": analysis, "method": method, "n_intervals": len(frame), "n_subjects": frame["participant_id"].nunique()}
    note = _why_not(design, common["n_subjects"], params)
    if note:
        return [{**common, "term": term, "note": note} for term in terms]
    note = f"{dropped} intervals without {needed[-1]} are left out" if dropped else ""
    values, clusters = frame[outcome].to_numpy(float), frame["participant_id"].to_numpy()
    if analysis == "random_intercept":
        return _random_intercept_rows(common, design, values, clusters, params)
    fit = ols_cluster(design, values, clusters)
    lo, hi = fit.interval(params.confidence_level)
    return [
        {
            **common,
            "term": term,
            "estimate": fit.coefficients[k],
            "std_error": fit.standard_errors[k],
            "df": fit.degrees_of_freedom[k],
            "ci_lo": lo[k],
            "ci_hi": hi[k],
            "p_value": fit.p_values[k],
            "r_squared": fit.r_squared,
            "rmse": fit.rmse,
            "residual_sd": fit.sigma,
            "note": _joined(note, _few_df(float(fit.degrees_of_freedom[k]))),
            **_physics(term, float(fit.coefficients[k]), float(lo[k]), float(hi[k]), params),
        }
        for k, term in enumerate(terms)
    ]


def _few_df(df: float) -> str:
    return f"fewer than {LEAST_DF} degrees of freedom: interval and p are rough" if df < LEAST_DF else ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _why_not(design: FloatArray, n_subjects: int, params: StatisticsParams) -> str:
    """Why this design cannot be fitted; empty where it can."""
    n, p = design.shape
    if n <= p + 1 or n_subjects < 3:
        return f"{n} intervals of {n_subjects} participants are too few"
    if condition_number(design) > params.max_condition_number:
        return "the terms of the regression cannot be told apart (collinear design)"
    return ""


def _with_covariate(frame: pd.DataFrame, analysis: str, method: str) -> pd.DataFrame:
    if analysis == "baseline_lic":
        return frame.assign(baseline_lic=frame[f"start_lic_{method}_mg_g"])
    if analysis == "interaction":
        iron, chelator = frame["iron_in_mg_per_kg_per_year"], frame["chelator_g_per_kg_per_year"]
        return frame.assign(interaction=(iron - iron.mean()) * (chelator - chelator.mean()))
    return frame


def _physics(term: str, estimate: float, lo: float, hi: float, params: StatisticsParams) -> Row:
    """What physics expects of a coefficient, and the chelator's efficiency that it implies.

    Body iron is 10.6 mg/kg per mg/g of LIC (Angelucci 2000), so that iron alone would have the slope 1/10.6; a chelator
    that binds 74.79 mg/g with efficiency e has the slope -74.79 e / 10.6 per g/kg.
    """
    per_iron = 1 / params.body_iron_per_lic_mg_per_kg
    if term == "iron_in":
        return {"physics_value": per_iron}
    if term == "chelator":
        full = params.chelator_capacity_mg_per_g * per_iron
        return {"physics_value": -full, "efficiency": -estimate / full, "efficiency_lo": -hi / full, "efficiency_hi": -lo / full}
    return {}


def _random_intercept_rows(common: Row, design: FloatArray, values: FloatArray, clusters: AnyArray, params: StatisticsParams) -> list[Row]:
    try:
        fit = random_intercept(design, values, clusters)
    except ValueError as error:
        return [{**common, "term": term, "note": str(error)} for term in TERMS]
    half = stats.t.ppf(0.5 + params.confidence_level / 2, fit.degrees_of_freedom) * fit.standard_errors
    note = (
        "no variance between participants was found" if fit.at_boundary else f"SD between participants {fit.sd_participant:.6g} mg/g/year"
    )
    rows = []
    for k, term in enumerate(TERMS):
        estimate, lo, hi = (float(v[k]) for v in (fit.coefficients, fit.coefficients - half, fit.coefficients + half))
        rows.append(
            {
                **common,
                "term": term,
                "estimate": estimate,
                "std_error": fit.standard_errors[k],
                "df": fit.degrees_of_freedom[k],
                "ci_lo": lo,
                "ci_hi": hi,
                "p_value": fit.p_values[k],
                "residual_sd": fit.sd_residual,
                "note": _joined(note, _few_df(float(fit.degrees_of_freedom[k]))),
                **_physics(term, estimate, lo, hi, params),
            }
        )
    return rows


def influence_rows(annual_change: pd.DataFrame, params: StatisticsParams) -> list[Row]:
    """Rows of influence.tsv: what each interval does to the primary fit of each method.

    Leverage, externally studentised residual, Cook's distance and DFFITS of the interval (statsmodels); the coefficients
    without its participant; and the prediction from the other participants.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.outliers_influence import OLSInfluence

    rows: list[Row] = []
    for method, column in METHODS.items():
        frame = usable_intervals(annual_change, column, "iron_in_mg_per_kg_per_year", "chelator_g_per_kg_per_year")
        design, outcome = design_matrix(frame), frame[column].to_numpy(float)
        clusters = frame["participant_id"].to_numpy()
        if _why_not(design, len(set(clusters)), params):
            continue
        measures = OLSInfluence(OLS(outcome, design).fit())
        predicted, without = leave_one_participant_out(design, outcome, clusters)
        place = {label: k for k, label in enumerate(np.unique(clusters))}
        for k, entry in enumerate(frame.to_dict(orient="records")):
            left = without[place[entry["participant_id"]]]
            rows.append(
                {
                    **{name: entry[name] for name in ("participant_id", "start_session", "end_session")},
                    "method": method,
                    "residual": float(measures.resid[k]),
                    "leverage": float(measures.hat_matrix_diag[k]),
                    "studentised_residual": float(measures.resid_studentized_external[k]),
                    "cooks_distance": float(measures.cooks_distance[0][k]),
                    "dffits": float(measures.dffits[0][k]),
                    "predicted_without_participant": predicted[k],
                    "iron_in_without_participant": left[1],
                    "chelator_without_participant": left[2],
                }
            )
    return rows
