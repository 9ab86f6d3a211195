"""Edge: several maps of one visit side by side, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.data import VoxelGrid
from hqsm.report.figures import base as _style  # noqa: F401  # sets fonts and the drawing backend

_COLUMNS = 4


def save_montage(path: Path, maps: Mapping[str, FloatArray], liver: Mask, grid: VoxelGrid, *, top_ppm: float) -> None:
    """One axial slice, that with most liver, of each susceptibility map [ppm] (x, y, z); one grey scale for all.

    ``top_ppm`` is white, minus half of it black; a voxel without a value is blue. The outline is the liver's.
    """
    k = int(np.argmax(liver.sum(axis=(0, 1))))
    n_rows = -(-len(maps) // _COLUMNS)
    figure, axes = plt.subplots(n_rows, _COLUMNS, figsize=(3.2 * _COLUMNS + 0.8, 2.6 * n_rows), squeeze=False)
    grey = plt.get_cmap("gray").with_extremes(bad="#20304a")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, chi) in zip(axes.flat, maps.items(), strict=False):
        aspect = float(grid.voxel_size_mm[1] / grid.voxel_size_mm[0])
        drawn = axis.imshow(chi[:, :, k].T, cmap=grey, vmin=-top_ppm / 2, vmax=top_ppm, origin="lower", aspect=aspect)
        axis.contour(liver[:, :, k].T, [0.5], colors="#E69F00", linewidths=0.6)
        axis.set_title(name, fontsize=9)
    figure.colorbar(drawn, ax=axes, label="susceptibility [ppm]", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
