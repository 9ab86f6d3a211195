"""Fat under the skin as the reference (Hernando et al., MRM 2013;70:648, PMC3883906: liver against the fat beside its right lobe).

It lies in every image, but as a ring, whose level the field tells least of, and its own susceptibility is published as 0.2 to 1.2 ppm
over water.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import Mask
from hqsm.data import WaterFat
from hqsm.liver.geometry import eroded
from hqsm.liver.organ import water_and_fat_swapped

_LEAST_FAT_PERCENT = 70.0
_DEEPEST_MM = 25.0
"""Below the skin, in plane."""
_FROM_ITS_EDGE_MM = 2.0
"""And at least a voxel: those of the skin are part air."""
_SMALLEST_PIECE_ML = 2.0


def subcutaneous_fat(maps: WaterFat, body: Mask) -> Mask:
    """(x, y, z) nearly pure fat below the skin, away from it; empty where water and fat are exchanged."""
    grid = maps.grid
    pdff = np.nan_to_num(maps.pdff_percent, nan=-1)
    outside = ~ndimage.binary_fill_holes(body.any(axis=2))
    depth_mm = ndimage.distance_transform_edt(~outside, sampling=grid.voxel_size_mm[:2])[:, :, None]
    fat = body & (pdff > _LEAST_FAT_PERCENT) & (depth_mm < _DEEPEST_MM)
    if water_and_fat_swapped(maps, body):
        return np.zeros_like(body)
    fat = eroded(np.asarray(fat), grid, max(_FROM_ITS_EDGE_MM, float(grid.voxel_size_mm[:2].max())))
    labels, _ = ndimage.label(fat)
    sizes_ml = np.bincount(labels.ravel()) * grid.voxel_volume_ml
    return np.asarray(fat & (sizes_ml[labels] >= _SMALLEST_PIECE_ML))
