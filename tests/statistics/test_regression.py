"""Regression of annual change: R's numbers, then laws."""

import re
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.comparison import accuracy, cluster_bootstrap, comparison_rows, jackknife_error, non_nested, pitman_morgan
from hqsm.statistics.mixed import random_intercept
from hqsm.statistics.regression import (
    condition_number,
    first_intervals,
    influence_rows,
    leave_one_participant_out,
    ols_cluster,
    regression_rows,
)

PARAMS = StatisticsParams()
FAST = StatisticsParams(bootstrap_draws=300)
OUTCOMES = ["dlic_qsm", "dlic_r2s"]


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("correction", ["CR0", "CR1", "CR1S", "CR2", "CR3"])
def test_every_cluster_correction_agrees_with_clubsandwich(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray, oracles: dict[str, Any], outcome: str, correction: Any
) -> None:
    fit = ols_cluster(synthetic_design, synthetic[outcome].to_numpy(float), synthetic["subject"].to_numpy(), correction)
    key = f"annual/{outcome}/{correction}"
    np.testing.assert_allclose(fit.standard_errors, oracles[f"{key}_se"], rtol=1e-6)
    np.testing.assert_allclose(fit.degrees_of_freedom, oracles[f"{key}_df"], rtol=1e-6)
    np.testing.assert_allclose(fit.p_values, oracles[f"{key}_p"], rtol=1e-6)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_fit_and_interval_agree_with_r(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray, oracles: dict[str, Any], outcome: str
) -> None:
    fit = ols_cluster(synthetic_design, synthetic[outcome].to_numpy(float), synthetic["subject"].to_numpy())
    key = f"annual/{outcome}"
    lo, hi = fit.interval(0.95)
    for value, name in (
        (fit.coefficients, "ols_coef"),
        (lo, "CR2_ci_lo"),
        (hi, "CR2_ci_hi"),
        (fit.r_squared, "r2"),
        (fit.adjusted_r_squared, "adj_r2"),
        (fit.sigma, "sigma"),
        (fit.rmse, "rmse_n"),
    ):
        np.testing.assert_allclose(np.ravel(value), oracles[f"{key}/{name}"], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_random_intercept_agrees_with_lme4_lmertest_and_pbkrtest(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray, oracles: dict[str, Any], outcome: str
) -> None:
    fit = random_intercept(synthetic_design, synthetic[outcome].to_numpy(float), synthetic["subject"].to_numpy())
    for value, name in (
        (fit.coefficients, "reml_coef"),
        (fit.standard_errors, "reml_se"),
        (fit.degrees_of_freedom, "reml_satt_df"),
        (fit.kenward_roger_errors, "kr_se"),
        (fit.kenward_roger_df, "kr_df"),
        ([fit.sd_participant, fit.sd_residual], "reml_sd"),
        (fit.criterion, "reml_criterion"),
    ):
        np.testing.assert_allclose(np.ravel(value), oracles[f"annual/{outcome}/{name}"], rtol=1e-6, err_msg=name)


def test_random_intercept_agrees_with_statsmodels(synthetic: pd.DataFrame, synthetic_design: np.ndarray) -> None:
    from statsmodels.regression.mixed_linear_model import MixedLM

    theirs = MixedLM(synthetic["dlic_qsm"], synthetic_design, groups=synthetic["subject"]).fit(reml=True)
    ours = random_intercept(synthetic_design, synthetic["dlic_qsm"].to_numpy(float), synthetic["subject"].to_numpy())
    np.testing.assert_allclose(ours.coefficients, theirs.fe_params, rtol=1e-4)
    assert ours.sd_residual**2 == pytest.approx(theirs.scale, rel=1e-3)


def test_without_variance_between_participants_the_random_intercept_is_ordinary_least_squares() -> None:
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(30), rng.normal(size=(30, 2))])
    who = np.repeat(np.arange(15), 2)
    noise = rng.normal(size=30)
    noise -= np.repeat(noise.reshape(15, 2).mean(axis=1), 2)  # each participant's mean is exactly zero
    fit = random_intercept(x, x @ [1.0, 2, 3] + noise, who)
    assert fit.at_boundary
    np.testing.assert_allclose(fit.coefficients, np.linalg.lstsq(x, x @ [1.0, 2, 3] + noise, rcond=None)[0], rtol=1e-10)
    np.testing.assert_allclose(fit.degrees_of_freedom, 27, rtol=1e-6)


