"""`hqsm compare`: several methods on a study's visits, from the same maps and masks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hqsm.archive import save_noun
from hqsm.cli import main
from hqsm.config.lic import LicParams
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.lic import liver_iron
from hqsm.method_comparison import compare_methods
from test_published_inversions import small_visit


@pytest.fixture
def study(tmp_path: Path) -> Path:
    maps, regions, _ = small_visit()
    for name in ("sub-01_ses-a", "sub-02_ses-a"):
        folder = tmp_path / "results" / "work" / name
        folder.mkdir(parents=True)
        save_noun(folder / "water_fat.npz", maps)
        save_noun(folder / "regions.npz", regions)
    (tmp_path / "results" / "work" / "sub-03_ses-a").mkdir()
    (tmp_path / "results" / "work" / "sub-03_ses-a" / "regions.npz").touch()  # a stage that failed leaves an empty file
    return tmp_path


def test_every_visit_gets_a_line_per_method_and_a_picture(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(study), "--methods", "lbv+tkd", "v-sharp+tikhonov"]) == 0
    out = study / "results" / "susceptibility_methods"
    rows = list(csv.DictReader((out / "susceptibility_methods.tsv").read_text().splitlines(), delimiter="\t"))
    named = [(row["participant_id"], row["method"]) for row in rows]
    assert named == [(p, m) for p in ("sub-01", "sub-02") for m in ("lbv+tkd", "v-sharp+tikhonov")]
    for row in rows:
        assert 0 < float(row["chi_hqsm_ppm"]) < 1.2
        assert row["chi_minus_muscle_ppm"] == row["chi_hqsm_ppm"]
        assert row["chi_minus_fat_ppm"] == "n/a"
        assert row["converged"] == "1"
    assert int(rows[0]["iterations"].split()[0]) > 1
    assert rows[1]["iterations"] == "0 0"
    assert rows[0].keys() == json.loads((out / "susceptibility_methods.json").read_text()).keys()
    assert (out / "sub-02_ses-a.png").stat().st_size > 5000
    assert "sub-02_ses-a" in capsys.readouterr().out


def test_only_named_visits_are_compared_and_a_misspelt_one_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(study), "--methods", "v-sharp+tkd", "--visits", "sub-02/ses-a", "--out", str(study / "x")]) == 0
    assert "sub-01" not in (study / "x" / "susceptibility_methods.tsv").read_text()
    assert main(["compare", str(study), "--visits", "sub-09_ses-a"]) == 2
    assert "no maps of sub-09_ses-a" in capsys.readouterr().err


def test_an_unknown_method_is_refused_with_those_that_exist(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(study), "--methods", "pdf-medi"]) == 2
    message = capsys.readouterr().err
    assert "pdf-medi" in message
    assert "pdf+medi" in message


def test_the_methods_share_maps_masks_and_reference() -> None:
    maps, regions, truth = small_visit()
    results = compare_methods(maps, regions, SusceptibilityParams(padding_mm=20.0), ["lbv+tkd", "lbv+medi"], specimen="in_vivo")
    assert [result.method for result in results] == ["lbv+tkd", "lbv+medi"]
    assert {result.susceptibility.reference_name for result in results} == {"muscle"}
    assert results[0].liver.n_voxels > 0
    error = [abs(result.liver.median - float(np.median(truth[regions.liver]))) for result in results]
    assert error[1] < error[0]


def test_the_liver_is_what_the_study_s_own_table_says_by_the_same_voxels_and_empty_without_a_reference() -> None:
    maps, regions, _ = small_visit()
    left = np.arange(maps.grid.shape[0])[:, None, None] < np.argwhere(regions.liver)[:, 0].mean()
    near_gas, censored = regions.liver & left, np.zeros_like(regions.liver)
    censored[:, :, : maps.grid.shape[2] // 2] = True
    maps, regions = replace(maps, censored=maps.censored | censored), replace(regions, near_gas=near_gas)
    params = SusceptibilityParams(padding_mm=20.0)
    for case in (regions, replace(regions, references={})):
        (result,) = compare_methods(maps, case, params, ["lbv+tkd"], specimen="in_vivo")
        study = liver_iron(maps, result.susceptibility, case, LicParams(), temperature_celsius=37.0)
        assert result.chi_hqsm_ppm == pytest.approx(study.chi_hqsm_ppm, abs=0, nan_ok=True)
        assert result.row()["chi_hqsm_ppm"] == pytest.approx(study.chi_hqsm_ppm, abs=0, nan_ok=True)
        assert np.isfinite(study.chi_hqsm_ppm) == bool(case.references)
    assert 0 < result.liver.n_voxels <= (regions.liver & ~near_gas & ~censored).sum()
