"""What a simulated study says of itself against its truth, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hqsm.phantom.accuracy import score
from hqsm.tables import write_rows


def scored(folder: Path, visits: list[dict[str, Any]], true_ppm: list[float]) -> dict[str, str]:
    """Lines by name; every liver has the fat and decay that is true."""
    study, truth = folder / "study", folder / "study-truth"
    known = {"r2star_per_s": 100.0, "pdff_percent": 3.0, "lic_mg_g": 2.0}
    rows = [
        {"participant_id": f"sub-{k}", "session_id": "ses-1", **known, "lic_r2star_mg_g": 2.0, **visit} for k, visit in enumerate(visits)
    ]
    write_rows(study / "results" / "tables" / "lic.tsv", "lic", [{k: v for k, v in row.items() if k != "lic_mg_g"} for row in rows])
    write_rows(study / "results" / "tables" / "regression.tsv", "regression", [])
    truth.mkdir()
    lines = ["participant_id\tsession_id\tchi_liver_ppm\t" + "\t".join(known)]
    lines += [f"sub-{k}\tses-1\t{chi}\t" + "\t".join(map(str, known.values())) for k, chi in enumerate(true_ppm)]
    (truth / "visits.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: value for name, value, _, _ in score(study, truth).lines}


def test_the_share_inside_the_interval_and_the_errors_over_their_standard_error_are_told_for_each_specimen(tmp_path: Path) -> None:
    errors_ppm, se_ppm = np.array([0.1, -0.3, 0.0, 0.05, 0.1, -0.1]), np.array([0.1, 0.1, 0.1, 0.2, 0.05, 0.05])
    true_ppm = [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]
    visits = [
        {"specimen": ("in_vivo", "in_vitro")[k // 3], "chi_hqsm_ppm": true_ppm[k] + errors_ppm[k], "chi_se_ppm": se_ppm[k]}
        for k in range(6)
    ]
    lines = scored(tmp_path, visits, true_ppm)
    # errors over standard errors: 1, -3, 0 and 0.25, 2, -2
    assert lines["hQSM in vivo: inside the 95 % interval, error/SE"] == f"2 of 3, {np.sqrt(10 / 3):.2f}"
    assert lines["hQSM in vitro: inside the 95 % interval, error/SE"] == f"1 of 3, {np.sqrt(8.0625 / 3):.2f}"


def test_a_visit_without_a_susceptibility_is_neither_inside_nor_outside(tmp_path: Path) -> None:
    visits = [{"specimen": "in_vivo", "chi_hqsm_ppm": float(k), "chi_se_ppm": 0.1} for k in range(3)]
    lines = scored(tmp_path, [*visits, {"specimen": "in_vivo", "chi_hqsm_ppm": None, "chi_se_ppm": None}], [0.0, 1.0, 2.0, 3.0])
    assert lines["hQSM in vivo: inside the 95 % interval, error/SE"] == "3 of 3, 0.00"


@pytest.mark.parametrize(
    ("slope", "off_ppm", "specimen", "met"),
    [
        (1.0, 0.0, "in_vivo", (True, True)),
        (0.91, 0.04, "in_vivo", (True, True)),
        (0.89, 0.0, "in_vivo", (False, True)),
        (1.02, -0.06, "in_vitro", (True, False)),
        (1.04, 0.0, "in_vitro", (False, True)),
    ],
)
def test_slope_and_intercept_of_hqsm_are_held_against_their_targets(
    tmp_path: Path, slope: float, off_ppm: float, specimen: str, met: tuple[bool, bool]
) -> None:
    true_ppm = [0.5, 1.0, 2.0, 4.0]
    visits = [{"specimen": specimen, "chi_hqsm_ppm": slope * chi + off_ppm, "chi_se_ppm": 0.1} for chi in true_ppm]
    scored(tmp_path, visits, true_ppm)
    lines = {name: ok for name, _, _, ok in score(tmp_path / "study", tmp_path / "study-truth").lines if name.startswith("hQSM")}
    assert tuple(ok for name, ok in lines.items() if "slope" in name or "intercept" in name) == met