@pytest.mark.parametrize(("outcome", "method"), [("dlic_qsm", "hqsm"), ("dlic_r2s", "r2star")])
def test_influence_agrees_with_r(annual_change: pd.DataFrame, oracles: dict[str, Any], outcome: str, method: str) -> None:
    rows = pd.DataFrame(influence_rows(annual_change, PARAMS)).query("method == @method").reset_index(drop=True)
    key = f"annual/{outcome}"
    np.testing.assert_allclose(rows["cooks_distance"].max(), oracles[f"{key}/cooks_max"], rtol=1e-6)
    assert rows["cooks_distance"].idxmax() + 1 == oracles[f"{key}/cooks_argmax_1based"]
    np.testing.assert_allclose(rows["leverage"].max(), oracles[f"{key}/hat_max"], rtol=1e-6)
    np.testing.assert_allclose(rows["studentised_residual"].abs().max(), oracles[f"{key}/rstudent_absmax"], rtol=1e-6)
    by_definition = rows["studentised_residual"] * np.sqrt(rows["leverage"] / (1 - rows["leverage"]))
    np.testing.assert_allclose(rows["dffits"], by_definition, rtol=1e-9)


def test_pitman_morgan_and_the_correlation_of_residuals_agree_with_r(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray, oracles: dict[str, Any]
) -> None:
    y = synthetic[OUTCOMES].to_numpy(float)
    residuals = y - synthetic_design @ np.linalg.lstsq(synthetic_design, y, rcond=None)[0]
    np.testing.assert_allclose(pitman_morgan(*residuals.T), oracles["annual/pitman_morgan_r_t_p"], rtol=1e-6)
    np.testing.assert_allclose(np.corrcoef(residuals.T)[0, 1], oracles["annual/resid_corr"], rtol=1e-6)


def test_difference_of_r_squared_has_the_jackknife_error_and_range_of_the_reference(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray
) -> None:
    y, who = synthetic[OUTCOMES].to_numpy(float), synthetic["subject"].to_numpy()
    r2, _ = accuracy(synthetic_design, y)
    assert r2[0] - r2[1] == pytest.approx(0.1310245, abs=1e-7)
    without = np.array([np.subtract(*accuracy(synthetic_design[who != label], y[who != label])[0]) for label in np.unique(who)])
    assert jackknife_error(without) == pytest.approx(0.0429573, abs=1e-7)
    assert (without.min(), without.max()) == pytest.approx((0.1051546, 0.1570217), abs=1e-7)


def test_ten_thousand_bootstrap_draws_take_less_than_a_second_and_agree(synthetic: pd.DataFrame, synthetic_design: np.ndarray) -> None:
    y, who = synthetic[OUTCOMES].to_numpy(float), synthetic["subject"].to_numpy()
    started = time.process_time()
    r2, rmse = cluster_bootstrap(synthetic_design, y, who, 10_000, PARAMS.bootstrap_seed)
    assert time.process_time() - started < 1
    assert np.percentile(r2[:, 0] - r2[:, 1], [2.5, 97.5]) == pytest.approx((0.063, 0.2165), abs=0.006)
    assert np.percentile(rmse[:, 1] - rmse[:, 0], [2.5, 97.5]) == pytest.approx((0.316, 0.750), abs=0.012)


