"""NIfTI label maps: ITK-SNAP, 3D Slicer, MITK, FSLeyes, and what other programs write."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hqsm.errors import InputError
from hqsm.masks.placing import LabelVolume


def read_nifti_labels(path: Path) -> LabelVolume:
    """A label map. Its names come from ``<stem>.tsv`` or ``labels.tsv`` beside it (columns index and name); else 1 is the liver.

    Raises
    ------
    InputError
        ``MASK_FILE`` if it is no volume of whole numbers, ``MASK_LABEL`` for a value without a name.
    """
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises what its many readers raise
        raise InputError(f"{path.name} cannot be read as NIfTI.", remedy="Export it again.", code="MASK_FILE") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not np.array_equal(values, np.rint(values)):
        raise InputError(f"{path.name} is not a label map ({values.ndim} axes, {values.dtype}).", remedy="Export labels.", code="MASK_FILE")
    labels = values.astype(np.int32)
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    names = _names(path.with_name(f"{stem}.tsv")) or _names(path.with_name("labels.tsv")) or {1: "liver"}
    found = [int(value) for value in np.unique(labels) if value]
    unknown = [value for value in found if value not in names]
    if unknown:
        raise InputError(
            f"{path.name} has label {unknown[0]}, which has no name.",
            remedy="Add it to labels.tsv (columns index and name) beside the file.",
            code="MASK_LABEL",
        )
    return LabelVolume(layers=(labels,), names={(0, value): names[value] for value in found}, affine_mm=np.asarray(image.affine, float))


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"].strip() for row in rows}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path.name} needs the columns index and name.", remedy="Correct it.", code="MASK_LABEL") from error
