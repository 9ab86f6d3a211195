"""Both coefficients under every sensitivity analysis: a forest plot."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from hqsm.report.figures.base import METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish
from hqsm.statistics.regression import METHODS

ANALYSES = {
    "primary": "primary",
    "first_interval": "first interval of each participant",
    "random_intercept": "random intercept (REML)",
    "measured_haematocrit": "measured haematocrit only",
    "adherence_corrected": "chelator corrected for adherence",
    "baseline_lic": "with LIC at the start",
    "age": "with age",
    "splenectomy": "with splenectomy",
    "interaction": "with interaction of both",
}
_TERMS = {"iron_in": "iron in [(mg/g)/(mg/kg)]", "chelator": "chelator [(mg/g)/(g/kg)]"}


def draw(data: ReportData) -> StudyFigure | None:
    """One panel per coefficient, one line per analysis and method."""
    table = data.tables["regression"]
    shown = table[table["term"].isin(list(_TERMS)) & np.isfinite(table["estimate"].to_numpy(float))]
    if shown.empty:
        return None
    names = [a for a in ANALYSES if a in set(shown["analysis"])] + sorted(set(shown["analysis"]) - set(ANALYSES))
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 0.42 * len(names) + 1.4), sharey=True)
    for ax, (term, label) in zip(axes, _TERMS.items(), strict=True):
        for k, method in enumerate(METHODS):
            for line, analysis in enumerate(names):
                row = shown[(shown["analysis"] == analysis) & (shown["method"] == method) & (shown["term"] == term)]
                if row.empty:
                    continue
                entry = row.iloc[0]
                y = line + 0.16 * (2 * k - 1)
                style = METHOD_STYLE[method]
                ax.plot([entry["ci_lo"], entry["ci_hi"]], [y, y], color=style["color"], lw=1.2)
                ax.plot(
                    entry["estimate"], y, style["marker"], color=style["color"], ms=4, label=METHOD_NAMES[method] if line == 0 else None
                )
        main = shown[(shown["analysis"] == "primary") & (shown["term"] == term)]
        if len(main):  # an interval of three participants would hide all others
            reach = float(np.nanmedian(np.abs(shown[shown["term"] == term][["ci_lo", "ci_hi"]].to_numpy(float))))
            widest = 3 * max(reach, float(np.abs(main["estimate"]).max()))
            low, high = ax.get_xlim()
            ax.set_xlim(max(low, -widest), min(high, widest))
            physics = float(main["physics_value"].iloc[0])
            if np.isfinite(physics) and term == "iron_in":
                ax.axvline(physics, ls=":", color="k", lw=1, label="physics")
        ax.axvline(0, color="0.7", lw=0.8)
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(6))
    axes[0].set_yticks(range(len(names)), [ANALYSES.get(name, name.replace("_", " ")) for name in names])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return finish(
        figure,
        shown[["analysis", "method", "term", "estimate", "ci_lo", "ci_hi"]],
        name="sensitivity",
        section="change",
        title="Sensitivity analyses",
        caption=f"Estimate and {data.confidence} interval of both coefficients, by each pre-specified analysis; dotted: slope of physics.",
    )
