"""Geometry and values, voxel by voxel in world coordinates, against dcm2niix."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from conftest import unpack
from dicom_scans import scan
from hqsm.config.dicom import DicomParams
from hqsm.data import RepeatedMultiEcho, VoxelGrid
from hqsm.dicom.arrangement import Acquisition, grid_of
from hqsm.dicom.files import look_through, read_pixels
from hqsm.dicom.frames import frames_of, slice_normal
from hqsm.dicom.reader import read_visit
from hqsm.phantom.dicom_writer import write_scan

PROGRAM = shutil.which("dcm2niix") or shutil.which(str(Path(sys.executable).with_name("dcm2niix")))
needs_dcm2niix = pytest.mark.skipif(PROGRAM is None, reason="dcm2niix is not installed (the test extra holds it)")


def converted(folder: Path, out: Path) -> dict[str, nib.Nifti1Image]:
    """What dcm2niix makes of a folder, by the end of its name (`e1`, `e2_ph`, `e1_real` ...)."""
    out.mkdir()
    assert PROGRAM is not None
    subprocess.run([PROGRAM, "-z", "n", "-b", "n", "-f", "%s", "-o", str(out), str(folder)], check=True, capture_output=True)
    return {path.stem.partition("_")[2]: nib.load(path) for path in out.glob("*.nii")}


def on_our_grid(image: nib.Nifti1Image, grid: VoxelGrid) -> np.ndarray:
    """The other program's voxels at the world coordinates of ours; fails unless each has one exactly."""
    values = np.asarray(image.dataobj)
    values = values if values.ndim == 3 else values[..., 0]
    between = np.linalg.inv(image.affine) @ grid.affine_mm  # our voxel index to theirs
    turn, shift = np.round(between[:3, :3]).astype(int), np.round(between[:3, 3]).astype(int)
    np.testing.assert_allclose(between[:3, :3], turn, atol=2e-4)
    np.testing.assert_allclose(between[:3, 3], shift, atol=2e-2)
    assert (np.abs(turn).sum(axis=0) == 1).all()
    index = np.einsum("ab,bxyz->axyz", turn, np.indices(grid.shape)) + shift[:, None, None, None]
    assert sorted(values.shape) == sorted(grid.shape)
    assert all(index[k].min() == 0 and index[k].max() == values.shape[k] - 1 for k in range(3))
    return values[tuple(index)]


