"""Edge: the tables of the output contract (:mod:`hqsm.table_contract`), each with a data dictionary beside it.

A table is tab-separated text, UTF-8, ``n/a`` for a missing value (as BIDS writes it), nine significant digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hqsm.errors import InputError
from hqsm.table_cells import MISSING, format_value, neutralised
from hqsm.table_contract import TABLES

if TYPE_CHECKING:
    import pandas as pd


def write_rows(path: Path, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table of the contract and its data dictionary.

    Raises
    ------
    KeyError
        If a row has a column that the contract does not describe: every column needs its meaning.
    """
    columns = TABLES[table]
    names = [column.name for column in columns]
    for row in rows:
        unknown = row.keys() - set(names)
        if unknown:
            raise KeyError(f"{table}.tsv has no column {sorted(unknown)}: describe it in hqsm.table_contract")
    lines = ["\t".join(names)]
    for row in rows:
        cells = [(format_value(row.get(column.name)), column.kind) for column in columns]
        lines.append("\t".join(neutralised(text) if kind == "text" else text for text, kind in cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    dictionary = {c.name: {"Description": c.meaning, **({"Units": c.unit} if c.unit else {})} for c in columns}
    path.with_suffix(".json").write_text(json.dumps(dictionary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_frame(path: Path, table: str, *, complete: bool = True) -> pd.DataFrame:
    """Read a table of the contract back; identifiers stay text, numbers become float64, ``n/a`` NaN or empty text.

    Raises
    ------
    InputError
        ``TABLE_MISSING``; ``TABLE_COLUMN`` if a column is not there, unless ``complete`` is False (tables of another version).
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.", remedy="Run the workflow first.", code="TABLE_MISSING") from error
    for column in TABLES[table]:
        if column.name not in frame and not complete:
            continue
        if column.name not in frame:
            raise InputError(f"{path.name} has no column {column.name}.", remedy="Run the workflow again.", code="TABLE_COLUMN")
        text = frame[column.name].replace(MISSING, "")
        frame[column.name] = text if column.kind == "text" else pd.to_numeric(text, errors="coerce").astype("float64")
    return frame
