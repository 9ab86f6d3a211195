"""Iron outside the liver, a spleen above all: what decays faster than tissue does and is neither liver, bone, fat nor a surface."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.data import WaterFat
from hqsm.fit_models import NO_FAT
from hqsm.liver_share import mean_of_known, moved, r2star_or_limit

_FASTER_PER_S_AT_1T5 = 25.0
_MOST_FAT_PERCENT = 30.0
_SMALLEST_ML = 15.0
_CROSS = ndimage.generate_binary_structure(3, 1)


def iron_elsewhere(maps: WaterFat, where: Mask, tissue_per_s: float) -> list[tuple[FloatArray, float]]:
    """Every organ with iron in ``where``: the share of each voxel that is of it (x, y, z), and its R2* beyond that of tissue [1/s].

    Left to single voxels its iron would be found to be half of what it is, and the rest be looked for in what surrounds it,
    a liver whose own field says little among that.
    """
    dark = maps.censored | (maps.model == NO_FAT)
    r2star = r2star_or_limit(maps, dark)
    lean = np.nan_to_num(maps.pdff_percent) < _MOST_FAT_PERCENT
    known = where & lean & np.isfinite(r2star)
    near = mean_of_known(np.where(known, np.minimum(r2star, maps.r2star_limit_per_s), 0), known)
    faster = known & (near > tissue_per_s + _FASTER_PER_S_AT_1T5 * maps.field_strength_tesla / 1.5)
    labels, n = ndimage.label(ndimage.binary_opening(faster, _CROSS, 2))
    volumes_ml = np.bincount(labels.ravel(), minlength=n + 1) * maps.grid.voxel_volume_ml
    found = []
    for label in np.flatnonzero(volumes_ml[1:] > _SMALLEST_ML) + 1:
        piece = labels == label
        level = float(np.median(r2star[piece]))
        way = np.clip((near - tissue_per_s) / (level - tissue_per_s), 0, 1)
        share = np.where(moved(piece, -1), 1, np.where(moved(piece, 1) & known, way, 0)).astype(np.float32)
        found.append((share, level - tissue_per_s))
    return found