def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal up to one constant factor."""
    factor = np.median(ours[theirs != 0] / theirs[theirs != 0])
    np.testing.assert_allclose(ours, factor * theirs, atol=2e-4 * np.abs(ours).max())


@needs_dcm2niix
@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["siemens_e11_gre_6echo_magphase_dicom", "ukat_ge_mr750_b0_3d_2echo_dicom", "philips_classic_2echo_magphase_dicom"]
)
def test_every_voxel_of_real_dicom_lies_where_dcm2niix_puts_it(real_data_dir: Path, tmp_path: Path, name: str) -> None:
    unpack(real_data_dir / name / "dicom.tar.xz", tmp_path / "in")
    echoes = read_visit(tmp_path / "in", DicomParams()).echoes
    made = converted(tmp_path / "in", tmp_path / "out")
    for k in range(echoes.signal.shape[3]):
        signal = echoes.signal[..., k, 0]
        if f"e{k + 1}_real" in made:  # GE: dcm2niix leaves the vendor's sign and the alternation of the slices
            for end, values in (("real", signal.real), ("imaginary", signal.imag)):
                agree(np.abs(values), np.abs(on_our_grid(made[f"e{k + 1}_{end}"], echoes.grid).astype(float)))
        else:
            agree(np.abs(signal), on_our_grid(made[f"e{k + 1}"], echoes.grid).astype(float))
            stored = on_our_grid(made[f"e{k + 1}_ph"], echoes.grid).astype(float)
            turn = 2 * np.pi if name.startswith("philips") else 4096  # this dcm2niix writes rad for Philips, steps for Siemens
            difference = np.exp(1j * stored * 2 * np.pi / turn) * np.exp(-1j * np.angle(signal))
            inside = np.abs(signal) > 0
            np.testing.assert_allclose(difference[inside] / difference[inside].mean(), 1, atol=3e-3)


def plane(name: str) -> np.ndarray:
    """Columns: the voxel axes of an acquisition, in RAS+."""
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    stored = {
        "axial": np.diag([-1, -1, 1]),
        "sagittal": np.array([[0, 0, -1], [-1, 0, 0], [0, -1, 0]]),
        "coronal": np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    }
    return tilt @ stored["axial"] if name == "double oblique" else stored[name].astype(float)


@needs_dcm2niix
@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal", "double oblique"])
@pytest.mark.parametrize("reversed_slices", [False, True])
def test_slabs_of_every_plane_with_gaps_lie_where_dcm2niix_puts_them(tmp_path: Path, name: str, reversed_slices: bool) -> None:
    made = scan()
    affine = np.eye(4)
    affine[:3, :3] = plane(name) * np.array([1.5, 2.0, 5.0]) * np.array([1, 1, -1 if reversed_slices else 1])
    affine[:3, 3] = [-31.5, 12.25, 44.0]
    grid = VoxelGrid(shape=made.grid.shape, affine_mm=affine)
    one = RepeatedMultiEcho(
        signal=made.signal[..., :1],
        echo_times_s=made.echo_times_s,
        field_strength_tesla=1.5,
        grid=grid,
        repetition_times_of_day_s=made.repetition_times_of_day_s[:1],
    )
    write_scan(tmp_path / "in", one, vendor="siemens", identity="0001_01", date="20210301")
    read = read_visit(tmp_path / "in", DicomParams()).echoes
    theirs = converted(tmp_path / "in", tmp_path / "out")
    for k in range(3):
        agree(np.abs(read.signal[..., k, 0]), on_our_grid(theirs[f"e{k + 1}"], read.grid).astype(float))
    corners = np.array([[0, 0, 0, 1], [9, 0, 0, 1], [0, 7, 0, 1], [0, 0, 5, 1], [9, 7, 5, 1]])
    for corner in corners:  # and where the scan was made
        index = np.linalg.inv(read.grid.affine_mm) @ affine @ corner
        np.testing.assert_allclose(index, np.round(index), atol=1e-3)
        here = tuple(np.round(index[:3]).astype(int))
        ratio = np.abs(read.signal[here][:, 0]) / np.abs(one.signal[tuple(corner[:3])][:, 0])
        np.testing.assert_allclose(ratio, np.abs(read.signal).max() / np.abs(one.signal).max(), rtol=0.02)


def test_thickness_and_the_stated_distance_of_slices_are_not_believed(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    for path in tmp_path.rglob("I*"):
        image = pydicom.dcmread(path)
        image.SliceThickness, image.SpacingBetweenSlices = "7", "9"
        image.save_as(path)
    grid = read_visit(tmp_path, DicomParams()).echoes.grid
    assert grid.matches(scan().grid, 1e-3)


@needs_dcm2niix
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "parts"),
    [("philips_enh_fieldmap_hz_dicom", ["magnitude"]), ("vendor_id_negatives/uih_umr770_t1_gre_single_echo.dcm", ["magnitude"])],
)
def test_single_echo_images_of_real_sets_would_lie_where_dcm2niix_puts_them(
    real_data_dir: Path, tmp_path: Path, name: str, parts: list[str]
) -> None:
    """These are refused as visits, for they have one echo; their slices are placed all the same."""
    (tmp_path / "in").mkdir()
    source = real_data_dir / name
    for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
        shutil.copy(path, tmp_path / "in")
    content = look_through(tmp_path / "in", DicomParams())
    frames, _ = frames_of(content.images)
    assert sorted({frame.part for frame in frames}) == parts
    normal = slice_normal(frames[0])
    ordered = sorted(frames, key=lambda frame: float(np.dot(frame.position_mm, normal)))
    acquisition = Acquisition(
        table={(k, 0, 0, "magnitude"): frame for k, frame in enumerate(ordered)},
        parts=("magnitude", "phase"),
        echo_times_s=np.array([frames[0].echo_time_s]),
        positions_mm=np.array([float(np.dot(frame.position_mm, normal)) for frame in ordered]),
        n_repetitions=1,
        aside=[],
        notes=(),
    )
    grid = grid_of(acquisition)
    volume = np.stack([read_pixels(frame.file)[frame.index].T.astype(float) for frame in ordered], axis=2)
    theirs = [image for end, image in converted(tmp_path / "in", tmp_path / "out").items() if "fieldmap" not in end]
    assert len(theirs) == 1
    agree(volume, on_our_grid(theirs[0], grid).astype(float))
