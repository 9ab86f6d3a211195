"""Muscle as the reference: Taylor et al. (JMRI 2012;35:1125, PMC3310935) took liver against muscle of the abdominal wall.

Here it is that beside the spine, which is thicker, moves less and lies farther from lung and bowel. Its susceptibility is that of
water to 0.05 ppm (-9.0 ppm: Rassi et al. 1988); iron in it is little, and not none, where the liver has much.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import Mask
from hqsm.data import WaterFat
from hqsm.liver.geometry import dilated, eroded
from hqsm.liver.references.trunk import lean, trunk_position_mm

_LARGEST_R2STAR_PER_S_AT_1T5 = 90.0
_FROM_MIDLINE_MM = (15.0, 65.0)
"""In a trunk 320 mm wide: farther to the side lie the muscles of the flank."""
_FROM_SKIN_MM, _FARTHEST_FORWARD = 12.0, 0.21
"""From the back's skin (in that trunk), and over the body's depth: farther to the front lie the kidneys."""
_FROM_LIVER_MM, _FROM_ITS_EDGE_MM = 10.0, 3.0
_SMALLEST_PIECE_VOXELS = 15


def paraspinal_muscle(maps: WaterFat, body: Mask, liver: Mask) -> Mask:
    """(x, y, z) lean tissue of slow decay on both sides of the spine, away from its edge and from the liver."""
    grid = maps.grid
    right_mm, front_mm, scale = trunk_position_mm(body, grid)
    r2star = np.nan_to_num(maps.r2star_per_s, nan=1e3)
    slow = lean(maps, body) & (r2star < _LARGEST_R2STAR_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5)
    depth_of_body_mm = float(np.percentile(front_mm[body], 99))
    nearest_mm, farthest_mm = _FROM_MIDLINE_MM
    beside_spine = (np.abs(right_mm) > nearest_mm * scale) & (np.abs(right_mm) < farthest_mm * scale)
    beside_spine &= (front_mm > _FROM_SKIN_MM * scale) & (front_mm < _FARTHEST_FORWARD * depth_of_body_mm)
    muscle = eroded(np.asarray(slow & ~dilated(liver, grid, _FROM_LIVER_MM)), grid, _FROM_ITS_EDGE_MM) & beside_spine
    labels, n = ndimage.label(muscle)
    if not n:
        return muscle
    sizes = np.bincount(labels.ravel())
    return np.asarray((sizes[labels] >= _SMALLEST_PIECE_VOXELS) & muscle)
