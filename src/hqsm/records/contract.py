"""The rules of single cells as pandera schemas, made from :data:`hqsm.records.schema.TABLES`.

pandera checks every cell of a table lazily, in one pass; it names the rule that a cell breaks by our code. The words of
a finding and the line as a person counts it are in :mod:`hqsm.records.cells`, rules that need more than one cell in
:mod:`hqsm.records.rules`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

import pandas as pd
import pandera.pandas as pa

from hqsm.records.schema import TABLES, FieldRule

EMPTY = "CELL_EMPTY"
CHOICE = "CHOICE_UNKNOWN"
_TYPED = ("number", "date", "choice", "text")
"""Kinds of which pandera sees the cells; identifiers are read by their own rules before."""


@cache
def cell_schema(table: str, columns: Collection[str]) -> pa.DataFrameSchema:
    """The schema of those columns of a table that the file has; cells are text or float64, missing ones null."""
    return pa.DataFrameSchema({rule.name: _column(rule) for rule in TABLES[table] if rule.kind in _TYPED and rule.name in columns})


def _column(rule: FieldRule) -> pa.Column:
    checks = []
    if rule.kind == "number":
        checks.append(pa.Check.in_range(rule.low, rule.high, error=rule.range_code))
    if rule.kind == "choice":
        checks.append(pa.Check.isin(sorted({canonical for _, canonical in rule.choices}), error=CHOICE))
    return pa.Column(float if rule.kind == "number" else None, checks, nullable=not rule.filled)


def broken_cells(table: str, frame: pd.DataFrame) -> Iterator[tuple[int, str, str]]:
    """Every cell that breaks its rule.

    Parameters
    ----------
    table
        Name of the table.
    frame
        Typed cells with a range index: numbers float64, everything else text with its canonical spelling; null where
        the cell is empty.

    Yields
    ------
    tuple
        Row (from 0), column, and the code of the broken rule.
    """
    try:
        cell_schema(table, frozenset(frame.columns)).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        for row, column, check in errors.failure_cases[["index", "column", "check"]].itertuples(index=False):
            yield int(row), str(column), EMPTY if check == "not_nullable" else str(check)
