"""`hqsm analyse`: a table alone gives the study's numbers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hqsm.cli import main

FOLDER = Path(__file__).parent / "oracles"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_annual_writes_rs_numbers_as_tsv_and_json(tmp_path: Path, oracles: dict[str, Any]) -> None:
    assert main(["analyse", "annual", str(FOLDER / "annual_synth.csv"), "--out", str(tmp_path)]) == 0
    table = rows(tmp_path / "regression.tsv")
    document = json.loads((tmp_path / "annual.json").read_text(encoding="utf-8"))["tables"]["regression"]
    for method, name in (("hqsm", "dlic_qsm"), ("r2star", "dlic_r2s")):
        for found in (table, document):
            primary = [r for r in found if r["analysis"] == "primary" and r["method"] == method]
            for column, key in (("estimate", "ols_coef"), ("std_error", "CR2_se"), ("df", "CR2_df"), ("ci_lo", "CR2_ci_lo")):
                np.testing.assert_allclose([float(r[column]) for r in primary], oracles[f"annual/{name}/{key}"], rtol=1e-6)
            mixed = [r for r in found if r["analysis"] == "random_intercept" and r["method"] == method]
            np.testing.assert_allclose([float(r["df"]) for r in mixed], oracles[f"annual/{name}/reml_satt_df"], rtol=1e-4)
    # what the plain table cannot support is left out
    assert {r["analysis"] for r in table} == {"primary", "first_interval", "random_intercept", "interaction"}
    comparison = {(r["analysis"], r["quantity"]): r for r in rows(tmp_path / "method_comparison.tsv")}
    difference = comparison["primary", "delta_r_squared"]
    assert float(difference["estimate"]) == pytest.approx(0.1310245, abs=1e-7)
    assert float(difference["std_error"]) == pytest.approx(0.0429573, abs=1e-7)
    assert (float(difference["ci_lo"]), float(difference["ci_hi"])) == pytest.approx((0.063, 0.2165), abs=0.006)
    assert json.loads((tmp_path / "regression.json").read_text(encoding="utf-8"))["estimate"]["Description"]


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["analyse", "annual", str(FOLDER / "annual_synth.csv"), "--out", str(tmp_path / name)])
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    header, *lines = (FOLDER / "annual_synth.csv").read_text(encoding="utf-8").splitlines()
    for name, order in (("a", lines), ("b", lines[::-1])):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *order]) + "\n", encoding="utf-8")
        main(["analyse", "annual", str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / name)])
    assert (tmp_path / "a" / "regression.tsv").read_bytes() == (tmp_path / "b" / "regression.tsv").read_bytes()


def test_semicolons_tabs_and_ids_with_zeros_are_understood(tmp_path: Path) -> None:
    text = (FOLDER / "annual_synth.csv").read_text(encoding="utf-8")
    for name, mark in (("semicolon", ";"), ("tab", "\t")):
        (tmp_path / f"{name}.csv").write_text("\ufeff" + text.replace(",", mark).replace("S0", "00"), encoding="utf-8")
        assert main(["analyse", "annual", str(tmp_path / f"{name}.csv")]) == 0
    made = rows(tmp_path / "semicolon-annual" / "influence.tsv")
    assert made[0]["participant_id"] == "001"
    assert (tmp_path / "tab-annual" / "regression.tsv").read_bytes() == (tmp_path / "semicolon-annual" / "regression.tsv").read_bytes()


def test_explants_and_readers_are_analysed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["id,lic_chem,lic_hqsm,lic_r2s,fibrosis"]
    for k in range(20):
        lic = rng.uniform(1, 20)
        lines.append(f"{k:03d},{lic:.4f},{lic + rng.normal(0, 0.2):.4f},{lic + 0.7 * (k % 5) + rng.normal(0, 0.2):.4f},{k % 5}")
    (tmp_path / "e.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["analyse", "explants", str(tmp_path / "e.csv"), "--out", str(tmp_path)]) == 0
    effects = {(r["confounder"], r["method"]): r for r in rows(tmp_path / "histology_effects.tsv") if r["setting"] == "in_vivo"}
    assert float(effects["fibrosis", "r2star"]["effect"]) == pytest.approx(0.7, abs=0.1)
    assert effects["steatosis", "hqsm"]["effect"] == "n/a"
    (tmp_path / "r.csv").write_text("scan,r1,r2\na,9,2\nb,6,1\nc,8,4\nd,7,\n", encoding="utf-8")
    assert main(["analyse", "readers", str(tmp_path / "r.csv"), "--out", str(tmp_path)]) == 0
    assert rows(tmp_path / "reader_agreement.tsv")[0]["n"] == "3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("subject,interval\nS1,1\n", "no column fe_in_mgkg"),
        ("subject,fe_in_mgkg,dfx_gkg,dlic_qsm,dlic_r2s\nS1,1,2,three,4\n", "Line 2, column dlic_qsm: not a number"),
    ],
)
def test_a_table_that_cannot_be_analysed_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert main(["analyse", "annual", str(tmp_path / "t.csv")]) == 2
    assert said in capsys.readouterr().err