def test_a_bootstrap_draw_is_the_fit_to_the_participants_drawn(synthetic: pd.DataFrame, synthetic_design: np.ndarray) -> None:
    y, who = synthetic[OUTCOMES].to_numpy(float), synthetic["subject"].to_numpy()
    r2, rmse = cluster_bootstrap(synthetic_design, y, who, 5, 7)
    labels = np.unique(who)
    weights = np.random.default_rng(7).multinomial(labels.size, np.full(labels.size, 1 / labels.size), size=5)
    for draw in range(5):
        rows = np.concatenate([np.tile(np.flatnonzero(who == label), w) for label, w in zip(labels, weights[draw], strict=True)])
        np.testing.assert_allclose((r2[draw], rmse[draw]), accuracy(synthetic_design[rows], y[rows]), rtol=1e-9)


MPG = [21, 21, 22.8, 21.4, 18.7, 18.1, 14.3, 24.4, 22.8, 19.2, 17.8, 16.4, 17.3, 15.2, 10.4, 10.4]
MPG += [14.7, 32.4, 30.4, 33.9, 21.5, 15.5, 15.2, 13.3, 19.2, 27.3, 26, 30.4, 15.8, 19.7, 15, 21.4]
WT = [2.62, 2.875, 2.32, 3.215, 3.44, 3.46, 3.57, 3.19, 3.15, 3.44, 3.44, 4.07, 3.73, 3.78, 5.25, 5.424]
WT += [5.345, 2.2, 1.615, 1.835, 2.465, 3.52, 3.435, 3.84, 3.845, 1.935, 2.14, 1.513, 3.17, 2.77, 3.57, 2.78]
DISP = [160, 160, 108, 258, 360, 225, 360, 146.7, 140.8, 167.6, 167.6, 275.8, 275.8, 275.8, 472, 460]
DISP += [440, 78.7, 75.7, 71.1, 120.1, 318, 304, 350, 400, 79, 120.3, 95.1, 351, 145, 301, 121]


def test_j_and_cox_tests_agree_with_lmtest_on_the_motor_trend_cars() -> None:
    ones = np.ones(32)
    tests = non_nested(np.array(MPG), np.column_stack([ones, WT]), np.column_stack([ones, DISP]))
    assert tests["j_second_adds"] == pytest.approx((1.928609, 0.0636198), rel=1e-5)
    assert tests["j_first_adds"] == pytest.approx((2.878399, 0.0074307), rel=1e-4)
    assert tests["cox_first_suffices"] == pytest.approx((-2.392188, 0.0167483), rel=1e-5)
    assert tests["cox_second_suffices"] == pytest.approx((-3.752185, 0.0001753), rel=1e-3)


def test_duplicating_every_participant_keeps_the_fit_and_halves_the_cr0_variance(
    synthetic: pd.DataFrame, synthetic_design: np.ndarray
) -> None:
    y, who = synthetic["dlic_qsm"].to_numpy(float), synthetic["subject"].to_numpy()
    once = ols_cluster(synthetic_design, y, who, "CR0")
    twice = ols_cluster(np.tile(synthetic_design, (2, 1)), np.tile(y, 2), np.concatenate([who, [f"{w}b" for w in who]]), "CR0")
    np.testing.assert_allclose(twice.coefficients, once.coefficients, rtol=1e-9)
    np.testing.assert_allclose(twice.standard_errors**2, once.standard_errors**2 / 2, rtol=1e-9)


def test_one_interval_each_makes_cr2_the_hc2_of_statsmodels(synthetic: pd.DataFrame, synthetic_design: np.ndarray) -> None:
    from statsmodels.regression.linear_model import OLS

    y = synthetic["dlic_qsm"].to_numpy(float)
    ours = ols_cluster(synthetic_design, y, np.arange(len(y)))
    np.testing.assert_allclose(ours.standard_errors, OLS(y, synthetic_design).fit(cov_type="HC2").bse, rtol=1e-9)


