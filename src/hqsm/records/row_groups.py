"""Rows of one table that belong together."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hqsm.records.cells import Row


def lines_of(rows: list[Row]) -> str:
    """Their lines, as a sentence names them."""
    return ", ".join(str(row["line"]) for row in rows)


def repeated(rows: list[Row], *keys: str) -> list[list[Row]]:
    """Groups of rows that have the same in all of these columns; where one is empty, nothing is the same."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = tuple(row[name] for name in keys)
        if all(part != "" and part == part for part in key):
            groups[key].append(row)
    return [group for group in groups.values() if len(group) > 1]
