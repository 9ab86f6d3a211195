"""What is done with a study that is there: it is read blindly, unblinded, and begun again from its own BIDS."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hqsm.cli import main
from hqsm.commands.run import run_workflow
from hqsm.nifti import load_volume, save_volume
from hqsm.phantom.cohort import simulate_study, truth_folder
from hqsm.readpack.keys import read_key
from hqsm.table_contract import TABLES
from hqsm.tables import read_frame
from masks.conftest import true_liver

pytestmark = pytest.mark.slow

CONFIG = """
protocol:
  expected: {flip_angle_degrees: 9, echo_times_ms: [1, 2]}
report:
  viewer: false
statistics:
  bootstrap_draws: 200
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blinded study of two visits, from its DICOM; it keeps its repetitions."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    simulate_study(folder, participants=1, visits=2, size="tiny", seed=3, with_bad_visit=False, progress=lambda _: None)
    (folder / "config.yaml").write_text("blinding: true\ndicom:\n  keep_repetitions: true\n" + CONFIG, encoding="utf-8")
    assert run_workflow(folder, ["--quiet", "all"]) == 0
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


def rows(study: Path, table: str) -> list[dict[str, str]]:
    with (study / "results" / "tables" / f"{table}.tsv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_readings_that_come_back_make_the_studys_values(study: Path, finished: Path, tmp_path: Path) -> None:
    packs, keys = tmp_path / "packs", tmp_path / "keys"
    automatic = rows(study, "lic")
    assert [row["mask_source"] for row in automatic] == ["automatic", "automatic"]
    assert rows(study, "readers") == []

    make = ["readpack", "make", str(study), "--readers", "A,B", "--keys", str(keys), "--out", str(packs), "--repeat-share", "0.5"]
    assert main(make) == 0
    for case in read_key(keys):
        pack = packs / f"reader-{case.reader}"
        _, grid = load_volume(pack / f"{case.code}_image.nii.gz")
        truth = np.load(truth_folder(finished) / f"{case.participant_id}_{case.session_id}.npz")
        liver = true_liver(truth["labels"])
        drawn = ndimage.binary_erosion(liver) if case.reader == "B" else liver
        save_volume(pack / "masks" / f"{case.code}.nii.gz", drawn, grid)
    for reader in ("A", "B"):
        assert main(["readpack", "check", str(packs / f"reader-{reader}")]) == 0
    assert main(["readpack", "lock", str(study), "--packs", str(packs), "--keys", str(keys)]) == 0

    (study / "config.yaml").write_text("dicom:\n  keep_repetitions: true\n" + CONFIG, encoding="utf-8")
    assert run_workflow(study, ["--quiet", "all"]) == 0
    read = rows(study, "lic")
    assert [row["mask_source"] for row in read] == ["reader", "reader"]
    for before, after in zip(automatic, read, strict=True):
        assert float(after["r2star_per_s"]) == pytest.approx(float(before["r2star_per_s"]), rel=0.03)
    by_reader = {
        (r["session_id"], r["reader"]): float(r["median"])
        for r in rows(study, "liver_regions")
        if r["region"] == "liver" and r["quantity"] == "r2star_per_s"
    }
    for row in read:
        mean = (by_reader[row["session_id"], "A"] + by_reader[row["session_id"], "B"]) / 2
        assert float(row["r2star_per_s"]) == pytest.approx(mean, rel=1e-6)
    pairs = rows(study, "readers")
    assert {(r["reader_a"], r["reader_b"]) for r in pairs if r["kind"] == "between"} == {("A", "B")}
    within = [r for r in pairs if r["kind"] == "within"]
    assert {(r["reader_a"], r["reader_b"]) for r in within} == {("A", "A.2"), ("B", "B.2")}
    assert all(float(r["dice"]) == 1 for r in within)
    assert "ICC(A,1)" in (study / "results/report/index.html").read_text(encoding="utf-8")


def test_a_blinded_study_from_its_dicom_to_its_unblinding(study: Path) -> None:
    tables = study / "results" / "tables"
    values = {row["lic_hqsm_mg_g"] for row in read_frame(tables / "lic.tsv", "lic").to_dict(orient="records")}
    assert set(read_frame(tables / "lic.tsv", "lic")["group"]) == {""}
    for name in ("annual_change", "regression", "method_comparison", "influence", "explants", "repeatability", "baseline"):
        frame = read_frame(tables / f"{name}.tsv", name)
        assert len(frame) == 0, name
        assert list(frame.columns) == [column.name for column in TABLES[name]]
    shown = (study / "results/report/index.html").read_text(encoding="utf-8") + (study / "results/qc/index.html").read_text(
        encoding="utf-8"
    )
    assert "blinded edition" in shown
    assert not any(f"{value:.2f}" in shown for value in values)
    for arguments in (["lock", "imaging"], ["lock", "records"], ["unblind"]):
        assert main([*arguments, str(study), "--who", "AB"]) == 0
    assert run_workflow(study, ["--quiet", "all"]) == 0
    assert len(read_frame(tables / "annual_change.tsv", "annual_change")) == 1
    assert "blinded edition" not in (study / "results/report/index.html").read_text(encoding="utf-8")
    assert main(["verify", str(study)]) == 0
    assert main(["verify", str(study), "--trace", "sub-0101/ses-01"]) == 0
    records = study / "records" / "transfusions.csv"
    lines = records.read_text(encoding="utf-8").splitlines()
    records.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    assert run_workflow(study, ["--quiet", "all"]) == 0
    assert "CHANGED AFTER UNBLINDING" in (study / "results/report/index.html").read_text(encoding="utf-8")
    assert (tables / "CHANGED_AFTER_UNBLINDING.txt").is_file()
    assert main(["verify", str(study)]) == 1


def test_a_study_from_bids_gives_the_maps_of_the_study_from_dicom(finished: Path, tmp_path: Path) -> None:
    validator = [str(Path(sys.executable).parent / "bids-validator-deno"), str(finished / "results" / "bids"), "--format", "json"]
    issues = json.loads(subprocess.run(validator, check=False, capture_output=True, text=True).stdout)["issues"]["issues"]
    assert not [issue for issue in issues if issue["severity"] == "error"]

    second = tmp_path / "study"
    session = second / "bids" / "sub-0101" / "ses-01"
    (session / "anat").mkdir(parents=True)
    made = sorted((finished / "results/bids/sub-0101/ses-01/anat").glob("*acq-ungated*"))
    assert len(made) == 2 * 2 * 6 * 3  # image and sidecar, two parts, six echoes, three repetitions
    for path in made:
        shutil.copy(path, session / "anat")
    shutil.copy(finished / "dicom/sub-0101/ses-01/navigator.csv", session)
    shutil.copytree(finished / "records", second / "records")
    (second / "config.yaml").write_text(CONFIG, encoding="utf-8")
    assert run_workflow(second, ["--quiet", "all"]) == 0
    for study in (finished, second):  # what differs from the protocol stands in the table and on the page of the visit
        visit = read_frame(study / "results/tables/visits.tsv", "visits").iloc[0]
        assert "PROTOCOL_DEVIATION" in visit["codes"].split()
        page = (study / "results/qc/sub-0101_ses-01.html").read_text(encoding="utf-8")
        for text in (visit["protocol_deviations"], page):
            assert "flip angle 5 instead of 9 degrees" in text
            assert "instead of 1, 2 ms" in text
    folder = Path("results/maps/sub-0101/ses-01/anat")
    for name, tolerance in (("R2starmap", 0.05), ("PDFF", 0.02), ("fieldmap", 0.02), ("Chimap", 0.2)):
        a, b = (nib.load(study / folder / f"sub-0101_ses-01_{name}.nii.gz").get_fdata() for study in (finished, second))
        # single precision of magnitude and phase is all that differs; the inversion stops at its tolerance, at another digit
        both = np.isfinite(a) & np.isfinite(b)
        assert np.mean(np.isfinite(a) == np.isfinite(b)) > 0.999
        assert np.percentile(np.abs(a - b)[both], 99) < tolerance, name
    lic = [read_frame(study / "results/tables/lic.tsv", "lic").iloc[0] for study in (finished, second)]
    assert lic[1]["n_accepted"] == lic[0]["n_accepted"]
    assert lic[1]["gating_source"] == "navigator.csv"
    for column, tolerance in (("lic_hqsm_mg_g", 0.01), ("lic_r2star_mg_g", 1e-3), ("pdff_percent", 1e-3)):
        assert lic[1][column] == pytest.approx(lic[0][column], rel=tolerance)
