"""Edge: a reader's masks from NIfTI label maps, on the scan's grid or refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hqsm.arrays import Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError


def read_reader_labels(folder: Path, grid: VoxelGrid) -> dict[str, Mask] | None:
    """Masks by name from ``folder``; None where there is no label map.

    A label map is ``*.nii`` or ``*.nii.gz``; ``labels.tsv`` (index, name) names its labels, without it label 1 is the
    liver. Another order or direction of the same voxels is turned; another grid is refused.

    Raises
    ------
    InputError
        For more than one label map, another grid, or a label without a name.
    """
    paths = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")]) if folder.is_dir() else []
    if not paths:
        return None
    if len(paths) > 1:
        raise InputError(f"{len(paths)} label maps in rois for this visit.", remedy="Keep the one to be used.", code="MASK_MANY")
    canonical_of: Any = nib.as_closest_canonical
    orientations: Any = nib.orientations
    image = canonical_of(nib.load(paths[0]))
    wanted = canonical_of(_blank(np.zeros(grid.shape, np.uint8), grid.affine_mm))
    if image.shape[:3] != wanted.shape or not np.allclose(image.affine, wanted.affine, atol=1e-2):
        raise InputError(
            f"{paths[0].name} is on another grid than the scan ({image.shape[:3]} against {wanted.shape} voxels).",
            remedy="Draw it on the visit's gated echoes, or resample it (nearest neighbour) to them.",
            code="MASK_GRID",
        )
    canonical = np.asarray(image.dataobj)
    back = orientations.ornt_transform(
        orientations.io_orientation(wanted.affine),
        orientations.io_orientation(grid.affine_mm),
    )
    labels = np.asarray(orientations.apply_orientation(canonical, back))
    names = _names(folder / "labels.tsv")
    found = [int(value) for value in np.unique(labels) if value]
    if not names:
        names = {1: "liver"}
    unknown = [value for value in found if value not in names]
    if unknown:
        raise InputError(
            f"{paths[0].name} has label {unknown[0]}, which labels.tsv does not name.",
            remedy="Add it to labels.tsv (columns index and name).",
            code="MASK_LABEL",
        )
    return {names[value]: labels == value for value in found}


_blank: Any = nib.Nifti1Image


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return {int(row["index"]): row["name"].strip() for row in csv.DictReader(handle, delimiter="\t")}