def test_prediction_without_a_participant_is_the_fit_to_the_others(synthetic: pd.DataFrame, synthetic_design: np.ndarray) -> None:
    y, who = synthetic["dlic_qsm"].to_numpy(float), synthetic["subject"].to_numpy()
    predicted, coefficients = leave_one_participant_out(synthetic_design, y, who)
    others = who != "S05"
    beta = np.linalg.lstsq(synthetic_design[others], y[others], rcond=None)[0]
    np.testing.assert_allclose(coefficients[4], beta, rtol=1e-10)
    np.testing.assert_allclose(predicted[~others], synthetic_design[~others] @ beta, rtol=1e-10)


def test_the_table_has_every_analysis_of_the_configuration_with_its_own_intervals(annual_change: pd.DataFrame) -> None:
    rows = pd.DataFrame(regression_rows(annual_change, PARAMS))
    assert list(dict.fromkeys(rows["analysis"])) == ["primary", *PARAMS.sensitivity_analyses]
    assert rows["estimate"].notna().all(), rows[rows["estimate"].isna()]
    n = rows.groupby("analysis")["n_intervals"].first()
    assert (n["primary"], n["first_interval"], n["measured_haematocrit"]) == (44, 20, 33)
    iron = rows[(rows["term"] == "chelator") & (rows["method"] == "hqsm")].set_index("analysis")
    # nine tenths of the dose with the same effect: the slope per gram is ten ninths
    assert iron.loc["adherence_corrected", "estimate"] == pytest.approx(iron.loc["primary", "estimate"] / 0.9, rel=1e-9)
    assert set(rows["term"]) == {"intercept", "iron_in", "chelator", "baseline_lic", "age", "splenectomy", "interaction"}


def test_the_slope_beside_an_interaction_is_that_at_the_mean_of_the_other_term(annual_change: pd.DataFrame) -> None:
    rows = pd.DataFrame(regression_rows(annual_change, PARAMS)).query("analysis == 'interaction' and method == 'hqsm'").set_index("term")
    iron, chelator = (annual_change[n].to_numpy(float) for n in ("iron_in_mg_per_kg_per_year", "chelator_g_per_kg_per_year"))
    x = np.column_stack([np.ones(len(iron)), iron, chelator, iron * chelator])
    b = np.linalg.lstsq(x, annual_change["delta_lic_hqsm_mg_g_per_year"].to_numpy(float), rcond=None)[0]
    assert rows.loc["iron_in", "estimate"] == pytest.approx(b[1] + b[3] * chelator.mean(), rel=1e-6)
    assert rows.loc["chelator", "estimate"] == pytest.approx(b[2] + b[3] * iron.mean(), rel=1e-6)
    assert rows.loc["interaction", "estimate"] == pytest.approx(b[3], rel=1e-6)


def test_the_first_interval_is_the_first_in_time_whatever_its_visits_are_called(annual_change: pd.DataFrame) -> None:
    labels = [f"ses-{k + 8}" for k in annual_change.groupby("participant_id").cumcount()]  # ses-10 sorts before ses-8 as text
    chosen = first_intervals(annual_change.assign(start_session=labels))
    assert chosen["participant_id"].nunique() == len(chosen) == 20
    assert set(chosen["start_session"]) == {"ses-8"}


def test_the_efficiency_of_the_chelator_is_one_where_its_slope_is_that_of_physics(annual_change: pd.DataFrame) -> None:
    iron, chelator = annual_change["iron_in_mg_per_kg_per_year"], annual_change["chelator_g_per_kg_per_year"]
    wobble = np.random.default_rng(0).normal(0, 1e-6, len(iron))
    truth = iron / 10.6 - 0.3 * 74.79 / 10.6 * chelator + wobble
    rows = regression_rows(annual_change.assign(delta_lic_hqsm_mg_g_per_year=truth), StatisticsParams(sensitivity_analyses=()))
    row = next(r for r in rows if r["term"] == "chelator" and r["method"] == "hqsm")
    assert row["efficiency"] == pytest.approx(0.3, rel=1e-5)
    assert row["efficiency_lo"] < 0.3 < row["efficiency_hi"]
    assert next(r for r in rows if r["term"] == "iron_in")["physics_value"] == pytest.approx(0.0943, abs=5e-5)


