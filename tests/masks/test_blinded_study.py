"""A study read blindly: automatic masks first, packs out, readings back, and the tables that follow."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from hqsm.cli import main
from hqsm.commands.run import run_workflow
from hqsm.nifti import load_volume, save_volume
from hqsm.phantom.cohort import simulate_study, truth_folder
from hqsm.readpack.keys import read_key
from masks.conftest import true_liver

pytestmark = pytest.mark.slow


def rows(study: Path, table: str) -> list[dict[str, str]]:
    with (study / "results" / "tables" / f"{table}.tsv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_readings_that_come_back_make_the_studys_values(tmp_path: Path) -> None:
    study, packs, keys = tmp_path / "study", tmp_path / "packs", tmp_path / "keys"
    simulate_study(study, participants=1, visits=2, size="tiny", seed=1, with_bad_visit=False, progress=lambda _: None)
    assert run_workflow(study, ["--quiet", "all"]) == 0
    automatic = rows(study, "lic")
    assert [row["mask_source"] for row in automatic] == ["automatic", "automatic"]
    assert rows(study, "readers") == []

    make = ["readpack", "make", str(study), "--readers", "A,B", "--keys", str(keys), "--out", str(packs), "--repeat-share", "0.5"]
    assert main(make) == 0
    for case in read_key(keys):
        pack = packs / f"reader-{case.reader}"
        _, grid = load_volume(pack / f"{case.code}_image.nii.gz")
        truth = np.load(truth_folder(study) / f"{case.participant_id}_{case.session_id}.npz")
        liver = true_liver(truth["labels"])
        drawn = ndimage.binary_erosion(liver) if case.reader == "B" else liver
        save_volume(pack / "masks" / f"{case.code}.nii.gz", drawn, grid)
    for reader in ("A", "B"):
        assert main(["readpack", "check", str(packs / f"reader-{reader}")]) == 0
    assert main(["readpack", "lock", str(study), "--packs", str(packs), "--keys", str(keys)]) == 0

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
