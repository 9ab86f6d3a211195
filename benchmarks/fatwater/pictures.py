"""Fat fraction, R2* and field of the real cases: `pictures.py DATA_FOLDER CASES.png DOME.png` draws docs/fatwater_accuracy.md's figures."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import scipy.io

from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, VoxelGrid
from hqsm.fatwater.separation import separate


def case(folder, name, slices):
    stored = scipy.io.loadmat(folder / "ismrm2012_fatwater_cases" / f"{name}.mat")["imDataParams"][0, 0]
    images = np.asarray(stored["images"])
    images = images.reshape(*images.shape[:2], -1, images.shape[-1])[:, :, slices]
    grid = VoxelGrid(shape=images.shape[:3], affine_mm=np.diag([1.5, 1.5, 5.0, 1.0]))
    return MultiEcho(
        signal=images.astype(np.complex64) / np.abs(images).max() * 1000,
        echo_times_s=np.ravel(stored["TE"]).astype(float),
        field_strength_tesla=float(np.ravel(stored["FieldStrength"])[0]),
        grid=grid,
    )


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
            image = axis.imshow(volume[50:135, 145:225, k], cmap=colours, vmin=limits[0], vmax=limits[1])
            figure.colorbar(image, ax=axis, shrink=0.8)
            axis.set_title(f"slice {k + 1}: {words}", fontsize=9)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main():
    rows = [("12", slice(0, 3), 1), ("15", slice(0, 3), 1), ("17", slice(0, 3), 1)]
    figure, axes = plt.subplots(len(rows), 4, figsize=(12, 8.5))
    for row, (name, slices, k) in zip(axes, rows, strict=True):
        echoes = case(Path(sys.argv[1]), name, slices)
        k = min(k, echoes.signal.shape[2] - 1)
        fit = separate(echoes, FatWaterParams(), n_threads=2)
        print(
            name, echoes.signal.shape, "models", np.bincount(fit.model.ravel(), minlength=4), "R2* median", np.nanmedian(fit.r2star_per_s)
        )
        shown = (
            (np.abs(echoes.signal[..., 0]), "gray", (0, 600), "first echo"),
            (fit.pdff_percent, "viridis", (0, 100), "fat fraction [%]"),
            (fit.r2star_per_s, "viridis", (0, 150), "R2* [1/s]"),
            (fit.field_hz, "gray", (-250, 250), "field [Hz]"),
        )
        for axis, (volume, colours, limits, words) in zip(row, shown, strict=True):
            axis.imshow(volume[:, :, k], cmap=colours, vmin=limits[0], vmax=limits[1])
            axis.set_title(f"case {name}: {words}", fontsize=9)
            axis.axis("off")
        if name == "12":
            dome(echoes, fit, sys.argv[3])
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=70)


if __name__ == "__main__":
    main()
