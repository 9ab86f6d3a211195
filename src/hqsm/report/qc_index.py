"""The list of all QC pages: one line per visit, outliers marked, and the same numbers over time per scanner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.arrays import AnyArray, FloatArray
from hqsm.report.page import Cell, cards, navigation, number, page, picture, png_uri, render, table
from hqsm.report.style import OKABE_ITO
from hqsm.robust import median_and_scaled_mad

OUTLIER_MADS = 3.0
"""A value further from the median than this many scaled MADs is marked."""
_MEAN_DEVIATION_TO_SD = 1.2533
"""Standard deviation of a normal distribution over its mean absolute deviation."""
_METRICS = {
    "lic_hqsm_mg_g": ("LIC hQSM [mg/g]", 1),
    "lic_r2star_mg_g": ("LIC R2* [mg/g]", 1),
    "chi_iqr_ppm": ("χ IQR [ppm]", 2),
    "pdff_percent": ("Fat [%]", 1),
    "liver_volume_ml": ("Liver [mL]", 0),
    "gating_efficiency": ("Efficiency", 2),
    "body_snr": ("Signal to noise, body", 0),
    "fit_residual": ("Fit residual", 3),
}
_QUALITY = ("chi_iqr_ppm", "liver_volume_ml", "gating_efficiency", "body_snr", "fit_residual")
"""Metrics of quality: marked where they are outliers. LIC and fat differ between people for good reasons."""


def outliers(values: FloatArray) -> AnyArray:
    """Which values lie beyond :data:`OUTLIER_MADS` scaled median absolute deviations from the median (n,); five or more count.

    Where more than half of them are equal, that deviation is 0 and the mean one takes its place (Iglewicz and Hoaglin 1993).
    """
    known = values[np.isfinite(values)]
    if known.size < 5:
        return np.zeros(values.shape, bool)
    centre, spread = median_and_scaled_mad(known)
    if spread == 0:
        spread = _MEAN_DEVIATION_TO_SD * float(np.mean(np.abs(known - centre)))
    with np.errstate(invalid="ignore"):
        found: AnyArray = np.abs(values - centre) > OUTLIER_MADS * spread + 1e-9 * abs(centre)
    return found


def render_qc_index(visits: pd.DataFrame, lic: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]) -> str:
    """One row per visit with a link to its page.

    Parameters
    ----------
    visits, lic
        The tables of the contract.
    summaries
        What each visit's page said about itself (:mod:`hqsm.report.assemble`); visits without one have no page.
    """
    frame = _joined(visits, lic, summaries)
    marked = {
        name: np.logical_and(outliers(frame[name].to_numpy(float)), np.isfinite(frame[name].to_numpy(float)))
        if name in _QUALITY
        else np.zeros(len(frame), bool)
        for name in _METRICS
    }
    decided = bool((frame["decision"] != "").any())
    metrics_shown = {name: words for name, words in _METRICS.items() if np.isfinite(frame[name].to_numpy(float)).any()}
    pictured = bool((frame["thumbnail"] != "").any())
    rows = []
    for k, row in enumerate(frame.to_dict(orient="records")):
        target = f"{row['participant_id']}_{row['session_id']}.html" if row["has_page"] else ""
        image = Cell(text="R2*", image=row["thumbnail"], link=target) if row["thumbnail"] else Cell()
        metrics = [
            Cell(text=number(row[name], digits), css="outlier" if marked[name][k] else "") for name, (_, digits) in metrics_shown.items()
        ]
        rows.append(
            (
                *([image] if pictured else []),
                Cell(text=row["participant_id"], css="id"),
                Cell(text=row["session_id"], link=target, css="id"),
                Cell(text=row["status"], css=row["status"]),
                Cell(text=row["acq_date"] or "–", css="id"),
                row["scanner"] or "–",
                *metrics,
                Cell(text=row["reason"], css="why"),
                *([Cell(text=row["decision"])] if decided else []),
            )
        )
    counts = visits["status"].value_counts()
    header = [*(["R2*"] if pictured else []), "Participant", "Visit", "Status", "Date", "Scanner"]
    header += [*(words for words, _ in metrics_shown.values()), "Reason", *(["Decision"] if decided else [])]
    body = navigation({"Study report": "../report/index.html"}) + "<h1>QC of every visit</h1>"
    body += cards(
        *[(str(status), str(n), "") for status, n in counts.items()],
        ("marked values", str(sum(int(m.sum()) for m in marked.values())), "outliers"),
    )
    words = "Click a heading to sort. Shaded: further than 3 scaled MADs from the median of all visits."
    words += " The picture leads to the visit's page." if pictured else ""
    body += render("<p class=soft>{{ w }}</p>", w=words) + table(header, rows, sorts=True)
    over_time = _over_time(frame)
    if over_time:
        body += "<h2>Over time, per scanner</h2>" + picture(over_time, "Quality over time per scanner", "Each point is one visit.")
    return page("QC of every visit", body, "", wide=True)


def _joined(visits: pd.DataFrame, lic: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    keys = ["participant_id", "session_id"]
    columns = ["scanner", "thumbnail", "body_snr", "fit_residual"]
    own = pd.DataFrame([{name: s.get(name) for name in (*keys, *columns)} for s in summaries], columns=[*keys, *columns])
    own["has_page"] = True
    frame = visits.merge(lic[[*keys, *(set(_METRICS) & set(lic.columns))]], on=keys, how="left").merge(own, on=keys, how="left")
    for name in ("scanner", "thumbnail", "acq_date", "reason", "decision"):
        frame[name] = frame[name].fillna("").astype(str)
    frame["has_page"] = frame["has_page"].eq(True)
    for name in _METRICS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["liver_volume_ml"] = frame["liver_volume_ml"].mask(frame["liver_volume_ml"] == 0)  # no liver was found, rather than a small one
    return frame


def _over_time(frame: pd.DataFrame) -> str:
    dated = frame[(frame["acq_date"] != "") & frame["has_page"]]
    shown = [name for name in _QUALITY if np.isfinite(dated[name].to_numpy(float)).any()]
    if len(dated) < 2 or not shown:
        return ""
    figure, axes = plt.subplots(len(shown), 1, figsize=(9.2, 1.35 * len(shown) + 0.5), sharex=True, squeeze=False)
    dates = dated["acq_date"].to_numpy("datetime64[D]")
    scanners = sorted(set(dated["scanner"]))
    for ax, name in zip(axes[:, 0], shown, strict=True):
        values = dated[name].to_numpy(float)
        for k, scanner in enumerate(scanners):
            own = (dated["scanner"] == scanner).to_numpy()
            ax.plot(dates[own], values[own], "os^Dv<"[k % 6], color=OKABE_ITO[k % 6], ms=4, label=scanner or "unknown scanner")
        ax.set_ylabel(_METRICS[name][0], fontsize=8)
        ax.tick_params(labelsize=7)
    locator = mdates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axes[-1, 0].xaxis.set_major_locator(locator)
    axes[-1, 0].xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    uri = png_uri(figure, 90)
    plt.close(figure)
    return uri
