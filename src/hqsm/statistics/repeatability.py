"""Repeat scans and healthy controls: what the measurement does when the liver does not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.config.statistics import StatisticsParams
from hqsm.records.rules import REPEAT_WITHIN_DAYS
from hqsm.statistics.agreement import bland_altman, concordance
from hqsm.statistics.reliability import repeatability

Row = dict[str, Any]
QUANTITIES = ("chi_hqsm_ppm", "lic_hqsm_mg_g", "r2star_per_s", "lic_r2star_mg_g", "pdff_percent")


def repeat_scans(lic: pd.DataFrame, visits: pd.DataFrame, conventions: dict[tuple[str, str], str]) -> list[list[tuple[str, Row]]]:
    """Scans of one participant that the records call repeats of the one before, within ``REPEAT_WITHIN_DAYS`` of it.

    Where the scan that was repeated is not usable, the one before it is that of a liver a year younger.

    Parameters
    ----------
    lic
        Table lic.tsv.
    visits
        The records' visits; a visit of type ``repeat`` repeats the scan before it.
    conventions
        Vendor convention by (participant, session), for the comparison of scanners.

    Returns
    -------
    list
        One list for each participant and series of repeats, in order of time: (comparison, row of lic.tsv). The comparison of
        the first is empty; of a repeat ``repeat``, or ``cross_field``, ``cross_scanner`` where the first was scanned elsewhere.
    """
    records = {(r["participant_id"], r["session_id"]): r for r in visits.to_dict(orient="records")}
    usable = lic[lic["qc_status"].isin(["ok", "warning"])]
    series: list[list[tuple[str, Row]]] = []
    for _, rows in usable.groupby("participant_id", sort=True):
        entries: list[Row] = [{str(k): v for k, v in r.items()} for r in rows.to_dict(orient="records")]

        def day_of(row: Row) -> str:
            return str(records.get((row["participant_id"], row["session_id"]), {}).get("visit_date", ""))

        def when(row: Row) -> tuple[str, str]:
            return day_of(row), str(row["session_id"])

        current: list[tuple[str, Row]] = []
        for row in sorted(entries, key=when):
            key = (row["participant_id"], row["session_id"])
            soon = bool(current) and _days_apart(day_of(current[0][1]), day_of(row)) <= REPEAT_WITHIN_DAYS
            if records.get(key, {}).get("visit_type") == "repeat" and soon:
                first = current[0][1]
                other_field = abs(float(row["field_strength_t"]) - float(first["field_strength_t"])) > 0.1
                other_scanner = conventions.get(key) != conventions.get((first["participant_id"], first["session_id"]))
                current.append(("cross_field" if other_field else "cross_scanner" if other_scanner else "repeat", row))
            else:
                current = [("", row)]
                series.append(current)
    return [found for found in series if len(found) > 1]


def _days_apart(first: str, second: str) -> int:
    """Days between two ISO dates; none where one is not known, so that the records' word alone counts."""
    return (date.fromisoformat(second) - date.fromisoformat(first)).days if first and second else 0


def repeatability_rows(
    lic: pd.DataFrame, visits: pd.DataFrame, conventions: dict[tuple[str, str], str], params: StatisticsParams
) -> list[Row]:
    """Rows of repeatability.tsv: on the same scanner, and where there are any, at another field and on another scanner."""
    series = repeat_scans(lic, visits, conventions)
    kinds = ("repeat", "cross_field", "cross_scanner")
    rows = [_row(series, kind, quantity, params) for kind in kinds for quantity in QUANTITIES]
    return [row for row in rows if row["comparison"] == "repeat" or row["n_pairs"]]


