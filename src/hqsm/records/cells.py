"""The cells of a table of records: text in, typed rows and findings out."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hqsm.config.records import RecordsParams
from hqsm.errors import InputError
from hqsm.records.contract import CHOICE, EMPTY, broken_cells
from hqsm.records.findings import ERROR, NOTE, WARNING, Finding
from hqsm.records.schema import MANDATORY_TABLES, TABLES, FieldRule

Row = dict[str, Any]

_LABEL = re.compile(r"^[A-Za-z0-9]+$")
_ISO_DATE = re.compile(r"^(\d{4})-(\d{2})-(\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$")
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+,\d+$")
_COMMA_OR_THOUSANDS = re.compile(r"^[+-]?\d{1,3},\d{3}$")


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A file as text: column names in lower case, and rows as (line, cells)."""

    file: str
    separator: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


class Checker:
    """Collects the findings of one file."""

    def __init__(self, table: str, file: str, params: RecordsParams, findings: list[Finding]) -> None:
        self.table = table
        self.file = file
        self.params = params
        self.findings = findings
        self.missing = {code.lower() for code in params.missing_codes}
        self.tidied: dict[str, int] = defaultdict(int)

    def add(self, row: Mapping[str, Any], field: str, severity: str, code: str, problem: str, remedy: str) -> None:
        """A finding of one cell of a row, or of the whole file where the row is empty."""
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
        """What keeps the participant out of the statistics until it is corrected."""
        self.add(row, field, ERROR, code, problem, remedy)

    def warn(self, row: Mapping[str, Any], field: str, code: str, problem: str, remedy: str) -> None:
        """What a person should look at."""
        self.add(row, field, WARNING, code, problem, remedy)


def type_table(table: str, source: RawTable, params: RecordsParams, findings: list[Finding]) -> list[Row]:
    """The rows of one table, each cell as its type; a cell that is refused is missing and has its finding.

    Raises
    ------
    InputError
        A mandatory table is empty or lacks a mandatory column.
    """
    rules = {rule.name: rule for rule in TABLES[table]}
    check = Checker(table, source.file, params, findings)
    if not source.rows:
        if table in MANDATORY_TABLES:
            raise InputError(f"records/{source.file} is empty: it has no rows.", remedy="Fill it in.", code="RECORDS_EMPTY")
        check.warn({}, "", "FILE_EMPTY", "The file has no rows; it counts as missing.", "Fill it in, or remove it.")
        return []
    _check_header(source, rules, check)
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


def _check_header(source: RawTable, rules: Mapping[str, FieldRule], check: Checker) -> None:
    """What is wrong with the columns: missing, twice, not known."""
    nowhere: Row = {}
    lacking = [rule.name for rule in rules.values() if rule.mandatory and rule.name not in source.columns]
    if lacking:
        if check.table in MANDATORY_TABLES:
            raise InputError(
                f"records/{source.file} has no column {', '.join(lacking)}.",
                remedy=f"Its mandatory columns are {', '.join(r.name for r in rules.values() if r.mandatory)}.",
                code="RECORDS_COLUMNS",
            )
        for name in lacking:
            check.error(nowhere, name, "COLUMN_MISSING", "The column is missing; nothing is counted from this table.", "Add the column.")
    for position, name in enumerate(source.columns, start=1):
        # a header that is not ours can be the name of a person: it is told by its place
        shown = name if name in rules else f"(column {position})"
        if source.columns.index(name) < position - 1:
            continue
        if name in rules and source.columns.count(name) > 1:
            problem = "Two columns have this name; nothing is counted from this table."
            check.error(nowhere, shown, "COLUMN_TWICE", problem, "Rename or remove one of them.")
        if name and name not in rules and not (check.table == "visits" and name == "line"):
            close = difflib.get_close_matches(name, rules, n=1, cutoff=0.8)
            hint = f"Did you mean {close[0]}?" if close else "Remove it, or ignore this warning."
            check.warn(nowhere, shown, "COLUMN_UNKNOWN", "The column is not known and was not read.", hint)


def _check_cells(rows: list[Row], refused: set[tuple[int, str]], source: RawTable, check: Checker) -> None:
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


def _tidy(cell: str, check: Checker) -> str:
    text = cell.replace("\xa0", " ").replace("\ufeff", "").strip()
    if text != cell:
        check.tidied["CELL_SPACES"] += 1
    if text and text.lower() in check.missing:
        check.tidied["CELL_MISSING_CODE"] += 1
        return ""
    return text


def _report_tidied(check: Checker) -> None:
    words = {
        "CELL_SPACES": "had leading, trailing or non-breaking spaces, which were removed.",
        "CELL_MISSING_CODE": "held a code for 'missing' and count as empty.",
        "CELL_DECIMAL_COMMA": "had a decimal comma, which was read as a point.",
        "CELL_ALIAS": "held another spelling of a known word, which was understood.",
    }
    for code, count in sorted(check.tidied.items()):
        # spellings are normalised as a matter of course; the rest is worth a look at how the file was made
        check.add({}, "", NOTE if code == "CELL_ALIAS" else WARNING, code, f"{count} cell{'s' if count > 1 else ''} {words[code]}", "")


def _identifier(text: str, prefix: str, row: Row, field: str, check: Checker) -> str:
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


def _cell(text: str, rule: FieldRule, row: Row, source: RawTable, check: Checker) -> str | float:
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


def _number(text: str, rule: FieldRule, row: Row, source: RawTable, check: Checker) -> float:
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


def _date(text: str, rule: FieldRule, row: Row, check: Checker) -> str:
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


def _choice(text: str, rule: FieldRule, check: Checker) -> str:
    """The canonical spelling of a known word, and any other word as it is."""
    value = dict(rule.choices).get(text.lower(), text)
    if value != text:
        check.tidied["CELL_ALIAS"] += 1
    return value
