"""The annual intervals of the report: what each rests on, and what was assumed for it."""

from __future__ import annotations

from hqsm.report.figures.base import ReportData
from hqsm.report.page import Cell, number, table

FLAGS = {
    "hct_imputed": "a haematocrit was assumed",
    "adherence_assumed": "full adherence assumed on days without an account of it",
    "adherence_implausible": "a pill count above 110 % was not used",
    "weight_distant": "some days far from any weight",
    "no_transfusion": "no transfusion in the records",
    "no_chelator": "no chelator in the records",
    "chelator_gap": "days without a prescription count 0 mg",
    "dates_disagree": "records and images disagree on its length",
    "reconstruction_differs": "its two scans were reconstructed differently",
    "field_strength_differs": "its two scans are of different field strengths",
}
"""The flags of annual_change.tsv in words."""


def interval_table(data: ReportData) -> str:
    """Every annual interval with its exposure, its change by both methods, and what was assumed or keeps it out."""
    rows = []
    for r in data.tables["annual_change"].to_dict(orient="records"):
        assumed = [FLAGS.get(flag, flag) for flag in str(r["flags"]).split()]
        rows.append(
            (
                Cell(text=r["participant_id"], css="id"),
                Cell(text=f"{r['start_session']} to {r['end_session']}", css="id"),
                number(r["days"], 0),
                number(r["mean_weight_kg"], 1),
                number(r["iron_in_mg_per_kg_per_year"], 1),
                number(r["chelator_g_per_kg_per_year"], 2),
                number(r["delta_lic_hqsm_mg_g_per_year"], 2),
                number(r["delta_lic_r2star_mg_g_per_year"], 2),
                "yes" if r["included"] == 1 else f"no: {r['reason']}",
                "; ".join(assumed) or "–",
            )
        )
    header = (
        *("Participant", "Visits", "Days", "Mean weight [kg]", "Iron in [mg/kg/year]", "Chelator [g/kg/year]"),
        *("Change by hQSM [mg/g/year]", "Change by R2* [mg/g/year]", "Analysed", "Assumed, or to be checked"),
    )
    found = table(header, rows, sorts=True, empty="No two visits are about a year apart.")
    return f"<details><summary>Every annual interval</summary>{found}</details>"
