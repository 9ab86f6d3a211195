"""`hqsm status` from files alone, `hqsm diff` of two studies' tables."""

import json
import time
from pathlib import Path

import pytest

from hqsm.cli import main
from hqsm.run_state import STAGES
from hqsm.study_status import visit_states
from hqsm.tables import write_rows


def visit(study: Path, name: str, stages: int = 0, failed: str = "") -> None:
    participant, session = name.split("_")
    (study / "dicom" / participant / session).mkdir(parents=True)
    folder = study / "results" / "work" / name
    folder.mkdir(parents=True)
    for number, stage in enumerate(STAGES[:stages]):
        facts = {"failed": bool(failed) and number == stages - 1, "stage": stage, "reason": failed}
        (folder / f"{stage}.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    visit(tmp_path, "sub-0001_ses-01", len(STAGES))
    visit(tmp_path, "sub-0001_ses-02", 1, failed="12 images are missing.")
    visit(tmp_path, "sub-0002_ses-01", 2)
    visit(tmp_path, "sub-0002_ses-02")
    visit(tmp_path, "sub-0003_ses-01", len(STAGES))
    (tmp_path / "records").mkdir()
    lines = "participant_id,session_id\n0001,01\nsub-0003,ses-01\n0003,02\n"
    (tmp_path / "records" / "visits.csv").write_text(lines, encoding="utf-8")
    decisions = "participant_id,session_id,decision,who,when,why\n0003,01,exclude,AB,2026-01-02,moved\n"
    (tmp_path / "decisions.csv").write_text(decisions, encoding="utf-8")
    return tmp_path


def test_every_visit_has_its_state_and_its_reason(study: Path) -> None:
    found = {(s.participant_id, s.session_id): (s.state, s.detail) for s in visit_states(study)}
    assert found["sub-0001", "ses-01"] == ("done", "")
    assert found["sub-0001", "ses-02"][0] == "rejected"
    assert found["sub-0001", "ses-02"][1].startswith("gated_echoes: 12 images are missing. (log: logs/gated_echoes/")
    assert found["sub-0002", "ses-01"] == ("unfinished", "after water_fat")
    assert found["sub-0002", "ses-02"] == ("pending", "")
    assert found["sub-0003", "ses-01"] == ("excluded", "moved (AB, 2026-01-02)")
    assert found["sub-0003", "ses-02"][0] == "missing"


def test_a_folder_that_the_run_rejects_for_its_name_is_not_called_pending(study: Path) -> None:
    for name in ("sub-0004/ses-a b", "sub-0_5/ses-01", "patient/ses-01"):
        (study / "dicom" / name).mkdir(parents=True)
    added = visit_states(study)[6:]
    assert [(s.participant_id, s.state) for s in added] == [
        ("(no. 1 in dicom by name)", "rejected"),
        ("sub-0004/(no. 1 in sub-0004 by name)", "rejected"),
        ("(no. 6 in dicom by name)", "rejected"),
    ]
    assert added[0].detail == "The folder is not named sub-<letters and digits>; rename it."


def test_the_command_prints_a_line_each_and_a_summary(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[-1] == "6 visits of 3 participants: 1 done, 1 rejected, 1 excluded, 1 unfinished, 1 pending, 1 missing"
    assert main(["status", str(study), "--only", "rejected"]) == 0
    assert "ses-02  rejected" in capsys.readouterr().out
    assert main(["status", str(study / "records")]) == 2


def test_the_records_of_a_spreadsheet_are_known_too(study: Path) -> None:
    (study / "records" / "visits.csv").write_text('\ufeff"Participant_ID"; session_id\n0003;02\n', encoding="utf-8")
    assert [s.session_id for s in visit_states(study) if s.state == "missing"] == ["ses-02"]


def test_a_status_file_that_is_cut_off_does_not_count(study: Path) -> None:
    (study / "results/work/sub-0001_ses-01/visit_page.json").write_text('{"fai', encoding="utf-8")
    assert visit_states(study)[0].state == "unfinished"


def test_the_status_of_a_thousand_visits_needs_no_images(tmp_path: Path) -> None:
    for k in range(200):
        for s in range(5):
            visit(tmp_path, f"sub-{k:04d}_ses-{s:02d}", len(STAGES))
    start = time.perf_counter()
    assert len(visit_states(tmp_path)) == 1000
    assert time.perf_counter() - start < 10  # 0.2 s here; the limit only catches reading images or importing numpy per visit


def tables(study: Path, lic: dict[str, float], iron: float = 1.0) -> None:
    rows = [{"participant_id": "sub-1", "session_id": s, "lic_hqsm_mg_g": value, "qc_status": "ok"} for s, value in lic.items()]
    write_rows(study / "results/tables/lic.tsv", "lic", rows)
    terms = [{"analysis": "primary", "method": m, "term": "iron_in", "estimate": iron} for m in ("hqsm", "r2star")]
    write_rows(study / "results/tables/regression.tsv", "regression", terms)


def test_equal_tables_are_called_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        tables(tmp_path / name, {"ses-1": 5.0, "ses-2": float("nan")})
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == "2 tables are the same.\n"


def test_rows_and_cells_that_differ_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(tmp_path / "a", {"ses-1": 5.0, "ses-2": 4.0, "ses-3": float("nan"), "ses-4": 1.0})
    tables(tmp_path / "b", {"ses-1": 5.5, "ses-2": 4.04, "ses-3": float("nan"), "ses-5": 1.0}, iron=1.001)
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    printed = capsys.readouterr().out
    assert "only in A: 1 rows: sub-1 ses-4" in printed
    assert "only in B: 1 rows: sub-1 ses-5" in printed
    assert "lic_hqsm_mg_g: 2 of 3 rows; most: sub-1 ses-1: 5 -> 5.5 (9.09 %)" in printed
    assert "estimate: 2 of 2 rows; most: primary hqsm iron_in: 1 -> 1.001" in printed
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--tolerance", "0.02"]) == 1
    printed = capsys.readouterr().out
    assert "lic_hqsm_mg_g: 1 of 3 rows" in printed
    assert "regression" not in printed
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 2


def test_a_value_that_appears_or_goes_is_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables(tmp_path / "a", {"ses-1": 5.0})
    tables(tmp_path / "b", {"ses-1": float("nan")})
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "5 -> n/a" in capsys.readouterr().out
