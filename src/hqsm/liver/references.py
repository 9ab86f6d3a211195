"""Reference tissues: subcutaneous fat, paraspinal muscle, aorta; and the medium around an explant."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.data import VoxelGrid, WaterFat
from hqsm.liver.geometry import dilated, eroded, opened, smoothed, world_mm
from hqsm.liver.organ import water_and_fat_swapped

REFERENCES = ("fat", "aorta", "muscle", "medium")
FEWEST_VOXELS = 20
"""A smaller reference is not used."""

_LEAST_DEPTH_PER_WIDTH = 0.4
"""A trunk is 0.55 to 0.8 times as deep as it is wide."""
_SMALLEST_FAT_ML = 2.0


def reference_tissues(maps: WaterFat, body: Mask, liver: Mask) -> dict[str, Mask]:
    """Subcutaneous fat below the skin, muscle beside the spine and the aorta before it; what is not found is empty."""
    grid = maps.grid
    fat = _subcutaneous_fat(maps, body)
    if not shows_the_back(body, grid):
        return {"fat": fat}
    muscle = _paraspinal_muscle(maps, body, liver)
    return {"fat": fat, "muscle": muscle, "aorta": _aorta(maps, body, liver, muscle, grid)}


def shows_the_back(body: Mask, grid: VoxelGrid) -> bool:
    """Whether the images reach from the back to the front; a coronal slab does not, and its rear is not the skin."""
    if not body.any():
        return False
    x, y, _ = world_mm(grid)
    width_mm, depth_mm = (float(np.ptp(np.percentile(axis[body], [1, 99]))) for axis in (x, y))
    return depth_mm > _LEAST_DEPTH_PER_WIDTH * width_mm


def medium(body: Mask, block: Mask, grid: VoxelGrid) -> Mask:
    """What surrounds an explant in its container, away from both."""
    return eroded(body, grid, 8.0) & ~dilated(block, grid, 8.0)


def _subcutaneous_fat(maps: WaterFat, body: Mask) -> Mask:
    grid = maps.grid
    pdff = np.nan_to_num(maps.pdff_percent, nan=-1)
    outside = ~ndimage.binary_fill_holes(body.any(axis=2))
    depth_mm = ndimage.distance_transform_edt(~outside, sampling=grid.voxel_size_mm[:2])[:, :, None]
    fat = body & (pdff > 70) & (depth_mm < 25)
    if water_and_fat_swapped(maps, body):
        return np.zeros_like(body)
    # the skin's voxels are part air: at least one layer goes
    fat = eroded(np.asarray(fat), grid, max(2.0, float(grid.voxel_size_mm[:2].max())))
    labels, _ = ndimage.label(fat)
    sizes_ml = np.bincount(labels.ravel()) * grid.voxel_volume_ml
    return np.asarray(fat & (sizes_ml[labels] >= _SMALLEST_FAT_ML))


def trunk_position_mm(body: Mask, grid: VoxelGrid) -> tuple[FloatArray, FloatArray, float]:
    """Distance to the right of the midline and in front of the back's skin [mm], and the size of the trunk against 320 mm."""
    x, y, _ = world_mm(grid)
    left, right = np.percentile(x[body], [1, 99])
    return x - 0.5 * float(left + right), y - float(np.percentile(y[body], 1)), float(np.clip((right - left) / 320, 0.5, 1.4))


def _lean(maps: WaterFat, body: Mask) -> Mask:
    pdff = np.nan_to_num(maps.pdff_percent, nan=0)
    return np.asarray(body & (np.abs(pdff) < 15) & (maps.model > 0) & np.isfinite(maps.r2star_per_s))


def _paraspinal_muscle(maps: WaterFat, body: Mask, liver: Mask) -> Mask:
    grid = maps.grid
    right_mm, front_mm, scale = trunk_position_mm(body, grid)
    r2star = np.nan_to_num(maps.r2star_per_s, nan=1e3)
    lean = _lean(maps, body) & (r2star < 90 * maps.field_strength_tesla / 1.5)
    # farther to the front lie the kidneys, farther to the side the muscles of the flank
    depth_of_body_mm = float(np.percentile(front_mm[body], 99))
    beside_spine = (np.abs(right_mm) > 15 * scale) & (np.abs(right_mm) < 65 * scale)
    beside_spine &= (front_mm > 12 * scale) & (front_mm < 0.21 * depth_of_body_mm)
    muscle = eroded(np.asarray(lean & ~dilated(liver, grid, 10.0)), grid, 3.0) & beside_spine
    labels, n = ndimage.label(muscle)
    if not n:
        return muscle
    sizes = np.bincount(labels.ravel())
    return np.asarray((sizes[labels] >= 15) & muscle)


def _aorta(maps: WaterFat, body: Mask, liver: Mask, muscle: Mask, grid: VoxelGrid) -> Mask:
    """The tube of slow decay before the spine, a little to the left.

    Arterial blood decays more slowly than muscle; a tube spans most of the slab, or 60 mm, along the body's axis and has
    a cross-section of 100 to 1000 mm2. Without such a tube there is no aorta: the vena cava or a kidney is not taken for it.
    """
    empty = np.zeros(body.shape, bool)
    if muscle.sum() < FEWEST_VOXELS:
        return empty
    right_mm, front_mm, scale = trunk_position_mm(body, grid)
    lean = _lean(maps, body)
    r2star = smoothed(np.nan_to_num(maps.r2star_per_s), lean, grid, 2.0)
    muscle_r2star = float(np.median(maps.r2star_per_s[muscle]))
    with np.errstate(invalid="ignore"):
        slow = lean & (r2star < 0.72 * muscle_r2star) & ~dilated(liver, grid, 4.0)
    depth_of_body_mm = float(np.percentile(front_mm[body], 99))
    where = (right_mm > -45 * scale) & (right_mm < 8 * scale) & (front_mm > 0.18 * depth_of_body_mm) & (front_mm < 0.52 * depth_of_body_mm)
    tube = opened(np.asarray(slow & where), grid, 4.0)
    labels, n = ndimage.label(tube)
    _, _, z = world_mm(grid)
    slab_mm = float(np.ptp(z[body]))
    best, best_length = empty, 0.0
    for k in range(1, n + 1):
        piece = labels == k
        length_mm = float(np.ptp(z[piece])) + 1e-6
        area_mm2 = float(piece.sum()) * float(np.prod(grid.voxel_size_mm)) / length_mm
        if length_mm < min(60.0, 0.6 * slab_mm) or not 100 <= area_mm2 <= 1000 * scale:
            continue
        if length_mm > best_length:
            best, best_length = np.asarray(piece), length_mm
    return eroded(best, grid, 3.0)
