"""Explanted livers: LIC by MRI against chemistry, in vivo and in vitro, with Deming's and Passing-Bablok's lines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.report.figures.agreement import bland_altman_lines
from hqsm.report.figures.base import METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish, identity_line, numbers

_LINES = {"deming": "-", "passing_bablok": "--"}


def draw(data: ReportData) -> StudyFigure | None:
    """Scatter above, differences below; one column per setting."""
    frame = data.tables["explants"].dropna(subset=["lic_mg_g", "lic_chemistry_mg_g"])
    if frame.empty:
        return None
    agreement = data.tables["explant_agreement"]
    settings = [s for s in ("in_vivo", "in_vitro") if s in set(frame["setting"])]
    figure, grid = plt.subplots(2, len(settings), figsize=(4.6 * len(settings), 6.6), squeeze=False, sharex=True, sharey="row")
    for column, setting in enumerate(settings):
        upper, lower = grid[:, column]
        upper.set_title(setting.replace("_", " "))
        part = frame[frame["setting"] == setting]
        identity_line(upper, numbers(part, "lic_chemistry_mg_g"), numbers(part, "lic_mg_g"))
        for method, name in METHOD_NAMES.items():
            own = part[part["method"] == method]
            x, y = numbers(own, "lic_chemistry_mg_g"), numbers(own, "lic_mg_g")
            if not x.size:
                continue
            style = METHOD_STYLE[method]
            spread = np.nan_to_num(numbers(own, "lic_chemistry_sd_mg_g"))
            reach = np.nan_to_num(np.stack([y - numbers(own, "lic_lo_mg_g"), numbers(own, "lic_hi_mg_g") - y]))
            words = f"{name} (n = {x.size})"
            upper.errorbar(x, y, reach, spread, fmt=style["marker"], color=style["color"], ms=4, elinewidth=0.7, label=words)
            ends = np.array([0.0, float(x.max())])
            for line, dashes in _LINES.items():
                found = agreement[(agreement["setting"] == setting) & (agreement["method"] == method)].set_index("quantity")["estimate"]
                if f"{line}_slope" in found and np.isfinite(found[f"{line}_slope"]):
                    upper.plot(ends, found[f"{line}_intercept"] + found[f"{line}_slope"] * ends, dashes, color=style["color"], lw=1)
            lower.plot((x + y) / 2, y - x, style["marker"], color=style["color"], ms=4)
            bland_altman_lines(lower, x, y, style["color"], intervals=False)
        lower.axhline(0, color="0.7", lw=0.8)
        upper.legend(fontsize=8)
        upper.set_xlabel("chemical LIC [mg/g dry]")
        upper.tick_params(labelbottom=True)
        lower.set_xlabel("mean of both [mg/g]")
    grid[0, 0].set_ylabel("LIC by MRI [mg/g dry]")
    grid[1, 0].set_ylabel("MRI minus chemistry [mg/g]")
    return finish(
        figure,
        pd.DataFrame(frame),
        name="explants",
        section="explants",
        title="Explanted livers against chemistry",
        caption=(
            "Above: dotted is equality, full lines are Deming's, dashed ones Passing and Bablok's (from four specimens on); vertical bars "
            "are the 95 % interval of LIC, horizontal ones the SD of the chemical replicates. "
            "Below: bias and 95 % limits of agreement (from five on)."
        ),
    )
