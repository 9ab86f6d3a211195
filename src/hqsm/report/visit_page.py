"""The QC page of one visit: its maps with contours, its gating, its numbers, its flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hqsm.arrays import AnyArray, FloatArray
from hqsm.codes import meaning
from hqsm.config.report import ReportParams
from hqsm.data import Regions, Susceptibility, WaterFat
from hqsm.lic import fit_facts
from hqsm.report.limits import limits
from hqsm.report.page import cards, interval, navigation, number, page, picture, png_uri, render, table, webp_uri
from hqsm.report.style import OKABE_ITO
from hqsm.report.tiles import Tiles
from hqsm.roi import roi_statistics

_FACTS = {
    "acquisition_date": "date in the images' header",
    "manufacturer": "manufacturer",
    "model": "scanner",
    "software": "software",
    "field_strength_tesla": "field strength [T]",
    "convention": "read as",
    "readout": "readout",
    "repetition_time_s": "repetition time [s]",
    "flip_angle_degrees": "flip angle [degrees]",
    "n_files": "files in the folder",
    "noise_sd": "noise SD of the combined echoes",
    "set_aside": "series left aside",
    "notes": "notes",
}
_NO_VALUE = "#c6dcee"
"""Colour of a voxel without a value: one that no colour map here has, white being the top of the grey ones."""
_GATING = {
    "source": "respiratory position from",
    "n_repetitions": "repetitions",
    "n_accepted": "combined",
    "efficiency": "efficiency",
    "end_expiration_mm": "end-expiration [mm]",
    "window_mm": "window [mm]",
    "residual_sd_mm": "residual SD of those combined [mm]",
    "drift_mm": "drift of end-expiration [mm]",
    "followed": "accepted repetitions shifted by",
    "second_source": "compared with",
    "disagreement_mm": "RMS difference of the two [mm]",
    "notes": "notes",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class VisitPage:
    """What a visit's page shows; anything may be missing for a rejected visit."""

    participant_id: str
    session_id: str
    failed: dict[str, Any] | None
    codes: tuple[str, ...]
    magnitude: AnyArray | None = None
    """First echo, (x, y, z)."""
    echo_times_s: tuple[float, ...] = ()
    liver_signal: tuple[float, ...] = ()
    """Median magnitude inside the liver, per echo."""
    fit: WaterFat | None = None
    regions: Regions | None = None
    chi: Susceptibility | None = None
    gating_rows: tuple[dict[str, str], ...] = ()
    gating: dict[str, Any] = field(default_factory=dict)
    acquisition: dict[str, Any] = field(default_factory=dict)
    iron: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    mask: dict[str, Any] = field(default_factory=dict)
    """How the liver's mask was made: source, readers, why there is none, shares left out by cause."""
    viewer: str = ""
    """File name of the visit's interactive viewer; empty without one."""


