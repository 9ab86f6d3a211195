"""The trunk's own coordinates, by which reference tissues are looked for, and what may be one."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.data import VoxelGrid, WaterFat
from hqsm.liver.geometry import world_mm

FEWEST_VOXELS = 20
"""A smaller reference is not used."""
_LEAST_DEPTH_PER_WIDTH = 0.4
"""A trunk is 0.55 to 0.8 times as deep as it is wide."""
_USUAL_WIDTH_MM, _SCALES = 320.0, (0.5, 1.4)
_MOST_FAT_PERCENT = 15.0


def shows_the_back(body: Mask, grid: VoxelGrid) -> bool:
    """Whether the images reach from the back to the front; a coronal slab does not, and its rear is not the skin."""
    if not body.any():
        return False
    x, y, _ = world_mm(grid)
    width_mm, depth_mm = (float(np.ptp(np.percentile(axis[body], [1, 99]))) for axis in (x, y))
    return depth_mm > _LEAST_DEPTH_PER_WIDTH * width_mm


def trunk_position_mm(body: Mask, grid: VoxelGrid) -> tuple[FloatArray, FloatArray, float]:
    """Distance to the right of the midline and in front of the back's skin [mm], and the size of the trunk against 320 mm."""
    x, y, _ = world_mm(grid)
    left, right = np.percentile(x[body], [1, 99])
    scale = float(np.clip((right - left) / _USUAL_WIDTH_MM, *_SCALES))
    return x - 0.5 * float(left + right), y - float(np.percentile(y[body], 1)), scale


def lean(maps: WaterFat, body: Mask) -> Mask:
    """Fitted voxels with little fat whose R2* is known."""
    pdff = np.nan_to_num(maps.pdff_percent, nan=0)
    return np.asarray(body & (np.abs(pdff) < _MOST_FAT_PERCENT) & (maps.model > 0) & np.isfinite(maps.r2star_per_s))
