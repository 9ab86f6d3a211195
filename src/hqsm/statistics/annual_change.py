"""Annual change of LIC: both ends of each interval joined with its exposure."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from hqsm.config.statistics import StatisticsParams
from hqsm.units import DAYS_PER_YEAR

_KEPT = (
    "days",
    "iron_in_mg",
    "iron_in_mg_per_kg_per_year",
    "chelator_mg",
    "chelator_g_per_kg_per_year",
    "chelator_adherence_g_per_kg_per_year",
    "mean_weight_kg",
    "age_years",
    "splenectomy",
)


def annual_change_rows(lic: pd.DataFrame, exposure: pd.DataFrame, params: StatisticsParams) -> list[dict[str, Any]]:
    """Rows of annual_change.tsv, one per interval of ``exposure``; excluded ones carry their reason.

    Flags beside those of the exposure: ``dates_disagree`` (records and image headers give intervals of different length),
    ``reconstruction_differs`` and ``field_strength_differs`` between the two ends.
    """
    usable = lic[lic["qc_status"].isin(["ok", "warning"])]
    visits = {(row["participant_id"], row["session_id"]): row for row in usable.to_dict(orient="records")}
    rows = []
    for entry in exposure.to_dict(orient="records"):
        ends = [visits.get((entry["participant_id"], entry[name])) for name in ("start_session", "end_session")]
        row: dict[str, Any] = {name: entry[name] for name in ("participant_id", "start_session", "end_session", *_KEPT)}
        reason, flags = str(entry["reason"]), str(entry["flags"]).split()
        change = {"hqsm": np.nan, "r2star": np.nan}
        baseline = dict(change)
        for name, end in zip(("start_session", "end_session"), ends, strict=True):
            reason = reason or _why_no_end(str(entry[name]), end)
        first, last = ends
        if first is not None and last is not None:
            years = float(entry["days"]) / DAYS_PER_YEAR
            for method in change:
                baseline[method] = first[f"lic_{method}_mg_g"]
                change[method] = (last[f"lic_{method}_mg_g"] - baseline[method]) / years
            if not reason and not np.isfinite(list(change.values())).any():
                reason = "no LIC by either method at one of the visits"
            flags += _doubts(first, last, float(entry["days"]), params)
        rows.append(
            {
                **row,
                "delta_lic_hqsm_mg_g_per_year": change["hqsm"],
                "delta_lic_r2star_mg_g_per_year": change["r2star"],
                "start_lic_hqsm_mg_g": baseline["hqsm"],
                "start_lic_r2star_mg_g": baseline["r2star"],
                "included": int(not reason),
                "reason": reason,
                "flags": " ".join(flags),
            }
        )
    return rows


def _why_no_end(session: str, visit: dict[Any, Any] | None) -> str:
    """Why a visit is no end of an interval; empty where it is one."""
    if visit is None:
        return f"no liver iron of {session} (see visits.tsv)"
    if visit["qc_status"] != "ok" and "VISIT_SAME_IMAGES" in str(visit["qc_codes"]).split():
        return f"the images of {session} are those of another visit too (see visits.tsv)"
    return ""


def _doubts(first: dict[Any, Any], last: dict[Any, Any], days: float, params: StatisticsParams) -> list[str]:
    """What makes two scans less comparable than they should be."""
    flags = []
    dates = [str(end["acq_date"]) for end in (first, last)]
    if all(dates):
        scanned = (date.fromisoformat(dates[1]) - date.fromisoformat(dates[0])).days
        if abs(scanned - days) > params.acq_date_tolerance_days:
            flags.append("dates_disagree")
    if first["reconstruction_digest"] != last["reconstruction_digest"]:
        flags.append("reconstruction_differs")
    if abs(first["field_strength_t"] - last["field_strength_t"]) > 0.1:
        flags.append("field_strength_differs")
    return flags
