"""Power by simulation, and the study's own calibration."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from statsmodels.regression.linear_model import OLS

from hqsm.cli import main
from hqsm.config.lic import LicParams
from hqsm.config.statistics import StatisticsParams
from hqsm.config.study import load_config
from hqsm.errors import ProcessingError
from hqsm.lic import apply_calibration, hqsm_calibration
from hqsm.statistics.agreement import Estimate, deming_line
from hqsm.statistics.calibration import (
    Calibration,
    balance_slope,
    from_balance,
    from_explants,
    healthy_intercept,
    with_healthy_intercept,
)
from hqsm.statistics.power import Design, power_rows, simulate_study
from hqsm.statistics.regression import ols_cluster
from hqsm.tables import read_frame, write_rows

PARAMS = StatisticsParams()
QUIET = {"biology_sd_mg_g": 0.0, "efficiency_sd": 0.0, "missing_share": 0.0}


def test_without_noise_every_simulated_study_is_the_iron_balance() -> None:
    design = Design(participants=10, visits=3, scan_sd_mg_g={"hqsm": 0.0, "r2star": 0.0}, **QUIET)
    x, change, who = simulate_study(design, PARAMS, np.random.default_rng(0))
    assert (x.shape, change.shape, np.unique(who).size) == ((20, 3), (20, 2), 10)
    np.testing.assert_allclose(change[:, 0], x[:, 1] / 10.6 - 0.25 * 74.79 / 10.6 * x[:, 2], rtol=1e-12)


def test_the_error_of_a_visit_enters_both_of_its_intervals_with_opposite_signs() -> None:
    design = Design(participants=4000, visits=3, scan_sd_mg_g={"hqsm": 0.5, "r2star": 0.0}, **QUIET)
    _, change, _ = simulate_study(design, PARAMS, np.random.default_rng(1))
    error = (change[:, 0] - change[:, 1]).reshape(-1, 2)
    assert error.std() == pytest.approx(0.5 * np.sqrt(2), rel=0.03)
    assert np.corrcoef(error.T)[0, 1] == pytest.approx(-0.5, abs=0.04)


def test_iron_and_chelator_vary_half_as_much_within_a_participant_as_between_and_an_interval_needs_both_visits() -> None:
    design = Design(participants=4000, visits=3, scan_sd_mg_g={"hqsm": 0.0}, missing_share=0.0)
    x, _, _ = simulate_study(design, PARAMS, np.random.default_rng(2))
    for k, mean, sd in ((1, design.iron_mean_mg_kg, design.iron_sd_mg_kg), (2, design.chelator_mean_g_kg, design.chelator_sd_g_kg)):
        pairs = x[:, k].reshape(-1, 2)
        assert np.diff(pairs).std() == pytest.approx(sd / 2 * np.sqrt(2), rel=0.04)
        assert pairs.mean(axis=1).std() == pytest.approx(np.hypot(sd, sd / 2 / np.sqrt(2)), rel=0.04)
        assert pairs.mean() == pytest.approx(mean, rel=0.02)
    lossy = Design(participants=4000, visits=3, scan_sd_mg_g={"hqsm": 0.0}, missing_share=0.2)
    assert len(simulate_study(lossy, PARAMS, np.random.default_rng(3))[0]) == pytest.approx(8000 * 0.8**2, rel=0.03)


def test_intervals_cover_as_often_as_they_say_and_narrow_with_the_root_of_the_participants() -> None:
    sd = {"hqsm": 0.4, "r2star": 0.6}
    found = {}
    for n in (24, 96):
        design = Design(participants=n, scan_sd_mg_g=sd)
        rows = power_rows(design, PARAMS, simulations=150, draws=200, seed=n)
        found[n] = {(r["method"], r["quantity"]): r for r in rows}
    for n in (24, 96):
        assert 0.89 <= found[n]["hqsm", "iron_in"]["coverage"] <= 0.99
        assert found[n]["hqsm", "iron_in"]["mean_estimate"] == pytest.approx(1 / 10.6, rel=0.03)
        assert found[n]["hqsm", "chelator"]["truth"] == pytest.approx(-0.25 * 74.79 / 10.6)
    # CR2 and its small df make the small study a little wider still than the root of four
    assert 1.8 < found[24]["hqsm", "iron_in"]["ci_width"] / found[96]["hqsm", "iron_in"]["ci_width"] < 2.4
    difference = ("hqsm_minus_r2star", "delta_rmse_mg_g_per_year")
    assert found[96][difference]["power"] > found[24][difference]["power"]


def test_equal_methods_are_told_apart_no_more_often_than_chance() -> None:
    design = Design(participants=42, scan_sd_mg_g={"hqsm": 0.5, "r2star": 0.5})
    rows = {r["quantity"]: r for r in power_rows(design, PARAMS, simulations=200, draws=300, seed=3)}
    assert rows["delta_rmse_mg_g_per_year"]["power"] < 0.12
    assert rows["delta_rmse_mg_g_per_year"]["mean_estimate"] == pytest.approx(0, abs=0.02)


def test_the_power_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repeats = [
        {"comparison": "repeat", "quantity": f"lic_{m}_mg_g", "n_pairs": 3, "within_subject_sd": sd}
        for m, sd in (("hqsm", 0.3), ("r2star", 0.7))
    ]
    write_rows(tmp_path / "repeatability.tsv", "repeatability", repeats)
    options = [
        "power",
        "--participants",
        "12",
        "--simulations",
        "20",
        "--draws",
        "50",
        "--repeatability",
        str(tmp_path / "repeatability.tsv"),
    ]
    assert main([*options, "--out", str(tmp_path)]) == 0
    assert "hqsm 0.30 mg/g, r2star 0.70 mg/g" in capsys.readouterr().out
    assert len(read_frame(tmp_path / "power.tsv", "power")) == 8
    assert main(["power", "--visits", "1"]) == 2
    assert "at least 4 participants" in capsys.readouterr().err


SLOPE, INTERCEPT = 2.8, 0.4


def tables(seed: int = 0, n: int = 40) -> dict[str, list[dict[str, Any]]]:
    """Visits whose susceptibility follows LIC = INTERCEPT + SLOPE chi; explants, healthy livers and annual intervals."""
    rng = np.random.default_rng(seed)
    lic: list[dict[str, Any]] = []
    explants: list[dict[str, Any]] = []
    change: list[dict[str, Any]] = []

    def visit(participant: str, session: str, group: str, iron_mg_g: float) -> None:
        chi = (iron_mg_g - INTERCEPT) / SLOPE + rng.normal(0, 0.03)
        common = {"specimen": "in_vivo", "qc_status": "ok", "reference_tissue": "muscle", "reconstruction_digest": "abc123def456"}
        lic.append({"participant_id": participant, "session_id": session, "group": group, "chi_hqsm_ppm": chi, **common})

    for k in range(n // 2):
        iron = float(rng.uniform(1, 20))
        visit(f"sub-e{k}", "ses-01", "transplant", iron)
        chemistry = {"lic_chemistry_mg_g": iron + rng.normal(0, 0.2), "lic_chemistry_sd_mg_g": 0.4, "n_replicates": 4}
        row = {"participant_id": f"sub-e{k}", "session_id": "ses-01", "setting": "in_vivo"}
        explants += [{**row, "method": method, **chemistry} for method in ("hqsm", "r2star")]
    for k in range(8):
        visit(f"sub-h{k}", "ses-01", "healthy", 1.0)
    for k in range(n):
        iron_in, dose, start = rng.uniform(80, 170), rng.uniform(4, 9), rng.uniform(5, 10)
        visit(f"sub-p{k}", "ses-01", "thalassemia", start)
        visit(f"sub-p{k}", "ses-02", "thalassemia", start + (iron_in - 20 * dose) / 10.6)
        row = {"participant_id": f"sub-p{k}", "start_session": "ses-01", "end_session": "ses-02", "days": 365.25, "included": 1}
        change.append({**row, "iron_in_mg_per_kg_per_year": iron_in, "chelator_g_per_kg_per_year": dose})
    repeat = [{"comparison": "repeat", "quantity": "chi_hqsm_ppm", "n_pairs": 8, "within_subject_sd": 0.03}]
    return {"lic": lic, "explants": explants, "annual_change": change, "repeatability": repeat}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, rows in tables().items():
        write_rows(tmp_path / "results" / "tables" / f"{name}.tsv", name, rows)
    return tmp_path


def test_explants_give_back_slope_and_intercept_with_their_intervals() -> None:
    made = tables()
    found = from_explants(pd.DataFrame(made["lic"]), pd.DataFrame(made["explants"]), "in_vivo", 0.03, PARAMS)
    assert found.slope_mg_g_per_ppm.ci_lo < SLOPE < found.slope_mg_g_per_ppm.ci_hi
    assert found.slope_mg_g_per_ppm.value == pytest.approx(SLOPE, rel=0.03)
    assert found.intercept_mg_g.ci_lo < INTERCEPT < found.intercept_mg_g.ci_hi
    assert (found.n, found.reference_tissue, found.reconstruction_digest) == (20, "muscle", "abc123def456")


def test_the_line_of_explants_has_the_ratio_of_the_mean_of_replicates_to_a_scan_else_the_configured_one() -> None:
    made = tables()
    lic, explants = pd.DataFrame(made["lic"]), pd.DataFrame(made["explants"])
    one = explants[explants["method"] == "hqsm"].merge(lic, on=["participant_id", "session_id"])
    chi, chemistry = one["chi_hqsm_ppm"].to_numpy(float), one["lic_chemistry_mg_g"].to_numpy(float)
    found = from_explants(lic, explants, "in_vivo", 0.3, PARAMS)
    # four replicates of SD 0.4: 0.2 mg/g
    assert found.slope_mg_g_per_ppm.value == pytest.approx(deming_line(chi, chemistry, 0.2**2 / 0.3**2)[0], rel=1e-9)
    # lambda of the configuration is MRI over chemistry, in units of each one's spread; here chemistry is y
    other = StatisticsParams(deming_error_ratio=4.0)
    unknown = from_explants(lic, explants, "in_vivo", float("nan"), other)
    ratio = chemistry.var() / chi.var() / 4
    assert unknown.slope_mg_g_per_ppm.value == pytest.approx(deming_line(chi, chemistry, ratio)[0], rel=1e-9)


def test_the_balance_is_of_usable_intervals_between_scans_of_the_living_per_year_of_365_and_a_quarter_days() -> None:
    made = tables()
    lic, change = pd.DataFrame(made["lic"]), pd.DataFrame(made["annual_change"])
    change["days"] = 300 + 10 * np.arange(len(change)) % 130
    chi = lic.set_index(["participant_id", "session_id"])["chi_hqsm_ppm"]
    ends = [[chi[who, session] for who in change["participant_id"]] for session in ("ses-01", "ses-02")]
    rate = 365.25 * np.subtract(ends[1], ends[0]) / change["days"]
    x = np.column_stack([np.ones(len(change)), change["iron_in_mg_per_kg_per_year"], change["chelator_g_per_kg_per_year"]])
    b = np.linalg.lstsq(x, rate, rcond=None)[0][1]
    fixed = lic[lic["participant_id"] == "sub-p0"].assign(specimen="in_vitro", chi_hqsm_ppm=77.0)
    excluded = change[:1].assign(included=0, iron_in_mg_per_kg_per_year=900.0)
    found = from_balance(pd.concat([lic, fixed]), pd.concat([change, excluded]), PARAMS)
    assert found.slope_mg_g_per_ppm.value == pytest.approx(1 / (10.6 * b), rel=1e-9)
    assert found.n == len(change)


def test_the_interval_of_the_balance_is_that_of_the_rise_turned_over() -> None:
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(12), rng.uniform(80, 170, 12), rng.uniform(4, 9, 12)])
    chi = (x[:, 1] / 10.6 - 1.4 * x[:, 2]) / SLOPE + rng.normal(0, 0.6, 12)
    low, high = (float(end[1]) for end in ols_cluster(x, chi, np.arange(12)).interval(0.95))
    found = balance_slope(x, chi, np.arange(12), PARAMS)
    assert (found.ci_lo, found.ci_hi) == pytest.approx((1 / (10.6 * high), 1 / (10.6 * low)))


def test_without_knowledge_of_the_errors_the_line_does_not_depend_on_the_unit() -> None:
    made = tables()
    lic, explants = pd.DataFrame(made["lic"]), pd.DataFrame(made["explants"])
    in_ppm = from_explants(lic, explants, "in_vivo", float("nan"), PARAMS)
    in_ppb = from_explants(lic.assign(chi_hqsm_ppm=1000 * lic["chi_hqsm_ppm"]), explants, "in_vivo", float("nan"), PARAMS)
    assert in_ppb.slope_mg_g_per_ppm.value == pytest.approx(in_ppm.slope_mg_g_per_ppm.value / 1000, rel=1e-9)
    assert in_ppb.intercept_mg_g.value == pytest.approx(in_ppm.intercept_mg_g.value, rel=1e-9)


def test_the_iron_balance_gives_the_same_scale_without_any_chemistry() -> None:
    made = tables()
    found = from_balance(pd.DataFrame(made["lic"]), pd.DataFrame(made["annual_change"]), PARAMS)
    assert found.slope_mg_g_per_ppm.ci_lo < SLOPE < found.slope_mg_g_per_ppm.ci_hi
    assert found.slope_mg_g_per_ppm.value == pytest.approx(SLOPE, rel=0.05)
    assert found.intercept_mg_g.value == pytest.approx(INTERCEPT, abs=0.1)


def test_the_interval_of_the_balance_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        x = np.column_stack([np.ones(30), rng.uniform(80, 170, 30), rng.uniform(4, 9, 30)])
        chi = (x[:, 1] / 10.6 - 1.4 * x[:, 2]) / SLOPE + rng.normal(0, 0.3, 30)
        found = balance_slope(x, chi, np.arange(30), PARAMS)
        hits += found.ci_lo <= SLOPE <= found.ci_hi
    assert 0.915 <= hits / 300 <= 0.98


def test_the_error_of_the_balances_scale_is_that_of_the_delta_method() -> None:
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(30), rng.uniform(80, 170, 30), rng.uniform(4, 9, 30)])
    chi = (x[:, 1] / 10.6 - 1.4 * x[:, 2]) / SLOPE + rng.normal(0, 0.3, 30)
    fit = OLS(chi, x).fit(cov_type="HC2")  # of clusters of one, CR2 is HC2
    found = balance_slope(x, chi, np.arange(30), PARAMS)
    assert found.value == pytest.approx(1 / 10.6 / fit.params[1])
    assert found.std_error == pytest.approx(found.value * fit.bse[1] / fit.params[1])


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_the_intercept_covers_as_often_as_it_says_with_three_healthy_livers(level: float) -> None:
    rng, params = np.random.default_rng(6), StatisticsParams(confidence_level=level)
    z = stats.norm.ppf(0.5 + level / 2)
    truth = params.healthy_lic_mg_g - SLOPE * 0.5
    hits = 0
    for _ in range(2000):
        slope = SLOPE + 0.005 * rng.normal()
        estimate = Estimate(value=slope, std_error=0.005, ci_lo=slope - 0.005 * z, ci_hi=slope + 0.005 * z)
        healthy = pd.DataFrame({"participant_id": ["a", "b", "c"], "chi_hqsm_ppm": 0.5 + 0.01 * rng.normal(size=3)})
        found, _ = healthy_intercept(estimate, healthy, params)
        hits += found.ci_lo <= truth <= found.ci_hi
    assert hits / 2000 == pytest.approx(level, abs=0.025)


def test_the_interval_of_the_intercept_follows_the_slopes_the_other_way_round() -> None:
    slope = Estimate(value=2.8, std_error=0.2, ci_lo=2.5, ci_hi=3.5)
    for chi, below, above in ((0.5, 0.35, 0.15), (-0.5, 0.15, 0.35)):
        healthy = pd.DataFrame({"participant_id": ["a", "b"], "chi_hqsm_ppm": [chi, chi]})
        found, _ = healthy_intercept(slope, healthy, PARAMS)
        assert (found.value - found.ci_lo, found.ci_hi - found.value) == pytest.approx((below, above))


@pytest.mark.parametrize("how", ["explants", "explants with healthy", "balance"])
def test_the_interval_of_a_lic_by_ones_own_line_is_that_of_the_line_at_any_susceptibility(how: str) -> None:
    """The line's error at chi, by leaving out or by the two errors that made it, and not the slope's alone about zero."""
    made = tables()
    lic, explants = pd.DataFrame(made["lic"]), pd.DataFrame(made["explants"])
    if how == "balance":
        found = from_balance(lic, pd.DataFrame(made["annual_change"]), PARAMS)
    else:
        found = from_explants(lic, explants, "in_vivo", float("nan"), PARAMS)
    if how == "explants with healthy":
        found = with_healthy_intercept(found, lic, PARAMS)
    centre_ppm, centre_sd = found.centre
    slope_sd = found.slope_mg_g_per_ppm.std_error
    healthy = lic[lic["group"] == "healthy"].groupby("participant_id")["chi_hqsm_ppm"].mean().to_numpy(float)
    for chi in (-0.2, 0.4, 1.5, 4.0):
        if how == "explants":
            names = explants.loc[explants["setting"].eq("in_vivo") & explants["method"].eq("hqsm"), "participant_id"].unique()
            lines = [from_explants(lic, explants[explants["participant_id"] != who], "in_vivo", float("nan"), PARAMS) for who in names]
            left_out = np.array([line.intercept_mg_g.value + line.slope_mg_g_per_ppm.value * chi for line in lines])
            n = len(names)
            expected = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
            close = 0.05  # the ratio of errors is that of each sample's own spreads
        else:
            of_mean = found.slope_mg_g_per_ppm.value * healthy.std(ddof=1) / np.sqrt(healthy.size)
            expected, close = np.hypot(of_mean, (chi - healthy.mean()) * slope_sd), 1e-6
        assert np.hypot(centre_sd, (chi - centre_ppm) * slope_sd) == pytest.approx(expected, rel=close)
        own = LicParams(
            hqsm_calibration="own",
            own_slope_mg_g_per_ppm=found.slope_mg_g_per_ppm.value,
            own_slope_relative_sd=slope_sd / found.slope_mg_g_per_ppm.value,
            own_intercept_mg_g=found.intercept_mg_g.value,
            own_centre_ppm=centre_ppm,
            own_centre_sd_mg_g=centre_sd,
        )
        _, low, high = apply_calibration(hqsm_calibration(own, 37.0), chi, 0.0)
        assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=close)
    assert np.hypot(centre_sd, centre_ppm * slope_sd) == pytest.approx(found.intercept_mg_g.std_error)


def test_a_slope_without_error_leaves_the_intercepts_own() -> None:
    sure = Estimate(value=2.8, std_error=0.0, ci_lo=2.8, ci_hi=2.8)
    rough = Estimate(value=0.5, std_error=0.3, ci_lo=0.0, ci_hi=1.0)
    names = {"n": 5, "reference_tissue": "muscle", "reconstruction_digest": "ab", "source": "x"}
    assert Calibration(slope_mg_g_per_ppm=sure, intercept_mg_g=rough, covariance=0.0, **names).centre == (0.0, 0.3)


def test_measurements_of_two_reconstructions_make_no_calibration() -> None:
    made = tables()
    made["lic"][0]["reconstruction_digest"] = "another"
    with pytest.raises(ProcessingError, match="2 reconstructions"):
        from_explants(pd.DataFrame(made["lic"]), pd.DataFrame(made["explants"]), "in_vivo", 0.03, PARAMS)


def test_a_change_that_does_not_follow_the_iron_gives_no_scale() -> None:
    rng = np.random.default_rng(5)
    x = np.column_stack([np.ones(20), rng.uniform(80, 170, 20), rng.uniform(4, 9, 20)])
    with pytest.raises(ProcessingError, match="gives no scale"):
        balance_slope(x, rng.normal(size=20), np.arange(20), PARAMS)


@pytest.mark.parametrize("how", ["explants", "balance"])
def test_the_block_that_is_printed_is_a_configuration_that_holds_for_its_reconstruction(
    study: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    assert main(["calibrate", how, str(study), "--out", str(study)]) == 0
    lic = load_config(yaml.safe_load(capsys.readouterr().out)).lic
    assert lic.own_slope_mg_g_per_ppm == pytest.approx(SLOPE, rel=0.05)
    assert 0 < lic.own_slope_relative_sd < 0.1
    assert 0 < lic.own_centre_sd_mg_g < 0.5
    assert lic.own_centre_ppm > 0
    calibration = hqsm_calibration(lic, 37.0)
    assert calibration.mismatch("muscle", "abc123def456") == ()
    assert calibration.mismatch("fat", "abc123def456") == ("CALIBRATION_OTHER_REFERENCE",)
    assert calibration.mismatch("muscle", "000000000000") == ("CALIBRATION_OTHER_RECONSTRUCTION",)
    assert len(read_frame(study / "calibration.tsv", "calibration")) == 2


def test_a_baseline_of_healthy_livers_feeds_the_intercept_when_the_configuration_asks(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "config.yaml").write_text("statistics:\n  calibration_intercept: healthy\n  healthy_lic_mg_g: 1.0\n", encoding="utf-8")
    assert main(["calibrate", "explants", str(study)]) == 0
    lic = load_config(yaml.safe_load(capsys.readouterr().out)).lic
    healthy = [r["chi_hqsm_ppm"] for r in tables()["lic"] if r["group"] == "healthy"]
    assert lic.own_intercept_mg_g + lic.own_slope_mg_g_per_ppm * np.mean(healthy) == pytest.approx(1.0, abs=1e-4)
    assert "healthy" in lic.own_source


@pytest.mark.parametrize(("change", "answer"), [({"qc_status": "excluded"}, 1.0), ({"reconstruction_digest": "fff"}, None)])
def test_healthy_livers_of_excluded_visits_or_another_reconstruction_make_no_intercept(
    study: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], answer: float | None
) -> None:
    (study / "config.yaml").write_text("statistics:\n  calibration_intercept: healthy\n  healthy_lic_mg_g: 1.0\n", encoding="utf-8")
    made = tables()["lic"]
    odd = {"participant_id": "sub-h9", "group": "healthy", "chi_hqsm_ppm": 5.0, **change}
    write_rows(study / "results" / "tables" / "lic.tsv", "lic", [*made, {**made[0], **odd}])
    assert main(["calibrate", "explants", str(study)]) == (0 if answer else 2)
    said = capsys.readouterr()
    if answer is None:
        assert "2 reconstructions" in said.err
        return
    lic = load_config(yaml.safe_load(said.out)).lic
    healthy = [r["chi_hqsm_ppm"] for r in made if r["group"] == "healthy"]
    assert lic.own_intercept_mg_g + lic.own_slope_mg_g_per_ppm * np.mean(healthy) == pytest.approx(answer, abs=1e-4)


def test_the_ratio_of_errors_of_a_calibration_needs_five_pairs_of_scans(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def slope(n_pairs: int, sd: float) -> str:
        row = {"comparison": "repeat", "quantity": "chi_hqsm_ppm", "n_pairs": n_pairs, "within_subject_sd": sd}
        write_rows(study / "results" / "tables" / "repeatability.tsv", "repeatability", [row])
        assert main(["calibrate", "explants", str(study)]) == 0
        return capsys.readouterr().out

    assert slope(4, 0.03) == slope(4, 0.6)
    assert slope(5, 0.03) != slope(5, 0.6)


def test_a_calibration_of_another_or_an_unknown_reconstruction_is_flagged_and_the_physical_one_holds_for_any() -> None:
    for name in ("own", "buelo2025", "lin2018", "tipirneni2021"):
        calibration = hqsm_calibration(load_config({"lic": {"hqsm_calibration": name}}).lic, 37.0)
        assert calibration.mismatch("muscle", "abc") == ("CALIBRATION_REFERENCE_UNKNOWN", "CALIBRATION_OTHER_RECONSTRUCTION"), name
    assert hqsm_calibration(load_config({}).lic, 37.0).mismatch("muscle", "abc") == ()
