"""What goes to a hospital's archive has the values and the geometry of the NIfTI, and is valid DICOM."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from hqsm.data import VoxelGrid
from hqsm.dicom_out.export import export_visit, lic_map
from hqsm.lic import r2star_calibration
from hqsm.nifti import load_volume, save_volume
from hqsm.stage import write_json
from hqsm.tables import write_rows

pytest.importorskip("highdicom")
DCIODVFY = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
VISIT = {"participant_id": "sub-01", "session_id": "ses-01"}
ROW = {"r2star_per_s": 212.5, "chi_hqsm_ppm": 1.25, "pdff_percent": 6.5, "lic_r2star_mg_g": 5.9, "lic_hqsm_mg_g": float("nan")}


def oblique(direction: float) -> np.ndarray:
    """An oblique affine with thick slices; ``direction`` turns the order of the slices round."""
    a = np.deg2rad(20)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.5, -3.0, direction * 6.0])
    affine[:3, 3] = [31.5, 22.0, -40.0]
    return affine


@pytest.fixture(scope="module", params=[1.0, -1.0])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    results = tmp_path_factory.mktemp("results")
    grid = VoxelGrid(shape=(12, 10, 5), affine_mm=oblique(request.param))
    rng = np.random.default_rng(2)
    maps = {"R2starmap": rng.uniform(20, 900, grid.shape), "Chimap": rng.normal(0, 2, grid.shape), "PDFF": rng.uniform(0, 40, grid.shape)}
    maps = {name: volume.astype(np.float32) for name, volume in maps.items()}
    maps["R2starmap"][3, 4, 2] = np.nan
    liver = np.zeros(grid.shape, bool)
    liver[2:6, 3:9, 1:4] = True
    vessel = np.zeros(grid.shape, bool)
    vessel[4, 5, 2] = True
    stem = results / "maps" / "sub-01" / "ses-01" / "anat" / "sub-01_ses-01"
    for name, volume in maps.items():
        save_volume(stem.with_name(f"{stem.name}_{name}.nii.gz"), volume, grid)
    for name, mask in (("liver", liver), ("vessel", vessel)):
        save_volume(stem.with_name(f"{stem.name}_desc-{name}_mask.nii.gz"), mask, grid)
    work = results / "work" / "sub-01_ses-01"
    write_json(work / "gated_echoes.json", {"failed": False, "field_strength_tesla": 1.5, "acquisition_date": "2021-03-04"})
    write_json(work / "liver_iron.json", {"failed": False, "codes": [], "row": {**ROW, "lic_r2star_mg_g": 99.0}})
    write_json(work / "regions.json", {"failed": False, "mask_source": "reader"})
    write_rows(results / "tables" / "lic.tsv", "lic", [{**VISIT, **ROW, "qc_status": "ok"}])
    n = export_visit(results, "sub-01", "ses-01", "hernando2023", results / "dicom")
    assert n == len(list((results / "dicom").rglob("*.dcm"))) == 4 * 5 + 4 + 2
    return results, {**maps, "liver": liver, "vessel": vessel, "affine": grid.affine_mm}


def world_mm(position: list[float], orientation: list[float], spacing: list[float], i: int, j: int) -> np.ndarray:
    """RAS+ world coordinates of column i, row j of a DICOM image (PS3.3 C.7.6.2.1.1)."""
    p, o, s = (np.array(v, float) for v in (position, orientation, spacing))
    return np.array([-1, -1, 1]) * (p + o[:3] * s[1] * i + o[3:] * s[0] * j)


@pytest.mark.parametrize("name", ["R2starmap", "Chimap", "PDFF", "LIC"])
def test_a_secondary_series_has_values_and_places_of_the_nifti(exported: tuple[Path, dict[str, Any]], name: str) -> None:
    results, truth = exported
    files = sorted((results / "dicom" / "mr" / name).glob("*.dcm"))
    assert len(files) == 5
    wanted_values = truth[name] if name != "LIC" else 0.02603 * truth["R2starmap"] - 0.16  # Hernando 2023 at 1.5 T
    for k, file in enumerate(files):
        image = pydicom.dcmread(file)
        values = image.pixel_array * float(image.RescaleSlope)
        for i, j in ((0, 0), (7, 2), (11, 9)):
            wanted = (truth["affine"] @ [i, j, k, 1])[:3]
            found = world_mm(image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing, i, j)
            np.testing.assert_allclose(found, wanted, atol=1e-4)
            np.testing.assert_allclose(values[j, i], wanted_values[i, j, k], atol=float(image.RescaleSlope))
        assert float(image.RescaleSlope) < 2e-4 * np.nanmax(np.abs(wanted_values))  # 16 bits are used
        unit = {"R2starmap": "R2* [/s]", "Chimap": "Magnetic Susceptibility [ppm]", "PDFF": "Fat fraction [%]"}
        assert image.SeriesDescription == unit.get(name, "Liver Iron Concentration by R2* [mg/g]")
    if name == "R2starmap":
        image = pydicom.dcmread(files[2])
        assert image.pixel_array[4, 3] == image.PixelPaddingValue


@pytest.mark.parametrize("name", ["R2starmap", "Chimap", "PDFF", "LIC"])
def test_a_parametric_map_has_values_and_places_of_the_nifti(exported: tuple[Path, dict[str, Any]], name: str) -> None:
    results, truth = exported
    made = pydicom.dcmread(results / "dicom" / "pm" / f"{name}.dcm")
    frames = np.frombuffer(made.FloatPixelData, np.float32).reshape(int(made.NumberOfFrames), made.Rows, made.Columns)
    wanted = truth.get(name)
    if name == "LIC":
        calibration = r2star_calibration("hernando2023", 1.5)
        assert calibration is not None
        wanted = calibration.slope * truth["R2starmap"] + calibration.intercept
    shared = made.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    to_voxel = np.linalg.inv(truth["affine"])
    for frame, group in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        for i, j in ((0, 0), (7, 2), (3, 4)):
            voxel = to_voxel @ [*world_mm(position, orientation, spacing, i, j), 1]
            at = tuple(np.rint(voxel[:3]).astype(int))
            np.testing.assert_allclose(voxel[:3], at, atol=1e-3)
            np.testing.assert_allclose(frame[j, i], wanted[at], rtol=1e-5)
    unit = (
        made.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence")
        or made.PerFrameFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    )
    assert unit[0].MeasurementUnitsCodeSequence[0].CodeValue == {"R2starmap": "/s", "Chimap": "[ppm]", "PDFF": "%", "LIC": "mg/g"}[name]


def test_the_segmentation_is_the_mask(exported: tuple[Path, dict[str, Any]]) -> None:
    results, truth = exported
    made = pydicom.dcmread(results / "dicom" / "seg.dcm")
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in made.SegmentSequence}
    assert set(names.values()) == {"liver", "vessel"}
    assert {s.SegmentAlgorithmType for s in made.SegmentSequence} == {"MANUAL"}  # a reader drew it
    found = {name: np.zeros_like(truth["liver"]) for name in names.values()}
    shared = made.SharedFunctionalGroupsSequence[0]
    to_voxel = np.linalg.inv(truth["affine"])
    for frame, group in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        k = int(np.rint((to_voxel @ [*world_mm(position, orientation, [1, 1], 0, 0), 1])[2]))
        found[names[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]][:, :, k] = frame.T
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, truth[name])


def test_the_report_holds_the_visits_numbers_and_leaves_out_what_is_missing(exported: tuple[Path, dict[str, Any]]) -> None:
    results, _ = exported
    report = pydicom.dcmread(results / "dicom" / "sr.dcm")
    found: dict[str, float] = {}

    def walk(items: Any) -> None:
        for item in items:
            if item.get("ValueType") == "NUM":
                found[item.ConceptNameCodeSequence[0].CodeValue] = float(item.MeasuredValueSequence[0].NumericValue)
            walk(item.get("ContentSequence", []))

    walk(report.ContentSequence)
    assert found == {"126395": 212.5, "126396": 1.25, "129100": 6.5, "LIC": 5.9}


def test_what_the_study_withholds_no_archive_gets(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(exported[0], results)
    write_rows(results / "tables" / "lic.tsv", "lic", [{**VISIT, **ROW, "qc_status": "excluded"}])
    write_json(results / "work" / "sub-01_ses-01" / "liver_iron.json", {"failed": False, "codes": ["LIC_R2STAR_CONFOUNDED"]})
    export_visit(results, "sub-01", "ses-01", "hernando2023", results / "dicom")
    assert not (results / "dicom" / "sr.dcm").exists()
    assert sorted(path.stem for path in (results / "dicom" / "pm").glob("*.dcm")) == ["Chimap", "PDFF", "R2starmap"]


def everything(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.rglob("*.dcm"))]


def elements(dataset: pydicom.Dataset) -> Iterator[pydicom.DataElement]:
    for element in dataset:
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from elements(item)


def test_every_object_has_an_identity_of_its_own_and_points_to_objects_of_its_visit(exported: tuple[Path, dict[str, Any]]) -> None:
    results, _ = exported
    made = everything(results / "dicom")
    own = [str(image.SOPInstanceUID) for image in made]
    assert len(set(own)) == len(made) == 26
    assert all(image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID for image in made)
    assert len({image.StudyInstanceUID for image in made}) == 1
    assert len({image.FrameOfReferenceUID for image in made if "FrameOfReferenceUID" in image}) == 1
    series = {(image.SeriesInstanceUID, image.SeriesNumber) for image in made}
    assert len(series) == len({uid for uid, _ in series}) == len({number for _, number in series}) == 4 + 4 + 2
    referenced = {str(e.value) for image in made for e in elements(image) if e.keyword == "ReferencedSOPInstanceUID"}
    assert referenced
    assert referenced <= set(own)
    segments, report = pydicom.dcmread(results / "dicom" / "seg.dcm"), pydicom.dcmread(results / "dicom" / "sr.dcm")
    number = {str(s.SegmentLabel): int(s.SegmentNumber) for s in segments.SegmentSequence}
    pointed = [e.value for e in elements(report) if e.keyword == "ReferencedSegmentNumber"]
    assert {int(v) for v in pointed} == {number["liver"]}  # the numbers are those of the liver
    assert segments.SOPInstanceUID in {e.value for e in elements(report) if e.keyword == "ReferencedSOPInstanceUID"}


def test_two_visits_share_no_identity_but_the_persons_label(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(exported[0], results)
    for old in sorted(results.rglob("*ses-01*"), key=lambda path: -len(path.parts)):
        old.rename(old.with_name(old.name.replace("ses-01", "ses-02")))
    later = {**VISIT, "session_id": "ses-02"}
    write_rows(
        results / "tables" / "lic.tsv",
        "lic",
        [{**VISIT, **ROW, "qc_status": "ok"}, {**later, **ROW, "r2star_per_s": 99.5, "qc_status": "ok"}],
    )
    assert export_visit(results, "sub-01", "ses-02", "hernando2023", tmp_path / "second") == 26
    first, second = everything(exported[0] / "dicom"), everything(tmp_path / "second")
    instances = [{e.value for image in made for e in elements(image) if e.keyword.endswith("InstanceUID")} for made in (first, second)]
    assert not instances[0] & instances[1]
    assert not {image.get("FrameOfReferenceUID", 1) for image in first} & {image.get("FrameOfReferenceUID", 2) for image in second}
    assert {image.PatientID for image in [*first, *second]} == {"sub-01"}
    numbers = {float(e.value) for e in elements(pydicom.dcmread(tmp_path / "second" / "sr.dcm")) if e.keyword == "NumericValue"}
    assert 99.5 in numbers  # of its own row
    assert 212.5 not in numbers


def test_an_object_has_no_date_but_the_visits_and_no_name_but_its_label(exported: tuple[Path, dict[str, Any]]) -> None:
    for image in everything(exported[0] / "dicom"):
        found = list(elements(image))
        assert {str(e.value) for e in found if e.VR == "DA"} - {""} == {"20210304"}
        assert {str(e.value)[:8] for e in found if e.VR == "DT"} <= {"20210304"}
        assert {float(e.value) for e in found if e.VR == "TM" and e.value} <= {0.0}
        assert {str(e.value).strip("^") for e in found if e.VR == "PN"} - {""} <= {"sub-01"}
        assert image.PatientIdentityRemoved == "YES"
        assert not image.PatientBirthDate
        assert not image.AccessionNumber


def test_a_mask_that_nobody_drew_is_called_automatic_and_one_visit_without_a_liver_gives_its_maps(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.copytree(exported[0], results)
    write_json(results / "work" / "sub-01_ses-01" / "regions.json", {"failed": False, "mask_source": "automatic"})
    export_visit(results, "sub-01", "ses-01", "hernando2023", results / "dicom")
    made = pydicom.dcmread(results / "dicom" / "seg.dcm")
    assert {s.SegmentAlgorithmType for s in made.SegmentSequence} == {"AUTOMATIC"}
    liver = results / "maps" / "sub-01" / "ses-01" / "anat" / "sub-01_ses-01_desc-liver_mask.nii.gz"
    mask, grid = load_volume(liver)
    save_volume(liver, np.zeros(mask.shape, bool), grid)
    export_visit(results, "sub-01", "ses-01", "hernando2023", results / "dicom")
    assert {path.name for path in (results / "dicom").glob("*")} == {"mr", "pm"}


def test_a_voxel_beyond_the_calibrations_range_has_no_lic() -> None:
    calibration = r2star_calibration("dassignies2018", 3.0)
    assert calibration is not None
    lic_mg_g = lic_map(calibration, np.array([100.0, 400.0, 450.0, np.nan], np.float32))
    np.testing.assert_allclose(lic_mg_g, [1.7, 6.962, np.nan, np.nan], rtol=1e-5)


def test_the_same_results_give_the_same_bytes(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results, _ = exported
    export_visit(results, "sub-01", "ses-01", "hernando2023", tmp_path / "again")
    for file in sorted((results / "dicom").rglob("*.dcm")):
        assert (tmp_path / "again" / file.relative_to(results / "dicom")).read_bytes() == file.read_bytes(), file.name


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy is not installed (dicom3tools)")
def test_dciodvfy_finds_no_error(exported: tuple[Path, dict[str, Any]]) -> None:
    results, _ = exported
    assert DCIODVFY
    files = [
        next((results / "dicom" / "mr" / "R2starmap").glob("*.dcm")),
        *(results / "dicom").glob("*.dcm"),
        *(results / "dicom" / "pm").glob("*.dcm"),
    ]
    assert len(files) == 7
    for file in files:
        said = subprocess.run([DCIODVFY, "-new", str(file)], capture_output=True, text=True, check=False).stderr
        assert [line for line in said.splitlines() if line.startswith("Error")] == [], f"{file.name}: {said}"


def test_a_rejected_visit_gives_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work" / "sub-01_ses-01"
    for stage in ("gated_echoes", "liver_iron", "regions"):
        write_json(work / f"{stage}.json", {"failed": True, "code": "X", "reason": "y"})
    assert export_visit(tmp_path, "sub-01", "ses-01", "hernando2023", tmp_path / "dicom") == 0
