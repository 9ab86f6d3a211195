"""The record of a run and the audit trail: any later change is found, and the first broken link is named."""

import json
import re
from pathlib import Path

import pytest

from hqsm.cli import main
from hqsm.config.dicom import DicomParams
from hqsm.derivatives import write_manifest
from hqsm.dicom.reader import read_visit
from hqsm.provenance import append_audit, broken_audit, dicom_manifests, last_record, output_hashes, redacted_command, write_run_record
from privacy.canary import NAME, NUMBER, found_in, leaks, write_export


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("tables/lic.tsv", "report/index.html", "maps/sub-01/x.nii.gz", "work/x"):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        write_run_record(
            {"gating": {"window_mm": 5.0}}, {"lic": "abc"}, succeeded=True, rejected=[], inputs={"records": {"visits.csv": "1"}}
        )
    return tmp_path


def trail(study: Path) -> Path:
    return study / "results" / "provenance" / "audit.jsonl"


def test_an_untouched_study_is_verified(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(study)]) == 0
    assert "3 outputs are those of run_" in capsys.readouterr().out


def test_the_record_says_what_made_the_outputs(study: Path) -> None:
    found = last_record(study)
    assert found is not None
    record = found[1]
    assert {"numpy", "pydicom", "snakemake", "hqsm", "python"} <= set(record["versions"])
    assert record["parameters"] == {"gating": {"window_mm": 5.0}}
    assert record["inputs"] == {"records": {"visits.csv": "1"}}
    assert set(record["outputs_sha256"]) == {f"results/{name}" for name in ("tables/lic.tsv", "report/index.html", "maps/sub-01/x.nii.gz")}
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", record["commit"])


def test_a_command_keeps_its_options_and_loses_their_values() -> None:
    command = redacted_command(["/home/x/snakemake", "--directory", f"/data/{NAME}", "-n", f"--config=name={NUMBER}"])
    assert command == ["snakemake", "--directory", "(value)", "-n", "--config"]


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("tables/lic.tsv", "edit", "results/tables/lic.tsv (changed)"),
        ("maps/sub-01/x.nii.gz", "edit", "results/maps/sub-01/x.nii.gz (changed)"),
        ("report/index.html", "remove", "results/report/index.html (missing)"),
        ("tables/new.tsv", "edit", "results/tables/new.tsv (not of the run)"),
    ],
)
def test_a_changed_removed_or_added_output_is_named(
    study: Path, capsys: pytest.CaptureFixture[str], name: str, change: str, wanted: str
) -> None:
    path = study / "results" / name
    if change == "remove":
        path.unlink()
    else:
        path.write_text("something else\n", encoding="utf-8")
    assert main(["verify", str(study)]) == 1
    assert wanted in capsys.readouterr().out


def test_a_change_that_keeps_size_and_time_is_found_all_the_same(study: Path) -> None:
    import os

    path = study / "results" / "tables" / "lic.tsv"
    stat = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace("content", "CONTENT"), encoding="utf-8")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert main(["verify", str(study)]) == 1


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_changed_line_of_the_trail_is_the_first_broken_link(study: Path, line: int) -> None:
    lines = trail(study).read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[line - 1])
    entry["utc"] = "2001-01-01T00:00:00Z"
    lines[line - 1] = json.dumps(entry, sort_keys=True)
    trail(study).write_text("\n".join(lines) + "\n", encoding="utf-8")
    append_audit(study, "note", {})
    # the line after a changed one no longer follows it; a change of the last line shows when the next event follows
    assert broken_audit(study) == ("" if line == 3 else f"audit.jsonl line {line + 1} does not follow the line before it")


@pytest.mark.parametrize("fault", ["removed", "swapped", "damaged", "record", "record gone", "foreign record", "no trail"])
def test_every_other_fault_of_the_trail_is_named(study: Path, fault: str) -> None:
    lines = trail(study).read_text(encoding="utf-8").splitlines()
    records = sorted((study / "results" / "provenance").glob("run_*.json"))
    names = [json.loads(line)["record"] for line in lines]
    wanted = "audit.jsonl line 2 does not follow the line before it"
    if fault == "removed":
        lines.pop(1)
    elif fault == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif fault == "damaged":
        lines[1], wanted = "[1", "audit.jsonl line 2 is damaged"
    elif fault == "record":
        path = records[0].with_name(names[1])
        path.write_text(path.read_text(encoding="utf-8").replace("true", "false", 1), encoding="utf-8")
        wanted = f"audit.jsonl line 2: {names[1]} was changed"
    elif fault == "record gone":
        records[0].with_name(names[0]).unlink()
        wanted = f"audit.jsonl line 1: {names[0]} is missing"
    elif fault == "foreign record":
        (records[0].parent / "run_20990101T000000Z.json").write_text("{}", encoding="utf-8")
        wanted = "run_20990101T000000Z.json is in no line of audit.jsonl"
    trail(study).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if fault == "no trail":
        trail(study).unlink()
        wanted = "there is no audit.jsonl"
    assert broken_audit(study) == wanted


def test_hashes_of_unchanged_outputs_are_not_computed_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = output_hashes(study)
    monkeypatch.setattr("hqsm.provenance.sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    assert output_hashes(study) == before


def test_a_visit_is_traced_to_its_images_by_hashed_uid(tmp_path: Path) -> None:
    import hashlib

    import pydicom

    export = write_export(tmp_path / "export")
    visit = read_visit(export, DicomParams())
    path = tmp_path / "results" / "work" / "sub-01_ses-01" / "dicom_manifest.tsv"
    write_manifest(path, visit.info)
    assert not leaks(tmp_path / "results")
    uids = {hashlib.sha256(str(pydicom.dcmread(p).SOPInstanceUID).encode()).hexdigest() for p in export.rglob("I[0-9]*")}
    assert {line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]} == uids
    assert not found_in(str(visit.info).encode())
    assert set(dicom_manifests(tmp_path)) == {"sub-01_ses-01"}
