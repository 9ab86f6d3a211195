"""The QC page of one visit: its maps with contours, its gating, its numbers, its flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from hqsm.arrays import AnyArray
from hqsm.codes import meaning
from hqsm.config.report import ReportParams
from hqsm.data import Regions, Susceptibility, WaterFat
from hqsm.report.page import OKABE_ITO, number, page, png_uri, render


@dataclass(frozen=True, eq=False, kw_only=True)
class VisitPage:
    """What a visit's page shows; anything may be missing for a rejected visit."""

    participant_id: str
    session_id: str
    failed: dict[str, Any] | None
    codes: tuple[str, ...]
    magnitude: AnyArray | None = None
    fit: WaterFat | None = None
    regions: Regions | None = None
    chi: Susceptibility | None = None
    gating_rows: tuple[dict[str, str], ...] = ()
    gating: dict[str, Any] = field(default_factory=dict)
    acquisition: dict[str, Any] = field(default_factory=dict)
    iron: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


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
    body = render(
        """<h1>{{ v.participant_id }} {{ v.session_id }}</h1>
        {% if v.failed %}<p class="rejected">Rejected at the stage {{ v.failed.stage }}: {{ v.failed.reason }}</p>{% endif %}""",
        v=visit,
    )
    if visit.iron:
        body += render(
            """<div class="big"><div>LIC by hQSM<b>{{ q }} mg/g</b>{{ qlo }} to {{ qhi }}</div>
            <div>LIC by R2*<b>{{ r }} mg/g</b>{{ rlo }} to {{ rhi }}</div><div>R2*<b>{{ r2 }} 1/s</b></div>
            <div>Susceptibility<b>{{ chi }} ppm</b></div><div>Fat fraction<b>{{ fat }} %</b></div>
            <div>Liver<b>{{ ml }} mL</b></div></div>""",
            q=number(visit.iron.get("lic_hqsm_mg_g")),
            qlo=number(visit.iron.get("lic_hqsm_lo")),
            qhi=number(visit.iron.get("lic_hqsm_hi")),
            r=number(visit.iron.get("lic_r2star_mg_g")),
            rlo=number(visit.iron.get("lic_r2star_lo")),
            rhi=number(visit.iron.get("lic_r2star_hi")),
            r2=number(visit.iron.get("r2star_per_s"), 0),
            chi=number(visit.iron.get("chi_hqsm_ppm"), 3),
            fat=number(visit.iron.get("pdff_percent"), 1),
            ml=number(visit.iron.get("liver_volume_ml"), 0),
        )
    body += render(
        "{% if codes %}<h2>Flags</h2><ul>{% for c, m in codes %}<li><b>{{ c }}</b>: {{ m }}</li>{% endfor %}</ul>{% endif %}",
        codes=[(code, meaning(code)) for code in visit.codes],
    )
    for title, uri in _pictures(visit, params):
        body += render('<h2>{{ t }}</h2><img alt="{{ t }}" src="{{ u }}">', t=title, u=uri)
    rows = [(k.replace("_", " "), v) for k, v in {**visit.acquisition, **visit.gating}.items()]
    body += render(
        """<h2>Acquisition and gating</h2><div class="wide"><table>{% for k, v in rows %}<tr><th>{{ k }}</th>
        <td>{{ v }}</td></tr>{% endfor %}</table></div>""",
        rows=rows,
    )
    body += render("<h2>Parameters</h2><p>{{ p }}</p>", p=visit.parameters)
    footer = ", ".join(f"{name} {value}" for name, value in visit.versions.items())
    return page(f"QC {visit.participant_id} {visit.session_id}", body, footer)


def _pictures(visit: VisitPage, params: ReportParams) -> list[tuple[str, str]]:
    pictures = []
    if visit.fit is not None:
        pictures.append(("Maps", _maps(visit, visit.fit, params)))
    if visit.gating_rows and len(visit.gating_rows) > 1:
        pictures.append(("Respiratory position of each repetition", _gating(visit)))
    if visit.fit is not None and visit.regions is not None and visit.regions.liver.any():
        pictures.append(("R2* and susceptibility inside the liver", _histograms(visit, visit.fit, visit.regions)))
    return pictures


