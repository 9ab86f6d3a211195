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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_mask_that_lies_nowhere_is_refused(tmp_path: Path, value: float) -> None:
    from hqsm.masks import read_readings

    image = nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), None)
    for name in ("srow_x", "srow_y", "srow_z"):
        image.header[name] = value
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    nib.save(image, tmp_path / "liver.nii.gz")
    raw = gzip.decompress((tmp_path / "liver.nii.gz").read_bytes())
    # nibabel writes an affine of its own: put the broken one back
    (tmp_path / "liver.nii.gz").write_bytes(
        gzip.compress(raw[:252] + struct.pack("<2h", 0, 1) + raw[256:280] + struct.pack("<12f", *[value] * 12) + raw[328:])
    )
    with pytest.raises(HqsmError, match="where its voxels are"):
        read_readings(tmp_path, make_grid("axial", (8, 8, 8)))


@pytest.mark.parametrize("kind", ["bomb", "giant", "nowhere", "cut", "type"])
def test_malformed_slicer_segmentations_are_refused_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("nrrd")
    from hqsm.masks import read_readings

    grid = make_grid("axial", (8, 8, 8))
    size, directions, dtype = "8 8 8", "(-2,0,0) (0,-2,0) (0,0,2)", "uchar"
    packed = gzip.compress(b"\1" * 512 + (bytes(400_000_000) if kind == "bomb" else b""), 1)
    if kind == "giant":
        size = "60000 60000 60000"
    elif kind == "nowhere":
        directions = "(nan,0,0) (0,nan,0) (0,0,nan)"
    elif kind == "cut":
        packed = packed[: len(packed) // 2]
    elif kind == "type":
        dtype = "block"
    origin = ",".join(str(v) for v in np.diag([-1, -1, 1]) @ grid.affine_mm[:3, 3])
    header = f"NRRD0005\ntype: {dtype}\ndimension: 3\nspace: left-posterior-superior\nsizes: {size}\n"
    header += f"space directions: {directions}\nencoding: gzip\nspace origin: ({origin})\nSegment0_Name:=liver\n\n"
    (tmp_path / "s.seg.nrrd").write_bytes(header.encode() + packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "bomb":
        assert read_readings(tmp_path, grid)["reader"]["liver"].all()  # what lies behind the image is not read
    else:
        with pytest.raises(HqsmError):
            read_readings(tmp_path, grid)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
