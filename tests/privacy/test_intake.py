"""Intake: nothing of a person gets in, nothing of the image gets lost, and a second time nothing changes."""

import csv
import gzip
import hashlib
import os
import re
import stat
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest

from conftest import unpack
from hqsm.cli import main
from hqsm.config.dicom import DicomParams
from hqsm.config.intake import IntakeParams, PrivateElementParams
from hqsm.dicom.reader import read_visit
from hqsm.errors import InputError
from hqsm.intake.filing import FILED, SKIPPED, UNCHANGED, Report, take_in
from hqsm.intake.keys import CROSSWALK, SECRET, open_keys
from hqsm.intake.policy import Blinding, known_version, known_words, plain_number, shifted_date, shifted_datetime
from privacy.canary import NAME, NUMBER, leaks, small_scan, write_export


def intake(source: Path, root: Path, *, site: str = "", params: IntakeParams | None = None) -> tuple[Path, Report]:
    keys = open_keys(root / "keys", root / "study")
    return root / "study", take_in(source, root / "study", keys, params or IntakeParams(), site)


def count(report: Report, what: str) -> int:
    return sum(outcome.what == what for outcome in report.outcomes)


def digest(study: Path) -> dict[str, str]:
    return {str(p.relative_to(study)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(study.rglob("*")) if p.is_file()}


def crosswalk(root: Path) -> list[dict[str, str]]:
    with (root / "keys" / CROSSWALK).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips"])
def test_the_filed_visit_reads_as_the_scan_that_was_exported_and_holds_nothing_of_the_person(tmp_path: Path, vendor: str) -> None:
    source = write_export(tmp_path / "export", vendor=vendor)
    assert leaks(source)  # the identity was planted
    study, report = intake(source, tmp_path)
    assert not leaks(study)
    assert count(report, FILED) > 72
    (visit,) = sorted(study.glob("dicom/sub-*/ses-*"))
    assert re.fullmatch(r"sub-HQ[A-Z2-7]{8}", visit.parent.name)
    before, after = read_visit(source, DicomParams()), read_visit(visit, DicomParams())
    np.testing.assert_array_equal(after.echoes.signal, before.echoes.signal)
    np.testing.assert_array_equal(after.echoes.echo_times_s, before.echoes.echo_times_s)
    np.testing.assert_array_equal(after.echoes.grid.affine_mm, before.echoes.grid.affine_mm)
    np.testing.assert_array_equal(after.echoes.repetition_times_of_day_s, before.echoes.repetition_times_of_day_s)
    assert after.navigator is not None
    np.testing.assert_array_equal(after.navigator.displacement_mm, [0.2, 0.4])
    assert after.info.manufacturer == before.info.manufacturer


def test_every_skipped_file_has_its_reason_and_the_printed_report_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_export(tmp_path / NAME)
    assert main(["intake", str(source), str(tmp_path / "study"), "--keys", str(tmp_path / "keys")]) == 0
    printed = capsys.readouterr()
    assert "skipped 2: no DICOM" in printed.out  # the text file and the empty one
    assert "skipped 1: an MR object without pixels" in printed.out  # the file that was cut off
    from privacy.canary import found_in

    assert not found_in((printed.out + printed.err).encode())
    (written,) = (tmp_path / "keys" / "reports").glob("*.csv")
    with written.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == sum(path.is_file() for path in source.rglob("*"))
    assert all(row["reason"] for row in rows if row["outcome"] == SKIPPED)


def test_a_second_intake_changes_no_byte_and_another_study_gets_the_same_bytes(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    study, first = intake(source, tmp_path)
    before, times = digest(study), {p: p.stat().st_mtime_ns for p in study.rglob("*")}
    _, second = intake(source, tmp_path)
    assert count(second, UNCHANGED) == count(first, FILED)
    assert count(second, FILED) == 0
    assert {p: p.stat().st_mtime_ns for p in study.rglob("*")} == times
    keys = open_keys(tmp_path / "keys", tmp_path / "other")
    take_in(source, tmp_path / "other", keys, IntakeParams(), "")
    assert digest(tmp_path / "other") == before


def test_a_zip_gives_the_bytes_of_its_folder(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            handle.write(path, f"../../{path.relative_to(source)}")  # a name that would climb out is only a name
    study, _ = intake(source, tmp_path)
    keys = open_keys(tmp_path / "keys", tmp_path / "zipped")
    take_in(archive, tmp_path / "zipped", keys, IntakeParams(), "")
    assert digest(tmp_path / "zipped") == digest(study)


def test_a_later_scan_is_added_and_its_interval_in_days_is_kept(tmp_path: Path) -> None:
    write_export(tmp_path / "export", identity="a_1", date="20210301")
    study, _ = intake(tmp_path / "export", tmp_path)
    before = digest(study)
    write_export(tmp_path / "export" / "next", identity="a_2", date="20220305")
    _, report = intake(tmp_path / "export", tmp_path)
    assert count(report, FILED) == len(before)
    assert {name: value for name, value in digest(study).items() if name in before} == before
    assert sorted(p.name for p in study.glob("dicom/*/*")) == ["ses-01", "ses-02"]
    shown = [read_visit(p, DicomParams()).info.acquisition_date for p in sorted(study.glob("dicom/*/*"))]
    days = [date.fromisoformat(text) for text in shown]
    assert (days[1] - days[0]).days == (date(2022, 3, 5) - date(2021, 3, 1)).days
    assert date(2011, 3, 1) <= days[0] < date(2021, 3, 1)


def test_labels_of_the_crosswalk_can_be_edited_and_an_image_never_lies_under_two_labels(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    study, _ = intake(source, tmp_path)
    path = tmp_path / "keys" / CROSSWALK
    (row,) = crosswalk(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace(f",{row['participant']},01,", ",0012,explant1,"), encoding="utf-8")
    _, report = intake(source, tmp_path)
    assert count(report, FILED) == 1  # only the navigator, which has no UID
    assert report.n_contradictions > 70
    import shutil

    shutil.rmtree(study / "dicom")
    intake(source, tmp_path)
    assert [p.relative_to(study).as_posix() for p in study.glob("dicom/*/*")] == ["dicom/sub-0012/ses-explant1"]


def test_an_image_with_the_uid_of_another_is_never_overwritten(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    study, _ = intake(source, tmp_path)
    before = digest(study)
    path = next(p for p in sorted(source.rglob("I[0-9]*")))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path)
    _, report = intake(source, tmp_path)
    assert report.n_contradictions == 1
    assert digest(study) == before


def test_two_hospitals_with_the_same_number_are_two_persons_and_two_birth_dates_are_none(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    intake(source, tmp_path, site="one")
    intake(source, tmp_path, site="two")
    assert len({row["participant"] for row in crosswalk(tmp_path)}) == 2
    path = next(p for p in sorted(source.rglob("I[0-9]*")))
    dataset = pydicom.dcmread(path)
    dataset.PatientBirthDate = "19990101"
    dataset.save_as(path)
    _, report = intake(source, tmp_path, site="three")
    assert any("two birth dates" in line for line in report.lines())
    assert len(crosswalk(tmp_path)) == 2


def test_overlays_in_unused_bits_are_cleared_and_burnt_in_text_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "export"
    write_export(source)
    path = next(p for p in sorted(source.rglob("I[0-9]*")))
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") | 0x8000).astype("<u2").tobytes()
    dataset.save_as(path)
    study, report = intake(source, tmp_path)
    blind = next(o for o in report.outcomes if o.name == path.relative_to(source).as_posix())
    assert blind.what == FILED
    uid = open_keys(tmp_path / "keys", study).blinding.uid(dataset.SOPInstanceUID).removeprefix("2.25.")
    filed = pydicom.dcmread(study / "dicom" / blind.visit / f"{uid}.dcm")
    assert np.frombuffer(filed.PixelData, "<u2").max() < 4096
    dataset.BurnedInAnnotation = "YES"
    dataset.save_as(path)
    _, again = intake(source, tmp_path)
    assert any("burnt-in" in line for line in again.lines())


def test_a_sites_own_numeric_private_element_is_kept_only_when_it_is_listed(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    for path in sorted(source.rglob("I[0-9]*")):
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0019, "SITE NAV", create=True)
        block.add_new(0x10, "FL", [1.5, 2.5])
        block.add_new(0x11, "FD", 3.25)
        dataset.save_as(path)
    listed = PrivateElementParams(creator="SITE NAV", group=0x0019, element=0x10, vr="FL")
    study, _ = intake(source, tmp_path, params=IntakeParams(private_elements=(listed,)))
    with_block = 0
    for path in study.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        if "SITE NAV" in dataset.private_creators(0x0019):
            block = dataset.private_block(0x0019, "SITE NAV")
            assert list(block[0x10].value) == [1.5, 2.5]
            assert 0x11 not in block
            with_block += 1
    assert with_block == 72


def test_a_navigator_that_a_spreadsheet_saved_is_filed_as_plain_numbers_and_one_with_words_is_not(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    navigator = next(source.rglob("navigator.csv"))
    navigator = navigator.rename(navigator.with_name("Navigator.csv"))
    navigator.write_text(f"repetition;displacement_mm;operator\n1;0,25;{NAME}\n2;;\n", encoding="utf-8")
    study, _ = intake(source, tmp_path)
    (filed,) = study.rglob("navigator.csv")
    assert filed.read_text(encoding="utf-8") == "repetition,displacement_mm\n1,0.25\n2,n/a\n"
    navigator.write_text(f"repetition,displacement_mm\n1,{NAME}\n", encoding="utf-8")
    _, report = intake(source, tmp_path)
    assert any("not made of numbers" in line for line in report.lines())
    assert not leaks(study)


def test_a_physiological_record_keeps_its_numbers_and_loses_the_name_in_its_gzip_header(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export")
    inner = next(source.rglob("navigator.csv"))
    inner.unlink()
    packed = inner.with_name("x_physio.tsv.gz")
    with packed.open("wb") as raw, gzip.GzipFile(filename=f"{NAME}.tsv", fileobj=raw, mode="wb") as handle:
        handle.write(b"0.25\n-1.5\nn/a\n")
    inner.with_name("x_physio.json").write_text(
        f'{{"SamplingFrequency": 50, "StartTime": 3600.5, "Columns": ["respiratory"], "Operator": "{NAME}"}}', encoding="utf-8"
    )
    study, _ = intake(source, tmp_path)
    (filed,) = study.rglob("*_physio.tsv.gz")
    assert gzip.decompress(filed.read_bytes()) == b"0.25\n-1.5\nn/a\n"
    assert not leaks(study)
    packed.write_bytes(gzip.compress(NAME.encode()))
    _, report = intake(source, tmp_path)
    assert any("not made of numbers" in line for line in report.lines())


class TestKeys:
    def test_they_are_private_and_made_once(self, tmp_path: Path) -> None:
        keys = open_keys(tmp_path / "keys", tmp_path / "study")
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "keys" / SECRET).stat().st_mode) == 0o600
        keys.save()
        assert stat.S_IMODE((tmp_path / "keys" / CROSSWALK).stat().st_mode) == 0o600
        assert open_keys(tmp_path / "keys", tmp_path / "study").blinding == keys.blinding
        assert "secret=..." in repr(keys.blinding)

    @pytest.mark.parametrize("place", ["study", "study/keys", "study/dicom/../private", "repository/keys", "."])
    def test_they_are_refused_inside_the_study_around_it_and_in_a_repository(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "study").mkdir()
        (tmp_path / "repository" / ".git").mkdir(parents=True)
        with pytest.raises(InputError) as caught:
            open_keys(tmp_path / place, tmp_path / "study")
        assert caught.value.code == "KEYS_PLACE"
        assert not list(tmp_path.rglob(SECRET))

    def test_they_are_refused_inside_the_study_through_a_link_and_in_this_repository(self, tmp_path: Path) -> None:
        (tmp_path / "study").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "study")
        for place in (tmp_path / "link" / "keys", Path(__file__).parents[2] / "keys"):
            with pytest.raises(InputError, match="inside the study"):
                open_keys(place, tmp_path / "study")

    @pytest.mark.parametrize(("name", "mode"), [("", 0o750), ("", 0o701), (SECRET, 0o640), (CROSSWALK, 0o604)])
    def test_they_are_refused_when_others_may_read_them(self, tmp_path: Path, name: str, mode: int) -> None:
        open_keys(tmp_path / "keys", tmp_path / "study").save()
        (tmp_path / "keys" / name).chmod(mode)
        with pytest.raises(InputError) as caught:
            open_keys(tmp_path / "keys", tmp_path / "study")
        assert caught.value.code == "KEYS_READABLE"

    def test_they_are_refused_when_they_are_somebody_elses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        open_keys(tmp_path / "keys", tmp_path / "study").save()
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(InputError) as caught:
            open_keys(tmp_path / "keys", tmp_path / "study")
        assert caught.value.code == "KEYS_READABLE"

    def test_a_lost_secret_is_not_replaced_by_a_new_one(self, tmp_path: Path) -> None:
        open_keys(tmp_path / "keys", tmp_path / "study").save()
        (tmp_path / "keys" / SECRET).unlink()
        with pytest.raises(InputError, match="Put the secret"):
            open_keys(tmp_path / "keys", tmp_path / "study")

    @pytest.mark.parametrize("label", ["../../etc", "a b", "", "a" * 17, "é1"])
    def test_a_label_that_is_no_plain_word_is_refused(self, tmp_path: Path, label: str) -> None:
        source = write_export(tmp_path / "export")
        intake(source, tmp_path)
        (row,) = crosswalk(tmp_path)
        path = tmp_path / "keys" / CROSSWALK
        path.write_text(path.read_text(encoding="utf-8").replace(row["participant"], label), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            open_keys(tmp_path / "keys", tmp_path / "study")
        assert caught.value.code == "KEYS_LABEL"


class TestPolicy:
    ONE, OTHER = Blinding(secret=b"1" * 32), Blinding(secret=b"2" * 32)

    def test_labels_uids_and_shifts_depend_on_the_secret_and_on_the_person(self) -> None:
        for question in (lambda b, p: b.participant("", p), lambda b, p: b.uid(p), lambda b, p: b.shift_days("", p)):
            assert question(self.ONE, "1.2") == question(self.ONE, "1.2")
            assert question(self.ONE, "1.2") != question(self.OTHER, "1.2")
            assert question(self.ONE, "1.2") != question(self.ONE, "1.3")

    def test_a_label_is_an_hmac_that_can_be_checked_by_hand(self) -> None:
        import base64
        import hmac

        wanted = hmac.new(b"1" * 32, b"participant\0site\0" + NUMBER.encode(), hashlib.sha256).digest()[:5]
        assert self.ONE.participant("site", NUMBER) == "HQ" + base64.b32encode(wanted).decode()

    def test_a_uid_is_valid(self) -> None:
        for k in range(200):
            assert pydicom.uid.UID(self.ONE.uid(str(k))).is_valid

    @pytest.mark.parametrize(
        ("text", "days", "wanted"),
        [("20240229", 1, "20240301"), ("20240301", -366, "20230301"), ("20231231", 1, "20240101"), ("20230230", 1, ""), ("doe", 1, "")],
    )
    def test_dates_move_by_the_calendar(self, text: str, days: int, wanted: str) -> None:
        assert shifted_date(text, days) == wanted

    def test_a_date_and_time_keeps_its_time_and_zone(self) -> None:
        assert shifted_datetime("20240229101530.25+0100", 1) == "20240301101530.25+0100"
        assert shifted_datetime("20240229 Doe", 1) == ""

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("liver_nav_DOE_JANE_mGRE", "liver_nav_mGRE"),
            ("LIVER IRON DOE JANE", "LIVER IRON"),
            ("qsm 123-45-67 01.02.80 12/03/1980", "qsm"),
            ("DISCOVERY MR750", "DISCOVERY MR750"),
            ("<script>alert(1)</script> T2star", "(1) T2star"),
        ],
    )
    def test_a_text_keeps_the_words_of_the_vocabulary(self, text: str, wanted: str) -> None:
        assert known_words(text) == wanted

    def test_versions_and_numbers(self) -> None:
        assert known_version("syngo MR E11") == "syngo MR E11"
        assert known_version("5.7.1.3 Doe 12345678") == "5.7.1.3"
        assert [plain_number(v) for v in ("-1.5e3", "1e999x", "nan", "inf", "12 Doe", "٣")] == ["-1.5e3", None, None, None, None, None]


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["siemens_e11_gre_6echo_magphase_dicom", "ukat_ge_mr750_b0_3d_2echo_dicom", "philips_classic_2echo_magphase_dicom"]
)
def test_real_scans_read_the_same_after_intake(real_data_dir: Path, tmp_path: Path, name: str) -> None:
    unpack(real_data_dir / name / "dicom.tar.xz", tmp_path / "export")
    study, report = intake(tmp_path / "export", tmp_path)
    assert count(report, SKIPPED) == 0, report.lines()
    (visit,) = study.glob("dicom/*/*")
    before, after = read_visit(tmp_path / "export", DicomParams()), read_visit(visit, DicomParams())
    np.testing.assert_array_equal(after.echoes.signal, before.echoes.signal)
    np.testing.assert_array_equal(after.echoes.grid.affine_mm, before.echoes.grid.affine_mm)
    assert (after.info.manufacturer, after.info.convention) == (before.info.manufacturer, before.info.convention)


def test_the_exported_scan_is_what_was_simulated(tmp_path: Path) -> None:
    read = read_visit(write_export(tmp_path / "export"), DicomParams())
    assert read.echoes.signal.shape == small_scan().signal.shape
