"""LIC by hQSM against LIC by R2*: scatter, and Bland and Altman's plot."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from hqsm.arrays import FloatArray
from hqsm.report.figures.base import ReportData, StudyFigure, finish, identity_line, numbers
from hqsm.report.style import OKABE_ITO
from hqsm.statistics.agreement import bland_altman

_SETTINGS = {"in_vivo": ("in vivo", "o", OKABE_ITO[0]), "in_vitro": ("in vitro", "s", OKABE_ITO[1])}


def bland_altman_lines(ax: Axes, x: FloatArray, y: FloatArray, color: str = "k", *, intervals: bool = True) -> None:
    """Bias and limits of agreement of ``y - x`` from five pairs on, with the intervals of their estimates."""
    if x.size < 5:
        return
    found = bland_altman(x, y)
    for estimate, style in ((found.bias, "-"), (found.lower_limit, "--"), (found.upper_limit, "--")):
        ax.axhline(estimate.value, ls=style, color=color, lw=1)
        if not intervals:
            continue
        ax.axhspan(estimate.ci_lo, estimate.ci_hi, color=color, alpha=0.06, lw=0)
        ax.annotate(f"{estimate.value:.2f}", (1, estimate.value), xycoords=("axes fraction", "data"), fontsize=7, va="bottom", ha="right")


def draw(data: ReportData) -> StudyFigure | None:
    """Every visit with both values."""
    lic = data.tables["lic"]
    lic = lic[lic["qc_status"].isin(["ok", "warning"])]
    both = lic[["participant_id", "session_id", "specimen", "lic_hqsm_mg_g", "lic_r2star_mg_g"]].dropna()
    if len(both) < 2:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.9))
    x, y = numbers(both, "lic_r2star_mg_g"), numbers(both, "lic_hqsm_mg_g")
    identity_line(axes[0], x, y)
    for setting, (name, marker, color) in _SETTINGS.items():
        own = (both["specimen"] == setting).to_numpy()
        if own.any():
            axes[0].plot(x[own], y[own], marker, color=color, ms=4, label=f"{name} (n = {int(own.sum())})")
            axes[1].plot((x + y)[own] / 2, (y - x)[own], marker, color=color, ms=4)
    living = (both["specimen"] == "in_vivo").to_numpy()
    bland_altman_lines(axes[1], x[living], y[living])
    axes[0].legend(fontsize=8)
    axes[0].set_xlabel("LIC by R2* [mg/g]")
    axes[0].set_ylabel("LIC by hQSM [mg/g]")
    axes[1].axhline(0, color="0.7", lw=0.8)
    axes[1].set_xlabel("mean of both [mg/g]")
    axes[1].set_ylabel("hQSM minus R2* [mg/g]")
    return finish(
        figure,
        both,
        name="methods_agreement",
        section="methods",
        title="LIC by hQSM against LIC by R2*",
        caption=(
            "Left: every visit with both values; dotted: equality. Right: bias and 95 % limits of agreement in vivo, each "
            "with the interval of its estimate (shaded); visits of one participant are shown as if independent."
        ),
    )
