"""Each participant over time: liver iron by both methods above, iron in and chelator below."""

from __future__ import annotations

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hqsm.report.figures.base import LIC_BANDS_MG_G, METHOD_NAMES, METHOD_STYLE, ReportData, StudyFigure, finish, numbers
from hqsm.report.style import OKABE_ITO

_COLUMNS = 3


def draw(data: ReportData) -> StudyFigure | None:
    """Small multiples of every participant with two visits or more; nothing without one."""
    lic = data.tables["lic"]
    lic = lic[(lic["specimen"] == "in_vivo") & lic["qc_status"].isin(["ok", "warning"])]
    visits = lic.groupby("participant_id")["acq_date"].nunique()
    exposed = {str(row["participant_id"]) for row in data.timeline if row["kind"] == "transfusion"}
    people = [p for p in sorted(set(visits[visits >= 2].index)) if p in exposed or not exposed]
    if not people:
        return None
    n_rows = -(-len(people) // _COLUMNS)
    figure, grid = plt.subplots(2 * n_rows, _COLUMNS, figsize=(9.6, 2.9 * n_rows + 0.5), height_ratios=[2.0, 1.0] * n_rows, squeeze=False)
    top = 1.1 * float(np.nanmax(lic[lic["participant_id"].isin(people)][["lic_hqsm_hi", "lic_r2star_hi"]].to_numpy(float)))
    events = pd.DataFrame(list(data.timeline), columns=["participant_id", "kind", "start", "end", "value"])
    for k, participant in enumerate(people):
        row, column = 2 * (k // _COLUMNS), k % _COLUMNS
        upper, lower = grid[row, column], grid[row + 1, column]
        own = lic[lic["participant_id"] == participant].sort_values("acq_date")
        _liver(upper, own, top if np.isfinite(top) else 20.0)
        upper.set_title(participant, fontsize=9)
        _exposure(lower, events[events["participant_id"] == participant])
        lower.set_xlim(*_span(own, events[events["participant_id"] == participant]))
        upper.set_xlim(lower.get_xlim())
        upper.tick_params(labelbottom=False)
        if column == 0:
            upper.set_ylabel("LIC [mg/g]")
            lower.set_ylabel("iron\n[mg/month]", fontsize=8)
    for k in range(len(people), n_rows * _COLUMNS):
        for row in (0, 1):
            grid[2 * (k // _COLUMNS) + row, k % _COLUMNS].set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    more, names = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside upper center", ncols=4, fontsize=8)
    points = lic[lic["participant_id"].isin(people)]
    columns = ["participant_id", "session_id", "acq_date", *(f"lic_{m}_{c}" for m in METHOD_NAMES for c in ("mg_g", "lo", "hi"))]
    return finish(
        figure,
        points[columns],
        name="trajectories",
        section="change",
        title="Liver iron, transfusions and chelator of each participant",
        caption=(
            "Above: LIC with its 95 % interval; the dotted lines are 1.8, 3.2, 7 and 15 mg/g (upper end of normal, and the "
            "limits of rising risk). Below: net transfused iron per month (bars) and the prescribed chelator (line, in g a month)."
        ),
    )


def _span(own: pd.DataFrame, events: pd.DataFrame) -> tuple[float, float]:
    dates = [str(d) for d in [*own["acq_date"], *events["start"], *events["end"]] if d]
    low, high = (float(mdates.date2num(np.datetime64(d))) for d in (min(dates), max(dates)))  # type: ignore[no-untyped-call]
    return low - 25, high + 25


def _liver(ax: Axes, own: pd.DataFrame, top: float) -> None:
    for level in LIC_BANDS_MG_G:
        if level < top:
            ax.axhline(level, ls=":", lw=0.8, color="0.55")
    dates = own["acq_date"].to_numpy("datetime64[D]")
    for k, (method, name) in enumerate(METHOD_NAMES.items()):
        value = numbers(own, f"lic_{method}_mg_g")
        low, high = numbers(own, f"lic_{method}_lo"), numbers(own, f"lic_{method}_hi")
        spread = np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
        shifted = dates + np.timedelta64(8 * (2 * k - 1), "D")
        style = METHOD_STYLE[method]
        ax.errorbar(
            shifted, value, yerr=spread, fmt=f"{style['marker']}-", color=style["color"], ms=4, lw=1, elinewidth=0.8, label=f"LIC by {name}"
        )
    lowest = np.nanmin([0.0, *(value for m in METHOD_NAMES for value in numbers(own, f"lic_{m}_lo"))])
    ax.set_ylim(float(lowest) - 0.02 * top, top)


def _exposure(ax: Axes, events: pd.DataFrame) -> None:
    given = events[events["kind"] == "transfusion"]
    if len(given):
        months = given["start"].str.slice(0, 7)
        sums = given.groupby(months)["value"].sum()
        middle = np.array([np.datetime64(f"{m}-15") for m in sums.index])
        ax.bar(middle, sums.to_numpy(float), width=24, color="0.75", label="transfused iron")
    doses = events[(events["kind"] == "chelator")]
    if len(doses):
        second = ax.twinx()
        second.spines["right"].set_visible(True)
        edges = np.array([np.datetime64(str(d)) for d in doses["start"]] + [np.datetime64(str(doses["end"].iloc[-1])) + 1])
        second.stairs(doses["value"].to_numpy(float) * 30.44 / 1000, edges.astype("datetime64[D]").astype(float), color=OKABE_ITO[2], lw=1)
        ax.plot([], [], color=OKABE_ITO[2], lw=1, label="chelator [g/month]")
        second.set_ylim(0, None)
        second.tick_params(labelsize=7, colors=OKABE_ITO[2])
    locator = mdates.AutoDateLocator(minticks=2, maxticks=7)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.tick_params(labelsize=7)
