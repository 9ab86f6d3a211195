"""A planted person runs through the whole workflow, and every byte that comes out is searched for them."""

import csv
import gzip
import io
import subprocess
import sys
import zipfile
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from hqsm.phantom.cohort import simulate_study
from hqsm.stage import where_it_failed, without_file_names
from hqsm.workflow_folder import REPOSITORY
from privacy.canary import COMMENT, HOSPITAL, NAME, NUMBER, found_in, leaks, plant_folder

FREE_TEXT = {
    "participants": ("site", "exclusion_code"),
    "visits": ("comment_code",),
    "transfusions": ("tx_id", "site"),
    "chelation": ("rx_id", "reason"),
}


def plant_records(folder: Path) -> int:
    """Put the identity into free text, into a cell that should be a number, a column and a file nobody asked for."""
    n = 0
    for table, columns in FREE_TEXT.items():
        path = folder / f"{table}.csv"
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        for k, row in enumerate(rows):
            row.update(dict.fromkeys(columns, f"{NAME} {k}" if "id" in columns[0] else f"{COMMENT} {NUMBER}"))
            row[f"{HOSPITAL} number"] = NUMBER
            n += 1
        if table == "transfusions":
            rows[0]["amount"] = NAME
            rows[1]["date"] = f"{NUMBER}"
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (folder / f"{NAME}.csv").write_text(f"name\n{NAME}\n", encoding="utf-8")
    return n


def plant_study(study: Path) -> None:
    for visit in sorted((study / "dicom").glob("*/*")):
        (visit / "export").rename(visit / f"{NAME} {NUMBER}")
    assert plant_folder(study / "dicom") > 100
    assert plant_records(study / "records") > 3
    stray = study / "dicom" / NAME / HOSPITAL
    stray.mkdir(parents=True)
    (stray / NUMBER).write_text(COMMENT, encoding="utf-8")
    (study / "dicom" / "sub-01" / f"ses-{NAME}").mkdir(parents=True)
    first = min((study / "dicom").glob("sub-0*/ses-0*"))
    rois = study / "rois" / first.parent.name / first.name
    rois.mkdir(parents=True)
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image.header["descrip"] = NAME[:79]
    nib.save(image, rois / f"{NAME}.nii.gz")  # on another grid: refused, with a sentence


def run(study: Path, *further: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study), "--cores", "2"]
    command += ["--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "default"), *further]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_person_in_names_headers_and_records_is_nowhere_in_what_comes_out(tmp_path: Path) -> None:
    study = tmp_path / NAME.replace("^", "_") / f"{HOSPITAL} {NUMBER}" / "study"
    simulate_study(study, participants=1, visits=2, size="tiny", seed=5, with_bad_visit=False, progress=lambda _: None)
    plant_study(study)
    printed = run(study)
    for folder in ("results", "logs", ".snakemake"):
        assert not leaks(study / folder), folder
    # on the terminal of the person who typed the study's path, that path may stand; nothing else
    assert not found_in(printed.replace(str(tmp_path), "").replace(str(study.relative_to(tmp_path)), "").encode())
    lic = (study / "results" / "tables" / "lic.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lic) >= 2  # the planted study did give results


def test_an_internal_error_is_located_without_its_message() -> None:
    try:
        try:
            float(NAME)
        except ValueError as error:
            raise KeyError(NUMBER) from error
    except KeyError as error:
        text = where_it_failed(error)
    assert "test_canary.py" in text
    assert "builtins.ValueError" in text
    assert "builtins.KeyError" in text
    assert not found_in(text.encode())


@pytest.mark.parametrize("parent", ["rois", "dicom"])
def test_a_sentence_about_a_visit_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / parent / "sub-01" / "ses-02"
    (folder / "x").mkdir(parents=True)
    (folder / "Export" / "magnitude").mkdir(parents=True)
    for name in (f"{NAME}.nii.gz", f"{NAME}.nii", "x/navigator.csv", "x/12"):
        (folder / name).write_bytes(b"")
    job = SimpleNamespace(wildcards=SimpleNamespace(participant="01", session="02"))
    ours = "12 rows of navigator.csv, slice 4 magnitude. Export the visit again."
    shown = without_file_names(f"{NAME}.nii.gz and {NAME}.nii: {ours}", job)
    assert shown == f"(no. 2 in {parent} by name) and (no. 1 in {parent} by name): {ours}"


@pytest.mark.parametrize("word", [NAME, NUMBER, "1984-07-13"])
def test_the_search_finds_a_word_in_every_packing(word: str) -> None:
    plain = f"x {word} y".encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("inner", gzip.compress(plain))
    for content in (
        plain,
        word.upper().encode(),
        word.encode("utf-16-le"),
        gzip.compress(plain),
        archive.getvalue(),
        b'<img src="data:image/svg+xml;base64,' + b64encode(b"<svg>" + plain * 3 + b"</svg>") + b'">',
        b"record" + b64encode(plain * 3).rstrip(b"="),
        gzip.compress(b64encode(gzip.compress(plain))),
    ):
        assert found_in(content), content
    assert not found_in(b"nothing of a person" * 50)
