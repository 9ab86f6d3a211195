"""Edge: the CSV files of ``records/`` as text, whatever spreadsheet program wrote them.

Everything is read as text: an identifier ``0012`` stays ``0012``. What the cells mean is decided in
:mod:`hqsm.records.cells`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hqsm.config.records import RecordsParams
from hqsm.errors import InputError
from hqsm.records.cells import RawTable
from hqsm.records.data import Records
from hqsm.records.findings import ERROR, WARNING, Finding
from hqsm.records.redcap import data_dictionary, redcap_tables
from hqsm.records.schema import MANDATORY_TABLES, TABLES
from hqsm.records.validation import validate
from hqsm.table_cells import separator_of

_ENCODINGS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_records(folder: Path, params: RecordsParams) -> Records:
    """Read and check every table of a records folder.

    Parameters
    ----------
    folder
        ``STUDY/records``; one ``<table>.csv`` each (:data:`hqsm.records.schema.TABLES`). Separator comma, semicolon
        or tab; UTF-8 with or without BOM, UTF-16, or Windows-1252 (with a warning); decimal commas understood.
    params
        Missing codes, the arithmetic's constants, and the mapping of a REDCap export (``redcap.csv``), whose tables go
        before files of their own.

    Returns
    -------
    Records
        Typed tables and findings. An error in a row is a finding, never an exception.

    Raises
    ------
    InputError
        ``RECORDS_MISSING``: participants.csv or visits.csv is missing; ``RECORDS_EMPTY``, ``RECORDS_COLUMNS``: one of
        the two is empty or lacks a mandatory column.
    """
    raw: dict[str, RawTable] = {}
    findings: list[Finding] = []
    if (folder / "redcap.csv").is_file():
        raw |= _read_redcap(folder, params, findings)
    for table in TABLES:
        path = folder / f"{table}.csv"
        if table in raw:
            if path.is_file():
                problem = "The table is in the REDCap export too; this file was not read."
                findings.append(_about_file(path, "FILE_TWICE", WARNING, problem, "Remove the file, or its mapping."))
        elif path.is_file():
            raw[table] = _read_table(path, findings)
        elif table in MANDATORY_TABLES:
            raise InputError(
                f"records/{table}.csv does not exist.",
                remedy=f"Add it; its columns are {', '.join(rule.name for rule in TABLES[table] if rule.mandatory)}.",
                code="RECORDS_MISSING",
            )
    if folder.is_dir():
        known = {f"{table}.csv" for table in TABLES} | {"labs.csv", "visits_map.csv", "redcap.csv", "redcap_dictionary.csv"}
        hint = f"Name it after one of them: {', '.join(sorted(known))}."
        # a file's name can be that of a person: it is named by its place
        findings.extend(
            _about_file(
                folder / f"(file {position} by name)", "FILE_UNKNOWN", WARNING, "The file is not one of the tables and was not read.", hint
            )
            for position, path in enumerate(sorted(folder.glob("*.csv")), start=1)
            if path.name not in known
        )
    return validate(raw, params, findings)


def _read_redcap(folder: Path, params: RecordsParams, findings: list[Finding]) -> dict[str, RawTable]:
    """Tables of a REDCap export; ``RECORDS_REDCAP`` where its dictionary or its mapping is missing."""
    dictionary = folder / "redcap_dictionary.csv"
    if not dictionary.is_file():
        raise InputError(
            "records/redcap_dictionary.csv does not exist.",
            remedy="Export the data dictionary from REDCap and put it beside redcap.csv.",
            code="RECORDS_REDCAP",
        )
    if not params.redcap.tables:
        raise InputError(
            "There is a records/redcap.csv, but no mapping of its fields.",
            remedy="Add records: redcap: tables: to config.yaml (docs/records.md shows how).",
            code="RECORDS_REDCAP",
        )
    export = _read_table(folder / "redcap.csv", findings)
    return redcap_tables(export, data_dictionary(_read_table(dictionary, findings)), params, findings)


def _read_table(path: Path, findings: list[Finding]) -> RawTable:
    content = path.read_bytes()
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        findings.append(
            _about_file(
                path,
                "FILE_ENCODING",
                WARNING,
                "The file is not UTF-8; it was read as Windows-1252.",
                "Save it as CSV UTF-8.",
            )
        )
    header = text.split("\n", 1)[0]
    separator = separator_of(header)
    # strict: a quotation mark that is never closed would swallow every later row
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, tuple[str, ...]]] = []
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((start, tuple(cells)))
            start = reader.line_num + 1  # a quoted cell may span lines: a row is named by its first
    except csv.Error:
        findings.append(
            _about_file(
                path,
                "FILE_CSV",
                ERROR,
                f"The file cannot be read as CSV from line {start} on; nothing is counted from this table.",
                "Look for a quotation mark that is not closed, or save it again as CSV.",
            )
        )
    names = tuple(name.replace("\xa0", " ").strip().lower() for name in rows[0][1]) if rows else ()
    return RawTable(file=path.name, separator=separator, columns=names, rows=tuple(rows[1:]))


def _about_file(path: Path, code: str, severity: str, problem: str, remedy: str) -> Finding:
    return Finding(
        file=path.name, line=0, participant="", field="", code=code, severity=severity, problem=problem, remedy=remedy, table=path.stem
    )
