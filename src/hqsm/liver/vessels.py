"""What lies in the liver and is not parenchyma: vessels, and the edge next to lung and gas."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.data import MultiEcho, VoxelGrid, WaterFat
from hqsm.liver.geometry import depth_mm, dilated, opened, smoothed
from hqsm.robust import scaled_mad

_SLOWER_THAN_LIVER = 0.75
"""Blood decays more slowly than the liver around it by at least this factor, or it cannot be told from noise."""
_SURE = 3.0


def vessels(maps: WaterFat, liver: Mask) -> Mask:
    """Voxels whose R2* is below that of the liver around them by more than noise and texture explain.

    The liver's own R2* is the mean over 12 mm of its voxels without the slowest ones; the noise is the fit's standard
    error and the scatter of the difference. In a liver with ordinary R2* blood and parenchyma are alike: then little is found.
    """
    if not liver.any():
        return liver
    grid = maps.grid
    # beyond the limit a decay is not measured, only fast
    r2star = np.fmin(maps.r2star_per_s, maps.r2star_limit_per_s).astype(np.float32)
    level = float(np.median(r2star[liver]))
    parenchyma = liver & (r2star > 0.6 * level)
    around = smoothed(r2star, parenchyma, grid, 12.0)
    near = smoothed(r2star, liver, grid, 1.5)
    with np.errstate(invalid="ignore"):
        ratio = np.where(liver & (around > 0), near / around, 1.0)
    # the organ's outermost voxels are part of something else, which says nothing of vessels
    deep = liver & (depth_mm(liver, grid) > 1.2 * float(grid.voxel_size_mm.max()))
    inside = ratio[deep]
    middle = float(np.median(inside)) if inside.size else 1.0
    # vessels and the cut at 0.6 shape the lower half; the upper half is noise and texture alone
    above = inside[inside > middle] - middle
    scatter = scaled_mad(above) if above.size else 0.0
    ratio = ratio / max(middle, 1e-3)
    found = deep & (ratio < min(_SLOWER_THAN_LIVER, 1 - _SURE * scatter))
    # a vein of 3 mm and more fills a voxel in part; the next voxel has a share of it
    return np.asarray(dilated(found, grid, float(grid.voxel_size_mm.min())) & liver & (ratio < 1 - 0.5 * (1 - _SLOWER_THAN_LIVER)))


def near_gas(echoes: MultiEcho, body: Mask, liver: Mask, grid: VoxelGrid, distance_mm: float) -> Mask:
    """Liver voxels within ``distance_mm`` of lung, bowel gas or outer air: there the field of the air's edge is steepest.

    Air is a dark place of more than a speck outside the liver: without signal, or lung with a fifth of the tissue's.
    What lies beyond the images' border does not count.
    """
    if not liver.any() or distance_mm <= 0:
        return np.zeros_like(liver)
    first: FloatArray = np.abs(echoes.signal[..., 0])
    typical = float(np.median(first[body & ~liver])) if (body & ~liver).any() else float(np.median(first[body]))
    # a voxel at the liver's edge may be dark because it is half lung: it is part of the liver's mask, not gas
    dark = (first < 0.3 * typical) & ~liver
    gas = opened(np.asarray(dark), grid, 4.0)
    return np.asarray(liver & dilated(gas, grid, distance_mm))
