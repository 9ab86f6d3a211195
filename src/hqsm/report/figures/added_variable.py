"""Annual change of LIC on each exposure, adjusted for the other: added-variable plots of both methods."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.arrays import FloatArray
from hqsm.report.figures.base import METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish, numbers
from hqsm.statistics.regression import METHODS, design_matrix

_TERMS = {
    1: ("iron_in", "transfused iron, adjusted for chelator\n[mg/kg/year]"),
    2: ("chelator", "chelator, adjusted for transfused iron\n[g/kg/year]"),
}


def adjusted(design: FloatArray, outcome: FloatArray, term: int) -> tuple[FloatArray, FloatArray]:
    """A column of the design and the outcome (interval,), both with the other columns regressed out.

    The slope through the result is the term's coefficient in the full regression (Frisch and Waugh, Econometrica 1933;1:387).
    """
    rest = np.delete(design, term, axis=1)

    def left(values: FloatArray) -> FloatArray:
        residual: FloatArray = values - rest @ np.linalg.lstsq(rest, values, rcond=None)[0]
        return residual

    return left(design[:, term]), left(outcome)


def draw(data: ReportData) -> StudyFigure | None:
    """Two methods by two exposures on shared axes, with the primary fit and the slope that physics expects."""
    frame = data.included_intervals()
    primary = data.tables["regression"]
    primary = primary[primary["analysis"] == "primary"]
    figure, grid = plt.subplots(2, 2, figsize=(9.2, 6.6), sharex="row", sharey=True)
    parts = []
    for column, (method, outcome) in enumerate(METHODS.items()):
        usable = frame[np.isfinite(numbers(frame, outcome))]
        if len(usable) < 4:
            continue
        people = usable["participant_id"].to_numpy(str)
        for row, (term, (name, label)) in enumerate(_TERMS.items()):
            ax = grid[row, column]
            x, y = adjusted(design_matrix(usable), numbers(usable, outcome), term)
            for person in np.unique(people):  # intervals of one participant belong together
                own = people == person
                ax.plot(x[own], y[own], "-", color="0.8", lw=0.8, zorder=1)
            style = METHOD_STYLE[method]
            ax.plot(x, y, style["marker"], color=style["color"], ms=4, zorder=2)
            entry = primary[(primary["method"] == method) & (primary["term"] == name)].iloc[0]
            ends = np.array([x.min(), x.max()])
            ax.plot(ends, entry["estimate"] * ends, color="k", lw=1.2, label=f"fit {entry['estimate']:.3g}")
            if np.isfinite(entry["ci_lo"]):
                low, high = entry["ci_lo"] * ends, entry["ci_hi"] * ends
                ax.fill_between(ends, low, high, color="k", alpha=0.07, lw=0, label=f"{data.confidence} interval of the slope")
            if np.isfinite(entry["physics_value"]):
                words = "physics" if name == "iron_in" else "chelator's full capacity"
                ax.plot(ends, entry["physics_value"] * ends, ":", color="k", lw=1, label=f"{words} {entry['physics_value']:.3g}")
            ax.legend(fontsize=8, loc="best")
            ax.set_xlabel(label)
            if row == 0:
                ax.set_title(METHOD_NAMES[method])
            if column == 0:
                ax.set_ylabel("annual change of LIC, adjusted [mg/g]")
            spread = 1.25 * float(np.abs(y).max())
            low, high = ax.get_ylim() if column else (-spread, spread)
            ax.set_ylim(min(low, -spread), max(high, spread))
            parts.append(
                pd.DataFrame(
                    {"method": method, "term": name, "participant_id": people, "exposure_adjusted": x, "change_adjusted_mg_g_per_year": y}
                )
            )
    if not parts:
        plt.close(figure)
        return None
    return finish(
        figure,
        pd.concat(parts),
        name="regression",
        section="change",
        title="Annual change of liver iron on iron in and chelator",
        caption=(
            "Added-variable plots: each point is one interval of a year, intervals of one participant are joined. The band is "
            "the interval of the slope with cluster-robust (CR2) standard errors; dotted is the slope that physics expects."
        ),
    )
