"""3D Slicer segmentations (.seg.nrrd): layers of label values, each segment's name, layer and value in the header."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hqsm.errors import InputError
from hqsm.masks.placing import LabelVolume

_TO_RAS = {"left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1)}


def read_nrrd_segmentation(path: Path) -> LabelVolume:
    """A segmentation; a plain label map in NRRD has one segment, the liver.

    Raises
    ------
    InputError
        ``MASK_LIBRARY`` without pynrrd, ``MASK_FILE`` for a header that points to other files or lacks its geometry.
    """
    try:
        import nrrd
    except ImportError as error:
        raise InputError(
            f"{path.name} needs the library pynrrd, which is not installed.",
            remedy="pip install pynrrd, or export the segmentation as NIfTI.",
            code="MASK_LIBRARY",
        ) from error
    try:
        header = nrrd.read_header(str(path))
        if {"data file", "datafile"} & set(header):
            # a detached header could make the reader open any file of this machine
            raise InputError(f"{path.name} points to another data file.", remedy="Save it as one file.", code="MASK_FILE")
        data, header = nrrd.read(str(path), index_order="F")
    except InputError:
        raise
    except Exception as error:  # the library raises what zlib and its parsers raise
        raise InputError(f"{path.name} cannot be read as NRRD.", remedy="Save it again.", code="MASK_FILE") from error
    space = str(header.get("space", "")).lower()
    directions, origin = header.get("space directions"), header.get("space origin")
    if space not in _TO_RAS or directions is None or origin is None:
        raise InputError(f"{path.name} does not say where its voxels are.", remedy="Save it from 3D Slicer.", code="MASK_FILE")
    # a list of layers has no direction
    rows = [np.asarray(row, float) for row in directions if row is not None]
    axes = np.stack([row for row in rows if np.isfinite(row).all()], axis=1)
    affine = np.eye(4)
    flip = np.array(_TO_RAS[space], float)[:, None]
    affine[:3, :3] = flip * axes
    affine[:3, 3] = flip[:, 0] * np.asarray(origin, float)
    layers = tuple(np.asarray(layer, np.int32) for layer in data) if data.ndim == 4 else (np.asarray(data, np.int32),)
    names: dict[tuple[int, int], str] = {}
    for key, value in header.items():
        segment = re.fullmatch(r"Segment(\d+)_Name", key)
        if segment:
            n = segment[1]
            place = int(header.get(f"Segment{n}_Layer", 0)), int(header.get(f"Segment{n}_LabelValue", 1))
            names[place] = str(value)
    if not names:
        names = {(0, 1): "liver"}
    return LabelVolume(layers=layers, names=names, affine_mm=affine, cropped=True)
