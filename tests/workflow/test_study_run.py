"""A whole simulated study through the real workflow: what is promised of every run."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hqsm.commands.run import REPOSITORY, run_workflow
from hqsm.phantom.accuracy import score
from hqsm.phantom.cohort import simulate_study, truth_folder
from hqsm.tables import TABLES
from hqsm.workflow_support import TABLE_NAMES

pytestmark = pytest.mark.slow


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def planned(study: Path, *further: str) -> str:
    """What a dry run would do."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study), "-n"]
    command += ["--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "default"), *further]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "study"
    simulate_study(folder, participants=6, visits=3, size="tiny", seed=1, progress=lambda _: None)
    assert run_workflow(folder, ["--quiet", "all"]) == 3  # one visit is broken on purpose
    return folder


def test_every_table_of_the_contract_is_there_with_its_columns_and_dictionary(study: Path) -> None:
    for table in TABLE_NAMES:
        columns = TABLES[table]
        path = study / "results" / "tables" / f"{table}.tsv"
        header = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
        assert header == [column.name for column in columns]
        assert set(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))) == set(header)


def test_the_broken_visit_is_a_row_with_its_reason_and_the_rest_goes_on(study: Path) -> None:
    rows = read(study / "results" / "tables" / "visits.tsv")
    rejected = [row for row in rows if row["status"] == "rejected"]
    assert len(rows) == 15
    assert len(rejected) == 1
    assert "images are missing" in rejected[0]["reason"]
    assert len(read(study / "results" / "tables" / "lic.tsv")) == 14


def test_the_broken_visit_leaves_a_page_but_no_empty_images(study: Path) -> None:
    assert not [p for p in (study / "results").rglob("*.nii.gz") if p.stat().st_size == 0]
    assert not [p for p in (study / "results" / "work").rglob("*.npz") if p.stat().st_size == 0]
    pages = {p.stem for p in (study / "results" / "qc").glob("sub-*.html")}
    assert len([name for name in pages if not name.endswith("_viewer")]) == 15
    # a viewer for every visit but the one without maps
    assert len([name for name in pages if name.endswith("_viewer")]) == 14


def test_r2star_fat_and_lic_are_right_and_the_regression_has_the_right_signs(study: Path) -> None:
    accuracy = score(study, truth_folder(study))
    missed = [line for line in accuracy.lines if line[3] is False]
    assert not missed, accuracy.render()


def test_susceptibility_rises_with_iron_with_a_slope_near_one(study: Path) -> None:
    slopes = {name: float(value) for name, value, _, _ in score(study, truth_folder(study)).lines if "slope" in name}
    assert slopes
    assert all(0.8 < slope < 1.2 for slope in slopes.values()), slopes


def test_a_second_run_does_nothing_and_a_new_file_reruns_only_its_visit(study: Path) -> None:
    assert "Nothing to be done" in planned(study)
    extra = study / "dicom" / "sub-0101" / "ses-02" / "note.txt"
    extra.write_text("x", encoding="utf-8")
    plan = planned(study)
    extra.unlink()
    counts = dict(line.split()[:2] for line in plan.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
    assert counts["gated_echoes"] == "1"
    assert counts["water_fat"] == "1"
    assert "exposure" not in counts


def test_a_changed_parameter_of_lic_leaves_the_images_alone(study: Path) -> None:
    plan = planned(study, "--config", 'lic={"r2star_calibration": "hankins2009"}')
    counts = dict(line.split()[:2] for line in plan.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
    assert counts["liver_iron"] == "15"
    assert counts.get("water_fat", "0") in {"0", "1"}  # the rejected visit left nothing to start from and is tried again


def test_maps_are_float_with_nan_and_share_the_echoes_grid(study: Path) -> None:
    import nibabel as nib

    anat = study / "results" / "maps" / "sub-0101" / "ses-01" / "anat"
    echo = nib.load(next((study / "results/bids/sub-0101/ses-01/anat").glob("*echo-1_part-mag_MEGRE.nii.gz")))
    for suffix in ("Chimap", "R2starmap", "T2starmap", "PDFF", "fieldmap"):
        image = nib.load(anat / f"sub-0101_ses-01_{suffix}.nii.gz")
        np.testing.assert_allclose(image.affine, echo.affine, atol=1e-4)
        values = np.asarray(image.dataobj)
        assert np.isnan(values).any()
        assert np.isfinite(values).any()
        assert "Units" in json.loads((anat / f"sub-0101_ses-01_{suffix}.json").read_text(encoding="utf-8"))


def test_bids_validator_finds_no_error(study: Path) -> None:
    for dataset in ("bids", "maps"):
        command = [str(Path(sys.executable).parent / "bids-validator-deno"), str(study / "results" / dataset), "--format", "json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [(i["code"], i.get("location")) for i in issues if i["severity"] == "error"]
        assert not errors, errors[:5]


def test_a_misspelt_key_ends_in_one_sentence(study: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study), "-n"]
    done = subprocess.run([*command, "--config", 'gating={"windw_mm": 3}'], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Did you mean window_mm?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_study_ends_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "hqsm.cli", "run", str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "No visit was found under dicom/" in done.stderr


def test_snakemakes_own_report_is_made_with_its_categories(study: Path, tmp_path: Path) -> None:
    target = tmp_path / "workflow.html"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
    profile = ["--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "default")]
    subprocess.run([*command, *profile, "--cores", "1", "--report", str(target)], check=True, capture_output=True)
    text = target.read_text(encoding="utf-8")
    for word in ("Quality control", "Figures", "Every visit in one table"):
        assert word in text
