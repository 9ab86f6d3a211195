"""Annual change as observed against as predicted, for participants the fit has not seen."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.report.figures.base import METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish, numbers
from hqsm.statistics.regression import METHODS

_KEYS = ["participant_id", "start_session", "end_session"]


def draw(data: ReportData) -> StudyFigure | None:
    """One panel per method; predictions come from a regression without the participant."""
    influence = data.tables["influence"]
    if influence.empty:
        return None
    change = data.included_intervals()
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.9), sharex=True, sharey=True)
    parts = []
    for ax, (method, outcome) in zip(axes, METHODS.items(), strict=True):
        own = influence[influence["method"] == method].merge(change[[*_KEYS, outcome]], on=_KEYS)
        own = own[np.isfinite(numbers(own, "predicted_without_participant")) & np.isfinite(numbers(own, outcome))]
        ax.set_title(METHOD_NAMES[method])
        ax.set_xlabel("predicted change of LIC [mg/g/year]")
        if own.empty:
            ax.text(0.5, 0.5, "too few participants", transform=ax.transAxes, ha="center")
            continue
        x, y = numbers(own, "predicted_without_participant"), numbers(own, outcome)
        style = METHOD_STYLE[method]
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        ax.plot([low, high], [low, high], ":", color="0.3", lw=1)
        ax.plot(x, y, style["marker"], color=style["color"], ms=4)
        rmse = float(np.sqrt(np.mean((y - x) ** 2)))
        r2 = 1 - float(np.sum((y - x) ** 2) / np.sum((y - y.mean()) ** 2)) if len(y) > 1 else np.nan
        ax.text(0.03, 0.97, f"RMSE {rmse:.2f} mg/g/year\nR² {r2:.2f}", transform=ax.transAxes, va="top", fontsize=8)
        parts.append(
            pd.DataFrame(
                {"method": method, "participant_id": own["participant_id"], "predicted_mg_g_per_year": x, "observed_mg_g_per_year": y}
            )
        )
    axes[0].set_ylabel("observed change of LIC [mg/g/year]")
    if not parts:
        plt.close(figure)
        return None
    return finish(
        figure,
        pd.concat(parts),
        name="observed_predicted",
        section="change",
        title="Observed against predicted change",
        caption="Each participant's intervals are predicted by the regression of all others. Dotted: equality.",
    )
