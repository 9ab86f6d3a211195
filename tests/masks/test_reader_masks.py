"""Readers' masks from each format: the same voxels, whatever the order of the axes; anything else refused in words."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel import orientations
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from conftest import make_grid
from hqsm.data import VoxelGrid
from hqsm.errors import InputError
from hqsm.masks import read_readings, reader_of

SHAPE = (24, 20, 12)


@pytest.fixture(params=["axial", "anisotropic", "oblique", "coronal"])
def grid(request: pytest.FixtureRequest) -> VoxelGrid:
    return make_grid(request.param, SHAPE)


@pytest.fixture
def drawn() -> np.ndarray:
    """Two labels without any symmetry."""
    labels = np.zeros(SHAPE, np.int16)
    labels[4:14, 6:15, 3:9] = 1
    labels[4:7, 6:9, 3:5] = 2
    return labels


def write_nifti(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


def write_names(path: Path) -> None:
    path.write_text("index\tname\n1\tliver\n2\tvessel\n", encoding="utf-8")


def check(found: dict[str, dict[str, np.ndarray]], drawn: np.ndarray, reader: str = "reader") -> None:
    assert set(found) == {reader}
    assert set(found[reader]) == {"liver", "vessel"}
    np.testing.assert_array_equal(found[reader]["liver"], drawn == 1)
    np.testing.assert_array_equal(found[reader]["vessel"], drawn == 2)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "IAL"])
def test_a_label_map_is_the_same_in_every_order_of_its_axes(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray, axes: str) -> None:
    image = nib.Nifti1Image(drawn, grid.affine_mm)
    turn = orientations.ornt_transform(nib.io_orientation(grid.affine_mm), orientations.axcodes2ornt(axes))
    nib.save(image.as_reoriented(turn), tmp_path / "mask.nii.gz")
    write_names(tmp_path / "labels.tsv")
    check(read_readings(tmp_path, grid), drawn)


def test_no_folder_is_no_reader(tmp_path: Path, grid: VoxelGrid) -> None:
    assert read_readings(tmp_path / "none", grid) == {}


def test_a_map_without_names_is_the_liver(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    write_nifti(tmp_path / "liver.nii", (drawn > 0).astype(np.uint8), grid.affine_mm)
    np.testing.assert_array_equal(read_readings(tmp_path, grid)["reader"]["liver"], drawn > 0)


@pytest.mark.parametrize("shift_mm", [0.2, 1.0, 30.0])
def test_a_shifted_grid_is_refused(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray, shift_mm: float) -> None:
    affine = np.array(grid.affine_mm)
    affine[0, 3] += shift_mm
    if shift_mm == 30.0:  # whole voxels: the lattice fits, what was drawn does not
        drawn = np.roll(drawn, 10, axis=0)
    write_nifti(tmp_path / "liver.nii.gz", np.minimum(drawn, 1), affine)
    with pytest.raises(InputError) as caught:
        read_readings(tmp_path, grid)
    assert caught.value.code == "MASK_GRID"


def test_rounding_of_the_header_is_no_other_grid(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    affine = np.array(grid.affine_mm)
    affine[:3, 3] += 0.004
    write_nifti(tmp_path / "liver.nii.gz", np.minimum(drawn, 1), affine)
    np.testing.assert_array_equal(read_readings(tmp_path, grid)["reader"]["liver"], drawn > 0)


def test_another_resolution_is_refused_and_taken_by_the_nearest_voxel_when_asked(tmp_path: Path, grid: VoxelGrid) -> None:
    fine = np.array(grid.affine_mm)
    fine[:3, :3] /= 2
    fine[:3, 3] = (grid.affine_mm @ [-0.25, -0.25, -0.25, 1])[:3]
    coarse = np.zeros(SHAPE, bool)
    coarse[5:15, 5:15, 3:9] = True
    write_nifti(tmp_path / "liver.nii.gz", np.kron(coarse, np.ones((2, 2, 2))).astype(np.uint8), fine)
    with pytest.raises(InputError, match="resample_reader_masks"):
        read_readings(tmp_path, grid)
    np.testing.assert_array_equal(read_readings(tmp_path, grid, resample=True)["reader"]["liver"], coarse)


def test_the_labels_have_names_and_a_slip_is_named(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    write_nifti(tmp_path / "mask.nii.gz", drawn, grid.affine_mm)
    (tmp_path / "labels.tsv").write_text("index\tname\n1\tSegment VIII\n2\tspleen\n", encoding="utf-8")
    assert set(read_readings(tmp_path, grid)["reader"]) == {"segment-8"}
    (tmp_path / "labels.tsv").write_text("index\tname\n1\tlivr\n2\tspleen\n", encoding="utf-8")
    with pytest.raises(InputError, match="Did you mean liver"):
        read_readings(tmp_path, grid)
    (tmp_path / "labels.tsv").write_text("index\tname\n1\tspleen\n2\tkidney\n", encoding="utf-8")
    with pytest.raises(InputError, match="no label that is known"):
        read_readings(tmp_path, grid)
    (tmp_path / "labels.tsv").write_text("index\tname\n1\tliver\n", encoding="utf-8")
    with pytest.raises(InputError, match="label 2"):
        read_readings(tmp_path, grid)


def test_several_readers_are_told_apart_and_one_label_comes_once(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    write_nifti(tmp_path / "reader-A_liver.nii.gz", np.minimum(drawn, 1), grid.affine_mm)
    write_nifti(tmp_path / "reader-B" / "liver.nii.gz", (drawn == 1).astype(np.uint8), grid.affine_mm)
    write_nifti(tmp_path / "reader-A_reading-2_liver.nii.gz", (drawn == 2).astype(np.uint8), grid.affine_mm)
    found = read_readings(tmp_path, grid)
    assert set(found) == {"A", "A.2", "B"}
    np.testing.assert_array_equal(found["B"]["liver"], drawn == 1)
    write_nifti(tmp_path / "reader-A_again.nii.gz", np.minimum(drawn, 1), grid.affine_mm)
    with pytest.raises(InputError) as caught:
        read_readings(tmp_path, grid)
    assert caught.value.code == "MASK_MANY"


def test_a_readers_name_comes_from_the_path() -> None:
    assert reader_of(Path("liver.nii.gz")) == "reader"
    assert reader_of(Path("reader-KL/liver.nii.gz")) == "KL"
    assert reader_of(Path("x_reader-2_reading-1.seg.nrrd")) == "2"


def test_a_sphere_has_its_volume_and_its_place(tmp_path: Path, grid: VoxelGrid) -> None:
    centre = (grid.affine_mm @ [12, 10, 6, 1])[:3]
    x, y, z = centre
    (tmp_path / "rois.csv").write_text(f"x_mm,y_mm,z_mm,radius_mm,label\n{x},{y},{z},9,segment 6\n", encoding="utf-8")
    mask = read_readings(tmp_path, grid)["reader"]["segment-6"]
    assert mask.sum() * grid.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.15)
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [12, 10, 6], atol=1e-6)
    (tmp_path / "rois.csv").write_text(f"x_mm,y_mm,z_mm,radius_mm,coordinates\n{-x},{-y},{z},9,LPS\n", encoding="utf-8")
    np.testing.assert_array_equal(read_readings(tmp_path, grid)["reader"]["liver-roi"], mask)
    (tmp_path / "rois.csv").write_text("x_mm,y_mm,z_mm,radius_mm\n500,0,0,9\n", encoding="utf-8")
    with pytest.raises(InputError, match="no voxel of the scan"):
        read_readings(tmp_path, grid)


def segmentation(drawn: np.ndarray, grid: VoxelGrid, *, fractional: bool = False) -> FileDataset:
    """A DICOM segmentation written by hand: frames of empty slices left out, slices from the head down."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    made = FileDataset("seg", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "SEG"
    lps = np.diag([-1.0, -1.0, 1.0]) @ grid.affine_mm[:3]
    axes, size = lps[:, :3] / grid.voxel_size_mm, grid.voxel_size_mm
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
    measures.PixelSpacing, measures.SpacingBetweenSlices = [float(size[1]), float(size[0])], float(size[2])
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.SegmentSequence, frames, pixels = Sequence(), [], []
    for number, name in ((1, "Liver"), (2, "Hepatic vessels")):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        made.SegmentSequence.append(segment)
        for k in range(drawn.shape[2] - 1, -1, -1):
            plane = drawn[:, :, k] == number
            if plane.any():
                position, identity, frame = Dataset(), Dataset(), Dataset()
                position.ImagePositionPatient = [float(v) for v in lps @ [0, 0, k, 1]]
                identity.ReferencedSegmentNumber = number
                frame.PlanePositionSequence, frame.SegmentIdentificationSequence = Sequence([position]), Sequence([identity])
                frames.append(frame)
                pixels.append(plane.T)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    made.NumberOfFrames, made.Rows, made.Columns = len(frames), drawn.shape[1], drawn.shape[0]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    stack = np.stack(pixels)
    if fractional:
        made.SegmentationType, made.MaximumFractionalValue = "FRACTIONAL", 200
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit = 7
        data = np.where(stack, 150, 60).astype(np.uint8).tobytes()
    else:
        made.SegmentationType = "BINARY"
        made.BitsAllocated = made.BitsStored = 1
        made.HighBit = 0
        data = np.packbits(stack.ravel(), bitorder="little").tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    return made


