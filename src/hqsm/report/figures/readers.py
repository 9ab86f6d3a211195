"""Two readers of the same scans: their values against each other."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from hqsm.report.figures.agreement import bland_altman_lines
from hqsm.report.figures.base import ReportData, StudyFigure, finish, identity_line, numbers
from hqsm.report.style import OKABE_ITO

_UNITS = {"r2star_per_s": "R2* [1/s]", "chi_ppm": "susceptibility [ppm]", "pdff_percent": "fat fraction [%]"}


def draw(data: ReportData) -> StudyFigure | None:
    """One line of panels per quantity; nothing where fewer than two scans have two readers."""
    table = data.tables["readers"]
    table = table[table["kind"] == "between"]
    table = table[np.isfinite(numbers(table, "value_a")) & np.isfinite(numbers(table, "value_b"))] if len(table) else table
    shown = [q for q in _UNITS if (table["quantity"] == q).sum() >= 2]
    if not shown:
        return None
    figure, grid = plt.subplots(len(shown), 2, figsize=(9.2, 3.6 * len(shown)), squeeze=False)
    for (left, right), quantity in zip(grid, shown, strict=True):
        part = table[table["quantity"] == quantity]
        x, y = numbers(part, "value_a"), numbers(part, "value_b")
        identity_line(left, x, y)
        left.plot(x, y, "o", color=OKABE_ITO[0], ms=4)
        right.plot((x + y) / 2, y - x, "o", color=OKABE_ITO[0], ms=4)
        bland_altman_lines(right, x, y)
        left.set_xlabel(f"first reader: {_UNITS[quantity]}")
        left.set_ylabel("second reader")
        right.set_xlabel("mean of both")
        right.set_ylabel("second minus first")
    return finish(
        figure,
        table,
        name="readers",
        section="readers",
        title="Agreement of the readers",
        caption="Left: dotted is equality. Right: bias and 95 % limits of agreement with the intervals of their estimates.",
    )
