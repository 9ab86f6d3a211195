"""Blood of the aorta as the reference; its susceptibility: Jain et al., MRM 2012;68:863.

Oxygenated blood has -0.008 ppm (cgs) times haematocrit against water, -0.03 ppm at 0.3, and no storage iron. Which haematocrit a patient
has depends on the last transfusion: 0.01 ppm for 0.1 of it by Jain, 0.04 by others' constants.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import Mask
from hqsm.data import WaterFat
from hqsm.liver.geometry import dilated, eroded, opened, smoothed, world_mm
from hqsm.liver.references.trunk import FEWEST_VOXELS, lean, trunk_position_mm

_R2STAR_OVER_MUSCLE = 0.72
"""Arterial blood decays more slowly than muscle; means over ``_NEIGHBOURHOOD_MM`` are compared."""
_NEIGHBOURHOOD_MM, _FROM_LIVER_MM = 2.0, 4.0
_RIGHT_MM, _FORWARD = (-45.0, 8.0), (0.18, 0.52)
"""Where it is looked for: to the right of the midline in a trunk 320 mm wide, and from the back over the body's depth."""
_THINNEST_MM, _FROM_ITS_WALL_MM = 4.0, 3.0
_SHORTEST_MM, _SHORTEST_SHARE = 60.0, 0.6
"""Along the body, or over the slab's length, whichever is less."""
_SECTION_MM2 = (100.0, 1000.0)


def aorta(maps: WaterFat, body: Mask, liver: Mask, muscle: Mask) -> Mask:
    """(x, y, z) the tube of slow decay before the spine, a little to the left, without its wall.

    Without such a tube there is no aorta: the vena cava or a kidney is not taken for it. ``muscle`` says how fast muscle decays.
    """
    grid = maps.grid
    empty = np.zeros(body.shape, bool)
    if muscle.sum() < FEWEST_VOXELS:
        return empty
    right_mm, front_mm, scale = trunk_position_mm(body, grid)
    known = lean(maps, body)
    r2star = smoothed(np.nan_to_num(maps.r2star_per_s), known, grid, _NEIGHBOURHOOD_MM)
    muscle_r2star = float(np.median(maps.r2star_per_s[muscle]))
    with np.errstate(invalid="ignore"):
        slow = known & (r2star < _R2STAR_OVER_MUSCLE * muscle_r2star) & ~dilated(liver, grid, _FROM_LIVER_MM)
    depth_of_body_mm = float(np.percentile(front_mm[body], 99))
    where = (right_mm > _RIGHT_MM[0] * scale) & (right_mm < _RIGHT_MM[1] * scale)
    where &= (front_mm > _FORWARD[0] * depth_of_body_mm) & (front_mm < _FORWARD[1] * depth_of_body_mm)
    tube = opened(np.asarray(slow & where), grid, _THINNEST_MM)
    labels, n = ndimage.label(tube)
    _, _, z = world_mm(grid)
    shortest_mm = min(_SHORTEST_MM, _SHORTEST_SHARE * float(np.ptp(z[body])))
    best, best_length_mm = empty, 0.0
    for k in range(1, n + 1):
        piece = labels == k
        length_mm = float(np.ptp(z[piece])) + 1e-6
        area_mm2 = float(piece.sum()) * float(np.prod(grid.voxel_size_mm)) / length_mm
        if length_mm < shortest_mm or not _SECTION_MM2[0] <= area_mm2 <= _SECTION_MM2[1] * scale:
            continue
        if length_mm > best_length_mm:
            best, best_length_mm = np.asarray(piece), length_mm
    return eroded(best, grid, _FROM_ITS_WALL_MM)
