"""The text of a table: its cells, and what separates them."""

from __future__ import annotations

import math
from typing import Any

MISSING = "n/a"
"""A missing value, as BIDS writes it."""


def format_value(value: Any) -> str:
    """One cell: nine significant digits, no line breaks or tabs, ``n/a`` for nothing."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(int(value))
    if hasattr(value, "item"):
        value = value.item()
        return format_value(value)
    if isinstance(value, float):
        return MISSING if math.isnan(value) else f"{value:.9g}"
    text = " ".join(str(value).split())
    return text if text and text not in {"nan", "NaN", "<NA>", "NaT"} else MISSING


def separator_of(header: str) -> str:
    """What separates the columns of a CSV file with this header line: comma, semicolon or tab, whatever a spreadsheet wrote."""
    return max(",;\t", key=header.count)


def neutralised(text: str) -> str:
    """A text cell that no spreadsheet program takes for a formula (CWE-1236): an apostrophe goes before = + - @."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
