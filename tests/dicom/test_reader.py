from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from conftest import unpack
from dicom_scans import scan
from hqsm.config.dicom import DicomParams
from hqsm.dicom.frames import iso_day
from hqsm.dicom.navigator import read_navigator_csv
from hqsm.dicom.reader import read_visit
from hqsm.errors import InputError
from hqsm.phantom.dicom_writer import VENDORS, write_clutter, write_scan

CONVENTION = {
    "siemens": "siemens-classic",
    "ge": "ge",
    "ge-phase": "ge",
    "philips": "philips-classic",
    "philips-real-imaginary": "philips-classic",
    "canon": "canon",
    "uih": "united-imaging",
    "siemens-xa": "siemens-xa",
    "philips-enhanced": "philips-enhanced",
    "neutral-enhanced": "vendor-neutral",
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_vendors_coding_comes_back_as_the_complex_signal_on_its_grid(tmp_path: Path, vendor: str) -> None:
    made = scan()
    write_scan(tmp_path / "x", made, vendor=vendor, identity="0001_01", date="20210301")
    write_clutter(tmp_path, made, vendor=vendor, identity="0001_01", date="20210301")
    read = read_visit(tmp_path, DicomParams())
    assert read.info.convention == CONVENTION[vendor]
    assert read.echoes.grid.matches(made.grid, 1e-3)
    np.testing.assert_allclose(read.echoes.echo_times_s, made.echo_times_s, atol=1e-7)
    np.testing.assert_allclose(read.echoes.repetition_times_of_day_s, made.repetition_times_of_day_s)
    assert read.echoes.field_strength_tesla == pytest.approx(1.5, abs=1e-5)
    assert (read.info.flip_angle_degrees, read.info.repetition_time_s) == (5, 0.0145)
    # one complex factor for the whole scan: every echo, slice, repetition and phase is right relative to every other
    factor = np.vdot(made.signal, read.echoes.signal) / np.vdot(made.signal, made.signal)
    np.testing.assert_allclose(read.echoes.signal, factor * made.signal, atol=1.5e-3 * np.abs(factor * made.signal).max())
    if not vendor.startswith("ge"):  # an even number of slices may come back with the sign of the other half
        assert np.angle(factor) == pytest.approx(0, abs=2e-3)
    names = " ".join(item.name for item in read.info.set_aside)
    assert "T2star_map" in names
    assert read.info.acquisition_date == "2021-03-01"
    measured = read.info.convention in {"siemens-classic", "ge", "philips-classic", "philips-enhanced"}
    ranged = {"ge-phase", "uih"}  # these have no tag for the unit
    assert any("is taken from its range" in note for note in read.info.notes) == (vendor in ranged)
    assert any("sign of the phase is assumed" in note for note in read.info.notes) != measured


def test_a_phase_that_runs_the_other_way_is_turned_where_the_study_says_so(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="canon", identity="0001_01", date="20210301")
    usual = read_visit(tmp_path, DicomParams()).echoes.signal
    turned = read_visit(tmp_path, DicomParams(reverse_phase_of=("canon",))).echoes.signal
    np.testing.assert_array_equal(turned, np.conj(usual))
    other = read_visit(tmp_path, DicomParams(reverse_phase_of=("ge",))).echoes.signal
    np.testing.assert_array_equal(other, usual)


@pytest.mark.parametrize("vendor", ["siemens-xa", "philips-enhanced"])
def test_missing_frames_of_enhanced_files_are_named(tmp_path: Path, vendor: str) -> None:
    write_scan(tmp_path, scan(), vendor=vendor, identity="0001_01", date="20210301", drop=("phase", 1))
    with pytest.raises(InputError, match=r"12 of 72 images are missing: slice 1 echo 2\.8 ms repetition 1 phase"):
        read_visit(tmp_path, DicomParams())


def regrouped(folder: Path, change: Callable[[Dataset], None]) -> None:
    """Change the functional groups of every frame of the one file there is."""
    (path,) = folder.glob("E*")
    image = pydicom.dcmread(path)
    for item in image.PerFrameFunctionalGroupsSequence:
        change(item)
    image.save_as(path)


def test_the_standards_attributes_of_a_frame_go_before_the_vendors_own_copy_of_them(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="philips-enhanced", identity="0001_01", date="20210301")
    usual = read_visit(tmp_path, DicomParams()).echoes

    def stale(item: Dataset) -> None:
        own = item.private_block(0x2005, "Philips MR Imaging DD 005")[0x0F].value[0]
        own.ImagePositionPatient, own.EchoTime, own.RescaleSlope, own.RescaleIntercept = [0, 0, 0], "99", "7", "1"

    regrouped(tmp_path, stale)
    np.testing.assert_array_equal(read_visit(tmp_path, DicomParams()).echoes.signal, usual.signal)


def test_a_file_that_was_converted_from_classic_images_has_its_attributes_in_groups_without_a_name(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="neutral-enhanced", identity="0001_01", date="20210301")
    usual = read_visit(tmp_path, DicomParams()).echoes

    def converted(item: Dataset) -> None:
        group = Dataset()
        group.EchoTime = f"{item.MREchoSequence[0].EffectiveEchoTime:.4f}"
        group.ComplexImageComponent = item.MRImageFrameTypeSequence[0].ComplexImageComponent
        group.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        del item.MREchoSequence, item.MRImageFrameTypeSequence
        item.UnassignedPerFrameConvertedAttributesSequence = [group]

    regrouped(tmp_path, converted)
    (path,) = tmp_path.glob("E*")
    image = pydicom.dcmread(path)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.4"
    image.save_as(path)
    read = read_visit(tmp_path, DicomParams())
    assert read.info.convention == "vendor-neutral"
    np.testing.assert_allclose(read.echoes.echo_times_s, usual.echo_times_s, atol=1e-7)
    np.testing.assert_array_equal(read.echoes.signal, usual.signal)


def test_missing_images_are_named(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301", drop=("phase", 1))
    with pytest.raises(InputError, match=r"12 of 72 images are missing: slice 1 echo 2\.8 ms repetition 1 phase"):
        read_visit(tmp_path, DicomParams())


def test_images_that_are_there_but_damaged_are_said_to_be(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in files[:3]:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        InputError, match=r"3 of 72 images are missing: .*3 files are damaged, empty or closed to you\. Export the visit again"
    ):
        read_visit(tmp_path, DicomParams())


def test_a_folder_without_dicom_says_so(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match="No DICOM image among 1 files"):
        read_visit(tmp_path, DicomParams())


def test_a_navigator_with_a_missing_repetition_is_refused(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    (tmp_path / "navigator.csv").write_text("repetition,displacement_mm\n1,0.2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no row for repetition 2"):
        read_visit(tmp_path, DicomParams())


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20210301", "2021-03-01"),
        ("20210301123456.5+0100", "2021-03-01"),
        ("2021.03.01", "2021-03-01"),  # ACR-NEMA
        ("2021-03-01T12:34:56", "2021-03-01"),
        *((text, "") for text in ("00000000", "20210231", "19000100", "", "2021", "XXXXXXXX", "12:34:56", "DOE^JANE")),
    ],
)
def test_a_day_is_a_day_of_the_calendar_or_none(text: str, day: str) -> None:
    assert iso_day(text) == day


def test_a_visit_whose_dates_were_blanked_or_overwritten_has_no_date_and_no_two_days(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    for k, path in enumerate(sorted(path for path in tmp_path.rglob("*") if path.is_file())):
        image = pydicom.dcmread(path)
        image.AcquisitionDate, image.SeriesDate = ("00000000", "") if k % 2 else ("", "19000100")
        image.save_as(path)
    assert read_visit(tmp_path, DicomParams()).info.acquisition_date == ""


@pytest.mark.parametrize(
    "text",
    [
        "repetition,displacement_mm\n1,0.5\n2,n/a\n",
        '\ufeff"repetition";"displacement_mm"\r\n1;0,5\r\n2;\r\n',  # as a spreadsheet of another country saves it
        "Repetition\t Displacement_mm\tcomment\n2\tNaN\tno signal\n1\t0.5\t\n\t\t\n",
    ],
)
def test_a_navigator_is_read_as_programs_and_spreadsheets_write_it_and_may_have_failed_in_a_repetition(text: str) -> None:
    np.testing.assert_array_equal(read_navigator_csv(text.encode(), 2).displacement_mm, [0.5, np.nan])


@pytest.mark.parametrize(("name", "read"), [("Navigator.CSV", True), ("navigator.csv", True), ("sub-01_navigator.csv", False)])
def test_a_navigator_is_read_whatever_its_capitals_and_one_of_another_name_is_said_to_be_unused(
    tmp_path: Path, name: str, read: bool
) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    for path in tmp_path.rglob("navigator.csv"):
        path.unlink()
    (tmp_path / name).write_text("repetition,displacement_mm\n1,0.5\n2,1.5\n", encoding="utf-8")
    visit = read_visit(tmp_path, DicomParams())
    assert (visit.navigator is not None) == read
    assert [item.name for item in visit.info.set_aside] == ([] if read else ["navigator files"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"repetition,displacement_mm\n1,0.5\n2,inf\n", "line 3 is not two numbers"),
        (b"repetition;displacement_mm\n1;x\n", "line 2 is not two numbers"),
        (b"repetition,displacement_mm\n1,0.5\n,0.5\n", "line 3 is not two numbers"),
        (b"repetition,displacement_mm,note\n1,0.5,M\xfcller\n", r"is not UTF-8\. Save it as CSV UTF-8"),
        (b"repetition,displacement_mm\n1,0.5\n1,n/a\n", "gives repetition 1 twice"),
        (b"repetition,displacement_mm\n0,0.5\n1,0.5\n", "line 2 names repetition 0, the images have 2"),
        (b"repetition,mm\n1,0.5\n", "has not the columns repetition,displacement_mm"),
    ],
)
def test_what_is_wrong_in_a_navigator_file_is_said_with_its_line(content: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_navigator_csv(content, 2)


REAL = {
    # name: convention, shape, echo times [s], orientation of dcm2niix's own conversion turned to the stored axes, voxel size
    "siemens_e11_gre_6echo_magphase_dicom": ("siemens-classic", (128, 76, 10), [0.0025, 0.0055, 0.0085, 0.0115, 0.0145, 0.0175], "LPS"),
    "ukat_ge_mr750_b0_3d_2echo_dicom": ("ge", (256, 256, 16), [0.001476, 0.004476], "LIP"),
    "philips_classic_2echo_magphase_dicom": ("philips-classic", (96, 96, 30), [0.007001, 0.01], "LPS"),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_dicom_has_the_geometry_and_echo_times_of_the_reference_conversion(real_data_dir: Path, tmp_path: Path, name: str) -> None:
    unpack(real_data_dir / name / "dicom.tar.xz", tmp_path)
    visit = read_visit(tmp_path, DicomParams())
    convention, shape, echo_times_s, codes = REAL[name]
    assert visit.info.convention == convention
    assert visit.echoes.grid.shape == shape
    np.testing.assert_allclose(visit.echoes.echo_times_s, echo_times_s, atol=1e-6)
    assert "".join(nib.aff2axcodes(visit.echoes.grid.affine_mm)) == codes
    # neighbouring slices agree in phase inside the object: GE's alternation is undone
    first = visit.echoes.signal[..., 0, 0]
    steps = np.angle(np.sum(first[:, :, 1:] * np.conj(first[:, :, :-1]), axis=(0, 1)))
    assert np.median(np.abs(steps)) < 1.0


@pytest.mark.real_data
def test_series_that_are_no_complex_multi_echo_are_refused_in_words(real_data_dir: Path) -> None:
    for folder in ("vendor_id_negatives", "philips_enh_fieldmap_hz_dicom"):
        with pytest.raises(InputError):
            read_visit(real_data_dir / folder, DicomParams())