@pytest.mark.parametrize("fractional", [False, True])
def test_a_dicom_segmentation_lies_where_it_was_drawn(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray, fractional: bool) -> None:
    segmentation(drawn, grid, fractional=fractional).save_as(tmp_path / "reader-A.dcm", enforce_file_format=True)
    check(read_readings(tmp_path, grid), drawn, "A")


def test_a_finer_segmentation_whose_centres_meet_the_scans_is_still_another_grid(tmp_path: Path, grid: VoxelGrid) -> None:
    """Three fine voxels for each of the scan's: every centre of the scan is one of the file's."""
    fine = np.array(grid.affine_mm)
    fine[:3, :3] /= 3
    fine_grid = VoxelGrid(shape=(30, 30, 30), affine_mm=fine)
    drawn = np.zeros((30, 30, 30), np.int16)
    drawn[6:24, 6:24, 6:24] = 1
    segmentation(drawn, fine_grid).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    with pytest.raises(InputError) as caught:
        read_readings(tmp_path, grid)
    assert caught.value.code == "MASK_GRID"


def test_a_segmentation_by_an_independent_library_lies_where_it_was_drawn(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes
    from pydicom.uid import MRImageStorage

    lps = np.diag([-1.0, -1.0, 1.0]) @ grid.affine_mm[:3]
    axes, size = lps[:, :3] / grid.voxel_size_mm, grid.voxel_size_mm
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    sources = []
    for k in range(SHAPE[2]):
        source = Dataset()
        source.file_meta = FileMetaDataset()
        source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        source.SOPClassUID, source.SOPInstanceUID, source.Modality = MRImageStorage, generate_uid(), "MR"
        source.StudyInstanceUID, source.SeriesInstanceUID, source.FrameOfReferenceUID = study, series, frame
        source.PatientID, source.PatientName, source.PatientBirthDate, source.PatientSex = "x", "x^", "", ""
        source.StudyID, source.AccessionNumber, source.ReferringPhysicianName = "1", "", ""
        source.StudyDate, source.StudyTime, source.SeriesNumber, source.InstanceNumber = "", "", 1, k + 1
        source.Rows, source.Columns, source.PixelSpacing = SHAPE[1], SHAPE[0], [float(size[1]), float(size[0])]
        source.SliceThickness, source.SpacingBetweenSlices = float(size[2]), float(size[2])
        source.ImageOrientationPatient = [*axes[:, 0], *axes[:, 1]]
        source.ImagePositionPatient = [float(v) for v in lps @ [0, 0, k, 1]]
        sources.append(source)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in ((1, "liver"), (2, "vessels"))
    ]
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.ascontiguousarray(np.transpose(drawn, (2, 1, 0))).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )
    made.save_as(tmp_path / "seg.dcm")
    check(read_readings(tmp_path, grid), drawn)


