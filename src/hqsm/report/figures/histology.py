"""The error of LIC against each histological score: the 12 registered outcomes, one panel each."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from hqsm.report.figures.base import METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish, numbers

_SCORES = {
    "fibrosis": ("fibrosis_stage", "fibrosis stage"),
    "steatosis": ("steatosis_pct", "steatosis [%]"),
    "necroinflammation": ("inflammation_grade", "necroinflammatory grade"),
}
_COLUMNS = (("in_vivo", "r2star"), ("in_vivo", "hqsm"), ("in_vitro", "r2star"), ("in_vitro", "hqsm"))


def draw(data: ReportData) -> StudyFigure | None:
    """Three scores by two settings by two methods, with the adjusted effect and its interval in words."""
    frame = data.tables["explants"].dropna(subset=["error_mg_g"])
    if frame["participant_id"].nunique() < 2:
        return None
    effects = data.tables["histology_effects"]
    figure, grid = plt.subplots(3, 4, figsize=(9.6, 7.0), sharey=True, sharex="row")
    for row, (score, (column, label)) in enumerate(_SCORES.items()):
        for k, (setting, method) in enumerate(_COLUMNS):
            ax = grid[row, k]
            part = frame[(frame["setting"] == setting) & (frame["method"] == method)]
            x, y = numbers(part, column), numbers(part, "error_mg_g")
            style = METHOD_STYLE[method]
            ax.plot(x, y, style["marker"], color=style["color"], ms=4, alpha=0.8)
            ax.axhline(0, color="0.7", lw=0.8)
            found = effects[(effects["confounder"] == score) & (effects["setting"] == setting) & (effects["method"] == method)]
            words = "no estimate"
            if len(found) and np.isfinite(found["effect"].iloc[0]):
                entry = found.iloc[0]
                words = f"{entry['effect']:.2f} ({entry['ci_lo']:.2f} to {entry['ci_hi']:.2f})"
            ax.set_title((f"{setting.replace('_', ' ')}, {METHOD_NAMES[method]}\n" if row == 0 else "") + words, fontsize=8)
            if k == 0:
                ax.set_ylabel("MRI minus chemistry\n[mg/g]", fontsize=8)
            ax.set_xlabel(label, fontsize=8)
            ax.tick_params(labelsize=7)
    return finish(
        figure,
        frame[["participant_id", "setting", "method", "error_mg_g", *(c for c, _ in _SCORES.values())]],
        name="histology",
        section="explants",
        title="Error of LIC against histology",
        caption=(
            "The 12 registered outcomes. Above each panel: effect per step of the score (steatosis: per 10 points), adjusted for "
            f"chemical LIC, with its {data.confidence} interval [mg/g]."
        ),
    )
