"""Scans of a liver that did not change: second minus first, by both methods."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.report.figures.agreement import bland_altman_lines
from hqsm.report.figures.base import METHOD_NAMES, ReportData, StudyFigure, finish, numbers
from hqsm.report.style import OKABE_ITO
from hqsm.statistics.repeatability import repeat_scans

_COMPARISONS = {
    "repeat": ("same scanner", "o", OKABE_ITO[0]),
    "cross_scanner": ("another scanner", "s", OKABE_ITO[1]),
    "cross_field": ("another field strength", "^", OKABE_ITO[2]),
}


def repeat_pairs(data: ReportData) -> pd.DataFrame:
    """Every repeat with the scan that it repeats: comparison, sessions, LIC of both by both methods [mg/g]."""
    visits = data.tables["visits"]
    keys = zip(visits["participant_id"], visits["session_id"], strict=True)
    conventions = dict(zip(keys, visits["convention"], strict=True))
    rows: list[dict[str, Any]] = []
    for (_, first), *others in repeat_scans(data.tables["lic"], visits.rename(columns={"acq_date": "visit_date"}), conventions):
        for comparison, again in others:
            row = {"participant_id": first["participant_id"], "first_session": first["session_id"], "session_id": again["session_id"]}
            values = {
                f"lic_{m}_{name}_mg_g": scan[f"lic_{m}_mg_g"] for m in METHOD_NAMES for name, scan in (("first", first), ("again", again))
            }
            rows.append({**row, "comparison": comparison, **values})
    return pd.DataFrame(rows)


def draw(data: ReportData) -> StudyFigure | None:
    """A panel per method; nothing without repeat scans."""
    pairs = repeat_pairs(data)
    if pairs.empty:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.6), sharey=True)
    for ax, (method, title) in zip(axes, METHOD_NAMES.items(), strict=True):
        first, again = numbers(pairs, f"lic_{method}_first_mg_g"), numbers(pairs, f"lic_{method}_again_mg_g")
        for comparison, (name, marker, color) in _COMPARISONS.items():
            own = (pairs["comparison"] == comparison).to_numpy() & np.isfinite(first + again)
            if own.any():
                ax.plot((first + again)[own] / 2, (again - first)[own], marker, color=color, ms=5, label=f"{name} (n = {int(own.sum())})")
        same = (pairs["comparison"] == "repeat").to_numpy() & np.isfinite(first + again)
        bland_altman_lines(ax, first[same], again[same])
        ax.axhline(0, color="0.7", lw=0.8)
        ax.margins(y=0.3)
        ax.set_title(title)
        ax.set_xlabel("mean LIC of both scans [mg/g]")
    axes[0].set_ylabel("repeat minus first [mg/g]")
    axes[0].legend(fontsize=8)
    return finish(
        figure,
        pairs,
        name="repeatability",
        section="repeatability",
        title="Repeat scans of the same liver",
        caption="Each point is a repeat scan against the first of its series; bias and 95 % limits of agreement from five repeats on.",
    )
