"""`hqsm check records`: what the coordinator gets."""

import csv
import re
from pathlib import Path

import pytest

import hqsm.records
from hqsm.cli import main
from records.clean_tables import CLEAN, line_of


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "records").mkdir(parents=True)
    for name, text in CLEAN.items():
        (folder / "records" / f"{name}.csv").write_text(text, encoding="utf-8")
    for visit in ("sub-0012/ses-01", "sub-0012/ses-02", "sub-0013/ses-01"):
        (folder / "dicom" / visit).mkdir(parents=True)
    return folder


def test_clean_records_end_with_status_zero(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "records", str(study)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_errors_are_printed_and_written_and_the_status_says_so(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = line_of("transfusions", "0012,a,2021-03-22,600,mL,0.58,prbc,,", "0012,a,03/04/2021,3,mL,UNK,prbc,,")
    (study / "records" / "transfusions.csv").write_text(bad, encoding="utf-8")
    assert main(["check", "records", str(study)]) == 1
    said = capsys.readouterr().out
    assert "transfusions.csv line 2 sub-0012 hct_pct [error HCT_FRACTION]" in said
    assert "No exposure until corrected: sub-0012." in said
    with (study / "results/records/findings.csv").open(encoding="utf-8", newline="") as handle:
        found = list(csv.DictReader(handle))
    assert list(found[0]) == ["file", "line", "participant", "field", "code", "severity", "problem", "remedy"]
    codes = {(row["code"], row["line"]) for row in found}
    assert {("HCT_FRACTION", "2"), ("TX_ID_TWICE", "3"), ("DATE_FORMAT", "3"), ("ML_OR_UNITS", "3"), ("HCT_MISSING", "3")} <= codes
    page = (study / "results/records/findings.html").read_text(encoding="utf-8")
    assert "The haematocrit looks like a fraction" in page
    assert "src=" not in page
    assert "0.58" not in page + said
    assert "03/04" not in page + said


def test_scans_without_a_visit_and_visits_without_a_scan_are_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "dicom/sub-0012/ses-02").rename(study / "dicom/sub-0012/ses-2")
    assert main(["check", "records", str(study)]) == 0
    said = capsys.readouterr().out
    assert "SCAN_WITHOUT_VISIT] The scan folder ses-2" in said
    assert "visits.csv line 3 sub-0012 session_id [warning VISIT_WITHOUT_SCAN]" in said


def test_a_study_that_starts_from_bids_has_its_scans_there(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "dicom").rename(study / "bids")
    (study / "bids/sub-0012/ses-02").rename(study / "bids/sub-0012/ses-2")
    assert main(["check", "records", str(study)]) == 0
    said = capsys.readouterr().out
    assert "SCAN_WITHOUT_VISIT] The scan folder ses-2" in said
    assert said.count("VISIT_WITHOUT_SCAN") == 1


def test_a_text_that_looks_like_markup_stays_text_on_the_page(study: Path) -> None:
    (study / "records" / "a<script>.csv").write_text("x\n1\n", encoding="utf-8")
    assert main(["check", "records", str(study)]) == 0
    assert "a<script>" not in (study / "results/records/findings.html").read_text(encoding="utf-8")


def test_the_studys_configuration_is_used(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "config.yaml").write_text("records:\n  max_days_from_weight: 30\n", encoding="utf-8")
    main(["check", "records", str(study)])
    assert "WEIGHT_DISTANT" in capsys.readouterr().out


def test_missing_mandatory_records_end_in_a_sentence(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "records" / "visits.csv").unlink()
    assert main(["check", "records", str(study)]) == 2
    assert "records/visits.csv does not exist. Add it; its columns are" in capsys.readouterr().err


def test_every_code_is_in_the_manual() -> None:
    root = Path(__file__).resolve().parents[2]
    manual = (root / "docs" / "records.md").read_text(encoding="utf-8")
    package = Path(hqsm.records.__file__).parent
    sources = [*package.glob("*.py"), root / "src" / "hqsm" / "commands" / "check.py"]
    quoted = {code for path in sources for code in re.findall(r'"([A-Z]{2,}(?:_[A-Z]+)+)"', path.read_text(encoding="utf-8"))}
    assert len(quoted) > 40
    assert not {code for code in quoted if f"`{code}`" not in manual}
