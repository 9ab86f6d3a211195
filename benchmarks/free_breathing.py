"""Gated, ungated and motionless scans of simulated bodies: `free_breathing.py PICTURE.png` draws and prints docs/gating.md's figures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from hqsm.config.fatwater import FatWaterParams
from hqsm.config.gating import GatingParams
from hqsm.data import GatingReport, MultiEcho
from hqsm.fatwater.separation import separate
from hqsm.gating.combine import combine, multi_echo
from hqsm.gating.gate import gate
from hqsm.phantom.forward import LiverState, ScanProtocol, SimulatedScan, simulate_abdomen
from hqsm.phantom.tissue import LABELS


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    tilt_degrees: float
    field_strength_tesla: float
    lic_mg_g: float
    drift_mm: float = 0.0
    n: int = 12
    body: int
    draws: int = 1
    """Scans with noise of their own whose medians are averaged: with much iron one median of the dome scatters by 1.3 1/s."""


AXIAL: dict[str, Any] = {"shape": (72, 56, 22), "voxel_size_mm": (5, 5, 7.5)}
CORONAL: dict[str, Any] = {"shape": (68, 54, 26), "voxel_size_mm": (5.2, 4.4, 7), "tilt_degrees": 90}
CASES = (
    Case(name="axial 1.5 T", **AXIAL, tilt_degrees=3, field_strength_tesla=1.5, lic_mg_g=5, body=1),
    Case(name="axial 3 T", **AXIAL, tilt_degrees=-4, field_strength_tesla=3, lic_mg_g=3, body=2),
    Case(name="axial 1.5 T, much iron", **AXIAL, tilt_degrees=0, field_strength_tesla=1.5, lic_mg_g=12, body=3, draws=3),
    Case(name="coronal 1.5 T", **CORONAL, field_strength_tesla=1.5, lic_mg_g=5, body=4),
    Case(name="axial 1.5 T, 9 mm drift", **AXIAL, tilt_degrees=3, field_strength_tesla=1.5, lic_mg_g=5, drift_mm=-9, n=20, body=5),
    Case(name="axial 3 T, body 5", **AXIAL, tilt_degrees=-4, field_strength_tesla=3, lic_mg_g=3, body=5),
    Case(name="axial 3 T, body 8", **AXIAL, tilt_degrees=4, field_strength_tesla=3, lic_mg_g=5, body=8),
    Case(name="coronal 3 T, body 9", **CORONAL, field_strength_tesla=3, lic_mg_g=3, body=9),
)
FINE_MM = 1.3
"""The body moves by interpolation between its own voxels: 3.7 mm of them smear lung over dome, which alone adds 1 to 3 1/s."""
COLOURS = {"plain average": "#D55E00", "average, phase aligned": "#E69F00", "gated": "#0072B2"}


def positions_mm(n: int, seed: int, drift_mm: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, np.pi, n)
    return -13 * rng.uniform(0.8, 1.2, n) * np.cos(phase) ** 4 + drift_mm * np.linspace(-0.5, 0.5, n)


def oversampling(case: Case) -> tuple[int, int, int]:
    """Twice in each direction, and as fine as ``FINE_MM`` along the body."""
    along = 1 if case.tilt_degrees > 45 else 2
    fine = [2, 2, 2]
    fine[along] = round(case.voxel_size_mm[along] / FINE_MM)
    return fine[0], fine[1], fine[2]


def regions(made: SimulatedScan) -> dict[str, np.ndarray]:
    """Liver within 20 mm below the lung, and the rest."""
    grid = made.echoes.grid
    axis = int(np.argmax(np.abs(grid.b0_direction)))
    headwards = int(np.sign(grid.b0_direction[axis]))
    liver, lung = (made.truth.labels == LABELS[name] for name in ("liver", "lung"))
    near = np.zeros_like(lung)
    for k in range(1, int(np.ceil(20 / grid.voxel_size_mm[axis])) + 1):
        near |= np.roll(lung, -headwards * k, axis=axis)
    return {"dome": liver & near, "rest of the liver": liver & ~near}


def errors(case: Case, seed: int) -> tuple[SimulatedScan, GatingReport, dict[str, dict[str, tuple[float, float]]]]:
    """R2* [1/s] and fat fraction [points] of each way to combine, minus those of the motionless scan, by region (median)."""
    first_s, step_s = (1.2e-3, 1.6e-3) if case.field_strength_tesla < 2 else (1e-3, 1e-3)
    protocol = ScanProtocol(
        echo_times_s=tuple(first_s + step_s * k for k in range(6)),
        field_strength_tesla=case.field_strength_tesla,
        shape=case.shape,
        voxel_size_mm=case.voxel_size_mm,
        tilt_degrees=case.tilt_degrees,
        n_repetitions=case.n,
        oversampling=oversampling(case),
    )
    liver = LiverState(lic_mg_g=case.lic_mg_g, pdff_percent=8)

    def medians(echoes: MultiEcho) -> np.ndarray:
        fit = separate(echoes, FatWaterParams())
        where = regions(made).values()
        return np.array([[np.nanmedian(fit.r2star_per_s[mask]), np.nanmedian(fit.pdff_percent[mask])] for mask in where])

    differences: dict[str, list[np.ndarray]] = {}
    for number in range(case.draws):
        made = simulate_abdomen(liver, protocol, seed + 1000 * number, seed, positions_mm(case.n, seed, case.drift_mm))
        gated, report = gate(made.echoes, None, GatingParams())
        first = int(np.flatnonzero(report.accepted)[0])
        level_mm = float(made.displacement_mm[report.accepted].mean())
        still_scan = simulate_abdomen(liver, protocol, seed + 1000 * number + 100, seed, np.full(case.n, level_mm))
        still = combine(still_scan.echoes, report.accepted, np.zeros(case.n), first)
        ways = {
            "plain average": multi_echo(made.echoes, made.echoes.signal.mean(axis=-1), still.noise_sd),
            "average, phase aligned": combine(made.echoes, np.ones(case.n, bool), np.zeros(case.n), first),
            "gated": gated,
        }
        wanted = medians(still)
        for way, echoes in ways.items():
            differences.setdefault(way, []).append(medians(echoes) - wanted)
    names = list(regions(made))
    means = {way: np.mean(found, axis=0) for way, found in differences.items()}
    return made, report, {way: {name: tuple(mean[k]) for k, name in enumerate(names)} for way, mean in means.items()}


def draw(picture: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(17, 4.8), layout="constrained")
    for number, case in enumerate(CASES):
        made, report, found = errors(case, case.body)
        error_mm = report.displacement_mm - made.displacement_mm
        error_mm -= np.median(error_mm)
        print(
            f"{case.name}: {report.n_accepted}/{case.n} combined, position RMS {np.sqrt(np.mean(error_mm**2)):.2f} mm, "
            f"drift {report.drift_mm:+.1f} mm, shifted by: {report.followed}"
        )
        for way, by_region in found.items():
            text = "; ".join(f"{region} {r:+.1f} 1/s {p:+.2f} points" for region, (r, p) in by_region.items())
            print(f"  {way}: {text}")
            for ax, k in ((axes[1], 0), (axes[2], 1)):
                for region, marker in (("dome", "^"), ("rest of the liver", "o")):
                    label = f"{way}, {region}" if number == 0 else None
                    value = float(np.clip(by_region[region][k], -60 if k == 0 else -12, 60 if k == 0 else 12))
                    at = number + 0.22 * (list(COLOURS).index(way) - 1)
                    ax.plot(at, value, marker, color=COLOURS[way], label=label, mfc=COLOURS[way] if marker == "o" else "none", ms=8)
        if case is CASES[0]:
            at = np.arange(1, case.n + 1)
            origin = np.median(made.displacement_mm - report.displacement_mm)
            centre = report.window_centre_mm + origin
            axes[0].fill_between(at, centre - report.window_mm / 2, centre + report.window_mm / 2, color="#0072B2", alpha=0.15, lw=0)
            axes[0].plot(at, made.displacement_mm, "k-", lw=0.8, label="truth")
            for chosen, marker, label in ((report.accepted, "o", "from the images, combined"), (~report.accepted, "x", "left out")):
                axes[0].plot(
                    at[chosen],
                    (report.displacement_mm + origin)[chosen],
                    marker,
                    color="#0072B2" if marker == "o" else "#D55E00",
                    label=label,
                )
            axes[0].set(xlabel="repetition", ylabel="diaphragm [mm]", title=case.name, ylim=(-19, 4))
            axes[0].legend(fontsize=8, loc="lower left")
    for ax, limit, label in ((axes[1], 3, "R2* minus motionless [1/s]"), (axes[2], 0.5, "fat fraction minus motionless [points]")):
        ax.axhspan(-limit, limit, color="0.85", lw=0, zorder=0)
        ax.set_xticks(
            range(len(CASES)), [case.name.replace(", ", ",\n").replace("l 1", "l\n1").replace("l 3", "l\n3") for case in CASES], fontsize=8
        )
        ax.set_ylabel(label)
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=8, loc="outside lower right", ncols=3)
    axes[1].set_title("grey: what is allowed; values beyond the axis stand at its end", fontsize=9)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
