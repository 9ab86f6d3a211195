"""A sphere's field in closed form, averaged over each voxel."""

from __future__ import annotations

import numpy as np

from hqsm.data import VoxelGrid

_FINE = (np.arange(4) + 0.5) / 4 - 0.5


def sphere(
    grid: VoxelGrid, radius_mm: float, chi_ppm: float, centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each voxel inside a sphere, and its field [ppm]: chi/3 (a/r)^3 (3 cos^2 - 1) outside, 0 inside."""
    index = np.indices(grid.shape).reshape(3, -1)
    share, field = np.zeros(index.shape[1]), np.zeros(index.shape[1])
    for offset in np.stack(np.meshgrid(_FINE, _FINE, _FINE, indexing="ij"), axis=-1).reshape(-1, 3):
        world = grid.affine_mm[:3, :3] @ (index + offset[:, None]) + grid.affine_mm[:3, 3:] - np.array(centre_mm)[:, None]
        r = np.linalg.norm(world, axis=0)
        cosine = world[2] / np.maximum(r, 1e-6)
        inside = r < radius_mm
        share += inside / 64
        field += np.where(inside, 0, chi_ppm / 3 * (radius_mm / np.maximum(r, radius_mm)) ** 3 * (3 * cosine**2 - 1)) / 64
    return share.reshape(grid.shape), field.reshape(grid.shape)


def cylinder(grid: VoxelGrid, radius_mm: float, chi_ppm: float) -> tuple[np.ndarray, np.ndarray]:
    """Long cylinder along x through the grid's centre, across B0: chi/2 (a/r)^2 cos(2 phi) outside, -chi/6 inside."""
    index = np.indices(grid.shape).reshape(3, -1)
    share, field = np.zeros(index.shape[1]), np.zeros(index.shape[1])
    for offset in np.stack(np.meshgrid(_FINE, _FINE, _FINE, indexing="ij"), axis=-1).reshape(-1, 3):
        world = grid.affine_mm[:3, :3] @ (index + offset[:, None]) + grid.affine_mm[:3, 3:]
        r = np.hypot(world[1], world[2])
        inside = r < radius_mm
        twice = (world[2] ** 2 - world[1] ** 2) / np.maximum(r, 1e-6) ** 2
        share += inside / 64
        field += np.where(inside, -chi_ppm / 6, chi_ppm / 2 * (radius_mm / np.maximum(r, radius_mm)) ** 2 * twice) / 64
    return share.reshape(grid.shape), field.reshape(grid.shape)


def gradient_cost(chi: np.ndarray, smooth: np.ndarray, voxel_size_mm: np.ndarray) -> float:
    """L1 norm of the gradient where the image has no edge (Liu et al., MRM 2012;69:467), as written in the papers."""
    cost = 0.0
    for axis, h in enumerate(voxel_size_mm):
        step = np.diff(chi, axis=axis) / h
        keep = smooth[axis][tuple(slice(0, n) for n in step.shape)]
        cost += float(np.sqrt((keep * step) ** 2 + 1e-6).sum())
    return cost