def test_dicom_that_is_no_segmentation_is_left_alone(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    made = segmentation(drawn, grid)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    made.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    (tmp_path / "README").write_text("drawn on a Tuesday", encoding="utf-8")
    assert read_readings(tmp_path, grid) == {}
    assert pydicom.dcmread(tmp_path / "image.dcm").Modality == "SEG"


def structure_set(drawn: np.ndarray, grid: VoxelGrid, *, lift_voxels: float = 0.0, kind: str = "CLOSED_PLANAR") -> FileDataset:
    """A structure set: the outline of each label's rectangle on each slice, half a voxel outside its voxels' centres."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    made = FileDataset("rt", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "RTSTRUCT"
    made.StructureSetROISequence, made.ROIContourSequence = Sequence(), Sequence()
    lps = np.diag([-1.0, -1.0, 1.0]) @ grid.affine_mm[:3]
    for number, name in ((1, "Liver"), (2, "vessels"), (3, "Kidney")):
        named, region = Dataset(), Dataset()
        named.ROINumber, named.ROIName, region.ReferencedROINumber, region.ContourSequence = number, name, number, Sequence()
        made.StructureSetROISequence.append(named)
        made.ROIContourSequence.append(region)
        for k in range(drawn.shape[2]):
            # the vessel lies in the liver: the liver's contours are its box and, cut out of it, the vessel's
            for value in {1: (1, 2), 2: (2,), 3: ()}[number]:
                places = np.argwhere((drawn[:, :, k] > 0) if value == 1 else (drawn[:, :, k] == value))
                if not len(places):
                    continue
                (i0, j0), (i1, j1) = places.min(axis=0) - 0.5, places.max(axis=0) + 0.5
                corners = np.array([[i0, j0], [i1, j0], [i1, j1], [i0, j1]])
                contour = Dataset()
                world = np.column_stack([corners, np.full(4, k + lift_voxels), np.ones(4)]) @ lps.T
                contour.ContourGeometricType, contour.NumberOfContourPoints = kind, 4
                contour.ContourData = [f"{v:.4f}" for v in world.ravel()]
                region.ContourSequence.append(contour)
    return made


def test_contours_are_filled_where_they_were_drawn_with_their_holes(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    structure_set(drawn, grid).save_as(tmp_path / "reader-A.dcm", enforce_file_format=True)
    check(read_readings(tmp_path, grid), drawn, "A")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"lift_voxels": 0.4}, "do not lie on the scan's slices"),
        ({"lift_voxels": 40.0}, "outside the scan"),
        ({"kind": "POINT"}, "not closed and planar"),
    ],
)
def test_contours_of_another_scan_are_refused(
    tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray, fault: dict[str, object], words: str
) -> None:
    structure_set(drawn, grid, **fault).save_as(tmp_path / "rt.dcm", enforce_file_format=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words) as caught:
        read_readings(tmp_path, grid)
    assert caught.value.code == "MASK_FILE"


def write_slicer(path: Path, labels: np.ndarray, grid: VoxelGrid, first: tuple[int, int, int]) -> None:
    """As 3D Slicer saves: LPS, cropped to the box with something in it, a vessel overlapping in a second layer."""
    nrrd = pytest.importorskip("nrrd")
    lps = np.diag([-1.0, -1.0, 1.0]) @ grid.affine_mm[:3]
    layers = np.stack([labels == 1, labels == 2]).astype(np.uint8)
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([[np.nan] * 3, lps[:, :3].T]),
        "space origin": lps @ [*first, 1],
        "Segment0_Name": "Liver",
        "Segment0_Layer": "0",
        "Segment0_LabelValue": "1",
        "Segment1_Name": "Vessels",
        "Segment1_Layer": "1",
        "Segment1_LabelValue": "1",
    }
    nrrd.write(str(path), layers, header, index_order="F")


def test_a_slicer_segmentation_lies_where_it_was_drawn(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    write_slicer(tmp_path / "s.seg.nrrd", drawn[4:15, 5:16, 2:10], grid, (4, 5, 2))
    check(read_readings(tmp_path, grid), drawn)


def test_a_segmentation_that_points_to_another_file_is_refused(tmp_path: Path, grid: VoxelGrid, drawn: np.ndarray) -> None:
    write_slicer(tmp_path / "s.seg.nrrd", drawn, grid, (0, 0, 0))
    path = tmp_path / "s.seg.nrrd"
    head, _ = path.read_bytes().split(b"\n\n", 1)
    path.write_bytes(head + b"\ndata file: /etc/hostname\n\n")
    with pytest.raises(InputError, match="another data file"):
        read_readings(tmp_path, grid)


def test_without_its_library_a_format_is_refused_in_words(tmp_path: Path, grid: VoxelGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nrrd", None)
    (tmp_path / "s.seg.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(InputError, match="pip install pynrrd"):
        read_readings(tmp_path, grid)


@pytest.mark.parametrize("name", ["liver.nii.gz", "s.seg.nrrd"])
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, grid: VoxelGrid, name: str) -> None:
    if name.endswith("nrrd"):
        pytest.importorskip("nrrd")
    (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(InputError) as caught:
        read_readings(tmp_path, grid)
    assert caught.value.code == "MASK_FILE"
