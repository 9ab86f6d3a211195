"""Malformed masks of readers are refused by name, in bounded memory."""

import gzip
import resource
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from conftest import make_grid
from hqsm.errors import HqsmError

pytest.importorskip("hqsm.masks.nifti_labels", reason="readers of several mask formats")


@pytest.mark.parametrize("kind", ["empty", "cut", "giant", "bomb", "text"])
def test_malformed_masks_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    from hqsm.masks import read_readings

    grid = make_grid("axial", (8, 8, 8))
    path = tmp_path / "rois" / "mask.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), grid.affine_mm), path)
    raw = gzip.decompress(path.read_bytes())
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(gzip.compress(raw[:500]))
    elif kind == "giant":
        path.write_bytes(gzip.compress(raw[:40] + struct.pack("<8h", 7, *([32767] * 7)) + raw[56:]))
    elif kind == "bomb":
        path.write_bytes(gzip.compress(raw + bytes(300_000_000), 1))
    elif kind == "text":
        path.write_bytes(b"not an image")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "bomb":
        read_readings(path.parent, grid)  # what lies behind the image is not read
    else:
        with pytest.raises(HqsmError):
            read_readings(path.parent, grid)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