def _row(series: list[list[tuple[str, Row]]], comparison: str, quantity: str, params: StatisticsParams) -> Row:
    values: list[float] = []
    subjects: list[int] = []
    for number, scans in enumerate(series):
        chosen = [float(row[quantity]) for kind, row in scans if kind in {"", comparison}]
        chosen = [value for value in chosen if np.isfinite(value)]
        if len(chosen) > 1:
            values += chosen
            subjects += [number] * len(chosen)
    row: Row = {"comparison": comparison, "quantity": quantity, "n_pairs": len(values) - len(set(subjects))}
    if not values:
        return {**row, "note": "no repeat scans"}
    y, who = np.array(values), np.array(subjects)
    found = repeatability(y, who, params.confidence_level)
    row |= {
        "within_subject_sd": found.within_subject_sd.value,
        "within_subject_sd_lo": found.within_subject_sd.ci_lo,
        "within_subject_sd_hi": found.within_subject_sd.ci_hi,
        "repeatability_coefficient": found.repeatability_coefficient,
        "within_subject_cv_percent": 100 * found.within_subject_cv,
        "mean_difference": found.mean_difference,
        # a change between two scans is real when it exceeds what two scans of one liver differ by
        "minimum_detectable_change": found.repeatability_coefficient,
    }
    if found.icc is not None:
        row |= {"icc": found.icc.value, "icc_lo": found.icc.ci_lo, "icc_hi": found.icc.ci_hi}
    first = np.array([y[who == k][0] for k in dict.fromkeys(subjects)])
    last = np.array([y[who == k][-1] for k in dict.fromkeys(subjects)])
    if first.size > 3:
        agreement, limits = concordance(first, last, params.confidence_level), bland_altman(first, last, params.confidence_level)
        row |= {"ccc": agreement.value, "ccc_lo": agreement.ci_lo, "ccc_hi": agreement.ci_hi}
        row |= {"limit_lo": limits.lower_limit.value, "limit_hi": limits.upper_limit.value}
    return row


FEWEST_PAIRS = 5
"""Below it the 95 % interval of a variance spans more than a factor of 15, which says nothing of Deming's ratio."""


def repeat_sd(rows: Iterable[Mapping[Any, Any]], fewest_pairs: int = FEWEST_PAIRS) -> dict[str, float]:
    """Within-subject SD of repeat scans by quantity, in its unit, from the rows of repeatability.tsv with so many pairs at least."""
    return {
        row["quantity"]: float(row.get("within_subject_sd", float("nan")))
        for row in rows
        if row["comparison"] == "repeat" and row["n_pairs"] >= fewest_pairs
    }


def scan_sd_mg_g(rows: Iterable[Mapping[Any, Any]], fewest_pairs: int = FEWEST_PAIRS) -> dict[str, float]:
    """That of LIC [mg/g] by method."""
    found = repeat_sd(rows, fewest_pairs)
    quantities = {"hqsm": "lic_hqsm_mg_g", "r2star": "lic_r2star_mg_g"}
    return {method: found[quantity] for method, quantity in quantities.items() if quantity in found}


def baseline_rows(lic: pd.DataFrame, params: StatisticsParams) -> list[Row]:
    """Rows of baseline.tsv: susceptibility and R2* of healthy livers by field strength, one mean per participant."""
    healthy = lic[(lic["group"] == "healthy") & (lic["specimen"] == "in_vivo") & lic["qc_status"].isin(["ok", "warning"])]
    rows: list[Row] = []
    for field in sorted({round(float(b0), 1) for b0 in healthy["field_strength_t"]}):
        at_field = healthy[(healthy["field_strength_t"] - field).abs() <= 0.1]
        for quantity in QUANTITIES:
            means = at_field.groupby("participant_id")[quantity].mean().dropna().to_numpy(float)
            n = means.size
            row: Row = {"field_strength_t": field, "quantity": quantity, "n_participants": n}
            if n:
                row["mean"] = float(means.mean())
            if n > 1:
                error = float(means.std(ddof=1)) / np.sqrt(n)
                half = float(stats.t.ppf(0.5 + params.confidence_level / 2, n - 1)) * error
                row |= {"sd": float(means.std(ddof=1)), "ci_lo": row["mean"] - half, "ci_hi": row["mean"] + half}
            rows.append(row)
    return rows