def _maps(visit: VisitPage, fit: WaterFat, params: ReportParams) -> str:
    affine = fit.grid.affine_mm
    n = fit.grid.shape[2]
    regions = visit.regions
    if regions is not None and regions.liver_whole.any():
        inside = np.flatnonzero(regions.liver_whole.any(axis=(0, 1)))
        slices = np.unique(np.linspace(inside[0], inside[-1], params.n_slices).round().astype(int))
    else:
        slices = np.unique(np.linspace(0.15 * n, 0.85 * n, params.n_slices).round().astype(int))
    magnitude = visit.magnitude if visit.magnitude is not None else np.abs(fit.water)
    r2_top = float(np.nanpercentile(fit.r2star_per_s, 97)) if np.isfinite(fit.r2star_per_s).any() else 100.0
    maps: list[tuple[str, AnyArray, str, tuple[float, float]]] = [
        ("first echo", magnitude, "gray", (0, float(np.percentile(magnitude, 99.5)) or 1)),
        ("fat fraction [%]", fit.pdff_percent, "viridis", (0, 100)),
        ("R2* [1/s]", fit.r2star_per_s, "viridis", (0, max(r2_top, 50))),
        ("field [Hz]", fit.field_hz, "gray", tuple(np.nanpercentile(fit.field_hz, [2, 98]))),
        ("standard error of R2* [1/s]", fit.r2star_se_per_s, "viridis", (0, max(0.15 * r2_top, 5))),
    ]
    if visit.chi is not None:
        top = max(1.0, float(np.nanpercentile(visit.chi.chi_ppm, 98)))
        maps.insert(4, ("susceptibility [ppm]", visit.chi.chi_ppm, "gray", (-1.0, top)))
    size = fit.grid.voxel_size_mm
    aspect = float(size[1] / size[0])
    left, right = side_labels(affine)
    figure, axes = plt.subplots(len(maps), len(slices), figsize=(2.2 * len(slices) + 0.8, 1.75 * len(maps)), squeeze=False)
    for row, (name, volume, colours, limits) in zip(axes, maps, strict=True):
        shown = radiological(np.asarray(volume, float), affine)
        picture: Any = None
        for ax, k in zip(row, slices, strict=True):
            picture = ax.imshow(shown[:, :, k], cmap=colours, vmin=limits[0], vmax=limits[1], aspect=aspect)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(0.02, 0.9, left, transform=ax.transAxes, color="w", fontsize=7)
            ax.text(0.92, 0.9, right, transform=ax.transAxes, color="w", fontsize=7)
            if regions is not None:
                contours = [(regions.liver, OKABE_ITO[1]), (regions.vessel, OKABE_ITO[5])]
                contours += [(mask, OKABE_ITO[3]) for mask in regions.references.values()]
                for mask, colour in contours:
                    turned = radiological(mask, affine)[:, :, k]
                    if turned.any() and not turned.all():
                        ax.contour(turned, levels=[0.5], colors=[colour], linewidths=0.6)
        row[0].set_ylabel(name, fontsize=8)
        figure.colorbar(picture, ax=list(row), fraction=0.012, pad=0.01).ax.tick_params(labelsize=7)
    return _uri(figure, 75)


def _gating(visit: VisitPage) -> str:
    figure, ax = plt.subplots(figsize=(6.5, 2.2))
    for row in visit.gating_rows:
        if row["displacement_mm"] != "n/a":
            accepted = row["accepted"] == "1"
            marker, colour = ("o", OKABE_ITO[0]) if accepted else ("x", OKABE_ITO[1])
            ax.plot(int(row["repetition"]), float(row["displacement_mm"]), marker, color=colour)
    centre, window = visit.gating.get("end_expiration_mm"), visit.gating.get("window_mm")
    if centre is not None and window is not None:
        ax.axhspan(centre - window / 2, centre + window / 2, color=OKABE_ITO[0], alpha=0.15)
    ax.set_xlabel("repetition (circle: combined, cross: not)")
    ax.set_ylabel("position [mm]")
    return _uri(figure)


def _histograms(visit: VisitPage, fit: WaterFat, regions: Regions) -> str:
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.2))
    values = [(fit.r2star_per_s[regions.liver], "R2* [1/s]")]
    if visit.chi is not None:
        values.append((visit.chi.chi_ppm[regions.liver], "susceptibility [ppm]"))
    for ax, (inside, label) in zip(axes, values, strict=False):
        inside = inside[np.isfinite(inside)]
        if inside.size:
            ax.hist(np.clip(inside, *np.percentile(inside, [0.5, 99.5])), bins=50, color=OKABE_ITO[0])
        ax.set_xlabel(label)
        ax.set_ylabel("voxels")
    if len(values) == 1:
        axes[1].set_visible(False)
    return _uri(figure)


def _uri(figure: Figure, dpi: int = 80) -> str:
    uri = png_uri(figure, dpi)
    plt.close(figure)
    return uri
