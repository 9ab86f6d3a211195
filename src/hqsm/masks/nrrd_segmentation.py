"""3D Slicer segmentations (.seg.nrrd): layers of label values, each segment's name, layer and value in the header."""

from __future__ import annotations

import bz2
import io
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.errors import InputError
from hqsm.masks.placing import LabelVolume

_LARGEST_BYTES = 512 << 20
_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
}
_INFLATE: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("gzip", "gz"), lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    **dict.fromkeys(("bzip2", "bz2"), bz2.BZ2Decompressor),
}
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
        with path.open("rb") as handle:
            header = nrrd.read_header(handle)
            if {"data file", "datafile"} & set(header):
                # a detached header could make the reader open any file of this machine
                raise InputError(f"{path.name} points to another data file.", remedy="Save it as one file.", code="MASK_FILE")
            stored = handle.read(_LARGEST_BYTES)
        n_bytes = math.prod(int(n) for n in header["sizes"]) * _BYTES[str(header["type"]).lower()]
        if not 0 < n_bytes <= _LARGEST_BYTES:
            raise InputError(f"{path.name} claims to be larger than {_LARGEST_BYTES >> 20} MB.", remedy="Crop it.", code="MASK_FILE")
        if header["encoding"] in _INFLATE:
            # no more than the header promises: what is packed behind it stays packed
            stored = _INFLATE[header["encoding"]]().decompress(stored, n_bytes)
            header["encoding"] = "raw"
        data = nrrd.read_data(header, io.BytesIO(stored), index_order="F")
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
    rows = [row for row in rows if np.isfinite(row).all()]
    if len(rows) != 3:
        raise InputError(f"{path.name} does not say where its voxels are.", remedy="Save it from 3D Slicer.", code="MASK_FILE")
    axes = np.stack(rows, axis=1)
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
