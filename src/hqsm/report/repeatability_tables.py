"""Repeatability and baseline in the report: what the measurement does when the liver does not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hqsm.report.figures.base import ReportData
from hqsm.report.page import interval, number, render, table

QUANTITY_NAMES = {
    "chi_hqsm_ppm": "susceptibility [ppm]",
    "chi_ppm": "susceptibility [ppm]",
    "lic_hqsm_mg_g": "LIC by hQSM [mg/g]",
    "r2star_per_s": "R2* [1/s]",
    "lic_r2star_mg_g": "LIC by R2* [mg/g]",
    "pdff_percent": "fat fraction [%]",
}


def repeatability_tables(data: ReportData) -> str:
    """Repeat scans, and healthy controls by field strength."""
    table_ = data.tables["repeatability"]
    rows = [
        (
            r["comparison"].replace("_", " "),
            QUANTITY_NAMES.get(r["quantity"], r["quantity"]),
            number(r["n_pairs"], 0),
            f"{number(r['within_subject_sd'], 3)} ({interval(r['within_subject_sd_lo'], r['within_subject_sd_hi'], 3)})",
            f"{number(r['repeatability_coefficient'], 3)} ({_coefficient_interval(r)})",
            number(r["within_subject_cv_percent"], 1),
            number(r["icc"], 3),
        )
        for r in table_[table_["n_pairs"] > 0].to_dict(orient="records")
    ]
    header = (
        *("Comparison", "Quantity", "Pairs", f"Within-subject SD ({data.confidence} interval)"),
        *(f"Repeatability coefficient ({data.confidence} interval)", "CV [%]", "ICC"),
    )
    explained = (
        "Two scans of an unchanged liver differ by less than the repeatability coefficient in 95 %; a larger difference is a change. "
        "Its interval says how little a few pairs tell."
    )
    baseline = [
        (
            number(r["field_strength_t"], 1),
            QUANTITY_NAMES.get(r["quantity"], r["quantity"]),
            number(r["n_participants"], 0),
            number(r["mean"], 3),
            number(r["sd"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
        )
        for r in data.tables["baseline"].to_dict(orient="records")
    ]
    names = ("B0 [T]", "Quantity", "Healthy controls", "Mean", "SD between people", f"{data.confidence} interval of the mean")
    return (
        "<h3>Repeat scans</h3>"
        + table(header, rows, empty="No visit was scanned again (visit_type repeat in the records, within 30 days).")
        + (render("<p class=soft>{{ e }}</p>", e=explained) if rows else "")
        + "<h3>Healthy controls</h3>"
        + table(names, baseline, empty="No healthy control has liver values.")
    )


def _coefficient_interval(row: Mapping[Any, Any]) -> str:
    """That of the within-subject SD, times what makes an SD the coefficient."""
    factor = row["repeatability_coefficient"] / row["within_subject_sd"] if row["within_subject_sd"] else float("nan")
    return interval(factor * row["within_subject_sd_lo"], factor * row["within_subject_sd_hi"], 3)
