"""Shapes in millimetres on any grid: balls, erosion, dilation, world coordinates, means and medians over a distance."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.data import VoxelGrid


def ball(grid: VoxelGrid, radius_mm: float) -> AnyArray:
    """Structuring element: every voxel whose centre lies within ``radius_mm``; at least the voxel itself."""
    reach = [int(radius_mm // d) for d in grid.voxel_size_mm]
    axes = np.meshgrid(*(np.arange(-r, r + 1) * d for r, d in zip(reach, grid.voxel_size_mm, strict=True)), indexing="ij")
    return np.asarray(sum(a**2 for a in axes) <= radius_mm**2 + 1e-6)


def depth_mm(mask: Mask, grid: VoxelGrid, *, open_ends: bool = True) -> FloatArray:
    """Distance of every voxel of ``mask`` to the nearest voxel outside it [mm]; 0 outside.

    With ``open_ends`` an organ that the images cut goes on beyond them; else their border is an edge.
    """
    padded = np.pad(mask, 1, mode="edge") if open_ends else np.pad(mask, 1)
    if padded.all():
        return np.full(mask.shape, np.inf, np.float32)
    distance = ndimage.distance_transform_edt(padded, sampling=grid.voxel_size_mm)
    inner: FloatArray = distance[1:-1, 1:-1, 1:-1].astype(np.float32)
    return inner


def eroded(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    """Voxels of ``mask`` deeper than ``radius_mm``; beyond the images' ends the organ goes on."""
    return np.asarray(depth_mm(mask, grid) > radius_mm) & mask


def dilated(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    """Voxels within ``radius_mm`` of ``mask``."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=grid.voxel_size_mm) <= radius_mm)


def opened(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    """What a ball of ``radius_mm`` can reach inside ``mask``."""
    return dilated(eroded(mask, grid, radius_mm), grid, radius_mm) & mask


def closed(mask: Mask, grid: VoxelGrid, radius_mm: float) -> Mask:
    """``mask`` and every place outside it that a ball of ``radius_mm`` cannot enter."""
    reach = [int(np.ceil(radius_mm / d)) + 1 for d in grid.voxel_size_mm]
    padded = np.pad(mask, [(r, r) for r in reach], mode="edge")
    grown = dilated(padded, grid, radius_mm)
    if grown.all():
        return np.ones_like(mask)
    back = ndimage.distance_transform_edt(grown, sampling=grid.voxel_size_mm) > radius_mm
    inner = np.asarray(back)[tuple(slice(r, -r) for r in reach)]
    return np.asarray(inner | mask)


def largest_piece(mask: Mask) -> Mask:
    """The largest face-connected piece of ``mask``."""
    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def piece_at(mask: Mask, place: tuple[int, ...]) -> Mask:
    """The face-connected piece of ``mask`` that contains the voxel ``place``; empty if it is outside."""
    labels, _ = ndimage.label(mask)
    return np.asarray((labels == labels[place]) & (labels[place] > 0))


def filled(mask: Mask) -> Mask:
    """``mask`` with its holes filled, in each slice along the axis with the fewest voxels and in three dimensions."""
    thin = int(np.argmin(mask.shape))
    slices = np.moveaxis(mask, thin, 0)
    flat = np.stack([ndimage.binary_fill_holes(part) for part in slices])
    return np.asarray(ndimage.binary_fill_holes(np.moveaxis(flat, 0, thin)))


def solidity(mask: Mask, grid: VoxelGrid) -> float:
    """Volume of ``mask`` over that of its convex hull, 0..1; 1 where there is no hull of three dimensions."""
    places = np.argwhere(mask)
    if len(places) < 30:
        return 1.0
    try:
        hull = ConvexHull(places * grid.voxel_size_mm)
    except QhullError:
        return 1.0
    # the hull runs through voxel centres: half a voxel is missing all around, about one face layer in volume
    rim = 0.5 * float(hull.area) * float(np.mean(grid.voxel_size_mm))
    return float(min(1.0, mask.sum() * float(np.prod(grid.voxel_size_mm)) / (float(hull.volume) + rim)))


def world_mm(grid: VoxelGrid) -> tuple[FloatArray, FloatArray, FloatArray]:
    """World coordinates [mm] of every voxel: x to the right, y to the front, z to the head."""
    i, j, k = np.indices(grid.shape, dtype=np.float32)
    a = grid.affine_mm
    x, y, z = (a[r, 0] * i + a[r, 1] * j + a[r, 2] * k + a[r, 3] for r in range(3))
    return x, y, z


def smoothed(volume: FloatArray, valid: Mask, grid: VoxelGrid, sigma_mm: float, *, least_weight: float = 0.05) -> FloatArray:
    """Gaussian mean of the valid voxels; NaN where fewer than ``least_weight`` of the kernel are valid."""
    sigma = sigma_mm / grid.voxel_size_mm
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma)
    value = ndimage.gaussian_filter(np.where(valid, volume, 0).astype(np.float32), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: FloatArray = np.where(weight > least_weight, value / weight, np.nan)
    return mean
