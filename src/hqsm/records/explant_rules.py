"""The rules of explants that need more than one cell: chemistry and histology."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from hqsm.records.cells import Checker, Row
from hqsm.records.row_groups import lines_of, repeated
from hqsm.units import ug_per_g_to_mg_per_g, umol_per_g_to_mg_per_g


def check_chemistry(rows: list[Row], check: Checker, _: Mapping[str, list[Row]]) -> None:
    """What a chemical value needs to be the reference, and rows that stand twice."""
    _warn_of_twice(rows, ("block_id", "replicate_no"), "REPLICATE_TWICE", "a replicate", check)
    for group in repeated(rows, "participant_id"):
        if len({row["explant_date"] for row in group} - {""}) > 1:
            problem = f"The dates of one participant's explantation differ (lines {lines_of(group)}); the last line's counts."
            check.warn(group[-1], "explant_date", "EXPLANT_DATES", problem, "Correct them.")
        pieces = {row["specimen_id"]: row for row in group if row["specimen_id"] and not row["exclusion_code"]}
        if len(pieces) > 1:
            problem = (
                f"One participant has {len(pieces)} specimens (lines {lines_of(list(pieces.values()))}); "
                "each counts once in the mean that stands for the liver."
            )
            remedy = "Nothing to do if all are of one liver and all were in the scan; else enter an exclusion_code."
            check.warn(list(pieces.values())[1], "specimen_id", "SPECIMENS_SEVERAL", problem, remedy)
    for row in rows:
        value, unit = row["fe_value"], row["fe_unit"]
        refused = any(f.line == row["line"] and f.field == "fe_value" and f.file == check.file for f in check.findings)
        if value != value and row["below_lod"] != "y" and not refused:
            check.error(row, "fe_value", "CELL_EMPTY", "The fe value is empty.", "Enter it, or below_lod and the limit.")
        if row["basis"] == "wet" and row["prep"] == "paraffin":
            check.error(row, "basis", "BASIS_PREP", "A paraffin block has no wet weight; the row is not counted.", "Correct basis or prep.")
            row["basis"] = ""
        if unit and value == value and row["below_lod"] != "y":
            as_mg_g = {"mg/g": 1.0, "ug/g": ug_per_g_to_mg_per_g(1.0), "umol/g": umol_per_g_to_mg_per_g(1.0)}
            iron_mg_g = value * as_mg_g[unit]
            if not 0.2 <= iron_mg_g <= 60:
                check.warn(
                    row,
                    "fe_value",
                    "IRON_RANGE",
                    "The iron concentration is outside 0.2 to 60 mg/g in the unit given.",
                    "Check the unit (1 mg/g is 1000 ug/g and 17.9 umol/g).",
                )
        if row["dry_mass_mg"] < 0.4:
            check.warn(
                row,
                "dry_mass_mg",
                "SPECIMEN_SMALL",
                "Less than 0.4 mg of dry tissue gives an unreliable concentration.",
                "Measure a larger block if there is one.",
            )
        if row["transport"] == "saline":
            check.warn(
                row,
                "transport",
                "SPECIMEN_SALINE",
                "The specimen was transported in saline, which washes out up to half of its iron within an hour.",
                "Enter an exclusion_code to leave it out.",
            )
        if row["below_lod"] == "y":
            if row["lod"] != row["lod"]:
                problem = "Below the limit of detection, but no limit given; the row is not counted."
                check.error(row, "lod", "LOD_MISSING", problem, "Enter the limit in the unit of the value.")
            else:
                check.warn(
                    row,
                    "below_lod",
                    "BELOW_LOD",
                    "The value is below the limit of detection; the limit over root two stands in for it, flagged.",
                    "Nothing to do.",
                )


def check_histology(rows: list[Row], check: Checker, _: Mapping[str, list[Row]]) -> None:
    """Scores and their scales, and readings that stand twice."""
    _warn_of_twice(rows, ("block_id", "pathologist_code", "read_no"), "READING_TWICE", "a reading", check)
    for row in rows:
        if row["fibrosis_stage"] > 4 and row["fibrosis_scale"] != "ishak":
            check.error(
                row,
                "fibrosis_stage",
                "FIBROSIS_SCALE",
                "A stage above 4 exists on the Ishak scale only.",
                "Correct the stage, or enter ishak as the fibrosis_scale.",
            )
        if row["steatosis_grade"] == row["steatosis_grade"] and row["steatosis_pct"] != row["steatosis_pct"]:
            check.warn(
                row,
                "steatosis_pct",
                "STEATOSIS_GRADE",
                "Steatosis is given as a grade only; a grade is not converted, and the outcomes of steatosis leave this reading out.",
                "Enter the percentage of hepatocytes with fat.",
            )


def _warn_of_twice(rows: list[Row], names: tuple[str, ...], code: str, what: str, check: Checker) -> None:
    """Rows of one specimen that have the same names; where none of these is filled, nothing tells two rows apart."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["participant_id"] and any(row[name] for name in names):
            groups[row["participant_id"], row["specimen_id"], *(row[name] for name in names)].append(row)
    for group in groups.values():
        if len(group) > 1:
            problem = f"{len(group)} rows are of {what} (lines {lines_of(group)}). All are counted."
            check.warn(group[1], names[0], code, problem, "Delete one if it is a double entry.")