def radiological(volume: AnyArray, affine_mm: AnyArray) -> AnyArray:
    """Slices as rows and columns (row, column, slice): patient right at the left, front (or head) at the top.

    The slice axis stays the acquisition's own thick axis; in-plane axes are turned by the affine.
    """
    codes = nib.aff2axcodes(affine_mm)  # type: ignore[no-untyped-call]
    order = [k for k in range(3) if k != 2]
    rank = {"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    if rank[codes[order[0]]] > rank[codes[order[1]]]:
        order.reverse()
    turned = np.transpose(volume, (order[0], order[1], 2))
    first, second = codes[order[0]], codes[order[1]]
    if first in "RP":  # columns run from the patient's right (or front) to left
        turned = turned[::-1]
    if second in "AS":  # rows run from the top
        turned = turned[:, ::-1]
    return np.transpose(turned, (1, 0, 2))


def side_labels(affine_mm: AnyArray) -> tuple[str, str]:
    """Letters at the left and right border of :func:`radiological` pictures."""
    codes = nib.aff2axcodes(affine_mm)  # type: ignore[no-untyped-call]
    return ("R", "L") if {codes[0], codes[1]} & {"L", "R"} else ("A", "P")


def render_visit_page(visit: VisitPage, params: ReportParams) -> str:
    """The page as one HTML document."""
    links = {"All visits": "index.html", "Study report": "../report/index.html"}
    if visit.viewer:
        links["Interactive viewer"] = visit.viewer
    body = navigation(links) + render("<h1>{{ v.participant_id }} {{ v.session_id }}</h1>", v=visit)
    if visit.failed:
        text = "<div class=box><b>Rejected at the stage {{ s }}.</b> {{ r }}</div>"
        body += render(text, s=str(visit.failed["stage"]).replace("_", " "), r=visit.failed["reason"])
    if visit.iron:
        body += _headline(visit)
    flags = [(code, meaning(code)) for code in visit.codes]
    if flags:
        body += "<h2>Flags</h2>" + table(("Code", "What it means"), flags)
    if visit.chi is not None:
        body += limits(visit.chi.methods.get("inversion", ""))
    for title, uri, caption in _pictures(visit, params):
        body += render("<h2>{{ t }}</h2>", t=title) + picture(uri, title, caption)
    if visit.mask:
        body += "<h2>Liver mask</h2>" + _mask(visit.mask)
    if visit.echo_times_s:
        body += "<h2>Echoes</h2>" + _echoes(visit)
    deviations = visit.acquisition.get("protocol_deviations") or []
    if deviations:
        body += "<h2>Deviations from the protocol</h2>" + render("<ul>{% for d in d %}<li>{{ d }}</li>{% endfor %}</ul>", d=deviations)
    acquired = _facts(visit.acquisition, _FACTS)
    if acquired:
        body += "<h2>Acquisition</h2>" + acquired
    if visit.fit is not None and visit.regions is not None and visit.regions.liver.any():
        shares = fit_facts(visit.fit, visit.regions.liver)
        facts = {_FIT.get(name, name): f"{100 * share:.1f} %" for name, share in shares.items()}
        body += "<h2>Fit of water, fat and R2* in the liver</h2>" + _facts(facts, {name: name for name in facts})
    if visit.gating:
        body += "<h2>Gating</h2>" + _facts(visit.gating, _GATING)
    body += "<h2>Parameters</h2><details><summary>Every parameter of every stage</summary>"
    for stage, values in visit.parameters.items():
        rows = [(str(k).replace("_", " "), str(v)) for k, v in values.items()] if isinstance(values, Mapping) else [("", str(values))]
        body += render("<h3>{{ s }}</h3>", s=stage) + table(("Parameter", "Value"), rows)
    body += "</details>"
    footer = ", ".join(f"{name} {value}" for name, value in visit.versions.items())
    return page(f"QC {visit.participant_id} {visit.session_id}", body, footer)


_FIT = {
    "model_not_fitted": "not fitted",
    "model_water_fat": "water and fat independent",
    "model_fat_constrained": "fat constrained (one phase, field from the neighbourhood)",
    "model_no_fat": "fat given up: R2* and field only",
    "model_two_echoes": "two echoes: no fat",
    "not_converged": "the fit ended before it converged",
    "swap_margin_low": "exchange of water and fat hardly worse (swap margin below 2)",
    "first_fields_disagree": "the two first fields differ by a swap",
}


def _headline(visit: VisitPage) -> str:
    iron, fat_iqr = visit.iron, float("nan")
    if visit.fit is not None and visit.regions is not None:
        fat_iqr = roi_statistics(visit.fit.pdff_percent, visit.regions.liver).iqr
    return cards(
        *(
            (
                f"LIC by {name}",
                f"{number(iron.get(f'lic_{method}_mg_g'))} mg/g",
                f"95 %: {interval(iron.get(f'lic_{method}_lo'), iron.get(f'lic_{method}_hi'))}",
            )
            for method, name in (("hqsm", "hQSM"), ("r2star", "R2*"))
        ),
        (
            "Susceptibility",
            f"{number(iron.get('chi_hqsm_ppm'), 2)} ppm",
            f"SE {number(iron.get('chi_se_ppm'), 2)}, by regions {number(iron.get('chi_regional_ppm'), 2)}",
        ),
        ("R2*", _r2star(iron), f"IQR {number(iron.get('r2star_iqr_per_s'), 0)}"),
        ("Fat fraction", f"{number(iron.get('pdff_percent'), 1)} %", f"IQR {number(fat_iqr, 1)}"),
        ("Liver", f"{number(iron.get('liver_volume_ml'), 0)} mL", f"{number(iron.get('n_voxels'), 0)} voxels read"),
    )


def _r2star(iron: Mapping[str, Any]) -> str:
    bound = iron.get("r2star_lower_bound_per_s")
    return f"{number(iron.get('r2star_per_s'), 0)} 1/s" if bound is None else f"over {number(bound, 0)} 1/s"


def _mask(mask: Mapping[str, Any]) -> str:
    shares = {str(k).replace("_", " "): v for k, v in (mask.get("excluded_shares") or {}).items()}
    facts = {
        "drawn by": mask.get("mask_source"),
        "readers": mask.get("readers"),
        "no liver, because": mask.get("no_liver_because"),
        "reference regions": mask.get("references"),
        **{f"left out: {name}": f"{100 * float(share):.1f} %" for name, share in shares.items() if share is not None},
    }
    return _facts(facts, {name: name for name in facts})


def _facts(facts: Mapping[str, Any], words: Mapping[str, str]) -> str:
    rows = []
    for key, label in words.items():
        value = facts.get(key)
        if isinstance(value, float):
            value = f"{value:.4g}"
        if isinstance(value, (list, tuple)):
            value = "; ".join(str(item) for item in value)
        if value not in (None, ""):
            rows.append((label, value))
    if not rows:
        return ""
    return render("<dl>{% for k, v in rows %}<dt>{{ k }}</dt><dd>{{ v }}</dd>{% endfor %}</dl>", rows=rows)


def _echoes(visit: VisitPage) -> str:
    noise = visit.acquisition.get("noise_sd") or float("nan")
    rows = []
    for k, echo_time in enumerate(visit.echo_times_s):
        signal = visit.liver_signal[k] if k < len(visit.liver_signal) else float("nan")
        rows.append((k + 1, f"{1000 * echo_time:.2f}", number(signal, 0), number(signal / noise if noise else float("nan"), 1)))
    return table(("Echo", "TE [ms]", "Liver signal (median)", "Signal to noise"), rows)


def _pictures(visit: VisitPage, params: ReportParams) -> list[tuple[str, str, str]]:
    pictures = []
    if visit.fit is not None:
        caption = "Patient's right at the left. Contours: liver (orange), vessels (blue), reference regions (pink). Pale blue: no value."
        pictures.append(("Maps", _maps(visit, visit.fit, params), caption))
    if visit.gating_rows and len(visit.gating_rows) > 1:
        caption = (
            "Circles were combined, crosses were not; the band is the acceptance window around end-expiration. "
            "Small grey points: the second source, moved to the first one's origin."
        )
        pictures.append(("Respiratory position of each repetition", _gating(visit), caption))
    if visit.fit is not None and visit.regions is not None and visit.regions.liver.any():
        caption = "Voxels that the liver's values were read from; the line is their median."
        pictures.append(("Distribution inside the liver", _histograms(visit, visit.fit, visit.regions), caption))
    return pictures


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A map as it is drawn: its name with unit, colours and window."""

    name: str
    volume: AnyArray
    colours: str
    limits: tuple[float, float]


def maps_of(visit: VisitPage, fit: WaterFat) -> list[Shown]:
    """The visit's maps in the order in which they are shown: first echo, water, fat, then what was measured."""
    regions = visit.regions
    magnitude = visit.magnitude if visit.magnitude is not None else np.abs(fit.water)
    inside = regions.liver_whole if regions is not None and regions.liver_whole.any() else np.isfinite(fit.r2star_per_s)

    def top(volume: AnyArray, least: float, factor: float = 1.4) -> float:
        values = volume[inside][np.isfinite(volume[inside])]
        return max(least, factor * float(np.percentile(values, 90))) if values.size else least

    bright = float(np.percentile(magnitude, 99.5)) or 1.0
    r2_top = top(fit.r2star_per_s, 60.0)
    field_range = np.nanpercentile(fit.field_hz[np.isfinite(fit.field_hz)], [2, 98]) if np.isfinite(fit.field_hz).any() else (-1.0, 1.0)
    maps = [
        Shown(name="first echo", volume=magnitude, colours="gray", limits=(0, bright)),
        Shown(name="water", volume=np.abs(fit.water), colours="gray", limits=(0, 1.1 * bright)),
        Shown(name="fat", volume=np.abs(fit.fat), colours="gray", limits=(0, 1.1 * bright)),
        Shown(name="fat fraction [%]", volume=fit.pdff_percent, colours="viridis", limits=(0, 100)),
        Shown(name="R2* [1/s]", volume=fit.r2star_per_s, colours="viridis", limits=(0, r2_top)),
        Shown(name="field [Hz]", volume=fit.field_hz, colours="gray", limits=(float(field_range[0]), float(field_range[1]))),
    ]
    if visit.chi is not None:
        chi = visit.chi.chi_ppm
        maps.append(Shown(name="susceptibility [ppm]", volume=chi, colours="gray", limits=(-1.0, top(chi, 1.0))))
    maps.append(Shown(name="SE of R2* [1/s]", volume=fit.r2star_se_per_s, colours="magma", limits=(0, top(fit.r2star_se_per_s, 5.0, 2.0))))
    maps.append(Shown(name="fit residual [of signal]", volume=fit.residual, colours="magma", limits=(0, top(fit.residual, 0.01, 2.5))))
    if fit.swap_margin is not None:
        maps.append(Shown(name="swap margin", volume=fit.swap_margin, colours="viridis", limits=(0, 10)))
    if fit.field_difference_hz is not None:
        apart = 220 * fit.field_strength_tesla / 1.5
        maps.append(Shown(name="two first fields [Hz]", volume=fit.field_difference_hz, colours="coolwarm", limits=(-apart, apart)))
    return [m for m in maps if np.isfinite(m.volume).any()]


def _maps(visit: VisitPage, fit: WaterFat, params: ReportParams) -> str:
    affine = fit.grid.affine_mm
    regions = visit.regions
    slices = shown_slices(regions, fit.grid.shape[2], params.n_slices)
    maps = maps_of(visit, fit)
    window = _body_window(radiological(body_of(visit, fit), affine))
    left, right = side_labels(affine)
    size = fit.grid.voxel_size_mm
    turned = np.abs(nib.io_orientation(affine)[0, 0]) == 0  # type: ignore[no-untyped-call]
    aspect = float(size[1] / size[0]) if turned else float(size[0] / size[1])
    ratio = aspect * (window[0].stop - window[0].start) / (window[1].stop - window[1].start)
    outlines = []
    if regions is not None:
        outlines = [(regions.liver, OKABE_ITO[1]), (regions.vessel, OKABE_ITO[5])]
        outlines += [(mask, OKABE_ITO[3]) for mask in regions.references.values()]
    masks = [radiological(mask, affine)[window][:, :, slices] for mask, _ in outlines]
    pictures = Tiles(height=window[0].stop - window[0].start, width=window[1].stop - window[1].start, number=len(slices))
    left_edge, right_edge, width = 0.035, 0.93, 10.4
    # one drawing area a row, not one a picture: making them and their axes took as long as drawing
    row_height = width * (right_edge - left_edge) / pictures.columns * pictures.width * ratio
    figure, axes = plt.subplots(
        len(maps), 1, figsize=(width, 1.03 * row_height * len(maps)), squeeze=False, layout="none", gridspec_kw={"hspace": 0.03}
    )
    figure.subplots_adjust(left=left_edge, right=right_edge, bottom=0.005, top=0.995)
    box = {"facecolor": "black", "alpha": 0.45, "pad": 1, "linewidth": 0}
    lines = [(path, colour) for mask, (_, colour) in zip(masks, outlines, strict=True) for path in pictures.outlines(axes[0, 0], mask)]
    for ax, shown in zip(axes[:, 0], maps, strict=True):
        volume = radiological(np.asarray(shown.volume, float), affine)[window]
        colours = plt.get_cmap(shown.colours).with_extremes(bad=_NO_VALUE)
        drawn: Any = None
        for n, k in enumerate(slices):
            drawn = ax.imshow(
                volume[:, :, k],
                cmap=colours,
                vmin=shown.limits[0],
                vmax=shown.limits[1],
                aspect="auto",
                interpolation="nearest",
                extent=pictures.extent(n),
            )
            words = [(0.02, left, "left"), (0.98, right, "right")]
            if shown is maps[0]:
                words.append((0.5, f"slice {k + 1}", "center"))
            for at, word, side in words:
                place = pictures.start(n) + at * pictures.width, 0.03 * pictures.height
                ax.text(*place, word, color="w", fontsize=7, va="top", ha=side, bbox=box)
        ax.set(xlim=(0, pictures.columns), ylim=(pictures.height, 0), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(shown.name, fontsize=8)
        if lines:
            paths, edges = zip(*lines, strict=True)
            ax.add_collection(PathCollection(paths, facecolors="none", edgecolors=edges, linewidths=0.7), autolim=False)
        place = ax.get_position()
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.936, place.y0, 0.010, place.height)))
        bar.ax.tick_params(labelsize=6.5, length=2)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    return _uri(figure, 96, webp_uri)


