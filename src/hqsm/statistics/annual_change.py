"""Annual change of LIC: both ends of each interval joined with its exposure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hqsm.units import DAYS_PER_YEAR

_KEPT = (
    "days",
    "iron_in_mg",
    "iron_in_mg_per_kg_per_year",
    "chelator_mg",
    "chelator_g_per_kg_per_year",
    "mean_weight_kg",
    "flags",
)


def annual_change_rows(lic: pd.DataFrame, exposure: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of annual_change.tsv, one per interval of ``exposure``; excluded ones carry their reason."""
    usable = lic[lic["qc_status"].isin(["ok", "warning"])]
    visits = {(row["participant_id"], row["session_id"]): row for row in usable.to_dict(orient="records")}
    rows = []
    for entry in exposure.to_dict(orient="records"):
        ends = [visits.get((entry["participant_id"], entry[name])) for name in ("start_session", "end_session")]
        row: dict[str, Any] = {name: entry[name] for name in ("participant_id", "start_session", "end_session", *_KEPT)}
        reason = str(entry["reason"])
        change = {"hqsm": np.nan, "r2star": np.nan}
        for name, end in zip(("start_session", "end_session"), ends, strict=True):
            if end is None and not reason:
                reason = f"no liver iron of {entry[name]} (see visits.tsv)"
        if ends[0] is not None and ends[1] is not None:
            years = float(entry["days"]) / DAYS_PER_YEAR
            for method in change:
                change[method] = (ends[1][f"lic_{method}_mg_g"] - ends[0][f"lic_{method}_mg_g"]) / years
            if not reason and not np.isfinite(list(change.values())).any():
                reason = "no LIC by either method at one of the visits"
        rows.append(
            {
                **row,
                "delta_lic_hqsm_mg_g_per_year": change["hqsm"],
                "delta_lic_r2star_mg_g_per_year": change["r2star"],
                "included": int(not reason),
                "reason": reason,
            }
        )
    return rows
