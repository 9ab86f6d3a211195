"""The rules of the records that need more than one cell, one function for each table."""

from __future__ import annotations

import datetime
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping

from hqsm.records.cells import Checker, Row
from hqsm.records.explant_rules import check_chemistry, check_histology
from hqsm.records.row_groups import lines_of, repeated
from hqsm.records.schema import DEFERASIROX

MOST_UNITS = 20
"""Twice what an exchange of an adult takes; a volume that was entered as units counts as kilograms of iron."""
REPEAT_WITHIN_DAYS = 30
"""A scan is repeated while the liver is the same; a transfused liver gains up to 1 mg/g in a month."""
MOST_MG_PER_KG = 60
"""Twice the highest labelled dose a day; more is a unit mistaken."""


def _by_participant(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["participant_id"]:
            grouped[row["participant_id"]].append(row)
    return grouped


def _days(text: str) -> int:
    return datetime.date.fromisoformat(text).toordinal()


def _check_participants(rows: list[Row], check: Checker, _: Mapping[str, list[Row]]) -> None:
    for group in repeated(rows, "participant_id"):
        for row in group[1:]:
            check.error(
                row,
                "participant_id",
                "PARTICIPANT_TWICE",
                f"The participant has {len(group)} rows (lines {lines_of(group)}).",
                "Keep one row for each participant.",
            )


def _check_visits(rows: list[Row], check: Checker, tables: Mapping[str, list[Row]]) -> None:
    for group in repeated(rows, "participant_id", "session_id"):
        for row in group[1:]:
            check.error(
                row,
                "session_id",
                "VISIT_TWICE",
                f"The visit has {len(group)} rows (lines {lines_of(group)}).",
                "Keep one row for each visit.",
            )
    scans = [row for row in rows if row["visit_type"] not in {"repeat", "explant"}]
    for group in repeated(scans, "participant_id", "visit_date"):
        check.warn(
            group[1],
            "visit_date",
            "VISIT_SAME_DAY",
            f"{len(group)} visits are on one day (lines {lines_of(group)}).",
            "Check the dates, or give the second one the type repeat.",
        )
    _check_repeats(rows, check)
    weights = [row for row in tables.get("weights", []) if row["date"]]
    measured = [(row["participant_id"], row["visit_date"], row["weight_kg"], row, check) for row in rows]
    extra = Checker("weights", "weights.csv" if check.file == "visits.csv" else check.file, check.params, check.findings)
    measured += [(row["participant_id"], row["date"], row["weight_kg"], row, extra) for row in weights]
    series: dict[str, list[tuple[int, float, Row, Checker]]] = defaultdict(list)
    for participant, date, weight, row, owner in measured:
        if participant and date and weight == weight:
            series[participant].append((_days(date), float(weight), row, owner))
    for participant, entries in series.items():
        _check_weight_gaps(participant, [entry[0] for entry in entries], rows, check)
        entries.sort(key=lambda entry: (entry[0], entry[2]["line"]))
        for (day_1, weight_1, _, _), (day_2, weight_2, row, owner) in itertools.pairwise(entries):
            if day_1 == day_2 and weight_1 != weight_2:
                problem = "Two weights of one day differ; the higher one counts."
                owner.warn(row, "weight_kg", "WEIGHT_SAME_DAY", problem, "Keep the one that is right.")
            # a fifth of the body weight within a year, or per year over longer spans
            if abs(weight_2 / weight_1 - 1) > 0.20 * max(1.0, (day_2 - day_1) / 365.25):
                owner.error(
                    row,
                    "weight_kg",
                    "WEIGHT_JUMP",
                    "The weight differs from the one before by more than 20 % per year.",
                    "Check both weights and their unit (kg).",
                )


def _check_repeats(rows: list[Row], check: Checker) -> None:
    """Visits of type repeat without a scan shortly before that they could repeat."""
    for visits in _by_participant([row for row in rows if row["visit_date"]]).values():
        firsts = [_days(row["visit_date"]) for row in visits if row["visit_type"] != "repeat"]
        for row in visits:
            if row["visit_type"] == "repeat" and not any(0 <= _days(row["visit_date"]) - day <= REPEAT_WITHIN_DAYS for day in firsts):
                check.warn(
                    row,
                    "visit_date",
                    "VISIT_REPEAT_LATE",
                    f"There is no scan that it repeats within {REPEAT_WITHIN_DAYS} days before; it counts for no repeatability.",
                    "Check the date and the visit_type.",
                )


def _check_weight_gaps(participant: str, weighed: list[int], visits: list[Row], check: Checker) -> None:
    """A day between two annual visits that is too far from every weighing."""
    dated = sorted((row for row in visits if row["participant_id"] == participant and row["visit_date"]), key=lambda r: r["visit_date"])
    for before, after in itertools.pairwise(dated):
        if before["visit_type"] not in {"", "annual"} or after["visit_type"] not in {"", "annual"}:
            continue
        span = range(_days(before["visit_date"]), _days(after["visit_date"]))
        distant = sum(min(abs(day - known) for known in weighed) > check.params.max_days_from_weight for day in span)
        if distant:
            check.warn(
                after,
                "weight_kg",
                "WEIGHT_DISTANT",
                f"{distant} days before this visit are more than {check.params.max_days_from_weight} days from any weight.",
                "Enter weights in between in weights.csv; they are interpolated otherwise.",
            )


def _check_transfusions(rows: list[Row], check: Checker, _: Mapping[str, list[Row]]) -> None:
    for group in repeated(rows, "participant_id", "tx_id"):
        for row in group[1:]:
            check.error(
                row,
                "tx_id",
                "TX_ID_TWICE",
                f"The transfusion's identifier is used {len(group)} times (lines {lines_of(group)}).",
                "Delete the double entry, or correct the identifier.",
            )
    for group in repeated(rows, "participant_id", "date", "amount", "unit"):
        if len({row["tx_id"] for row in group}) == len(group):
            check.warn(
                group[1],
                "date",
                "TX_SAME_DAY",
                f"{len(group)} equal transfusions are on one day (lines {lines_of(group)}). All are counted.",
                "Delete one if it is a double entry.",
            )
    units = [row for row in rows if row["unit"] == "units" and row["date"]]
    for entries in _by_participant(units).values():
        for day in dict.fromkeys(row["date"] for row in entries):
            given = [row for row in entries if row["date"] == day]
            if sum(row["amount"] for row in given) > 6:
                check.warn(given[-1], "unit", "UNITS_OR_ML", "More than 6 units in a day: were these mL?", "Check the unit.")
    for row in rows:
        amount, unit, hct, product = row["amount"], row["unit"], row["hct_pct"], row["product"] or "prbc"
        if unit == "units" and amount > MOST_UNITS:
            problem = f"More than {MOST_UNITS} units in one transfusion: were these mL?"
            check.error(row, "amount", "AMOUNT_RANGE", problem, "Check amount and unit.")
        if unit == "mL" and 0 < amount <= 10:
            check.warn(row, "unit", "ML_OR_UNITS", "10 mL or less: were these units?", "Check the unit.")
        low, high = {"whole": (30.0, 50.0)}.get(product, (50.0, 80.0))
        if hct == hct and not low <= hct <= high:
            check.error(
                row,
                "hct_pct",
                "HCT_PRODUCT",
                f"The haematocrit does not fit the product ({low:g} to {high:g} % is expected).",
                "Give the haematocrit of the bag, not of the donor or the patient.",
            )
        unknown = hct != hct and row["hb_g_dl"] != row["hb_g_dl"] and unit == "mL"
        if unknown and product == "whole":
            check.error(
                row,
                "hct_pct",
                "HCT_PRODUCT",
                "The haematocrit is missing, and the configured default is that of packed cells, not of whole blood.",
                "Enter the haematocrit or the haemoglobin of the bag.",
            )
        elif unknown:
            check.warn(
                row,
                "hct_pct",
                "HCT_MISSING",
                "The haematocrit is missing; the configured default is used and the interval is flagged.",
                "Enter it if the blood bank knows it.",
            )
        removed = ("removed_ml", "removed_hct_pct")
        if product == "exchange" or any(row[name] == row[name] for name in removed):
            for name in removed:
                if row[name] != row[name]:
                    check.error(
                        row,
                        name,
                        "EXCHANGE_REMOVED",
                        "Blood that was removed, as in every exchange, needs its volume and its haematocrit.",
                        "Enter both; net iron is given minus removed.",
                    )
        if unit == "mL" and amount * hct < row["removed_ml"] * row["removed_hct_pct"]:
            problem = "More red cells were removed than given: net iron is negative."
            check.warn(row, "removed_ml", "EXCHANGE_NET", problem, "Check all four numbers.")


def _check_chelation(rows: list[Row], check: Checker, tables: Mapping[str, list[Row]]) -> None:
    for group in repeated(rows, "participant_id", "rx_id"):
        prescriptions = [row for row in group if row["status"] in {"", "prescribed"}]
        for row in prescriptions[1:]:
            check.error(
                row,
                "rx_id",
                "RX_ID_TWICE",
                f"The prescription's identifier is used {len(prescriptions)} times (lines {lines_of(prescriptions)}).",
                "Delete the double entry, or correct the identifier.",
            )
    weighed = _weights_by_participant(tables)
    for row in rows:
        _check_prescription(row, weighed.get(row["participant_id"], []), check)
    withdrawn = [row for row in rows if row["status"] in {"", "prescribed"} and row["product"] in DEFERASIROX]
    for entries in _by_participant(withdrawn).values():
        _check_coverage(entries, check)


def _weights_by_participant(tables: Mapping[str, list[Row]]) -> dict[str, list[tuple[int, float]]]:
    """Day and weight [kg] of every weighing."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for table, when in (("visits", "visit_date"), ("weights", "date")):
        for row in tables.get(table, []):
            if row[when] and row["weight_kg"] == row["weight_kg"]:
                found[row["participant_id"]].append((_days(row[when]), float(row["weight_kg"])))
    return found


def _check_prescription(row: Row, weighed: list[tuple[int, float]], check: Checker) -> None:
    dose, unit, product = row["dose"], row["dose_unit"], row["product"]
    if row["start"] and row["stop"] and row["stop"] < row["start"]:
        check.error(row, "stop", "RX_STOP_BEFORE_START", "The stop is before the start.", "Correct one of the dates.")
    if row["status"] == "held":
        if row["start"] and not row["stop"]:
            problem = "The hold has no end: nothing counts from its start on, whatever is prescribed later."
            check.warn(row, "stop", "RX_HOLD_OPEN", problem, "Enter its last day.")
        return
    for name in ("dose", "dose_unit", "per"):
        value = row[name]
        refused = any(f.line == row["line"] and f.field == name and f.file == check.file for f in check.findings)
        if (value == "" or value != value) and not refused:
            check.error(row, name, "CELL_EMPTY", f"The {name.replace('_', ' ')} is empty.", "Enter it.")
    if product and product not in DEFERASIROX:
        check.warn(
            row,
            "product",
            "PROTOCOL_CHELATOR",
            "The study has deferasirox as its sole chelator; this product is not counted.",
            "Record the protocol deviation.",
        )
        return
    if product == "exjade":
        check.warn(
            row,
            "product",
            "PROTOCOL_EXJADE",
            "The study has Jadenu as its sole chelator; Exjade is converted to its Jadenu equivalent.",
            "Record the protocol deviation.",
        )
    daily = dose * (row["times_per_day"] if row["per"] == "dose" and row["times_per_day"] == row["times_per_day"] else 1)
    if row["per"] == "dose" and row["times_per_day"] != row["times_per_day"]:
        check.error(row, "times_per_day", "CELL_EMPTY", "The dose is per dose, but the times per day are empty.", "Enter them.")
    low, high = (5.0, 40.0) if product == "exjade" else (3.5, 28.0)
    per_kg = daily
    if unit == "mg":
        # the weight nearest to the start; NaN where there is none, which is in no range and outside of none
        per_kg = daily / min(weighed, key=lambda w: abs(w[0] - _days(row["start"])))[1] if weighed and row["start"] else float("nan")
    if unit == "mg/kg" and daily > MOST_MG_PER_KG:
        check.error(row, "dose_unit", "DOSE_IS_MG", f"More than {MOST_MG_PER_KG} mg/kg a day: is this mg?", "Correct dose or unit.")
    elif unit == "mg" and 0 < daily < 60:
        check.error(row, "dose_unit", "DOSE_IS_MG_PER_KG", "Less than 60 mg a day: is this mg/kg?", "Correct dose or unit.")
    elif per_kg > MOST_MG_PER_KG:
        problem = f"With the weight nearest to its start the dose is more than {MOST_MG_PER_KG} mg/kg a day."
        check.error(row, "dose", "DOSE_RANGE", problem, "Correct the dose or the weight.")
    elif 0 < per_kg < low or per_kg > high:
        check.warn(
            row,
            "dose",
            "DOSE_LABEL",
            f"The dose is outside the labelled range of {low:g} to {high:g} mg/kg a day.",
            "Check it against the prescription and the weight.",
        )
    if unit == "mg" and product == "jadenu_tablet" and dose == dose and dose % 90 != 0:
        check.warn(
            row,
            "dose",
            "DOSE_TABLETS",
            "The dose is not a sum of whole 90, 180 and 360 mg tablets.",
            "Check it against the prescription.",
        )


def _check_coverage(entries: list[Row], check: Checker) -> None:
    """Overlaps and gaps of one participant's prescriptions."""
    single = sorted((row for row in entries if row["start"] and row["component"] != "add"), key=lambda r: r["start"])
    for before, after in itertools.pairwise(single):
        if before["start"] == after["start"]:
            check.error(
                after,
                "start",
                "RX_SAME_START",
                f"Two prescriptions start on one day (lines {lines_of([before, after])}).",
                "Delete one, or give the second the component add if both are taken.",
            )
        elif not before["stop"] or before["stop"] >= after["start"]:
            check.warn(
                after,
                "start",
                "RX_OVERLAP",
                f"Two prescriptions overlap (lines {lines_of([before, after])}). The later start counts.",
                "Enter the stop of the earlier one, or the component add if both are taken.",
            )
    covered_until = 0
    for row in single:
        if covered_until and _days(row["start"]) - covered_until - 1 > check.params.max_gap_days:
            check.warn(
                row,
                "start",
                "RX_GAP",
                f"{_days(row['start']) - covered_until - 1} days before this prescription have none; they count as 0 mg.",
                "Enter the missing prescription, or leave it if none was taken.",
            )
        covered_until = max(covered_until, _days(row["stop"]) if row["stop"] else 10**9)


def _check_adherence(rows: list[Row], check: Checker, _: Mapping[str, list[Row]]) -> None:
    for entries in _by_participant([row for row in rows if row["from"] and row["to"]]).values():
        for number, row in enumerate(entries):
            earlier = [other for other in entries[:number] if other["from"] <= row["to"] and row["from"] <= other["to"]]
            if earlier:
                problem = f"Accounts of adherence overlap (lines {lines_of([*earlier, row])}). On common days the last line counts."
                check.warn(row, "from", "ADHERENCE_OVERLAP", problem, "Keep one account of each day.")
    for row in rows:
        if row["from"] and row["to"] and row["to"] < row["from"]:
            check.error(row, "to", "ADHERENCE_DATES", "The end is before the beginning.", "Correct one of the dates.")
        counted = all(row[name] == row[name] for name in ("dispensed_n", "returned_n", "strength_mg"))
        if counted and row["returned_n"] > row["dispensed_n"]:
            check.error(row, "returned_n", "ADHERENCE_RANGE", "More was returned than dispensed.", "Check both counts.")
        if row["adherence_pct"] != row["adherence_pct"] and not counted and row["method"] != "none":
            check.warn(
                row,
                "adherence_pct",
                "ADHERENCE_MISSING",
                "Neither a percentage nor a pill count with its tablet strength is given; full adherence is assumed.",
                "Enter one of them, or the method none.",
            )


RULES: dict[str, Callable[[list[Row], Checker, Mapping[str, list[Row]]], None]] = {
    "participants": _check_participants,
    "visits": _check_visits,
    "transfusions": _check_transfusions,
    "chelation": _check_chelation,
    "adherence": _check_adherence,
    "explant_chemistry": check_chemistry,
    "explant_histology": check_histology,
}