def shown_slices(regions: Regions | None, n_slices: int, wanted: int) -> AnyArray:
    """Slices to show: spread over the liver where there is one, else over the slab."""
    if regions is not None and regions.liver_whole.any():
        inside = np.flatnonzero(regions.liver_whole.any(axis=(0, 1)))
        ends = float(inside[0]), float(inside[-1])
    else:
        ends = 0.15 * n_slices, 0.85 * n_slices
    return np.unique(np.clip(np.linspace(*ends, wanted).round().astype(int), 0, n_slices - 1))


def body_of(visit: VisitPage, fit: WaterFat) -> AnyArray:
    """The body's mask, or where there is a field when there is no mask."""
    return visit.regions.body if visit.regions is not None and visit.regions.body.any() else np.isfinite(fit.field_hz)


def _body_window(body: AnyArray) -> tuple[slice, slice]:
    """Rows and columns that the body fills, with a margin of two voxels."""
    rows, columns = (np.flatnonzero(body.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    if not rows.size:
        return slice(0, body.shape[0]), slice(0, body.shape[1])

    def span(found: AnyArray, n: int) -> slice:
        return slice(max(int(found[0]) - 2, 0), min(int(found[-1]) + 3, n))

    return span(rows, body.shape[0]), span(columns, body.shape[1])


def _gating(visit: VisitPage) -> str:
    figure, ax = plt.subplots(figsize=(7.5, 2.4))
    last = 1
    for row in visit.gating_rows:
        last = max(last, int(row["repetition"]))
        if row["displacement_mm"] != "n/a":
            accepted = row["accepted"] == "1"
            marker, colour = ("o", OKABE_ITO[0]) if accepted else ("x", OKABE_ITO[1])
            ax.plot(int(row["repetition"]), float(row["displacement_mm"]), marker, color=colour)
    window = visit.gating.get("window_mm")
    at, position, second, centre = (
        np.array([float("nan") if row.get(name, "n/a") == "n/a" else float(row[name]) for row in visit.gating_rows])
        for name in ("repetition", "displacement_mm", "second_displacement_mm", "window_centre_mm")
    )
    if window is not None and np.isfinite(centre).all():
        ax.fill_between(at, centre - window / 2, centre + window / 2, color=OKABE_ITO[0], alpha=0.15, lw=0)
    near = np.array([row["accepted"] == "1" for row in visit.gating_rows]) & np.isfinite(second - position)
    if near.any():
        ax.plot(at, second - np.median((second - position)[near]), ".", color="0.6", ms=4, zorder=0)
    ax.set_xticks(range(1, last + 1, max(1, last // 12)))
    ax.set_xlabel("repetition")
    ax.set_ylabel("position [mm]")
    return _uri(figure)


def _histograms(visit: VisitPage, fit: WaterFat, regions: Regions) -> str:
    values: list[tuple[FloatArray, str]] = [(fit.r2star_per_s[regions.liver], "R2* [1/s]")]
    if visit.chi is not None:
        values.append((visit.chi.chi_ppm[regions.liver], "susceptibility [ppm]"))
    values.append((fit.pdff_percent[regions.liver], "fat fraction [%]"))
    figure, axes = plt.subplots(1, len(values), figsize=(3.1 * len(values), 2.4), squeeze=False)
    for ax, (inside, label) in zip(axes[0], values, strict=True):
        inside = inside[np.isfinite(inside)]
        if inside.size:
            low, high = np.percentile(inside, [0.5, 99.5])
            ax.hist(inside[(inside >= low) & (inside <= high)], bins=40, color=OKABE_ITO[0])
            ax.axvline(float(np.median(inside)), color=OKABE_ITO[1], lw=1.5)
        else:
            ax.text(0.5, 0.5, "no valid voxel", transform=ax.transAxes, ha="center")
        ax.set_xlabel(label)
    axes[0, 0].set_ylabel("voxels")
    return _uri(figure)


def _uri(figure: Figure, dpi: int = 96, as_uri: Callable[[Figure, int], str] = png_uri) -> str:
    uri = as_uri(figure, dpi)
    plt.close(figure)
    return uri


def thumbnail(visit: VisitPage) -> str:
    """A small picture of R2* in the middle of the liver, as a data URI; empty without maps."""
    if visit.fit is None:
        return ""
    middle = int(shown_slices(visit.regions, visit.fit.grid.shape[2], 3)[1 if visit.fit.grid.shape[2] > 2 else 0])
    affine = visit.fit.grid.affine_mm
    window = _body_window(radiological(body_of(visit, visit.fit), affine))
    shown = next((m for m in maps_of(visit, visit.fit) if m.name.startswith("R2*")), None)
    if shown is None:
        return ""
    picture_ = radiological(np.asarray(shown.volume, float), affine)[window][:, :, middle]
    size = visit.fit.grid.voxel_size_mm
    height = 0.9 * picture_.shape[0] / picture_.shape[1] * float(size[1] / size[0])
    figure = plt.figure(figsize=(0.9, max(height, 0.3)), layout="none")
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(picture_, cmap="viridis", vmin=shown.limits[0], vmax=shown.limits[1], aspect="auto", interpolation="bilinear")
    ax.set_axis_off()
    return _uri(figure)
