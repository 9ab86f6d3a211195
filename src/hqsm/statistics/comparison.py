"""Which method predicts the annual change better: the difference of R2 and RMSE, and what it rests on.

Both methods share the participants; so participants are resampled, both methods together.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.correlation import steiger, williams, zou_interval
from hqsm.statistics.regression import (
    METHODS,
    condition_number,
    design_matrix,
    first_intervals,
    leave_one_participant_out,
    usable_intervals,
    variance_inflation,
)

Row = dict[str, Any]


def cluster_bootstrap(design: FloatArray, outcomes: FloatArray, clusters: AnyArray, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """R2 and RMSE (draw, outcome) of OLS over participants drawn with replacement.

    A draw is a set of multinomial weights on each participant's cross products, so no data are copied.
    ``outcomes`` is (observation, outcome).
    """
    labels, index = np.unique(clusters, return_inverse=True)
    g, p = labels.size, design.shape[1]
    n_outcomes = outcomes.shape[1]
    xx, xy = np.zeros((g, p, p)), np.zeros((g, p, n_outcomes))
    yy, ys, ns = np.zeros((g, n_outcomes)), np.zeros((g, n_outcomes)), np.zeros(g)
    for k in range(g):
        x, y = design[index == k], outcomes[index == k]
        xx[k], xy[k], yy[k], ys[k], ns[k] = x.T @ x, x.T @ y, (y**2).sum(axis=0), y.sum(axis=0), len(x)
    weights = np.random.default_rng(seed).multinomial(g, np.full(g, 1 / g), size=draws).astype(float)
    sxx, sxy = np.tensordot(weights, xx, 1), np.tensordot(weights, xy, 1)
    syy, sy, n = weights @ yy, weights @ ys, (weights @ ns)[:, None]
    singular = np.linalg.cond(sxx) > 1e12
    sxx[singular] = np.eye(p)
    beta = np.linalg.solve(sxx, sxy)
    rss = np.maximum(syy - np.einsum("dpo,dpo->do", beta, sxy), 0)
    total = syy - sy**2 / n
    with np.errstate(invalid="ignore", divide="ignore"):
        r2, rmse = 1 - rss / total, np.sqrt(rss / n)
    r2[singular], rmse[singular] = np.nan, np.nan
    return r2, rmse


def pitman_morgan(a: FloatArray, b: FloatArray) -> tuple[float, float, float]:
    """Equality of two paired variances: correlation of sum and difference, its t and two-sided p; NaN where they do not differ."""
    if np.ptp(a + b) == 0 or np.ptp(a - b) == 0:
        return (float("nan"),) * 3
    r = float(np.corrcoef(a + b, a - b)[0, 1])
    n = a.size
    t = r * np.sqrt((n - 2) / max(1 - r**2, 1e-300))
    return r, float(t), float(2 * stats.t.sf(abs(t), n - 2))


def jackknife_error(left_out: FloatArray) -> float:
    """Standard error from the estimates without each participant: sqrt((g-1)/g sum (e_i - mean e)^2)."""
    g = left_out.size
    return float(np.sqrt((g - 1) / g * ((left_out - left_out.mean()) ** 2).sum()))


def accuracy(design: FloatArray, outcomes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """R2 and RMSE (outcome,) of OLS of each column of ``outcomes`` (observation, outcome)."""
    residuals = outcomes - design @ np.linalg.lstsq(design, outcomes, rcond=None)[0]
    rss = (residuals**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = 1 - rss / ((outcomes - outcomes.mean(axis=0)) ** 2).sum(axis=0)
    return r2, np.sqrt(rss / len(design))


def non_nested(outcome: FloatArray, first: FloatArray, second: FloatArray) -> dict[str, tuple[float, float]]:
    """J and Cox tests of two non-nested regressions of ``outcome``; (statistic, two-sided p) of each.

    ``j_second_adds``: the fit of the second added to the first (Davidson and MacKinnon, Econometrica 1981;49:781);
    ``cox_first_suffices``: Cox's test with the first as the null (Pesaran and Deaton 1978); then both the other way round.
    A small p speaks against the model that is the null. statsmodels, which agrees with R's lmtest.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.diagnostic import compare_cox, compare_j

    fits = [OLS(outcome, x).fit() for x in (first, second)]
    with warnings.catch_warnings():
        # 0.15 announces a named result whose first two fields are these
        warnings.simplefilter("ignore", FutureWarning)
        tests = {
            # compare_j adds the fit of its first argument to the model of its second
            "j_second_adds": compare_j(fits[1], fits[0]),
            "j_first_adds": compare_j(fits[0], fits[1]),
            "cox_first_suffices": compare_cox(fits[0], fits[1]),
            "cox_second_suffices": compare_cox(fits[1], fits[0]),
        }
    return {name: (float(test[0]), float(test[1])) for name, test in tests.items()}


