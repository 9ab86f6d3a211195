"""Flow of participants and visits, as STARD item 19 asks for it."""

from __future__ import annotations

from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from hqsm.report.figures.base import ReportData, StudyFigure, finish, participants_of

_GROUPS = {"thalassemia": "Thalassaemia", "transplant": "Transplant", "healthy": "Healthy controls", "": "Group not in the records"}


def flow_counts(data: ReportData) -> pd.DataFrame:
    """Every number of the diagram: ``box``, ``group`` ("" for all), ``count``, ``what`` (the reasons, in words).

    Each is one query of a table; the boxes of a level add up to the level above.
    """
    visits, lic, change = data.tables["visits"], data.tables["lic"], data.tables["annual_change"]
    rows: list[tuple[str, str, int, str]] = []
    rows.append(("participants", "", participants_of(visits).nunique(), ""))
    rows.append(("visits_found", "", len(visits), ""))
    for status in ("rejected", "excluded"):
        part = visits[visits["status"] == status]
        # the last code is the one that rejected the visit
        codes = Counter(str(text).split()[-1] if str(text).split() else "no code" for text in part["codes"])
        what = "; ".join(f"{n} {code}" for code, n in sorted(codes.items())) if status == "rejected" else "by decision"
        rows.append((f"visits_{status}", "", len(part), what if len(part) else ""))
    measured = lic[lic["qc_status"].isin(["ok", "warning"])]
    rows.append(("visits_measured", "", len(measured), f"{int((measured['qc_status'] == 'warning').sum())} with a warning"))
    without = len(visits[visits["status"].isin(["ok", "warning"])]) - len(measured)
    rows.append(("visits_without_liver", "", without, ""))
    for group in _GROUPS:
        part = measured[measured["group"] == group]
        if len(part) or group in set(visits["group"]):
            rows.append(("group_visits", group, len(part), counted(part["participant_id"].nunique(), "participant")))
    used = change[change["included"] == 1]
    rows.append(("intervals", "thalassemia", len(change), ""))
    rows.append(("intervals_used", "thalassemia", len(used), counted(used["participant_id"].nunique(), "participant")))
    reasons = change[change["included"] != 1]["reason"].str.replace(r"(of|in) ses-\S+", r"\1 a visit", regex=True).value_counts()
    rows.append(("intervals_left_out", "thalassemia", len(change) - len(used), "; ".join(f"{n} {r}" for r, n in sorted(reasons.items()))))
    explants = data.tables["explants"]
    pairs = explants.dropna(subset=["lic_mg_g", "lic_chemistry_mg_g"])
    for setting in ("in_vivo", "in_vitro"):
        part = pairs[pairs["setting"] == setting]
        rows.append((f"explants_{setting}", "transplant", part["participant_id"].nunique(), ""))
    return pd.DataFrame(rows, columns=["box", "group", "count", "what"])


def counted(n: int, noun: str) -> str:
    """A number with its noun: ``1 visit``, ``2 visits``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def draw(data: ReportData) -> StudyFigure | None:
    """Boxes from the folders that were found to what entered each analysis."""
    counts = flow_counts(data)

    def one(box: str, group: str = "") -> tuple[int, str]:
        row = counts[(counts["box"] == box) & (counts["group"] == group)].iloc[0]
        return int(row["count"]), str(row["what"])

    groups = list(counts[counts["box"] == "group_visits"]["group"])
    figure, ax = plt.subplots(figsize=(9.2, 4.4))
    ax.set_axis_off()
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 10)
    found, people = one("visits_found")[0], one("participants")[0]
    _box(ax, 3.4, 9.1, f"{counted(found, 'visit')} found\nof {counted(people, 'participant')}")
    left_out = [f"{n} {name}{': ' + what if what else ''}" for name, (n, what) in (("rejected", one("visits_rejected")),) if n]
    left_out += [f"{one('visits_excluded')[0]} excluded by decision"] if one("visits_excluded")[0] else []
    left_out += [f"{one('visits_without_liver')[0]} without a liver value"] if one("visits_without_liver")[0] else []
    _box(ax, 5.6, 7.55, "Left out\n" + _wrapped(left_out or ["none"]), ha="left")
    _arrow(ax, (3.4, 8.55), (3.4, 6.7))
    _arrow(ax, (3.4, 7.55), (5.4, 7.55))
    _box(ax, 3.4, 6.1, f"{counted(one('visits_measured')[0], 'visit')} with liver iron\n{one('visits_measured')[1]}")
    xs = [10 * (k + 0.5) / len(groups) for k in range(len(groups))] if groups else []
    for x, group in zip(xs, groups, strict=True):
        n, of_whom = one("group_visits", group)
        _arrow(ax, (3.4, 5.5), (x, 4.45))
        _box(ax, x, 3.9, f"{_GROUPS[group]}\n{counted(n, 'visit')}, {of_whom}")
        below = []
        if group == "thalassemia":
            below = [f"{counted(one('intervals_used', group)[0], 'annual interval')} analysed", one("intervals_used", group)[1]]
            n_out, why = one("intervals_left_out", group)
            below += [f"{n_out} left out", *([_wrapped([why])] if why else [])] if n_out else []
        elif group == "transplant":
            below = [
                f"{counted(one(f'explants_{s}', group)[0], 'liver')} {s.replace('_', ' ')} with chemistry" for s in ("in_vivo", "in_vitro")
            ]
        elif group == "healthy":
            below = ["baseline and repeatability"]
        if below:
            _arrow(ax, (x, 3.35), (x, 2.35))
            _box(ax, x, 1.6, "\n".join(below))
    return finish(
        figure,
        counts,
        name="flow",
        section="flow",
        title="Flow of participants and visits",
        caption="From the visit folders that were found to what entered each analysis. Every number is a count of rows of a table.",
    )


def _wrapped(lines: list[str], width: int = 42) -> str:
    import textwrap

    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in lines)


def _box(ax: Axes, x: float, y: float, text: str, ha: str = "center") -> None:
    ax.text(x, y, text, ha=ha, va="center", fontsize=9, bbox={"boxstyle": "round,pad=0.5", "fc": "#f4f7fa", "ec": "#5b7083"})


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#5b7083", "lw": 1})