def test_swapping_the_methods_flips_every_difference(annual_change: pd.DataFrame) -> None:
    a, b = "delta_lic_hqsm_mg_g_per_year", "delta_lic_r2star_mg_g_per_year"
    there = pd.DataFrame(comparison_rows(annual_change, FAST)).set_index(["analysis", "quantity"])
    back = pd.DataFrame(comparison_rows(annual_change.rename(columns={a: b, b: a}), FAST)).set_index(["analysis", "quantity"])
    for key in there.index:
        if key[1].startswith("delta_") or key[1] == "pitman_morgan_r":
            assert back.loc[key, "estimate"] == pytest.approx(-there.loc[key, "estimate"], rel=1e-9), key
        if key[1].startswith("delta_"):
            assert back.loc[key, "ci_lo"] == pytest.approx(-there.loc[key, "ci_hi"], rel=1e-9), key


def test_the_comparison_has_the_figures_of_the_reference(annual_change: pd.DataFrame) -> None:
    rows = pd.DataFrame(comparison_rows(annual_change, PARAMS)).set_index(["analysis", "quantity"])
    net = rows.loc[("primary", "delta_correlation_with_net_balance_williams")]
    assert rows.loc[("primary", "correlation_with_net_balance_hqsm"), "estimate"] == pytest.approx(0.9560781, abs=1e-7)
    assert rows.loc[("primary", "correlation_with_net_balance_r2star"), "estimate"] == pytest.approx(0.8840057, abs=1e-7)
    assert (net["statistic"], net["ci_lo"], net["ci_hi"]) == pytest.approx((3.899784, 0.0316591, 0.1492669), rel=1e-5)
    assert rows.loc[("primary", "delta_correlation_with_net_balance_steiger"), "statistic"] == pytest.approx(3.577131, rel=1e-6)
    # out of the sample the better method is better still, and both are worse than in it
    predicted = rows.loc[("leave_one_participant_out", "delta_r_squared")]
    assert predicted["estimate"] > rows.loc[("primary", "delta_r_squared"), "estimate"]


def test_a_constant_added_to_both_methods_changes_only_the_intercept(annual_change: pd.DataFrame) -> None:
    columns = ["delta_lic_hqsm_mg_g_per_year", "delta_lic_r2star_mg_g_per_year"]
    shifted = annual_change.assign(**{c: annual_change[c] + 2.5 for c in columns})
    params = StatisticsParams(sensitivity_analyses=("first_interval", "random_intercept"))
    for before, after in zip(regression_rows(annual_change, params), regression_rows(shifted, params), strict=True):
        moved = 2.5 if before["term"] == "intercept" else 0
        assert after["estimate"] - before["estimate"] == pytest.approx(moved, abs=1e-6)
        assert after["std_error"] == pytest.approx(before["std_error"], rel=1e-6)


def test_perfect_data_give_an_r_squared_of_one_and_no_crash(annual_change: pd.DataFrame) -> None:
    exact = annual_change["iron_in_mg_per_kg_per_year"] / 10.6 - annual_change["chelator_g_per_kg_per_year"]
    perfect = annual_change.assign(delta_lic_hqsm_mg_g_per_year=exact, delta_lic_r2star_mg_g_per_year=exact)
    rows = regression_rows(perfect, PARAMS)
    assert rows[0]["r_squared"] == pytest.approx(1)
    comparison_rows(perfect, FAST)
    influence_rows(perfect, PARAMS)


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_too_few_intervals_are_said_to_be_too_few(annual_change: pd.DataFrame, kept: int) -> None:
    few = annual_change.iloc[:kept]
    rows = regression_rows(few, FAST)
    assert all("too few" in row["note"] for row in rows)
    assert "too few" in comparison_rows(few, FAST)[0]["note"]
    assert influence_rows(few, FAST) == []


