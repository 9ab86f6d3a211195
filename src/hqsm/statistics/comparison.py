"""Which method predicts the annual change better: the difference of R2 and RMSE, and what it rests on.

Both methods share the participants; so participants are resampled, both methods together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.correlation import steiger, williams, zou_interval
from hqsm.statistics.regression import METHODS, design_matrix, ols_cr2

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
    """Equality of two paired variances: correlation of sum and difference, its t and two-sided p."""
    r = float(np.corrcoef(a + b, a - b)[0, 1])
    n = a.size
    t = r * np.sqrt((n - 2) / max(1 - r**2, 1e-300))
    return r, float(t), float(2 * stats.t.sf(abs(t), n - 2))


def comparison_rows(annual_change: pd.DataFrame, params: StatisticsParams) -> list[Row]:
    """Rows of method_comparison.tsv (hQSM minus R2*); with too few intervals one row says so."""
    frame = annual_change[annual_change["included"] == 1]
    both = np.isfinite(frame[list(METHODS.values())].to_numpy(float)).all(axis=1)
    frame = frame[both]
    common: Row = {"analysis": "primary", "n_intervals": len(frame), "n_subjects": frame["participant_id"].nunique()}
    if len(frame) <= 5 or common["n_subjects"] < 3:
        return [{**common, "quantity": "delta_r_squared", "note": "too few intervals with both methods"}]
    design = design_matrix(frame)
    outcomes = frame[list(METHODS.values())].to_numpy(float)
    clusters = frame["participant_id"].to_numpy()
    try:
        fits = [ols_cr2(design, outcomes[:, k], clusters) for k in range(2)]
    except ValueError as error:
        return [{**common, "quantity": "delta_r_squared", "note": str(error)}]
    r2, rmse = cluster_bootstrap(design, outcomes, clusters, params.bootstrap_draws, params.bootstrap_seed)
    tail = 100 * (1 - params.confidence_level) / 2
    few = "few participants: read the interval with care" if common["n_subjects"] < params.few_subjects else ""
    rows: list[Row] = []
    for quantity, estimate, draws in (
        ("delta_r_squared", fits[0].r_squared - fits[1].r_squared, r2[:, 0] - r2[:, 1]),
        ("delta_rmse_mg_g_per_year", fits[0].rmse - fits[1].rmse, rmse[:, 0] - rmse[:, 1]),
    ):
        lo, hi = np.nanpercentile(draws, [tail, 100 - tail])
        rows.append({**common, "quantity": quantity, "estimate": estimate, "ci_lo": lo, "ci_hi": hi, "note": few})
    r, t, p = pitman_morgan(fits[0].residuals, fits[1].residuals)
    rows.append({**common, "quantity": "pitman_morgan_r", "estimate": r, "statistic": t, "p_value": p})
    net = design[:, 1] / params.body_iron_per_lic_mg_per_kg - params.net_balance_chelator_slope * design[:, 2]
    r_q, r_r = (float(np.corrcoef(net, outcomes[:, k])[0, 1]) for k in range(2))
    r_kh = float(np.corrcoef(outcomes[:, 0], outcomes[:, 1])[0, 1])
    descriptive = "descriptive: intervals of one participant are not independent"
    lo, hi = zou_interval(r_q, r_r, r_kh, len(frame), params.confidence_level)
    for name, (statistic, p_value) in (
        ("williams", williams(r_q, r_r, r_kh, len(frame))),
        ("steiger", steiger(r_q, r_r, r_kh, len(frame))),
    ):
        rows.append(
            {
                **common,
                "quantity": f"delta_correlation_with_net_balance_{name}",
                "estimate": r_q - r_r,
                "ci_lo": lo,
                "ci_hi": hi,
                "statistic": statistic,
                "p_value": p_value,
                "note": descriptive,
            }
        )
    return rows
