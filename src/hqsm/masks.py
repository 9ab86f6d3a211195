"""Edge: a reader's masks from NIfTI label maps, on the scan's grid or refused."""

from __future__ import annotations

import csv
from pathlib import Path

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
        raise InputError(
            f"{len(paths)} label maps in rois for this visit.", remedy="Keep the one to be used.", code="MASK_MANY"
        )
    image = nib.as_closest_canonical(nib.load(paths[0]))  # type: ignore[no-untyped-call, arg-type]
    wanted = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine_mm))  # type: ignore[no-untyped-call]
    if image.shape[:3] != wanted.shape or not np.allclose(image.affine, wanted.affine, atol=1e-2):  # type: ignore[attr-defined]
        raise InputError(
            f"{paths[0].name} is on another grid than the scan ({image.shape[:3]} against {wanted.shape} voxels).",  # type: ignore[attr-defined]
            remedy="Draw it on the visit's gated echoes, or resample it (nearest neighbour) to them.",
            code="MASK_GRID",
        )
    canonical = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    back = nib.orientations.ornt_transform(  # type: ignore[no-untyped-call]
        nib.orientations.io_orientation(wanted.affine),  # type: ignore[no-untyped-call]
        nib.orientations.io_orientation(grid.affine_mm),  # type: ignore[no-untyped-call]
    )
    labels = np.asarray(nib.orientations.apply_orientation(canonical, back))  # type: ignore[no-untyped-call]
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


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return {int(row["index"]): row["name"].strip() for row in csv.DictReader(handle, delimiter="\t")}
