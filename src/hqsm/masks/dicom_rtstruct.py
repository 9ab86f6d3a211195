"""DICOM RT structure sets: closed contours on planes, filled on the scan's own voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from hqsm.arrays import FloatArray, Mask
from hqsm.data import VoxelGrid
from hqsm.masks.dicom_file import Unplaceable

_TOLERANCE_VOXELS = 0.1
_MOST_POINTS = 2_000_000


def read_structures(dataset: Any, grid: VoxelGrid) -> dict[str, Mask]:
    """Masks by the regions' written names: the voxels whose centre lies inside a contour of their plane.

    A contour inside another of its plane cuts a hole (even-odd rule), as planning systems write them. Contours have no grid of
    their own, so each must lie on a slice of the scan.

    Raises
    ------
    Unplaceable
        If a contour is not closed and planar, not on a slice of the scan, or outside of it.
    """
    written = {int(region.ROINumber): str(region.ROIName) for region in dataset.StructureSetROISequence}
    to_index = np.linalg.inv(grid.affine_mm) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's coordinates are LPS
    masks: dict[str, Mask] = {}
    n_points = 0
    for region in dataset.ROIContourSequence:
        name = written[int(region.ReferencedROINumber)]
        mask = masks.setdefault(name, np.zeros(grid.shape, bool))
        for contour in region.get("ContourSequence", None) or []:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            n_points += len(points)
            if n_points > _MOST_POINTS:
                raise Unplaceable(f"it has more than {_MOST_POINTS} points")
            kind = str(contour.ContourGeometricType)
            if kind not in {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}:
                raise Unplaceable("it has contours that are not closed and planar")
            _fill(mask, points @ to_index[:3, :3].T + to_index[:3, 3])
    return masks


def _fill(mask: Mask, index: FloatArray) -> None:
    """Turn the voxels inside one contour, given in voxel indices."""
    if not np.isfinite(index).all():
        raise Unplaceable("it has points without a place")
    spread = np.ptp(index, axis=0)
    axis = int(np.argmin(spread))
    level = float(index[:, axis].mean())
    slice_ = int(np.rint(level))
    if spread[axis] > 2 * _TOLERANCE_VOXELS or abs(level - slice_) > _TOLERANCE_VOXELS:
        raise Unplaceable("its contours do not lie on the scan's slices")
    if not 0 <= slice_ < mask.shape[axis]:
        raise Unplaceable("it has contours outside the scan")
    plane = np.delete(np.arange(3), axis)
    shape = tuple(int(mask.shape[k]) for k in plane)
    corners = index[:, plane]
    if (corners < -1).any() or (corners > np.array(shape)).any():
        raise Unplaceable("it has contours outside the scan")
    at: list[Any] = [slice(None)] * 3
    at[axis] = slice_
    inside: Mask = polygon2mask(shape, corners)  # type: ignore[no-untyped-call]
    mask[tuple(at)] ^= inside