def comparison_rows(annual_change: pd.DataFrame, params: StatisticsParams) -> list[Row]:
    """Rows of method_comparison.tsv (hQSM minus R2*); with too few intervals one row says so.

    Analyses: ``primary`` (all intervals; bootstrap over participants, jackknife standard error), ``leave_one_participant_out``
    (errors of prediction; the same bootstrap on them), ``first_interval`` (one interval each, so that tests for
    independent observations hold).
    """
    frame = usable_intervals(annual_change, *METHODS.values(), "iron_in_mg_per_kg_per_year", "chelator_g_per_kg_per_year")
    design, outcomes = design_matrix(frame), frame[list(METHODS.values())].to_numpy(float)
    clusters = frame["participant_id"].to_numpy()
    common: Row = {"analysis": "primary", "n_intervals": len(frame), "n_subjects": frame["participant_id"].nunique()}
    if len(frame) <= 5 or common["n_subjects"] < 3:
        return [{**common, "quantity": "delta_r_squared", "note": "too few intervals with both methods"}]
    if condition_number(design) > params.max_condition_number:
        return [{**common, "quantity": "delta_r_squared", "note": "the terms cannot be told apart (collinear design)"}]
    rows = _accuracy_rows(common, design, outcomes, clusters, params)
    rows += _prediction_rows(common, design, outcomes, clusters, params)
    rows += _test_rows(common, design, outcomes, params, note="descriptive: intervals of one participant are not independent")
    first = first_intervals(frame)
    if len(first) > 5:
        common = {"analysis": "first_interval", "n_intervals": len(first), "n_subjects": len(first)}
        rows += _test_rows(common, design_matrix(first), first[list(METHODS.values())].to_numpy(float), params, note="")
    return rows


def _few(n_participants: int, params: StatisticsParams) -> str:
    return "few participants: read the interval with care" if n_participants < params.few_subjects else ""


def _accuracy_rows(common: Row, design: FloatArray, outcomes: FloatArray, clusters: AnyArray, params: StatisticsParams) -> list[Row]:
    """Differences of R2 and RMSE in the sample, and the collinearity of its two predictors."""
    full = accuracy(design, outcomes)
    drawn = cluster_bootstrap(design, outcomes, clusters, params.bootstrap_draws, params.bootstrap_seed)
    labels = np.unique(clusters)
    without = [accuracy(design[clusters != label], outcomes[clusters != label]) for label in labels]
    lost = int((~np.isfinite(drawn[0]).all(axis=1)).sum())
    notes = [_few(labels.size, params), f"{lost} of {len(drawn[0])} draws could not be fitted and are left out" if lost else ""]
    rows: list[Row] = []
    for k, quantity in enumerate(("delta_r_squared", "delta_rmse_mg_g_per_year")):
        lo, hi = _percentiles(drawn[k][:, 0] - drawn[k][:, 1], params)
        rows.append(
            {
                **common,
                "quantity": quantity,
                "estimate": full[k][0] - full[k][1],
                "std_error": jackknife_error(np.array([w[k][0] - w[k][1] for w in without])),
                "ci_lo": lo,
                "ci_hi": hi,
                "note": "; ".join(note for note in notes if note),
            }
        )
    rows.append(
        {
            **common,
            "quantity": "variance_inflation_of_iron_and_chelator",
            "estimate": float(variance_inflation(design)[0]),
            "note": "of both methods alike",
        }
    )
    return rows


