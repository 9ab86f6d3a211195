"""The rules of the records: text in, typed tables and findings out. Everything is found in one pass."""

from __future__ import annotations

import datetime
import difflib
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hqsm.config.records import RecordsParams
from hqsm.errors import InputError
from hqsm.records.contract import CHOICE, EMPTY, broken_cells
from hqsm.records.data import Records, empty_table
from hqsm.records.findings import ERROR, NOTE, WARNING, Finding, sort_findings
from hqsm.records.schema import MANDATORY_TABLES, SWITCHED_OFF_WITHOUT, TABLES, FieldRule
from hqsm.units import ug_per_g_to_mg_per_g, umol_per_g_to_mg_per_g

Row = dict[str, Any]

_LABEL = re.compile(r"^[A-Za-z0-9]+$")
_ISO_DATE = re.compile(r"^(\d{4})-(\d{2})-(\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$")
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+,\d+$")
_COMMA_OR_THOUSANDS = re.compile(r"^[+-]?\d{1,3},\d{3}$")
DEFERASIROX = frozenset({"jadenu_tablet", "jadenu_sprinkle", "exjade"})


def iron_mg_per_g(value: float, unit: str) -> float:
    """Iron concentration given in ``mg/g``, ``ug/g`` or ``umol/g`` as mg/g."""
    if unit == "umol/g":
        return umol_per_g_to_mg_per_g(value)
    return ug_per_g_to_mg_per_g(value) if unit == "ug/g" else value


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A file as text: column names in lower case, and rows as (line, cells)."""

    file: str
    separator: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


class _Checker:
    """Collects the findings of one file."""

    def __init__(self, table: str, file: str, params: RecordsParams, findings: list[Finding]) -> None:
        self.table = table
        self.file = file
        self.params = params
        self.findings = findings
        self.missing = {code.lower() for code in params.missing_codes}
        self.tidied: dict[str, int] = defaultdict(int)

    def add(self, row: Mapping[str, Any], field: str, severity: str, code: str, problem: str, remedy: str) -> None:
        self.findings.append(
            Finding(
                file=self.file,
                line=int(row.get("line", 0)),
                participant=str(row.get("participant_id", "")),
                field=field,
                code=code,
                severity=severity,
                problem=problem,
                remedy=remedy,
                table=self.table,
            )
        )

    def error(self, row: Mapping[str, Any], field: str, code: str, problem: str, remedy: str) -> None:
        self.add(row, field, ERROR, code, problem, remedy)

    def warn(self, row: Mapping[str, Any], field: str, code: str, problem: str, remedy: str) -> None:
        self.add(row, field, WARNING, code, problem, remedy)


def validate(raw: Mapping[str, RawTable], params: RecordsParams, found_before: Iterable[Finding] = ()) -> Records:
    """Check every table and give it types.

    Parameters
    ----------
    raw
        Tables as text, by name.
    params
        Missing codes and plausibility settings.
    found_before
        Findings of the reading itself.

    Returns
    -------
    Records
        Rows keep their place; a cell that was refused is missing, and its participant is in ``Records.blocked``.

    Raises
    ------
    InputError
        A mandatory table is empty or lacks a mandatory column.
    """
    findings = list(found_before)
    typed: dict[str, list[Row]] = {}
    for table, source in raw.items():
        typed[table] = _type_table(table, source, params, findings)
    known = {row["participant_id"] for row in typed.get("participants", [])}
    for table, rows in typed.items():
        check = _Checker(table, raw[table].file, params, findings)
        if table != "participants":
            for row in rows:
                if row["participant_id"] and row["participant_id"] not in known:
                    check.error(
                        row,
                        "participant_id",
                        "ID_UNKNOWN",
                        "The participant is not in participants.csv.",
                        "Add the participant there, or correct the identifier here.",
                    )
        if table in _RULES:
            _RULES[table](rows, check, typed)
    tables = {name: empty_table(name) for name in TABLES}
    for table, rows in typed.items():
        if rows:
            tables[table] = pd.DataFrame(rows, columns=list(tables[table].columns)).astype(tables[table].dtypes.to_dict())
    notes = tuple(f"There is no records/{table}.csv. {effect}" for table, effect in SWITCHED_OFF_WITHOUT.items() if table not in raw)
    return Records(
        tables=tables,
        present=frozenset(raw),
        findings=sort_findings(findings),
        notes=notes,
        files={table: source.file for table, source in raw.items()},
    )


# ---------------------------------------------------------------------------------------------- cells


def _type_table(table: str, source: RawTable, params: RecordsParams, findings: list[Finding]) -> list[Row]:
    rules = {rule.name: rule for rule in TABLES[table]}
    check = _Checker(table, source.file, params, findings)
    nowhere: Row = {}
    if not source.columns:
        if table in MANDATORY_TABLES:
            raise InputError(f"records/{source.file} is empty.", remedy="Fill it in.", code="RECORDS_EMPTY")
        check.warn(nowhere, "", "FILE_EMPTY", "The file is empty.", "Fill it in, or remove it.")
        return []
    lacking = [rule.name for rule in rules.values() if rule.mandatory and rule.name not in source.columns]
    if lacking:
        if table in MANDATORY_TABLES:
            raise InputError(
                f"records/{source.file} has no column {', '.join(lacking)}.",
                remedy=f"Its mandatory columns are {', '.join(r.name for r in rules.values() if r.mandatory)}.",
                code="RECORDS_COLUMNS",
            )
        for name in lacking:
            check.error(nowhere, name, "COLUMN_MISSING", "The column is missing.", "Add it to the header.")
    for position, name in enumerate(source.columns, start=1):
        # a header that is not ours can be the name of a person: it is told by its place
        shown = name if name in rules else f"(column {position})"
        if source.columns.index(name) < position - 1:
            continue
        if source.columns.count(name) > 1:
            check.error(nowhere, shown, "COLUMN_TWICE", "Two columns have this name.", "Rename or remove one of them.")
        if name and name not in rules and not (table == "visits" and name == "line"):
            close = difflib.get_close_matches(name, rules, n=1, cutoff=0.8)
            hint = f"Did you mean {close[0]}?" if close else "Remove it, or ignore this warning."
            check.warn(nowhere, shown, "COLUMN_UNKNOWN", "The column is not known and was not read.", hint)
    rows: list[Row] = []
    refused: set[tuple[int, str]] = set()
    for number, (line, cells) in enumerate(source.rows):
        texts = {name: _tidy(cell, check) for name, cell in zip(source.columns, cells, strict=False)}
        row: Row = {"line": line}
        # the identifier first: every finding of the row carries it
        row["participant_id"] = _identifier(texts.get("participant_id", ""), "sub-", row, "participant_id", check)
        if len(cells) > len(source.columns) and any(cell.strip() for cell in cells[len(source.columns) :]):
            check.error(
                row,
                "",
                "ROW_TOO_LONG",
                "The row has more cells than the header has columns.",
                "Put cells that contain the separator into quotation marks.",
            )
        for rule in rules.values():
            if rule.kind != "participant":
                text = texts.get(rule.name, "")
                row[rule.name] = _cell(text, rule, row, source, check)
                if text and (row[rule.name] == "" or row[rule.name] != row[rule.name]):
                    refused.add((number, rule.name))
        rows.append(row)
    _check_cells(rows, refused, source, check)
    _report_tidied(check)
    return rows


def _check_cells(rows: list[Row], refused: set[tuple[int, str]], source: RawTable, check: _Checker) -> None:
    """Cells that could be read but break their rule: the finding in our words, and the cell as missing.

    ``refused`` are the cells that could not be read: they have their finding, and are not empty.
    """
    rules = {rule.name: rule for rule in TABLES[check.table]}
    frame = pd.DataFrame(
        {
            name: pd.Series([row[name] for row in rows], dtype="float64")
            if rule.kind == "number"
            else pd.Series([row[name] or None for row in rows], dtype="str")
            for name, rule in rules.items()
            if name in source.columns
        }
    )
    for number, name, code in broken_cells(check.table, frame):
        rule, row = rules[name], rows[number]
        if code == EMPTY:
            if (number, name) not in refused:
                check.error(row, name, code, f"The {name.replace('_', ' ')} is empty.", "Enter it, or delete the row.")
        elif code == CHOICE:
            accepted = ", ".join(dict.fromkeys(canonical for _, canonical in rule.choices))
            check.error(row, name, code, "The word is not one of those expected.", f"Use one of: {accepted}.")
            row[name] = ""
        else:
            problem = f"The number is not between {rule.low:g} and {rule.high:g}."
            check.error(row, name, code, problem, "Check it and its unit against the source.")
            row[name] = math.nan


def _tidy(cell: str, check: _Checker) -> str:
    text = cell.replace("\xa0", " ").replace("\ufeff", "").strip()
    if text != cell:
        check.tidied["CELL_SPACES"] += 1
    if text and text.lower() in check.missing:
        check.tidied["CELL_MISSING_CODE"] += 1
        return ""
    return text


def _report_tidied(check: _Checker) -> None:
    words = {
        "CELL_SPACES": "had leading, trailing or non-breaking spaces, which were removed.",
        "CELL_MISSING_CODE": "held a code for 'missing' and count as empty.",
        "CELL_DECIMAL_COMMA": "had a decimal comma, which was read as a point.",
        "CELL_ALIAS": "held another spelling of a known word, which was understood.",
    }
    for code, count in sorted(check.tidied.items()):
        # spellings are normalised as a matter of course; the rest is worth a look at how the file was made
        check.add({}, "", NOTE if code == "CELL_ALIAS" else WARNING, code, f"{count} cell{'s' if count > 1 else ''} {words[code]}", "")


def _identifier(text: str, prefix: str, row: Row, field: str, check: _Checker) -> str:
    label = text[len(prefix) :] if text.lower().startswith(prefix) else text
    if not label:
        check.error(row, field, "ID_EMPTY", "The identifier is empty.", "Enter it, or delete the row.")
        return ""
    if not _LABEL.match(label):
        check.error(
            row,
            field,
            "ID_FORMAT",
            "The identifier is not made of letters and digits alone.",
            "Write it exactly as the folder's label under dicom/.",
        )
        return ""
    return prefix + label


def _cell(text: str, rule: FieldRule, row: Row, source: RawTable, check: _Checker) -> str | float:
    if rule.kind == "session":
        return _identifier(text, "ses-", row, rule.name, check)
    if not text:
        return math.nan if rule.kind == "number" else ""
    if rule.kind == "number":
        return _number(text, rule, row, source, check)
    if rule.kind == "date":
        return _date(text, rule, row, check)
    if rule.kind == "choice":
        return _choice(text, rule, check)
    return text


def _number(text: str, rule: FieldRule, row: Row, source: RawTable, check: _Checker) -> float:
    if _DECIMAL_COMMA.match(text):
        if source.separator != ";" and _COMMA_OR_THOUSANDS.match(text):
            check.error(
                row,
                rule.name,
                "NUMBER_AMBIGUOUS",
                "The comma could be a decimal comma or separate thousands; the program does not guess.",
                "Write the number with a decimal point and nothing between thousands.",
            )
            return math.nan
        text = text.replace(",", ".")
        check.tidied["CELL_DECIMAL_COMMA"] += 1
    if not _NUMBER.match(text) or not math.isfinite(float(text)):
        check.error(row, rule.name, "NUMBER_FORMAT", "The cell is not a number.", "Enter a number without its unit.")
        return math.nan
    value = float(text)
    if rule.name in {"hct_pct", "removed_hct_pct"} and 0 < value < 1:
        check.error(
            row,
            rule.name,
            "HCT_FRACTION",
            "The haematocrit looks like a fraction; percent is expected.",
            "Write it as percent, for example 58.",
        )
        return math.nan
    return value


def _date(text: str, rule: FieldRule, row: Row, check: _Checker) -> str:
    match = _ISO_DATE.match(text)
    if match:
        year, month, day = (int(part) for part in match.groups())
        try:
            date = datetime.date(year, month, day)
        except ValueError:
            check.error(row, rule.name, "DATE_IMPOSSIBLE", "There is no such day.", "Check the date against the source.")
            return ""
        if not 1900 <= year <= 2100:
            check.error(row, rule.name, "DATE_RANGE", "The year is not between 1900 and 2100.", "Check the date.")
            return ""
        return date.isoformat()
    problem = "The date is not YYYY-MM-DD."
    readings = _readings(text)
    if re.match(r"^\d{5}(\.\d+)?$", text):
        problem += " It looks like a spreadsheet's serial number."
    elif len(readings) > 1:
        problem += " Day and month could be either way round; the program does not guess."
    elif re.search(r"[A-Za-z]{3}", text):
        problem += " The month is a word."
    elif re.match(r"^\d{1,2}[./-]\d{1,2}[./-]\d{2}$", text):
        problem += " The year has two digits."
    if check.params.show_values and readings:
        problem += f" It could be read as {' or '.join(readings)}."
    check.error(row, rule.name, "DATE_FORMAT", problem, "Write it as YYYY-MM-DD.")
    return ""


def _readings(text: str) -> list[str]:
    """The dates that day-first and month-first readers would see."""
    match = re.match(r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})$", text)
    readings = []
    if match:
        first, second, year = (int(part) for part in match.groups())
        for month, day in ((second, first), (first, second)):
            if 1 <= month <= 12 and 1 <= day <= 31:
                readings.append(f"{year:04d}-{month:02d}-{day:02d}")
    return list(dict.fromkeys(readings))


def _choice(text: str, rule: FieldRule, check: _Checker) -> str:
    """The canonical spelling of a known word, and any other word as it is."""
    value = dict(rule.choices).get(text.lower(), text)
    if value != text:
        check.tidied["CELL_ALIAS"] += 1
    return value


# ---------------------------------------------------------------------------------------------- rows and tables


def _by_participant(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["participant_id"]:
            grouped[row["participant_id"]].append(row)
    return grouped


def _lines(rows: list[Row]) -> str:
    return ", ".join(str(row["line"]) for row in rows)


def _repeated(rows: list[Row], *keys: str) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = tuple(row[name] for name in keys)
        if all(part != "" and part == part for part in key):
            groups[key].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _days(text: str) -> int:
    return datetime.date.fromisoformat(text).toordinal()


def _check_participants(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
    for group in _repeated(rows, "participant_id"):
        for row in group[1:]:
            check.error(
                row,
                "participant_id",
                "PARTICIPANT_TWICE",
                f"The participant has {len(group)} rows (lines {_lines(group)}).",
                "Keep one row for each participant.",
            )


def _check_visits(rows: list[Row], check: _Checker, tables: Mapping[str, list[Row]]) -> None:
    for group in _repeated(rows, "participant_id", "session_id"):
        for row in group[1:]:
            check.error(
                row,
                "session_id",
                "VISIT_TWICE",
                f"The visit has {len(group)} rows (lines {_lines(group)}).",
                "Keep one row for each visit.",
            )
    scans = [row for row in rows if row["visit_type"] not in {"repeat", "explant"}]
    for group in _repeated(scans, "participant_id", "visit_date"):
        check.warn(
            group[1],
            "visit_date",
            "VISIT_SAME_DAY",
            f"{len(group)} visits are on one day (lines {_lines(group)}).",
            "Check the dates, or give the second one the type repeat.",
        )
    weights = [row for row in tables.get("weights", []) if row["date"]]
    measured = [(row["participant_id"], row["visit_date"], row["weight_kg"], row, check) for row in rows]
    extra = _Checker("weights", "weights.csv" if check.file == "visits.csv" else check.file, check.params, check.findings)
    measured += [(row["participant_id"], row["date"], row["weight_kg"], row, extra) for row in weights]
    series: dict[str, list[tuple[int, float, Row, _Checker]]] = defaultdict(list)
    for participant, date, weight, row, owner in measured:
        if participant and date and weight == weight:
            series[participant].append((_days(date), float(weight), row, owner))
    for participant, entries in series.items():
        _check_weight_gaps(participant, [entry[0] for entry in entries], rows, check)
        entries.sort(key=lambda entry: (entry[0], entry[2]["line"]))
        for (day_1, weight_1, _, _), (day_2, weight_2, row, owner) in itertools.pairwise(entries):
            # a fifth of the body weight within a year, or per year over longer spans
            if abs(weight_2 / weight_1 - 1) > 0.20 * max(1.0, (day_2 - day_1) / 365.25):
                owner.error(
                    row,
                    "weight_kg",
                    "WEIGHT_JUMP",
                    "The weight differs from the one before by more than 20 % per year.",
                    "Check both weights and their unit (kg).",
                )


def _check_weight_gaps(participant: str, weighed: list[int], visits: list[Row], check: _Checker) -> None:
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


def _check_transfusions(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
    for group in _repeated(rows, "participant_id", "tx_id"):
        for row in group[1:]:
            check.error(
                row,
                "tx_id",
                "TX_ID_TWICE",
                f"The transfusion's identifier is used {len(group)} times (lines {_lines(group)}).",
                "Delete the double entry, or correct the identifier.",
            )
    for group in _repeated(rows, "participant_id", "date", "amount", "unit"):
        if len({row["tx_id"] for row in group}) == len(group):
            check.warn(
                group[1],
                "date",
                "TX_SAME_DAY",
                f"{len(group)} equal transfusions are on one day (lines {_lines(group)}). All are counted.",
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
        if hct != hct and row["hb_g_dl"] != row["hb_g_dl"] and unit == "mL":
            check.warn(
                row,
                "hct_pct",
                "HCT_MISSING",
                "The haematocrit is missing; the configured default is used and the interval is flagged.",
                "Enter it if the blood bank knows it.",
            )
        if product == "exchange":
            for name in ("removed_ml", "removed_hct_pct"):
                if row[name] != row[name]:
                    check.error(
                        row,
                        name,
                        "EXCHANGE_REMOVED",
                        "An exchange transfusion needs the volume and haematocrit of the blood removed.",
                        "Enter both; net iron is given minus removed.",
                    )


def _check_chelation(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
    for group in _repeated(rows, "participant_id", "rx_id"):
        prescriptions = [row for row in group if row["status"] in {"", "prescribed"}]
        for row in prescriptions[1:]:
            check.error(
                row,
                "rx_id",
                "RX_ID_TWICE",
                f"The prescription's identifier is used {len(prescriptions)} times (lines {_lines(prescriptions)}).",
                "Delete the double entry, or correct the identifier.",
            )
    for row in rows:
        _check_prescription(row, check)
    withdrawn = [row for row in rows if row["status"] in {"", "prescribed"} and row["product"] in DEFERASIROX]
    for entries in _by_participant(withdrawn).values():
        _check_coverage(entries, check)


def _check_prescription(row: Row, check: _Checker) -> None:
    dose, unit, product = row["dose"], row["dose_unit"], row["product"]
    if row["start"] and row["stop"] and row["stop"] < row["start"]:
        check.error(row, "stop", "RX_STOP_BEFORE_START", "The stop is before the start.", "Correct one of the dates.")
    if row["status"] == "held":
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
    if unit == "mg/kg" and daily > 60:
        check.error(row, "dose_unit", "DOSE_IS_MG", "More than 60 mg/kg a day: is this mg?", "Correct dose or unit.")
    elif unit == "mg" and 0 < daily < 60:
        check.error(row, "dose_unit", "DOSE_IS_MG_PER_KG", "Less than 60 mg a day: is this mg/kg?", "Correct dose or unit.")
    elif unit == "mg/kg":
        low, high = (5.0, 40.0) if product == "exjade" else (3.5, 28.0)
        if not low <= daily <= high and daily > 0:
            check.warn(
                row,
                "dose",
                "DOSE_LABEL",
                f"The dose is outside the labelled range of {low:g} to {high:g} mg/kg a day.",
                "Check it against the prescription.",
            )
    if unit == "mg" and product == "jadenu_tablet" and dose == dose and dose % 90 != 0:
        check.warn(
            row,
            "dose",
            "DOSE_TABLETS",
            "The dose is not a sum of whole 90, 180 and 360 mg tablets.",
            "Check it against the prescription.",
        )


def _check_coverage(entries: list[Row], check: _Checker) -> None:
    """Overlaps and gaps of one participant's prescriptions."""
    single = sorted((row for row in entries if row["start"] and row["component"] != "add"), key=lambda r: r["start"])
    for before, after in itertools.pairwise(single):
        if before["start"] == after["start"]:
            check.error(
                after,
                "start",
                "RX_SAME_START",
                f"Two prescriptions start on one day (lines {_lines([before, after])}).",
                "Delete one, or give the second the component add if both are taken.",
            )
        elif not before["stop"] or before["stop"] >= after["start"]:
            check.warn(
                after,
                "start",
                "RX_OVERLAP",
                f"Two prescriptions overlap (lines {_lines([before, after])}). The later start counts.",
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


def _check_adherence(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
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


def _check_chemistry(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
    for row in rows:
        value, unit = row["fe_value"], row["fe_unit"]
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
            if row["lod"] != row["lod"] and value != value:
                check.error(row, "lod", "LOD_MISSING", "Below the limit of detection, but no limit given.", "Enter it.")
            else:
                check.warn(
                    row,
                    "below_lod",
                    "BELOW_LOD",
                    "The value is below the limit of detection; the limit over root two stands in for it, flagged.",
                    "Nothing to do.",
                )


def _check_histology(rows: list[Row], check: _Checker, _: Mapping[str, list[Row]]) -> None:
    for row in rows:
        if row["fibrosis_stage"] > 4 and row["fibrosis_scale"] != "ishak":
            check.error(
                row,
                "fibrosis_stage",
                "FIBROSIS_SCALE",
                "A stage above 4 exists on the Ishak scale only.",
                "Correct the stage, or enter ishak as the fibrosis_scale.",
            )


_RULES: dict[str, Callable[[list[Row], _Checker, Mapping[str, list[Row]]], None]] = {
    "participants": _check_participants,
    "visits": _check_visits,
    "transfusions": _check_transfusions,
    "chelation": _check_chelation,
    "adherence": _check_adherence,
    "explant_chemistry": _check_chemistry,
    "explant_histology": _check_histology,
}
