"""From a labelled volume as it is stored to masks on the scan's grid, in world coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import FloatArray, IntArray, Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError

_TOLERANCE_MM = 0.02
"""Voxel centres that lie this close are the same: headers are stored in single precision."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelVolume:
    """What a file holds.

    Attributes
    ----------
    layers
        Integer volumes of one shape, each (x, y, z) in the file's own order; segments that overlap lie in several layers.
    names
        (layer, value) to the label's name as it is written.
    affine_mm
        Voxel index to RAS+ world coordinates [mm].
    cropped
        True for formats that store only the slices or the box with something in it.
    """

    layers: tuple[IntArray, ...]
    names: dict[tuple[int, int], str]
    affine_mm: FloatArray
    cropped: bool = False


def place(volume: LabelVolume, grid: VoxelGrid, file: str, *, resample: bool) -> dict[str, Mask]:
    """Masks by written name on ``grid``; the order and direction of the file's axes do not matter.

    Raises
    ------
    InputError
        ``MASK_GRID`` if the voxel centres differ (and ``resample`` is False) or if something drawn lies outside the scan;
        ``MASK_FILE`` if the file's affine places no voxel.
    """
    axes = volume.affine_mm[:3, :3]
    if not np.isfinite(volume.affine_mm).all() or abs(np.linalg.det(axes)) < 1e-9:
        raise InputError(f"{file} does not say where its voxels are.", remedy="Export it again.", code="MASK_FILE")
    shape = volume.layers[0].shape
    to_file = np.linalg.inv(volume.affine_mm) @ grid.affine_mm
    same_lattice, difference_mm = _same_lattice(to_file, volume.affine_mm, grid)
    turned = tuple(int(n) for n in np.abs(np.round(to_file[:3, :3])) @ np.array(grid.shape))
    if not resample and not (same_lattice and (volume.cropped or turned == shape)):
        raise InputError(
            f"{file} is on another grid than the scan: {shape} voxels against {grid.shape}, up to {difference_mm:.2f} mm apart.",
            remedy="Draw it on the visit's gated echoes, or set liver.resample_reader_masks to take the nearest voxels.",
            code="MASK_GRID",
        )
    index = np.indices(grid.shape).reshape(3, -1)
    source = np.rint(to_file[:3, :3] @ index + to_file[:3, 3:]).astype(np.int64)
    inside = ((source >= 0) & (source < np.array(shape)[:, None])).all(axis=0)
    masks: dict[str, Mask] = {}
    for (layer, value), name in volume.names.items():
        drawn = volume.layers[layer] == value
        mask = np.zeros(index.shape[1], bool)
        mask[inside] = drawn[tuple(source[:, inside])]
        lost = _share_outside(drawn, volume.affine_mm, grid)
        if lost > 0.02:
            raise InputError(
                f"{100 * lost:.0f} % of {name} in {file} lie outside the scan.",
                remedy="It may belong to another visit: check the scan that it was drawn on.",
                code="MASK_GRID",
            )
        masks[name] = np.asarray(masks.get(name, False) | mask.reshape(grid.shape))
    return masks


def _same_lattice(to_file: FloatArray, affine_mm: FloatArray, grid: VoxelGrid) -> tuple[bool, float]:
    """Whether every voxel centre of ``grid`` is one of the file's, and the largest distance to the nearest [mm]."""
    corners = np.array([[i, j, k] for i in (0, grid.shape[0] - 1) for j in (0, grid.shape[1] - 1) for k in (0, grid.shape[2] - 1)])
    # a step along an axis must be a whole step in the file, or centres between the corners would not meet
    steps = to_file[:3, :3]
    there = corners @ steps.T + to_file[:3, 3]
    whole = corners @ np.round(steps).T + np.round(to_file[:3, 3])
    apart = (there - whole) @ affine_mm[:3, :3].T
    largest_mm = float(np.linalg.norm(apart, axis=1).max())
    return largest_mm <= _TOLERANCE_MM and abs(abs(np.linalg.det(np.round(steps))) - 1) < 0.5, largest_mm


def _share_outside(drawn: Mask, affine_mm: FloatArray, grid: VoxelGrid) -> float:
    """Share of what is drawn whose voxel centres lie outside the scan's voxels."""
    places = np.argwhere(drawn)
    if not len(places):
        return 0.0
    to_grid = np.linalg.inv(grid.affine_mm) @ affine_mm
    index = places @ to_grid[:3, :3].T + to_grid[:3, 3]
    outside = ((index < -0.51) | (index > np.array(grid.shape) - 0.49)).any(axis=1)
    return float(outside.mean())
