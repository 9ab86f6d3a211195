"""`hqsm inspect`: one row per series, what would be used and why not, and nobody's name."""

import re
from pathlib import Path

import pydicom
import pytest

from conftest import unpack
from dicom_scans import scan
from hqsm.cli import main
from hqsm.config.dicom import DicomParams
from hqsm.dicom.survey import COLUMNS, survey
from hqsm.phantom.dicom_writer import VENDORS, write_clutter, write_scan


def cell(row: tuple[str, ...], column: str) -> str:
    return row[COLUMNS.index(column)]


def test_every_series_has_one_row_that_says_what_is_used_and_why_the_rest_is_not(tmp_path: Path) -> None:
    write_scan(tmp_path / "x", scan(), vendor="siemens", identity="0001_01", date="20210301")
    write_clutter(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    found = survey(tmp_path, DicomParams())
    rows = {cell(row, "series"): row for row in found.rows}
    assert set(rows) == {"series 1 localizer", "series 6 liver_nav_mGRE", "series 7 liver_nav_mGRE", "series 90 T2star_map"}
    magnitude, phase = rows["series 6 liver_nav_mGRE"], rows["series 7 liver_nav_mGRE"]
    assert cell(magnitude, "use") == cell(phase, "use") == "used"
    assert (cell(magnitude, "parts"), cell(phase, "parts")) == ("magnitude", "phase")
    assert cell(magnitude, "echoes ms") == "1.2, 2.8, 4.4"
    assert (cell(magnitude, "images"), cell(magnitude, "repetitions"), cell(magnitude, "matrix")) == ("36", "2", "10 x 8 x 6")
    assert cell(magnitude, "plane") == "oblique axial"
    assert cell(rows["series 90 T2star_map"], "use").startswith("T2* or R2* map")
    assert not found.refusal
    assert {item.name for item in found.others} == {"other files", "empty files", "damaged files"}


def test_a_folder_that_cannot_be_a_visit_says_why_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path, scan(), vendor="philips", identity="0001_01", date="20210301", drop=("phase", 2))
    assert main(["inspect", str(tmp_path)]) == 1
    assert "12 of 72 images are missing: slice 1 echo 4.4 ms repetition 1 phase" in capsys.readouterr().out


def test_no_identifier_is_printed_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "CANARY_FOLDER"
    write_scan(folder, scan(), vendor="ge", identity="0001_01", date="20210301")
    for path in folder.rglob("I*"):
        image = pydicom.dcmread(path)
        image.PatientName, image.PatientID, image.PatientBirthDate = "CANARY^PHI", "MRN-CANARY-77", "19990909"
        image.SeriesDescription = "liver Canary mrn-canary-77"
        image.save_as(path)
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "series 9 liver " in shown
    for private in ("canary", "1999", "2021"):
        assert private not in shown.lower()
    assert main(["inspect", str(folder), "--identifiers"]) == 0
    assert "MRN-CANARY-77" in capsys.readouterr().out


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_text_of_any_attribute_is_printed_unless_its_words_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vendor: str
) -> None:
    """Every text of a header is somebody's name, and many attributes are added that a scanner fills with names."""
    write_scan(tmp_path / "Canary", scan(), vendor=vendor, identity="0001_01", date="20210301")
    more = "StudyDescription PerformedProcedureStepDescription ReferringPhysicianName OperatorsName InstitutionName StationName "
    more += "AccessionNumber OtherPatientIDs PatientComments ImageComments RequestingPhysician DeviceSerialNumber ContentLabel"
    for path in [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]:
        image = pydicom.dcmread(path)
        for element in list(image):
            if element.VR in {"LO", "SH", "PN", "ST", "LT", "UT", "DA"} and not element.tag.is_private:
                canary = "19990909" if element.VR == "DA" else f"{element.value} CANARY^PHI"
                element.value = canary[:16] if element.VR == "SH" else canary
        for word in more.split():
            setattr(image, word, "CANARY^PHI")
        image.private_block(0x0009, "CANARY", create=True).add_new(1, "LO", "CANARY^PHI")
        image.save_as(path.with_name(f"Canary{path.name}"))
        path.unlink()
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.lower()
    assert "repetitions   2" in shown
    for private in ("canary", "phi", "1999", r"\b0001\b"):
        assert not re.search(private, shown.replace("philips", "")), shown
    assert ("sign of the phase is assumed" in shown) == (vendor in {"canon", "uih", "siemens-xa", "neutral-enhanced"})


def test_what_is_refused_is_printed_without_a_name_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    for path in [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]:
        image = pydicom.dcmread(path)
        image.SeriesDescription, image.Manufacturer, image.ImageType = "CANARY liver", "CANARY", ["ORIGINAL", "PRIMARY", "CANARY"]
        image.save_as(path)
    assert main(["inspect", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "unknown vendor" in shown
    assert "canary" not in shown.lower()


@pytest.mark.real_data
def test_real_dicom_is_surveyed_with_the_reasons_of_what_is_not_needed(real_data_dir: Path, tmp_path: Path) -> None:
    unpack(real_data_dir / "ukat_ge_mr750_b0_3d_2echo_dicom" / "dicom.tar.xz", tmp_path)
    (row,) = survey(tmp_path, DicomParams()).rows
    assert cell(row, "use") == "used (64); not needed: real and imaginary are used (32)"
    found = survey(real_data_dir / "philips_enh_fieldmap_hz_dicom", DicomParams())
    (row,) = found.rows
    assert cell(row, "vendor") == "philips-enhanced"
    assert cell(row, "use") == "field map: not part of a complex multi-echo acquisition (32); refused (32)"
    assert "single echo time" in found.refusal
