"""Rows of the agreement tables: LIC by MRI against chemistry, in vitro against in vivo, reader against reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.agreement import Estimate, bland_altman, concordance, deming, error_variance_ratio, passing_bablok
from hqsm.statistics.comparison import pitman_morgan
from hqsm.statistics.reliability import intraclass_correlations, repeatability

Row = dict[str, Any]
FEWEST = 4
"""Pairs below which no line is drawn."""


def explant_agreement_rows(explants: Iterable[Row], scan_sd_mg_g: Mapping[str, float], params: StatisticsParams) -> list[Row]:
    """Rows of explant_agreement.tsv.

    Parameters
    ----------
    explants
        Rows of explants.tsv: one per explanted liver, method and setting.
    scan_sd_mg_g
        Within-subject SD of LIC by method from repeat scans [mg/g]; NaN or absent where there are none. With the SD of the
        chemistry's replicates it gives Deming's ratio of error variances; else ``params.deming_error_ratio`` does.
    """
    frame = pd.DataFrame(list(explants))
    rows: list[Row] = []
    if frame.empty:
        return rows
    for setting in dict.fromkeys(frame["setting"]):
        for method in dict.fromkeys(frame["method"]):
            part = frame[(frame["setting"] == setting) & (frame["method"] == method)]
            part = part[np.isfinite(part[["lic_mg_g", "lic_chemistry_mg_g"]].to_numpy(float)).all(axis=1)]
            ratio, source = _deming_ratio(part, scan_sd_mg_g.get(method, float("nan")), params)
            x, y = part["lic_chemistry_mg_g"].to_numpy(float), part["lic_mg_g"].to_numpy(float)
            rows += [{"setting": setting, "method": method, **row} for row in _line_rows(x, y, ratio, source, params)]
        rows += [{"setting": setting, "method": "hqsm_minus_r2star", **row} for row in _error_rows(frame, setting)]
    for method in dict.fromkeys(frame["method"]):
        wide = frame[frame["method"] == method].pivot_table(index="participant_id", columns="setting", values="lic_mg_g")
        if {"in_vivo", "in_vitro"} <= set(wide.columns):
            both = wide[["in_vivo", "in_vitro"]].dropna().to_numpy(float)
            found = _agreement_rows(both[:, 0], both[:, 1], params)
            rows += [{"setting": "in_vitro_against_in_vivo", "method": method, **row} for row in found]
    return rows


def reader_agreement_rows(readings: FloatArray, readers: list[str], params: StatisticsParams) -> list[Row]:
    """Rows of reader_agreement.tsv: intraclass correlations of all readers, agreement of each pair.

    ``readings`` is (scan, reader); scans that a reader left out are left out.
    """
    complete = readings[np.isfinite(readings).all(axis=1)]
    n = len(complete)
    if n < 3:
        return [{"comparison": "all", "quantity": "icc_agreement", "n": n, "note": "fewer than three scans were read by all"}]
    rows: list[Row] = []
    names = {"A,1": "icc_agreement", "C,1": "icc_consistency", "1": "icc_one_way", "A,k": "icc_agreement_of_mean"}
    for name, icc in intraclass_correlations(complete, params.confidence_level).items():
        if name in names:
            rows.append(
                {
                    "comparison": "all",
                    "quantity": names[name],
                    "estimate": icc.value,
                    "ci_lo": icc.ci_lo,
                    "ci_hi": icc.ci_hi,
                    "statistic": icc.f,
                    "p_value": icc.p_value,
                    "n": n,
                    "note": f"ICC({name})",
                }
            )
    labels = np.repeat(np.arange(n), complete.shape[1])
    scatter = repeatability(complete.ravel(), labels, params.confidence_level)
    rows.append({"comparison": "all", "quantity": "within_scan_sd", "n": n, **_estimate(scatter.within_subject_sd)})
    for a, b in combinations(range(len(readers)), 2):
        found = _agreement_rows(complete[:, a], complete[:, b], params)
        rows += [{"comparison": f"{readers[b]}_minus_{readers[a]}", **row} for row in found]
    return rows


def _estimate(value: Estimate) -> Row:
    return {"estimate": value.value, "std_error": value.std_error, "ci_lo": value.ci_lo, "ci_hi": value.ci_hi}


def _agreement_rows(x: FloatArray, y: FloatArray, params: StatisticsParams) -> list[Row]:
    """Bland-Altman of y - x and concordance."""
    n = x.size
    if n < FEWEST:
        return [{"quantity": "bias", "n": n, "note": f"fewer than {FEWEST} pairs"}]
    level = params.confidence_level
    ba = bland_altman(x, y, level)
    found = {"bias": ba.bias, "lower_limit": ba.lower_limit, "upper_limit": ba.upper_limit, "ccc": concordance(x, y, level)}
    rows: list[Row] = [{"quantity": name, "n": n, **_estimate(value)} for name, value in found.items()]
    rows.append({"quantity": "sd_of_differences", "n": n, "estimate": ba.sd})
    slope = stats.linregress((x + y) / 2, y - x) if np.ptp(x + y) > 0 else None
    if slope is not None:
        note = "of the difference on the mean: proportional bias"
        rows.append(
            {
                "quantity": "bias_slope",
                "n": n,
                "estimate": float(slope.slope),
                "std_error": float(slope.stderr),
                "p_value": float(slope.pvalue),
                "note": note,
            }
        )
    return rows


def _line_rows(x: FloatArray, y: FloatArray, ratio: float, ratio_source: str, params: StatisticsParams) -> list[Row]:
    """All of one method against chemistry; ``x`` is chemistry."""
    n, level = x.size, params.confidence_level
    rows = _agreement_rows(x, y, params)
    if n < FEWEST:
        return rows
    if (x > 0).all():
        percent = bland_altman(np.zeros(n), 100 * (y - x) / ((x + y) / 2), level) if (x + y > 0).all() else None
        if percent is not None:
            for name in ("bias", "lower_limit", "upper_limit"):
                rows.append({"quantity": f"{name}_percent", "n": n, "note": "of the mean of both", **_estimate(getattr(percent, name))})
    line = deming(x, y, ratio, level)
    note = f"ratio of error variances {ratio:.4g} ({ratio_source})"
    rows += [{"quantity": f"deming_{k}", "n": n, "note": note, **_estimate(getattr(line, k))} for k in ("slope", "intercept")]
    try:
        line = passing_bablok(x, y, level)
        rows += [{"quantity": f"passing_bablok_{k}", "n": n, **_estimate(getattr(line, k))} for k in ("slope", "intercept")]
    except ValueError as error:
        rows.append({"quantity": "passing_bablok_slope", "n": n, "note": str(error)})
    rows.append({"quantity": "rmse", "n": n, "estimate": float(np.sqrt(np.mean((y - x) ** 2)))})
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        rank = stats.spearmanr(x, y)
        rows.append({"quantity": "spearman", "n": n, "estimate": float(rank.statistic), "p_value": float(rank.pvalue)})
    return rows


def _error_rows(frame: pd.DataFrame, setting: str) -> list[Row]:
    """Which method errs less: Wilcoxon on the absolute errors, Pitman-Morgan on their variances."""
    part = frame[frame["setting"] == setting]
    wide = part.pivot_table(index="participant_id", columns="method", values="error_mg_g")
    if not {"hqsm", "r2star"} <= set(wide.columns):
        return []
    errors = wide[["hqsm", "r2star"]].dropna().to_numpy(float)
    n = len(errors)
    if n < FEWEST:
        return [{"quantity": "median_absolute_error", "n": n, "note": f"fewer than {FEWEST} specimens with both methods"}]
    rows: list[Row] = []
    difference = np.abs(errors[:, 0]) - np.abs(errors[:, 1])
    if (difference != 0).any():
        test = stats.wilcoxon(difference)
        rows.append(
            {
                "quantity": "median_absolute_error",
                "n": n,
                "estimate": float(np.median(difference)),
                "statistic": float(test.statistic),
                "p_value": float(test.pvalue),
                "note": "Wilcoxon, paired",
            }
        )
    r, t, p = pitman_morgan(errors[:, 0], errors[:, 1])
    rows.append({"quantity": "error_variance_pitman_morgan_r", "n": n, "estimate": r, "statistic": t, "p_value": p})
    rmse = np.sqrt((errors**2).mean(axis=0))
    rows.append({"quantity": "rmse", "n": n, "estimate": float(rmse[0] - rmse[1])})
    return rows


def _deming_ratio(part: pd.DataFrame, scan_sd_mg_g: float, params: StatisticsParams) -> tuple[float, str]:
    if "lic_chemistry_sd_mg_g" in part and len(part):
        # the chemical value is the mean of its replicates
        chemistry_sd = part["lic_chemistry_sd_mg_g"].to_numpy(float) / np.sqrt(np.maximum(part["n_replicates"].to_numpy(float), 1))
        ratio = error_variance_ratio(np.full(len(part), scan_sd_mg_g), chemistry_sd)
        if np.isfinite(ratio) and ratio > 0:
            return ratio, "from repeat scans and replicates"
    return params.deming_error_ratio, "from the configuration"
