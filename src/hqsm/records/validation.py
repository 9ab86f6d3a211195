"""The records as a whole: tables as text in, typed tables and findings out. Everything is found in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from hqsm.config.records import RecordsParams
from hqsm.records.cells import Checker, RawTable, Row, type_table
from hqsm.records.data import Records, empty_table
from hqsm.records.findings import ERROR, Finding, sort_findings
from hqsm.records.rules import RULES
from hqsm.records.schema import EXPOSURE_TABLES, SWITCHED_OFF_WITHOUT, TABLES


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
        Rows keep their place; a cell that was refused is missing, and its participant is in ``Records.blocked``. A table of
        explants that lacks a column is empty: its rows mean nothing without it.

    Raises
    ------
    InputError
        A mandatory table is empty or lacks a mandatory column.
    """
    findings = list(found_before)
    typed: dict[str, list[Row]] = {}
    for table, source in raw.items():
        typed[table] = type_table(table, source, params, findings)
    known = {row["participant_id"] for row in typed.get("participants", [])}
    for table, rows in typed.items():
        check = Checker(table, raw[table].file, params, findings)
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
        if table in RULES:
            RULES[table](rows, check, typed)
    tables = {name: empty_table(name) for name in TABLES}
    refused = {finding.table for finding in findings if finding.severity == ERROR and finding.about_table} - set(EXPOSURE_TABLES)
    for table, rows in typed.items():
        if rows and table not in refused:
            tables[table] = pd.DataFrame(rows, columns=list(tables[table].columns)).astype(tables[table].dtypes.to_dict())
    present = frozenset(table for table, rows in typed.items() if rows)
    notes = tuple(
        f"{f'records/{raw[table].file} has no rows of {table}' if table in raw else f'There is no records/{table}.csv'}. {effect}"
        for table, effect in SWITCHED_OFF_WITHOUT.items()
        if table not in present
    )
    return Records(
        tables=tables,
        present=present,
        findings=sort_findings(findings),
        notes=notes,
        files={table: source.file for table, source in raw.items()},
    )