def test_a_line_through_as_many_intervals_as_it_has_terms_and_one_is_no_regression(annual_change: pd.DataFrame) -> None:
    one_each = annual_change.drop_duplicates("participant_id")
    said = [regression_rows(one_each.iloc[:n], StatisticsParams(sensitivity_analyses=()))[0]["note"] for n in (4, 5)]
    assert said[0] == "4 intervals of 4 participants are too few"
    assert "too few" not in said[1]


def test_five_participants_are_analysed_with_their_caveats(annual_change: pd.DataFrame) -> None:
    few = annual_change[annual_change["participant_id"].isin(sorted(set(annual_change["participant_id"]))[:5])]
    rows = regression_rows(few, FAST)
    shaky = [row for row in rows if row.get("df", 9.0) < 4]
    assert {row["analysis"] for row in shaky} >= {"primary", "first_interval"}
    assert all(("degrees of freedom" in row["note"]) == (row.get("df", 9.0) < 4) for row in rows)
    compared = [row for row in comparison_rows(few, FAST) if row["quantity"] in {"delta_r_squared", "delta_rmse_mg_g_per_year"}]
    assert {row["analysis"] for row in compared} == {"primary", "leave_one_participant_out"}
    assert all("few participants" in row["note"] for row in compared)


def test_draws_that_cannot_be_fitted_are_counted(annual_change: pd.DataFrame) -> None:
    # of three participants with two intervals each, one alone in a draw (1 in 9) has two intervals for three terms
    few = annual_change[annual_change["participant_id"].isin(["S02", "S03", "S05", "S08"])]
    few = few.groupby("participant_id").filter(lambda rows: len(rows) == 2)
    many = StatisticsParams(bootstrap_draws=9000)
    found = [row["note"] for row in comparison_rows(few, many) if row["analysis"] == "primary"][:2]
    lost = [int(re.search(r"(\d+) of 9000 draws could not be fitted", note)[1]) for note in found]  # type: ignore[index]
    assert lost[0] == lost[1]
    assert lost[0] == pytest.approx(1000, abs=100)
    assert all("draws" not in row["note"] for row in comparison_rows(annual_change, FAST))


def test_collinear_dose_and_iron_are_named(annual_change: pd.DataFrame) -> None:
    tied = annual_change.assign(chelator_g_per_kg_per_year=annual_change["iron_in_mg_per_kg_per_year"] / 20)
    params = StatisticsParams(sensitivity_analyses=())
    assert all("collinear" in row["note"] for row in regression_rows(tied, params))
    assert "collinear" in comparison_rows(tied, FAST)[0]["note"]
    assert np.isinf(condition_number(np.ones((5, 2))))


def test_an_excluded_interval_changes_nothing_and_a_missing_covariate_leaves_its_interval_out(annual_change: pd.DataFrame) -> None:
    params = StatisticsParams(sensitivity_analyses=("age",), bootstrap_draws=200)
    wild = annual_change.iloc[[3]].assign(included=0, delta_lic_hqsm_mg_g_per_year=500.0, age_years=90.0)
    more = pd.concat([annual_change, wild], ignore_index=True)
    assert regression_rows(more, params) == regression_rows(annual_change, params)
    assert comparison_rows(more, params) == comparison_rows(annual_change, params)
    unknown = annual_change.assign(age_years=annual_change["age_years"].where(annual_change.index != 3))
    rows = [r for r in regression_rows(unknown, params) if r["method"] == "hqsm"]
    assert {r["analysis"]: (r["n_intervals"], r["note"]) for r in rows} == {
        "primary": (44, ""),
        "age": (43, "1 intervals without age_years are left out"),
    }
