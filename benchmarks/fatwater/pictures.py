"""Fat fraction, R2* and field of the real cases: `pictures.py DATA_FOLDER FIGURES_FOLDER` draws docs/fatwater_accuracy.md's figures."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from hqsm.bipolar import correct_odd_even_phase
from hqsm.config.fatwater import FatWaterParams
from hqsm.fatwater.separation import separate

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from real_cases import challenge, phantom, philips_abdomen

OIL_SPECTRUM, ROOM_CELSIUS = "bydder-2.5", 21.0


def draw(axis, values, colours, limits, words):
    image = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
    axis.set_title(words, fontsize=9)
    axis.axis("off")


def save(figure, path):
    """With 256 colours: a third of the size, and none missed."""
    figure.tight_layout()
    whole = io.BytesIO()
    figure.savefig(whole, dpi=70)
    plt.close(figure)
    Image.open(whole).convert("RGB").quantize(256).save(path, optimize=True)


def dome(echoes, fit, path):
    """The left dome of case 12, two slices, magnified."""
    figure, axes = plt.subplots(2, 5, figsize=(13, 5.6))
    signal = np.abs(echoes.signal)
    with np.errstate(invalid="ignore", divide="ignore"):
        brightening = np.where(signal[..., 0] > 100, signal[..., 3] / signal[..., 2], np.nan)
    shown = (
        (signal[..., 0], "gray", (0, 500), "first echo"),
        (brightening, "RdBu_r", (0.5, 1.5), "fourth echo / third"),
        (fit.pdff_percent, "viridis", (0, 100), "fat fraction [%]"),
        (fit.field_hz, "gray", (-200, 200), "field [Hz]"),
        (100 * fit.residual, "magma", (0, 30), "residual [%]"),
    )
    for k, row in enumerate(axes):
        for axis, (volume, colours, limits, words) in zip(row, shown, strict=True):
            draw(axis, volume[50:135, 145:225, k], colours, limits, f"slice {k + 1}: {words}")
    save(figure, path)


def cases(folder, figures):
    figure, axes = plt.subplots(3, 4, figsize=(12, 8.5))
    for row, name in zip(axes, ("12", "15", "17"), strict=True):
        whole = challenge(folder, name)
        some = (slice(0, whole.grid.shape[0]), slice(0, whole.grid.shape[1]), slice(0, 3))
        echoes = replace(whole, signal=whole.signal[some], grid=whole.grid.cropped(some))
        fit = separate(echoes, FatWaterParams(), n_threads=2)
        print(name, echoes.signal.shape, "models", np.bincount(fit.model.ravel(), minlength=4), "R2*", np.nanmedian(fit.r2star_per_s))
        shown = (
            (np.abs(echoes.signal[..., 0]), "gray", (0, 600), "first echo"),
            (fit.pdff_percent, "viridis", (0, 100), "fat fraction [%]"),
            (fit.r2star_per_s, "viridis", (0, 150), "R2* [1/s]"),
            (fit.field_hz, "gray", (-250, 250), "field [Hz]"),
        )
        for axis, (volume, colours, limits, words) in zip(row, shown, strict=True):
            draw(axis, volume[:, :, 1], colours, limits, f"case {name}: {words}")
        if name == "12":
            dome(echoes, fit, figures / "fatwater_dome.png")
    save(figure, figures / "fatwater_cases.png")


def philips(folder, path):
    """Our R2* from the magnitude beside the scanner's own."""
    echoes, scanner = philips_abdomen(folder)
    fit = separate(echoes, FatWaterParams(), n_threads=2)
    figure, axes = plt.subplots(2, 4, figsize=(12, 6))
    for row, k in zip(axes, (1, 3), strict=True):
        ours = fit.r2star_per_s[..., k]
        theirs = np.where(np.isfinite(ours), scanner[..., k], np.nan)
        shown = (
            (np.abs(echoes.signal[..., k, 0]), "gray", (0, 500), "first echo"),
            (ours, "viridis", (0, 120), "R2* [1/s]"),
            (theirs, "viridis", (0, 120), "the scanner's own"),
            (ours - theirs, "RdBu_r", (-10, 10), "difference"),
        )
        for axis, (values, colours, limits, words) in zip(row, shown, strict=True):
            draw(axis, np.rot90(values), colours, limits, f"slice {k + 1}: {words}")
    save(figure, path)


def phantoms(folder, path):
    """The bipolar phantom before and after its odd/even phase is taken off, and the oils as stored and with their phase turned."""
    bipolar, oils = phantom(folder, "phantom_16echo_bipolar"), phantom(folder, "PHANTOM_NDB_OILS")
    corrected, _ = correct_odd_even_phase(bipolar, smallest_rms_rad=0.05)
    turned = replace(oils, signal=oils.signal.conj())
    figure, axes = plt.subplots(2, 5, figsize=(14, 5.6))
    rows = (
        (bipolar, "bipolar phantom", "as read", corrected, "corrected", {}, 37.0),
        (oils, "oils", "as stored", turned, "turned", {"spectrum": OIL_SPECTRUM}, ROOM_CELSIUS),
    )
    for row, (before, name, was, after, became, spectrum, celsius) in zip(axes, rows, strict=True):
        draw(row[0], np.abs(before.signal[:, :, 0, 0]), "gray", (0, 1000), f"{name}: first echo")
        for (one, other), echoes, words in ((row[1:3], before, was), (row[3:5], after, became)):
            fit = separate(echoes, FatWaterParams(**spectrum), temperature_celsius=celsius, n_threads=2)
            print(name, words, fit.codes)
            draw(one, fit.pdff_percent[..., 0], "viridis", (0, 100), f"{words}: fat [%]")
            draw(other, 100 * fit.residual[..., 0], "magma", (0, 20), f"{words}: residual [%]")
    save(figure, path)


def main():
    folder, figures = Path(sys.argv[1]), Path(sys.argv[2])
    cases(folder, figures)
    philips(folder, figures / "fatwater_philips.png")
    phantoms(folder, figures / "fatwater_phantoms.png")


if __name__ == "__main__":
    main()
