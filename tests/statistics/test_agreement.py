"""Agreement of two methods: published examples, naive twins, laws."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hqsm.config.records import RecordsParams
from hqsm.config.statistics import StatisticsParams
from hqsm.records.data import empty_table
from hqsm.statistics.agreement import bland_altman, concordance, deming, deming_line, error_variance_ratio, passing_bablok
from hqsm.statistics.effects import chemistry_by_participant, effect_rows, explant_rows, metavir_stage
from hqsm.statistics.method_agreement import explant_agreement_rows, reader_agreement_rows
from hqsm.statistics.reliability import intraclass_correlations, repeatability

PARAMS, RECORDS = StatisticsParams(), RecordsParams()
WRIGHT = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427], float)
WRIGHT_2 = np.array([490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421], float)
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451], float)
MINI_2 = np.array([525, 415, 508, 444, 500, 625, 460, 390, 642, 432, 420, 605, 227, 467, 268, 370, 443], float)
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
# Ripley and Thompson, Analyst 1987;112:377: arsenate in natural waters by two methods (30 pairs)
AAS = [8.71, 7.01, 3.28, 5.6, 1.55, 1.75, 0.73, 3.66, 0.9, 9.39, 4.39, 3.69, 0.34, 1.94, 2.07]
AAS += [1.38, 1.81, 1.27, 0.82, 1.88, 5.66, 0, 0, 0.4, 0, 1.98, 10.21, 4.64, 5.66, 19.25]
AES = [7.35, 7.92, 3.4, 5.44, 2.07, 2.29, 0.66, 3.43, 1.25, 6.58, 3.31, 2.72, 2.32, 1.5, 3.5]
AES += [1.17, 2.31, 1.88, 0.44, 1.37, 7.04, 0, 0.49, 1.29, 0.37, 2.16, 12.53, 3.9, 4.66, 15.86]


def test_peak_flow_of_bland_and_altman_1986(oracles: dict[str, Any]) -> None:
    published = oracles["pefr1986/wright1_minus_mini1"]
    ba = bland_altman(MINI, WRIGHT, multiple=2)
    assert ba.bias.value == pytest.approx(published["bias"], rel=1e-9)
    assert ba.sd == pytest.approx(published["sd"], rel=1e-9)
    assert (ba.lower_limit.value, ba.upper_limit.value) == pytest.approx(published["loa_2sd"], rel=1e-9)
    assert (ba.bias.ci_lo, ba.bias.ci_hi) == pytest.approx(published["bias_ci"], rel=1e-9)
    assert ba.lower_limit.std_error == pytest.approx(published["loa_se_sqrt3s2n"], rel=1e-9)
    assert (ba.lower_limit.ci_lo, ba.lower_limit.ci_hi) == pytest.approx(published["lower_loa_ci"], rel=1e-9)
    assert (ba.upper_limit.ci_lo, ba.upper_limit.ci_hi) == pytest.approx(published["upper_loa_ci"], rel=1e-9)


@pytest.mark.parametrize(("first", "second", "published"), [(WRIGHT, WRIGHT_2, 21.64690), (MINI, MINI_2, 28.15817)])
def test_repeatability_of_the_two_flow_meters(first: np.ndarray, second: np.ndarray, published: float) -> None:
    found = repeatability(np.stack([first, second], axis=1).ravel(), np.repeat(np.arange(17), 2))
    # the paper prints the SD of the differences about zero, sqrt(sum d^2 / n) = sqrt(2) wSD
    assert np.sqrt(2) * found.within_subject_sd.value == pytest.approx(published, abs=5e-6)
    assert found.repeatability_coefficient == pytest.approx(1.96 * published, rel=1e-6)
    assert (found.n_subjects, found.n_measurements) == (17, 34)


def test_within_subject_sd_of_unequal_repeats_is_the_pooled_one() -> None:
    found = repeatability(np.array([1.0, 3, 10, 10, 10, 7]), np.array(["a", "a", "b", "b", "b", "alone"]))
    assert found.within_subject_sd.value == pytest.approx(np.sqrt(2 / 3))
    # of the SD of a normal variable with 3 degrees of freedom
    assert found.within_subject_sd.std_error == pytest.approx(np.sqrt(2 / 3) / np.sqrt(2 * 3))
    assert found.icc is None


@pytest.mark.parametrize(
    ("form", "key"), [("1", "ICC1"), ("A,1", "ICC2"), ("C,1", "ICC3"), ("1,k", "ICC1k"), ("A,k", "ICC2k"), ("C,k", "ICC3k")]
)
def test_intraclass_correlations_of_shrout_and_fleiss_1979(oracles: dict[str, Any], form: str, key: str) -> None:
    icc = intraclass_correlations(SHROUT_FLEISS)[form]
    assert (icc.value, icc.f, icc.ci_lo, icc.ci_hi) == pytest.approx(oracles[f"shrout_fleiss/{key}_est_F_lo_hi"], rel=1e-9)


def test_identical_readers_have_an_intraclass_correlation_of_one() -> None:
    ratings = np.repeat(np.array([1.0, 2.5, 4, 9])[:, None], 3, axis=1)
    for icc in intraclass_correlations(ratings).values():
        assert (icc.value, icc.ci_lo, icc.ci_hi) == pytest.approx((1, 1, 1))


def test_a_reader_who_is_always_one_higher_is_consistent_but_does_not_agree() -> None:
    ratings = np.array([[1.0, 2], [3, 4], [6, 7], [9, 10]])
    found = intraclass_correlations(ratings)
    assert found["C,1"].value == pytest.approx(1)
    assert found["A,1"].value < 0.98


def test_deming_of_arsenate_is_that_of_rs_deming() -> None:
    line = deming(np.array(AAS), np.array(AES))
    assert (line.intercept.value, line.slope.value) == pytest.approx((0.429366, 0.875957), abs=1e-4)


def test_deming_with_equal_errors_is_the_first_principal_axis() -> None:
    centred = np.stack([WRIGHT - WRIGHT.mean(), MINI - MINI.mean()], axis=1)
    axis = np.linalg.svd(centred)[2][0]
    assert deming_line(WRIGHT, MINI)[0] == pytest.approx(axis[1] / axis[0], rel=1e-12)


def test_deming_runs_between_both_least_squares_lines() -> None:
    forward = np.polyfit(WRIGHT, MINI, 1)[0]
    backward = 1 / np.polyfit(MINI, WRIGHT, 1)[0]
    assert deming_line(WRIGHT, MINI, 1e9)[0] == pytest.approx(forward, rel=1e-6)
    assert deming_line(WRIGHT, MINI, 1e-9)[0] == pytest.approx(backward, rel=1e-6)
    assert forward < deming_line(WRIGHT, MINI)[0] < backward


def test_the_jackknife_of_deming_is_that_of_its_definition() -> None:
    line = deming(WRIGHT, MINI)
    n = WRIGHT.size
    pseudo = [n * deming_line(WRIGHT, MINI)[0] - (n - 1) * deming_line(np.delete(WRIGHT, k), np.delete(MINI, k))[0] for k in range(n)]
    assert line.slope.std_error == pytest.approx(np.std(pseudo, ddof=1) / np.sqrt(n), rel=1e-12)
    # t with 15 degrees of freedom, 97.5 %
    assert line.slope.ci_hi - line.slope.value == pytest.approx(2.131449546 * line.slope.std_error, rel=1e-8)


def test_passing_bablok_on_sens_data_has_his_interval() -> None:
    # Sen, JASA 1968;63:1379, 93 %: slope 4, interval (26/7, 35/8); monotone, so that both methods are the same
    line = passing_bablok(np.array([1.0, 2, 3, 4, 10, 12, 18]), np.array([9.0, 15, 19, 20, 45, 55, 78]), 0.93)
    assert (line.slope.value, line.slope.ci_lo, line.slope.ci_hi) == pytest.approx((4, 26 / 7, 35 / 8), rel=1e-12)
    assert line.intercept.value == pytest.approx(6)
    # the steepest slope has the lowest intercept
    x, y = np.array([1.0, 2, 3, 4, 10, 12, 18]), np.array([9.0, 15, 19, 20, 45, 55, 78])
    ends = (float(np.median(y - 35 / 8 * x)), float(np.median(y - 26 / 7 * x)))
    assert (line.intercept.ci_lo, line.intercept.ci_hi) == pytest.approx(ends, rel=1e-12)


def test_passing_bablok_shifts_its_median_by_the_steep_negative_slopes() -> None:
    line = passing_bablok(np.arange(1.0, 7), np.array([2, 1.2, 4.1, 3.5, 6.3, 3]))
    assert (line.intercept.value, line.slope.value) == pytest.approx((1 / 8, 1.05), rel=1e-12)


def test_passing_bablok_is_its_definition_pair_by_pair() -> None:
    slopes = []
    for i, j in itertools.combinations(range(17), 2):
        if WRIGHT[i] == WRIGHT[j] and MINI[i] == MINI[j]:
            continue
        dx, dy = WRIGHT[j] - WRIGHT[i], MINI[j] - MINI[i]
        slope = np.inf * np.sign(dy) if dx == 0 else dy / dx
        if slope != -1:
            slopes.append(slope)
    slopes.sort()
    n, k = len(slopes), sum(s < -1 for s in slopes)
    expected = slopes[(n + 1) // 2 + k - 1] if n % 2 else (slopes[n // 2 + k - 1] + slopes[n // 2 + k]) / 2
    assert passing_bablok(WRIGHT, MINI).slope.value == expected


positive = st.lists(st.floats(0.5, 50), min_size=6, max_size=15, unique=True)


@given(positive, st.integers(0, 2**31), st.floats(0.1, 10))
def test_deming_and_passing_bablok_scale_with_the_unit(values: list[float], seed: int, scale: float) -> None:
    x = np.array(values)
    y = 1.3 * x + np.random.default_rng(seed).normal(0, 0.1 * x.std() + 0.01, x.size)
    for method in (deming, passing_bablok):
        plain, scaled = method(x, y), method(scale * x, scale * y)
        assert scaled.slope.value == pytest.approx(plain.slope.value, rel=1e-6)
        assert scaled.intercept.value == pytest.approx(scale * plain.intercept.value, rel=1e-5, abs=1e-6 * scale * np.abs(y).max())
    assert deming(y, x).slope.value == pytest.approx(1 / deming(x, y).slope.value, rel=1e-6)


def test_concordance_is_one_for_equal_and_falls_with_shift_and_scale() -> None:
    assert concordance(WRIGHT, WRIGHT).value == pytest.approx(1)
    assert concordance(WRIGHT, WRIGHT + 50).value < 1
    naive = 2 * np.cov(WRIGHT, MINI, ddof=0)[0, 1] / (WRIGHT.var() + MINI.var() + (WRIGHT.mean() - MINI.mean()) ** 2)
    found = concordance(WRIGHT, MINI)
    assert found.value == pytest.approx(naive, rel=1e-12)
    assert found.ci_lo < found.value < found.ci_hi


def test_the_standard_error_of_concordance_is_that_of_its_narrowest_interval() -> None:
    """Fisher's z turns back into the coefficient by d ccc / dz = 1 - ccc^2."""
    found, narrow = concordance(WRIGHT, MINI), concordance(WRIGHT, MINI, level=0.002)
    half = (narrow.ci_hi - narrow.ci_lo) / 2
    assert found.std_error == pytest.approx(half / stats.norm.ppf(0.501), rel=1e-4)


