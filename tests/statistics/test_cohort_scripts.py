"""The cohort's rules from records and a table of LIC to the statistics, without an image: their scripts as they are."""

import logging
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hqsm.config.study import as_plain, load_config
from hqsm.phantom.clinical import simulate_participants, write_records
from hqsm.table_contract import TABLES
from hqsm.tables import read_frame, write_rows

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "scripts"
NOISE = {"hqsm": 0.15, "r2star": 1.0}


class Named(SimpleNamespace):
    def items(self) -> Any:
        return vars(self).items()


def run_script(name: str, inputs: dict[str, str], outputs: dict[str, str], params: dict[str, Any]) -> None:
    job = SimpleNamespace(rule=name, threads=1, input=Named(**inputs), output=Named(**outputs), params=SimpleNamespace(**params))
    job.log = [f"logs/{name}.log"]
    try:
        exec(compile((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"), name, "exec"), {"snakemake": job})
    finally:
        for handler in list(logging.getLogger("hqsm").handlers):
            handler.close()
            logging.getLogger("hqsm").removeHandler(handler)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("cohort")
    visits, records = simulate_participants(42, 4, ("siemens", "ge"), seed=5)
    rng = np.random.default_rng(0)
    lic_rows, visit_rows = [], []
    for visit in visits:
        error = {name: rng.normal(0, sd) for name, sd in NOISE.items()}
        row = {
            "participant_id": f"sub-{visit.participant}",
            "session_id": f"ses-{visit.session}",
            "group": visit.group,
            "specimen": "in_vitro" if visit.session == "explant" else "in_vivo",
            "acq_date": visit.visit_date.isoformat(),
            "field_strength_t": visit.field_strength_tesla,
            # the simulation keeps LIC within 1.2 to 18 mg/g: at an end of it a change is not what the balance says
            "qc_status": "ok" if 1.2 < visit.liver.lic_mg_g < 18 or visit.group != "thalassemia" else "rejected",
            "reconstruction_digest": "x",
        }
        for method, sd in error.items():
            row[f"lic_{method}_mg_g"] = visit.liver.lic_mg_g + sd
        row["chi_hqsm_ppm"] = 0.41 * row["lic_hqsm_mg_g"]
        lic_rows.append(row)
        visit_rows.append({"participant_id": row["participant_id"], "session_id": row["session_id"], "convention": visit.vendor})
    write_records(folder / "records", records)
    previous = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        t = "results/tables/"
        write_rows(Path(f"{t}lic.tsv"), "lic", lic_rows)
        write_rows(Path(f"{t}visits.tsv"), "visits", visit_rows)
        blocks = as_plain(load_config({"statistics": {"bootstrap_draws": 500}}))
        stats, record_params = {"statistics": blocks["statistics"]}, {"parameters": blocks["records"]}
        run_script("exposure", {}, {"exposure": f"{t}exposure.tsv", "findings": "results/findings.json"}, record_params)
        change = f"{t}annual_change.tsv"
        run_script("annual_change", {"lic": f"{t}lic.tsv", "exposure": f"{t}exposure.tsv"}, {"annual_change": change}, stats)
        names = {"regression": "regression", "comparison": "method_comparison", "influence": "influence"}
        run_script("regression", {"annual_change": change}, {k: f"{t}{v}.tsv" for k, v in names.items()}, stats)
        names = {"explants": "explants", "effects": "histology_effects", "agreement": "explant_agreement"}
        names |= {"repeatability": "repeatability", "baseline": "baseline"}
        outputs = {k: f"{t}{v}.tsv" for k, v in names.items()}
        params = {**stats, "record_parameters": blocks["records"]}
        run_script("explants", {"lic": f"{t}lic.tsv", "visits": f"{t}visits.tsv"}, outputs, params)
    assert Path.cwd() == previous
    return folder / "results" / "tables", [dict(row) for row in records.intervals]


def table(cohort: tuple[Path, list[dict[str, Any]]], name: str) -> pd.DataFrame:
    return read_frame(cohort[0] / f"{name}.tsv", name)


def test_exposure_is_that_of_the_simulation_which_shares_no_code_with_it(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    made = table(cohort, "exposure").set_index(["participant_id", "start_session", "end_session"])
    assert len(made) == len(cohort[1])
    for truth in cohort[1]:
        row = made.loc[(truth["participant_id"], truth["start_session"], truth["end_session"])]
        assert row["iron_in_mg"] == pytest.approx(truth["iron_in_mg"], rel=1e-6)
        assert row["chelator_mg"] == pytest.approx(truth["chelator_mg"], rel=1e-6)


def test_the_regression_finds_the_physics_that_was_put_in(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    rows = table(cohort, "regression").set_index(["analysis", "method", "term"])
    for analysis in ("primary", "random_intercept", "first_interval"):
        iron = rows.loc[(analysis, "hqsm", "iron_in")]
        # each participant has an efficiency of its own, which is no noise to a fit without a term for participants
        assert iron["estimate"] == pytest.approx(1 / 10.6, rel=0.12), analysis
        assert iron["physics_value"] == pytest.approx(1 / 10.6)
        drug = rows.loc[(analysis, "hqsm", "chelator")]
        assert drug["efficiency"] == pytest.approx(0.28, abs=0.04), analysis
    mixed = rows.loc[("random_intercept", "hqsm", "iron_in")]
    assert mixed["ci_lo"] < 1 / 10.6 < mixed["ci_hi"]
    assert rows.loc[("primary", "hqsm", "iron_in"), "rmse"] < rows.loc[("primary", "r2star", "iron_in"), "rmse"]
    comparison = table(cohort, "method_comparison").set_index(["analysis", "quantity"])
    assert comparison.loc[("primary", "delta_rmse_mg_g_per_year"), "ci_hi"] < 0
    assert set(rows.index.get_level_values("analysis")) >= {"adherence_corrected", "baseline_lic", "age", "splenectomy"}


def test_repeat_scans_and_healthy_livers_are_summarised(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    repeat = table(cohort, "repeatability").set_index(["comparison", "quantity"])
    for method, sd in NOISE.items():
        row = repeat.loc[("repeat", f"lic_{method}_mg_g")]
        assert row["within_subject_sd_lo"] < sd < row["within_subject_sd_hi"]
        assert row["minimum_detectable_change"] == pytest.approx(2.772 * row["within_subject_sd"], rel=1e-3)
    baseline = table(cohort, "baseline")
    assert set(baseline["field_strength_t"]) == {1.5, 3.0}
    chi = baseline[baseline["quantity"] == "chi_hqsm_ppm"]
    assert ((chi["ci_lo"] < 0.41 * 1.05) & (chi["ci_hi"] > 0.41 * 1.05)).all()  # healthy LIC is drawn from 0.7 to 1.4


def test_explants_have_the_twelve_outcomes_and_agree_with_chemistry(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    explants = table(cohort, "explants")
    assert explants["participant_id"].nunique() == 13  # 30 % of 42
    assert len(explants) == 13 * 4  # two settings, two methods
    effects = table(cohort, "histology_effects")
    assert len(effects) == 12
    assert effects["p_holm"].notna().all()
    agreement = table(cohort, "explant_agreement").set_index(["setting", "method", "quantity"])
    slope = agreement.loc[("in_vivo", "hqsm", "deming_slope")]
    assert slope["ci_lo"] < 1 < slope["ci_hi"]
    assert "repeat scans and replicates" in slope["note"]


def test_every_column_that_was_written_is_in_the_contract(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    for path in cohort[0].glob("*.tsv"):
        assert path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t") == [c.name for c in TABLES[path.stem]]


def test_intervals_of_disagreeing_dates_or_reconstructions_are_flagged(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.annual_change import annual_change_rows

    lic, exposure = table(cohort, "lic"), table(cohort, "exposure")
    who = lic["participant_id"] == "sub-0101"
    lic.loc[who & (lic["session_id"] == "ses-02"), ["acq_date", "reconstruction_digest"]] = ["2022-12-31", "y"]
    rows = [r for r in annual_change_rows(lic, exposure, StatisticsParams()) if r["participant_id"] == "sub-0101"]
    assert [{"dates_disagree", "reconstruction_differs"} <= set(r["flags"].split()) for r in rows] == [True, True, False]
    assert asdict(StatisticsParams())["acq_date_tolerance_days"] == 7


def test_a_visit_with_another_ones_images_ends_no_interval_before_somebody_accepts_it(cohort: tuple[Path, list[dict[str, Any]]]) -> None:
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.annual_change import annual_change_rows

    lic, exposure = table(cohort, "lic"), table(cohort, "exposure")
    twice = (lic["participant_id"] == "sub-0101") & (lic["session_id"] == "ses-02")
    for status, included in (("warning", [0, 0, 1]), ("ok", [1, 1, 1])):
        lic.loc[twice, ["qc_status", "qc_codes"]] = [status, "VISIT_SAME_IMAGES"]
        rows = [r for r in annual_change_rows(lic, exposure, StatisticsParams()) if r["participant_id"] == "sub-0101"]
        assert [r["included"] for r in rows] == included
    assert "those of another visit" not in rows[0]["reason"]
