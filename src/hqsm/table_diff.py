"""What changed in the tables of a cohort between two versions of the pipeline: rows that came, went, and cells that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

KEYS = (
    *("what", "item", "participant_id", "session_id", "start_session", "end_session", "field_strength_t", "analysis", "setting"),
    *("comparison", "confounder", "method", "term", "quantity", "region", "reader", "kind", "reader_a", "reader_b"),
)
"""Columns that say what a row is about; those that a table has, in its own order, are its key."""


@dataclass(frozen=True, kw_only=True)
class ColumnChange:
    """A column of a table: how many of the rows that both have differ, and the largest difference.

    ``largest`` and ``relative`` are those of numbers, NaN for text; ``where`` is the key of that row, ``text`` its two values.
    """

    table: str
    column: str
    n_changed: int
    n_rows: int
    largest: float
    relative: float
    where: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """A table in two studies."""

    table: str
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    columns: tuple[ColumnChange, ...]

    @property
    def same(self) -> bool:
        """Whether both studies say the same."""
        return not (self.only_in_a or self.only_in_b or self.columns)


def compare(a: Mapping[str, pd.DataFrame], b: Mapping[str, pd.DataFrame], *, relative_tolerance: float = 0.0) -> list[TableChange]:
    """Compare tables by name; one that only one study has is compared with nothing.

    Parameters
    ----------
    a, b
        Tables of the contract as `hqsm.tables.read_frame` reads them.
    relative_tolerance
        Numbers that differ by no more than this share of the larger one are the same.
    """
    return [_compare(name, a.get(name), b.get(name), relative_tolerance) for name in dict.fromkeys([*a, *b])]


def _keyed(frame: pd.DataFrame | None) -> dict[str, dict[str, object]]:
    """Rows by their key in words; rows of one key are numbered in their order."""
    if frame is None:
        return {}
    columns = [name for name in frame.columns if name in KEYS]
    if "participant_id" in columns and "field_strength_t" in columns:
        columns.remove("field_strength_t")  # there it is a fact of the visit
    rows: dict[str, dict[str, object]] = {}
    for row in frame.to_dict(orient="records"):
        words = [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in columns]
        key = " ".join(word for word in words if word not in {"", "nan"}) or "row"
        number, unique = 2, key
        while unique in rows:
            unique, number = f"{key} #{number}", number + 1
        rows[unique] = {str(k): v for k, v in row.items()}
    return rows


def _compare(name: str, a: pd.DataFrame | None, b: pd.DataFrame | None, tolerance: float) -> TableChange:
    rows_a, rows_b = _keyed(a), _keyed(b)
    common = [key for key in rows_a if key in rows_b]
    columns = [column for frame in (a, b) if frame is not None for column in frame.columns]
    changes = []
    for column in dict.fromkeys(columns):
        found = [_difference(rows_a[key].get(column), rows_b[key].get(column), tolerance) for key in common]
        changed = [k for k, difference in enumerate(found) if difference is not None]
        if not changed:
            continue
        worst = max(changed, key=lambda k: (np.nan_to_num(found[k][1], nan=np.inf), np.nan_to_num(found[k][0], nan=np.inf)))  # type: ignore[index]
        largest, relative = found[worst]  # type: ignore[misc]
        where = common[worst]
        text = f"{_shown(rows_a[where].get(column))} -> {_shown(rows_b[where].get(column))}"
        changes.append(
            ColumnChange(
                table=name,
                column=str(column),
                n_changed=len(changed),
                n_rows=len(common),
                largest=largest,
                relative=relative,
                where=where,
                text=text,
            )
        )
    return TableChange(
        table=name,
        only_in_a=tuple(key for key in rows_a if key not in rows_b),
        only_in_b=tuple(key for key in rows_b if key not in rows_a),
        columns=tuple(changes),
    )


def _difference(a: object, b: object, tolerance: float) -> tuple[float, float] | None:
    """Absolute and relative difference of two cells; None for the same."""
    if isinstance(a, float) and isinstance(b, float):
        if a == b or (np.isnan(a) and np.isnan(b)):
            return None
        if np.isnan(a) or np.isnan(b):
            return float("nan"), float("nan")
        absolute = abs(a - b)
        relative = absolute / max(abs(a), abs(b))
        return None if relative <= tolerance else (absolute, relative)
    return None if a == b else (float("nan"), float("nan"))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "n/a" if np.isnan(value) else f"{value:.6g}"
    text = str(value) if value else "n/a"
    return text if len(text) <= 60 else f"{text[:57]}..."
