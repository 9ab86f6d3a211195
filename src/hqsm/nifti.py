"""Edge: volumes to and from NIfTI, with the same bytes for the same content."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.data import VoxelGrid
from hqsm.errors import InputError


def save_volume(path: Path, volume: AnyArray, grid: VoxelGrid) -> None:
    """Write a volume (x, y, z) in the grid's geometry: masks as uint8, everything else as float32 (NaN kept).

    The gzip header carries neither a time nor a name, so equal content gives equal bytes.
    """
    if volume.shape != grid.shape:
        raise ValueError(f"{path.name}: volume is {volume.shape}, the grid {grid.shape}")
    stored = volume.astype(np.uint8 if volume.dtype in (np.bool_, np.uint8) else np.float32)
    image: Any = nib.Nifti1Image(stored, grid.affine_mm)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine_mm, code=1)
    image.set_qform(grid.affine_mm, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as packed:
        packed.write(image.to_bytes())


def load_volume(path: Path) -> tuple[FloatArray, VoxelGrid]:
    """Read a NIfTI volume (x, y, z) as float32 with its grid; an unreadable file is named."""
    try:
        image: Any = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise InputError(
            f"{path.name} is not a readable NIfTI image ({type(error).__name__}).",
            remedy="Write it again, or remove it.",
            code="NIFTI_UNREADABLE",
        ) from error
    return data, VoxelGrid(shape=data.shape[:3], affine_mm=np.asarray(image.affine, dtype=np.float64))


def load_mask(path: Path) -> Mask:
    """Read a 0/1 volume as bool (x, y, z)."""
    volume, _ = load_volume(path)
    return np.asarray(volume > 0.5)