def _prediction_rows(common: Row, design: FloatArray, outcomes: FloatArray, clusters: AnyArray, params: StatisticsParams) -> list[Row]:
    """Differences of R2 and RMSE of the predictions from the other participants."""
    common = {**common, "analysis": "leave_one_participant_out"}
    predicted = np.stack([leave_one_participant_out(design, y, clusters)[0] for y in outcomes.T], axis=1)
    if not np.isfinite(predicted).all():
        return [{**common, "quantity": "delta_r_squared", "note": "the model cannot be fitted without one of the participants"}]
    squared = (outcomes - predicted) ** 2
    labels, index = np.unique(clusters, return_inverse=True)
    weights = _participant_weights(labels.size, params)
    sums = [np.stack([np.bincount(index, column) for column in matrix.T], axis=1) for matrix in (squared, outcomes, outcomes**2)]
    counts = np.bincount(index).astype(float)

    def scores(w: FloatArray) -> tuple[FloatArray, FloatArray]:
        n = (w @ counts)[:, None]
        rss, total = w @ sums[0], w @ sums[2] - (w @ sums[1]) ** 2 / n
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - rss / total, np.sqrt(rss / n)

    full, drawn = scores(np.ones((1, labels.size))), scores(weights)
    rows = []
    for k, quantity in enumerate(("delta_r_squared", "delta_rmse_mg_g_per_year")):
        lo, hi = _percentiles(drawn[k][:, 0] - drawn[k][:, 1], params)
        estimate = float(full[k][0, 0] - full[k][0, 1])
        note = "; ".join(note for note in ("of the predictions", _few(labels.size, params)) if note)
        rows.append({**common, "quantity": quantity, "estimate": estimate, "ci_lo": lo, "ci_hi": hi, "note": note})
    return rows


def _test_rows(common: Row, design: FloatArray, outcomes: FloatArray, params: StatisticsParams, *, note: str) -> list[Row]:
    """Pitman-Morgan on the residuals, correlations with the predicted net balance, and non-nested tests."""
    n = len(design)
    residuals = outcomes - design @ np.linalg.lstsq(design, outcomes, rcond=None)[0]
    r, t, p = pitman_morgan(residuals[:, 0], residuals[:, 1])
    rows: list[Row] = [{**common, "quantity": "pitman_morgan_r", "estimate": r, "statistic": t, "p_value": p, "note": note}]
    net = design[:, 1] / params.body_iron_per_lic_mg_per_kg - params.net_balance_chelator_slope * design[:, 2]
    r_q, r_r = (float(np.corrcoef(net, outcomes[:, k])[0, 1]) for k in range(2))
    between = float(np.corrcoef(outcomes[:, 0], outcomes[:, 1])[0, 1])
    for method, value in (("hqsm", r_q), ("r2star", r_r)):
        rows.append({**common, "quantity": f"correlation_with_net_balance_{method}", "estimate": value, "note": note})
    if max(abs(r_q), abs(r_r), abs(between)) < 1 - 1e-12:
        lo, hi = zou_interval(r_q, r_r, between, n, params.confidence_level)
        for name, test in (("williams", williams), ("steiger", steiger)):
            statistic, p_value = test(r_q, r_r, between, n)
            rows.append(
                {
                    **common,
                    "quantity": f"delta_correlation_with_net_balance_{name}",
                    "estimate": r_q - r_r,
                    "ci_lo": lo,
                    "ci_hi": hi,
                    "statistic": statistic,
                    "p_value": p_value,
                    "note": note,
                }
            )
        designs = [np.column_stack([np.ones(n), outcomes[:, k]]) for k in range(2)]
        names = {
            "j_second_adds": "net_balance_j_test_r2star_adds_to_hqsm",
            "j_first_adds": "net_balance_j_test_hqsm_adds_to_r2star",
            "cox_first_suffices": "net_balance_cox_test_hqsm_suffices",
            "cox_second_suffices": "net_balance_cox_test_r2star_suffices",
        }
        for name, (statistic, p_value) in non_nested(net, *designs).items():
            rows.append({**common, "quantity": names[name], "statistic": statistic, "p_value": p_value, "note": note})
    return rows


def _participant_weights(n_participants: int, params: StatisticsParams) -> FloatArray:
    """(draw, participant) how often each participant is drawn."""
    rng = np.random.default_rng(params.bootstrap_seed)
    return rng.multinomial(n_participants, np.full(n_participants, 1 / n_participants), size=params.bootstrap_draws).astype(float)


def _percentiles(draws: FloatArray, params: StatisticsParams) -> tuple[float, float]:
    tail = 100 * (1 - params.confidence_level) / 2
    valid = draws[np.isfinite(draws)]
    if valid.size == 0:
        return float("nan"), float("nan")
    lo, hi = np.percentile(valid, [tail, 100 - tail])
    return float(lo), float(hi)