def test_the_ratio_of_errors_is_that_of_mean_variances_where_both_are_known() -> None:
    nan = float("nan")
    assert error_variance_ratio(np.array([1.0, 3.0, nan, 9.0]), np.array([2.0, 4.0, 5.0, nan])) == pytest.approx((1 + 9) / (4 + 16))
    assert np.isnan(error_variance_ratio(np.array([1.0, nan]), np.array([nan, 2.0])))
    assert np.isnan(error_variance_ratio(np.array([1.0, 1.0]), np.array([0.0, 0.0])))


def test_the_interval_of_concordance_covers_as_often_as_it_says() -> None:
    # bivariate normal, rho 0.9, shift 0.3 SD: ccc = 2 * 0.9 / (2 + 0.09)
    rng = np.random.default_rng(1)
    truth, hits = 1.8 / 2.09, 0
    for _ in range(400):
        x = rng.normal(size=60)
        y = 0.9 * x + np.sqrt(1 - 0.81) * rng.normal(size=60) + 0.3
        found = concordance(x, y)
        hits += found.ci_lo <= truth <= found.ci_hi
    assert 0.92 <= hits / 400 <= 0.98


def explants(n: int = 20, *, hqsm_bias_per_stage: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """Specimens whose R2* error grows with fibrosis by 0.8 mg/g a stage; hQSM's by what is asked for."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        chemistry, stage = float(rng.uniform(1, 20)), float(k % 5)
        scores = {"fibrosis_stage": stage, "steatosis_pct": float(rng.uniform(0, 40)), "inflammation_grade": float(rng.integers(0, 4))}
        for setting in ("in_vivo", "in_vitro"):
            for method, slope in (("r2star", 0.8), ("hqsm", hqsm_bias_per_stage)):
                error = slope * stage + rng.normal(0, 0.3)
                rows.append(
                    {
                        "participant_id": f"sub-{k:02d}",
                        "setting": setting,
                        "method": method,
                        "lic_mg_g": chemistry + error,
                        "lic_chemistry_mg_g": chemistry,
                        "lic_chemistry_sd_mg_g": 0.4,
                        "n_replicates": 4,
                        "error_mg_g": error,
                        **scores,
                    }
                )
    return rows


def test_the_twelve_registered_outcomes_find_the_effect_that_was_put_in() -> None:
    rows = {(r["confounder"], r["setting"], r["method"]): r for r in effect_rows(explants(), PARAMS)}
    assert len(rows) == 12
    for setting in ("in_vivo", "in_vitro"):
        disturbed, spared = rows["fibrosis", setting, "r2star"], rows["fibrosis", setting, "hqsm"]
        assert disturbed["ci_lo"] < 0.8 < disturbed["ci_hi"]
        assert disturbed["p_holm"] < 1e-6
        assert spared["p_holm"] > 0.05
        assert spared["equivalence_p"] < 0.001
    assert all(r["p_holm"] >= r["p_value"] for r in rows.values())


def test_the_effect_its_interval_and_both_tests_are_those_of_statsmodels() -> None:
    from statsmodels.regression.linear_model import OLS

    data = explants(seed=3, hqsm_bias_per_stage=0.2)
    part = [r for r in data if r["setting"] == "in_vivo" and r["method"] == "hqsm"]
    x = np.array([[1, r["steatosis_pct"] / 10, r["lic_chemistry_mg_g"]] for r in part])
    fit = OLS(np.array([r["error_mg_g"] for r in part]), x).fit()
    row = next(r for r in effect_rows(data, PARAMS) if (r["confounder"], r["setting"], r["method"]) == ("steatosis", "in_vivo", "hqsm"))
    assert (row["effect"], row["p_value"]) == pytest.approx((fit.params[1], fit.pvalues[1]), rel=1e-9)
    assert (row["ci_lo"], row["ci_hi"]) == pytest.approx(tuple(fit.conf_int()[1]), rel=1e-9)
    # equivalence at 5 % is a 90 % interval inside the margin
    lo, hi = fit.conf_int(alpha=0.10)[1]
    edge = StatisticsParams(equivalence_margin_mg_g=float(max(-lo, hi)))
    row = next(r for r in effect_rows(data, edge) if (r["confounder"], r["setting"], r["method"]) == ("steatosis", "in_vivo", "hqsm"))
    assert row["equivalence_p"] == pytest.approx(0.05, rel=1e-6)


def test_not_significant_is_not_equivalent_with_five_noisy_livers() -> None:
    few = explants(5, seed=2)
    for k, row in enumerate(few):
        row["error_mg_g"] += 3 * np.sin(7 * k)
    row = next(r for r in effect_rows(few, PARAMS) if r["confounder"] == "inflammation_grade" or r["method"] == "hqsm")
    assert row["p_value"] > 0.05
    assert row["equivalence_p"] > 0.05


def test_explant_agreement_recovers_slope_bias_and_the_ratio_from_the_replicates() -> None:
    rows = explant_agreement_rows(explants(60, seed=1), {"hqsm": 0.3}, PARAMS)
    found = {(r["setting"], r["method"], r["quantity"]): r for r in rows}
    slope = found["in_vivo", "hqsm", "deming_slope"]
    assert slope["ci_lo"] < 1 < slope["ci_hi"]
    assert "2.25 (from repeat scans and replicates)" in slope["note"]  # 0.3^2 / (0.4 / sqrt 4)^2
    assert "from the configuration" in found["in_vivo", "r2star", "deming_slope"]["note"]
    assert found["in_vivo", "r2star", "bias"]["estimate"] == pytest.approx(1.6, abs=0.15)  # 0.8 a stage, mean stage 2
    assert found["in_vivo", "hqsm_minus_r2star", "median_absolute_error"]["p_value"] < 1e-6
    assert found["in_vitro_against_in_vivo", "hqsm", "ccc"]["estimate"] > 0.98


def test_differences_are_mri_minus_chemistry_hqsm_minus_r2star_and_in_vitro_minus_in_vivo() -> None:
    made = explants(30, seed=2)
    found = {(r["setting"], r["method"], r["quantity"]): r for r in explant_agreement_rows(made, {}, PARAMS)}

    def column(setting: str, method: str, name: str) -> np.ndarray:
        return np.array([r[name] for r in made if (r["setting"], r["method"]) == (setting, method)])

    x, y = column("in_vivo", "r2star", "lic_chemistry_mg_g"), column("in_vivo", "r2star", "lic_mg_g")
    line = stats.linregress((x + y) / 2, y - x)
    slope = found["in_vivo", "r2star", "bias_slope"]
    assert (slope["estimate"], slope["std_error"], slope["p_value"]) == pytest.approx((line.slope, line.stderr, line.pvalue))
    percent = 100 * (y - x) / ((x + y) / 2)
    assert found["in_vivo", "r2star", "bias_percent"]["estimate"] == pytest.approx(percent.mean())
    assert found["in_vivo", "r2star", "upper_limit_percent"]["estimate"] == pytest.approx(percent.mean() + 1.96 * percent.std(ddof=1))
    assert found["in_vivo", "r2star", "rmse"]["estimate"] == pytest.approx(np.sqrt(np.mean((y - x) ** 2)))
    hqsm, r2star = column("in_vivo", "hqsm", "error_mg_g"), column("in_vivo", "r2star", "error_mg_g")
    worse = np.sqrt(np.mean(hqsm**2)) - np.sqrt(np.mean(r2star**2))
    assert found["in_vivo", "hqsm_minus_r2star", "rmse"]["estimate"] == pytest.approx(worse)
    median = np.median(np.abs(hqsm) - np.abs(r2star))
    assert found["in_vivo", "hqsm_minus_r2star", "median_absolute_error"]["estimate"] == pytest.approx(median)
    moved = (column("in_vitro", "hqsm", "lic_mg_g") - column("in_vivo", "hqsm", "lic_mg_g")).mean()
    assert found["in_vitro_against_in_vivo", "hqsm", "bias"]["estimate"] == pytest.approx(moved)
    for row in found.values():
        if {"ci_lo", "estimate"} <= row.keys():
            assert row["ci_lo"] < row["estimate"] < row["ci_hi"], row


def test_a_specimen_without_one_method_leaves_the_others_alone() -> None:
    rows = explants(8)
    for row in rows[:3]:
        row["lic_mg_g"] = row["error_mg_g"] = float("nan")
    found = {(r["setting"], r["method"], r["quantity"]): r for r in explant_agreement_rows(rows, {}, PARAMS)}
    assert found["in_vivo", "hqsm", "bias"]["n"] == 7
    assert found["in_vitro", "r2star", "bias"]["n"] == 7
    assert found["in_vitro", "hqsm", "bias"]["n"] == 8
    assert explant_agreement_rows([], {}, PARAMS) == []


def test_readers_leave_out_what_one_did_not_read() -> None:
    readings = np.column_stack([SHROUT_FLEISS, SHROUT_FLEISS[:, 0]])
    readings = np.vstack([readings, [1, np.nan, 3, 4, 1]])
    rows = {(r["comparison"], r["quantity"]): r for r in reader_agreement_rows(readings[:, :4], ["a", "b", "c", "d"], PARAMS)}
    icc = rows["all", "icc_agreement"]
    assert (icc["estimate"], icc["ci_lo"], icc["ci_hi"]) == pytest.approx((0.2897638, 0.0187865, 0.7610844), abs=1e-7)
    assert rows["all", "icc_agreement"]["n"] == 6
    assert len([key for key in rows if key[1] == "bias"]) == 6
    assert rows["c_minus_b", "bias"]["estimate"] == pytest.approx(SHROUT_FLEISS[:, 2].mean() - SHROUT_FLEISS[:, 1].mean())
    assert "fewer than three" in reader_agreement_rows(readings[:2], ["a", "b"], PARAMS)[0]["note"]


@pytest.mark.parametrize(
    ("stage", "scale", "metavir"), [*((k, "ishak", m) for k, m in enumerate((0, 1, 1, 2, 3, 4, 4))), (3, "metavir", 3), (1, "", 1)]
)
def test_fibrosis_is_read_on_one_scale(stage: float, scale: str, metavir: float) -> None:
    assert metavir_stage(stage, scale) == metavir


def test_chemistry_averages_replicates_counts_the_limit_and_leaves_out_exclusions() -> None:
    common = {"specimen_id": "E1", "fe_unit": "mg/g", "basis": "dry", "prep": "fresh", "participant_id": "sub-1", "exclusion_code": ""}
    table = pd.DataFrame(
        [
            {**common, "fe_value": 4.0, "lod": np.nan, "below_lod": "n"},
            {**common, "fe_value": np.nan, "lod": 2.0, "below_lod": "y"},
            {**common, "fe_value": 90.0, "lod": np.nan, "below_lod": "n", "exclusion_code": "saline"},
        ]
    )
    found = chemistry_by_participant(table, RECORDS)["sub-1"]
    assert (found.n_replicates, found.n_below_lod) == (2, 1)
    assert found.mean_mg_g == pytest.approx((4 + 2 / np.sqrt(2)) / 2)
    assert found.sd_mg_g == pytest.approx(np.std([4, np.sqrt(2)], ddof=1))


def test_the_ranks_of_passing_and_babloks_interval_are_those_of_kendalls_variance() -> None:
    i, j = np.triu_indices(17, 1)
    with np.errstate(divide="ignore"):
        slopes = np.sort((MINI[j] - MINI[i]) / (WRIGHT[j] - WRIGHT[i]))
    slopes = slopes[slopes != -1]
    assert slopes.size == 135
    below = int((slopes < -1).sum())
    # 1.95996 sqrt(17 * 16 * 39 / 18) = 47.58; ranks (135 - 47.58) / 2 = 43.7 and 135 - 44 + 1 = 92, shifted
    line = passing_bablok(WRIGHT, MINI)
    assert (line.slope.ci_lo, line.slope.ci_hi) == (slopes[44 + below - 1], slopes[92 + below - 1])


def test_concordance_of_equal_means_and_spreads_has_the_interval_of_a_correlation() -> None:
    # with equal means and SDs the coefficient is Pearson's, and Lin's variance of its z is 1 / (n - 2)
    def standardised(v: np.ndarray) -> np.ndarray:
        return (v - v.mean()) / v.std()

    found = concordance(standardised(WRIGHT), standardised(MINI))
    z = np.arctanh(np.corrcoef(WRIGHT, MINI)[0, 1])
    assert (np.arctanh(found.ci_lo), np.arctanh(found.ci_hi)) == pytest.approx((z - 1.959964 / 15**0.5, z + 1.959964 / 15**0.5), rel=1e-6)


@pytest.mark.parametrize("source", ["chemistry", "visits"])
@pytest.mark.parametrize("last", ["2021-06-01", "2021-06-02"])
def test_an_explant_is_compared_with_the_last_scan_up_to_its_explantation_not_with_the_graft(source: str, last: str) -> None:
    sessions = {"9": "2021-01-10", "10": last, "11": "2021-06-03", "explant": "2021-06-02"}
    lic = pd.DataFrame(
        {
            "participant_id": "sub-1",
            "session_id": [f"ses-{name}" for name in sessions],
            "specimen": ["in_vivo", "in_vivo", "in_vivo", "in_vitro"],
            "qc_status": "ok",
            **{f"lic_{method}_{end}": [9.0, 10.0, 1.0, 12.0] for method in ("hqsm", "r2star") for end in ("mg_g", "lo", "hi")},
        }
    )
    kinds = ["annual", "pretransplant", "annual", "explant" if source == "visits" else "annual"]
    known = {"participant_id": "sub-1", "session_id": lic["session_id"], "visit_date": list(sessions.values()), "visit_type": kinds}
    iron = {
        "participant_id": "sub-1",
        "specimen_id": "E1",
        "explant_date": "2021-06-02" if source == "chemistry" else "",
        "fe_value": 10.0,
        "lod": np.nan,
    }
    chemistry = pd.DataFrame([{**iron, "fe_unit": "mg/g", "basis": "dry", "prep": "fresh", "below_lod": "n", "exclusion_code": ""}])
    rows = explant_rows(lic, chemistry, empty_table("explant_histology"), pd.DataFrame(known), RecordsParams())
    assert {(r["setting"], r["session_id"], r["error_mg_g"]) for r in rows} == {
        ("in_vivo", "ses-10", 0.0),
        ("in_vitro", "ses-explant", 2.0),
    }


def test_limits_of_agreement_in_percent_have_the_configured_level() -> None:
    rows = []
    for k in range(1, 9):
        error = 0.1 * k + k % 2
        row = {"participant_id": f"sub-{k}", "setting": "in_vivo", "method": "hqsm", "lic_chemistry_mg_g": 1.0 * k}
        rows.append({**row, "lic_mg_g": k + error, "error_mg_g": error})
    widths = []
    for level in (0.95, 0.8):
        found = {r["quantity"]: r for r in explant_agreement_rows(rows, {}, StatisticsParams(confidence_level=level))}
        widths.append([found[name]["ci_hi"] - found[name]["ci_lo"] for name in ("bias", "bias_percent")])
    assert widths[1][1] / widths[0][1] == pytest.approx(widths[1][0] / widths[0][0], rel=1e-9)
