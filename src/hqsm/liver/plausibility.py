"""Whether what was found can be a liver in a body: where it cannot, a reader is asked and no number is made."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.config.liver import LiverParams
from hqsm.data import VoxelGrid, WaterFat
from hqsm.liver.geometry import solidity, world_mm
from hqsm.liver.sides import FAT

_NARROWEST_BODY_MM = 150.0
"""The trunk of a child of two years is about 160 mm wide."""
_LEAST_FAT_SHARE = 0.02
_LARGEST_SHARE_OF_SLAB = 0.45
"""A liver fills a quarter to a third of the trunk in the slices that it spans; a bottle or a sphere all of it."""
_LEAST_SOLIDITY = 0.66
_LEAST_RIGHT_SHARE = 0.6


def not_a_body(maps: WaterFat, body: Mask) -> str:
    """Why the images do not show a person's trunk; empty where they do."""
    if not body.any():
        return "there is no signal"
    x, _, _ = world_mm(maps.grid)
    width_mm = float(np.ptp(np.percentile(x[body], [0.5, 99.5])))
    if width_mm < _NARROWEST_BODY_MM:
        return f"the object is {width_mm:.0f} mm wide, less than a child's trunk"
    pdff = maps.pdff_percent[body & (maps.model > 0)]
    pdff = pdff[np.isfinite(pdff)]
    if pdff.size > 0.5 * body.sum() and float((pdff > 100 * FAT).mean()) < _LEAST_FAT_SHARE:
        return "there is no fat under the skin"
    return ""


def covered_share(organ: Mask, grid: VoxelGrid) -> float:
    """Share of a liver that a slab which cuts it holds at least: its extent there of 120 mm; 1 where it ends inside at both ends."""
    thin = int(np.argmin(np.array(grid.shape) * grid.voxel_size_mm))
    along = np.asarray(organ.any(axis=tuple(axis for axis in range(3) if axis != thin)))
    cut = bool(along[0] or along[-1])
    return min(1.0, float(along.sum()) * float(grid.voxel_size_mm[thin]) / 120.0) if cut else 1.0


def not_a_liver(organ: Mask, body: Mask, first_echo: FloatArray, noise_sd: float, grid: VoxelGrid, params: LiverParams) -> str:
    """Why ``organ`` cannot be the liver of this body; empty where it can."""
    if not organ.any():
        return "nothing on the patient's right looks like a liver"
    volume_ml = float(organ.sum()) * grid.voxel_volume_ml
    if volume_ml < params.smallest_volume_ml * covered_share(organ, grid):
        return f"it has {volume_ml:.0f} mL, too little"
    if volume_ml > params.largest_volume_ml:
        return f"it has {volume_ml:.0f} mL, too much"
    x, _, z = world_mm(grid)
    right = float((x[organ] > np.median(x[body])).mean())
    if right < _LEAST_RIGHT_SHARE:
        return f"only {100 * right:.0f} % of it lie on the right"
    levels = np.round(z / 5.0)
    spanned = body & (levels >= np.percentile(levels[organ], 2)) & (levels <= np.percentile(levels[organ], 98))
    share = float(organ.sum()) / max(1.0, float(spanned.sum()))
    if share > _LARGEST_SHARE_OF_SLAB:
        return f"it fills {100 * share:.0f} % of the body where it lies"
    solid = solidity(organ, grid)
    if solid < _LEAST_SOLIDITY:
        return f"its shape is ragged (it fills {100 * solid:.0f} % of its convex hull)"
    if float(np.median(first_echo[organ])) < 2.5 * noise_sd:
        return "it gives no signal above the noise"
    return ""
