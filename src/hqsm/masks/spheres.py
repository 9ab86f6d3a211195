"""Spherical regions of interest as a table: x_mm,y_mm,z_mm,radius_mm and a label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError
from hqsm.masks.names import known_name

_COLUMNS = ("x_mm", "y_mm", "z_mm", "radius_mm")


def read_spheres(path: Path, grid: VoxelGrid) -> dict[str, Mask] | None:
    """Masks by label: the voxels whose centre lies in a sphere; None for a table of something else.

    Coordinates are RAS+ world [mm], or LPS where the table has a column ``coordinates`` that says so (as DICOM viewers
    write them). Without a column ``label`` a sphere is ``liver-roi``.

    Raises
    ------
    InputError
        ``MASK_FILE`` for a line without numbers, ``MASK_GRID`` for a sphere with no voxel of the scan in it.
    """
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            return None
        rows = list(reader)
    index = np.indices(grid.shape).reshape(3, -1)
    world = grid.affine_mm[:3, :3] @ index + grid.affine_mm[:3, 3:]
    masks: dict[str, Mask] = {}
    for line, row in enumerate(rows, start=2):
        try:
            x, y, z, radius = (float(row[name]) for name in _COLUMNS)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path.name} line {line} is not four numbers.", remedy="Correct it.", code="MASK_FILE") from error
        if (row.get("coordinates") or "RAS").strip().upper() == "LPS":
            x, y = -x, -y
        distance = np.linalg.norm(world - np.array([[x], [y], [z]]), axis=0)
        mask = (distance <= radius).reshape(grid.shape)
        if not mask.any():
            raise InputError(
                f"{path.name} line {line}: no voxel of the scan lies in the sphere.",
                remedy="Coordinates are RAS+ world in mm; add a column coordinates with LPS for those of DICOM.",
                code="MASK_GRID",
            )
        label = known_name(row.get("label") or "liver-roi", path.name)
        if label is not None:
            masks[label] = masks[label] | mask if label in masks else mask
    return masks
