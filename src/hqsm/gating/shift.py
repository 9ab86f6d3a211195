"""Volumes moved along the body by part of a voxel."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import AnyArray, FloatArray
from hqsm.data import VoxelGrid

_SMALLEST_SHIFT_VOXELS = 0.01


def shift_along_body(volume: AnyArray, shift_mm: float, grid: VoxelGrid) -> AnyArray:
    """The volume (x, y, z) moved by ``shift_mm`` along world z (towards the head), cubic spline, edges repeated.

    The part of the shift along every voxel axis counts, so that an oblique slab moves along the body too.
    """
    for axis, voxels in enumerate(_voxels(shift_mm, grid)):
        if voxels:
            matrix = _shift_matrix(volume.shape[axis], float(voxels))
            volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return volume


def noise_after_shift(shift_mm: float, grid: VoxelGrid) -> float:
    """SD of white noise after :func:`shift_along_body` over that before: interpolation averages neighbours."""
    variance = 1.0
    for axis, voxels in enumerate(_voxels(shift_mm, grid)):
        if voxels:
            variance *= float((_shift_matrix(grid.shape[axis], float(voxels)) ** 2).sum(axis=1).mean())
    return float(np.sqrt(variance))


def _voxels(shift_mm: float, grid: VoxelGrid) -> FloatArray:
    voxels = shift_mm * grid.b0_direction / grid.voxel_size_mm
    voxels[np.abs(voxels) < _SMALLEST_SHIFT_VOXELS] = 0
    return voxels


def _shift_matrix(n: int, voxels: float) -> FloatArray:
    """(n, n) the spline's shift along one axis as a matrix: every column of a volume takes the same one."""
    return np.asarray(ndimage.shift(np.eye(n), (voxels, 0), order=3, mode="nearest"), np.float32)
