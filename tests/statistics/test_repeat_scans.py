"""Repeat scans: which belong together, and what is compared with what; rates of change."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.annual_change import annual_change_rows
from hqsm.statistics.repeatability import baseline_rows, repeatability_rows, scan_sd_mg_g

PARAMS = StatisticsParams()


def scan(who: str, session: str, value: float, *, tesla: float = 1.5, group: str = "healthy", status: str = "ok") -> dict[str, Any]:
    values = dict.fromkeys(("chi_hqsm_ppm", "lic_hqsm_mg_g", "r2star_per_s", "lic_r2star_mg_g", "pdff_percent"), value)
    facts = {"field_strength_t": tesla, "group": group, "qc_status": status, "specimen": "in_vivo"}
    return {"participant_id": who, "session_id": session, "acq_date": "2021-03-01", "reconstruction_digest": "x", **facts, **values}


def visit(who: str, session: str, kind: str, day: str) -> dict[str, Any]:
    return {"participant_id": who, "session_id": session, "visit_type": kind, "visit_date": day}


LIC = [
    *(scan("sub-a", "ses-1", 5.0), scan("sub-a", "ses-2", 5.2), scan("sub-a", "ses-3t", 6.0, tesla=3.0), scan("sub-a", "ses-ge", 5.6)),
    *(scan("sub-b", "ses-1", 7.0), scan("sub-b", "ses-0", 7.4), scan("sub-b", "ses-9", 12.0)),
    *(scan("sub-c", "ses-1", 9.0), scan("sub-c", "ses-2", 0.0, status="rejected")),
]
VISITS = [
    visit("sub-a", "ses-1", "control", "2021-03-01"),
    visit("sub-a", "ses-2", "repeat", "2021-03-01"),
    visit("sub-a", "ses-3t", "repeat", "2021-03-02"),
    visit("sub-a", "ses-ge", "repeat", "2021-03-03"),
    # the repeat comes second whatever its label
    visit("sub-b", "ses-1", "control", "2021-03-01"),
    visit("sub-b", "ses-0", "repeat", "2021-03-02"),
    visit("sub-b", "ses-9", "control", "2022-03-02"),
    visit("sub-c", "ses-1", "control", "2021-03-01"),
    visit("sub-c", "ses-2", "repeat", "2021-03-01"),
]
CONVENTIONS = {(row["participant_id"], row["session_id"]): "ge" if row["session_id"] == "ses-ge" else "siemens" for row in LIC}


def rows() -> dict[tuple[str, str], dict[str, Any]]:
    found = repeatability_rows(pd.DataFrame(LIC), pd.DataFrame(VISITS), CONVENTIONS, PARAMS)
    return {(row["comparison"], row["quantity"]): row for row in found}


def test_repeats_on_the_same_scanner_other_fields_and_other_scanners_are_kept_apart() -> None:
    same, field, vendor = (rows()[kind, "lic_hqsm_mg_g"] for kind in ("repeat", "cross_field", "cross_scanner"))
    assert same["n_pairs"] == 2
    assert same["within_subject_sd"] == pytest.approx(np.sqrt((0.2**2 + 0.4**2) / 2 / 2))
    assert same["mean_difference"] == pytest.approx(0.3)
    assert same["within_subject_cv_percent"] == pytest.approx(100 * np.sqrt((0.02 / 5.1**2 + 0.08 / 7.2**2) / 2))
    assert (field["n_pairs"], field["mean_difference"]) == (1, pytest.approx(1.0))
    assert (vendor["n_pairs"], vendor["mean_difference"]) == (1, pytest.approx(0.6))


@pytest.mark.parametrize(("day", "pairs"), [("2022-03-05", 0), ("2021-03-31", 1), ("2021-04-01", 0)])
def test_a_repeat_of_a_scan_that_was_rejected_is_no_repeat_of_last_years(day: str, pairs: int) -> None:
    lic = pd.DataFrame([scan("sub-a", "ses-1", 5.0), scan("sub-a", "ses-2", 0.0, status="rejected"), scan("sub-a", "ses-3", 8.0)])
    kinds = [("ses-1", "annual", "2021-03-01"), ("ses-2", "annual", day), ("ses-3", "repeat", day)]
    visits = pd.DataFrame([visit("sub-a", *kind) for kind in kinds])
    found = repeatability_rows(lic, visits, {("sub-a", session): "ge" for session, _, _ in kinds}, PARAMS)
    assert [row["n_pairs"] for row in found] == [pairs] * 5


def test_a_series_of_repeats_lasts_thirty_days_from_its_first_scan_and_has_a_pair_less_than_scans() -> None:
    def pairs(days: list[str]) -> int:
        names = [("sub-a", f"ses-{k}") for k in range(len(days))]
        visits = [visit(*name, "repeat" if k else "annual", day) for k, (name, day) in enumerate(zip(names, days, strict=True))]
        lic = pd.DataFrame([scan(*name, 5.0 + k) for k, name in enumerate(names)])
        return int(repeatability_rows(lic, pd.DataFrame(visits), dict.fromkeys(names, "ge"), PARAMS)[0]["n_pairs"])

    assert pairs(["2021-03-01", "2021-03-11", "2021-03-30"]) == 2
    assert pairs(["2021-03-01", "2021-03-21", "2021-04-10"]) == 1


@pytest.mark.parametrize(("n", "told"), [(3, False), (4, True)])
def test_concordance_and_limits_need_four_subjects(n: int, told: bool) -> None:
    names = [(f"sub-{k}", f"ses-{s}") for k in range(n) for s in (1, 2)]
    lic = pd.DataFrame([scan(*name, 5.0 + k % 2 * 0.3 + k // 2) for k, name in enumerate(names)])
    visits = pd.DataFrame([visit(*name, "annual" if name[1] == "ses-1" else "repeat", "2021-03-01") for name in names])
    row = repeatability_rows(lic, visits, dict.fromkeys(names, "ge"), PARAMS)[0]
    assert row["n_pairs"] == n
    assert ("ccc" in row, "limit_lo" in row) == (told, told)


def test_without_repeats_the_table_says_so() -> None:
    found = repeatability_rows(pd.DataFrame(LIC[4:5]), pd.DataFrame(VISITS), CONVENTIONS, PARAMS)
    assert [row["note"] for row in found] == ["no repeat scans"] * 5


def test_every_interval_of_repeatability_holds_its_estimate() -> None:
    rng = np.random.default_rng(5)
    pairs = 8 + rng.normal(0, 3, (12, 1)) + rng.normal(0, 0.3, (12, 2))
    names = [(f"sub-{k}", f"ses-{s}") for k in range(12) for s in (1, 2)]
    lic = pd.DataFrame([scan(*name, value) for name, value in zip(names, pairs.ravel(), strict=True)])
    visits = [visit(*name, "control" if name[1] == "ses-1" else "repeat", "2021-03-01") for name in names]
    row = repeatability_rows(lic, pd.DataFrame(visits), dict.fromkeys(names, "ge"), PARAMS)[1]
    difference = pairs[:, 1] - pairs[:, 0]
    limits = difference.mean() + 1.96 * difference.std(ddof=1) * np.array([-1, 1])
    assert (row["mean_difference"], row["limit_lo"], row["limit_hi"]) == pytest.approx((difference.mean(), *limits))
    for name, value in (("icc", 0.98), ("ccc", 0.98), ("within_subject_sd", 0.3)):
        assert row[f"{name}_lo"] < row[name] < row[f"{name}_hi"]
        assert row[name] == pytest.approx(value, abs=0.1)
    sd = np.sqrt((difference**2).mean() / 2)
    ends = sd * np.sqrt(12 / stats.chi2.ppf([0.975, 0.025], 12))
    assert (row["within_subject_sd"], row["within_subject_sd_lo"], row["within_subject_sd_hi"]) == pytest.approx((sd, *ends))
    assert row["repeatability_coefficient"] == row["minimum_detectable_change"] == pytest.approx(1.96 * np.sqrt(2) * sd)


def test_a_few_pairs_say_nothing_of_the_ratio_of_errors() -> None:
    found = repeatability_rows(pd.DataFrame(LIC), pd.DataFrame(VISITS), CONVENTIONS, PARAMS)
    expected = pytest.approx(np.sqrt((0.2**2 + 0.4**2) / 2 / 2))
    assert scan_sd_mg_g(found, 2) == {"hqsm": expected, "r2star": expected}
    assert scan_sd_mg_g(found, 3) == scan_sd_mg_g(found) == {}


def test_the_baseline_counts_each_healthy_participant_once_at_each_field() -> None:
    found = {(r["field_strength_t"], r["quantity"]): r for r in baseline_rows(pd.DataFrame(LIC), PARAMS)}
    at_1t5 = found[1.5, "chi_hqsm_ppm"]
    means = [np.mean([5.0, 5.2, 5.6]), np.mean([7.0, 7.4, 12.0]), 9.0]
    assert (at_1t5["n_participants"], at_1t5["mean"]) == (3, pytest.approx(np.mean(means)))
    assert at_1t5["sd"] == pytest.approx(np.std(means, ddof=1))
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert (at_1t5["ci_lo"], at_1t5["ci_hi"]) == pytest.approx((np.mean(means) - half, np.mean(means) + half))
    assert found[3.0, "chi_hqsm_ppm"]["n_participants"] == 1
    assert baseline_rows(pd.DataFrame([scan("sub-t", "ses-1", 5, group="thalassemia")]), PARAMS) == []


def one_interval() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two visits 400 days apart, and the exposure between them."""
    lic = pd.DataFrame([scan("sub-a", "ses-1", 5.0), scan("sub-a", "ses-2", 7.0)])
    lic["acq_date"] = ["2021-03-01", "2022-04-05"]
    names = ("iron_in_mg", "iron_in_mg_per_kg_per_year", "chelator_mg", "chelator_g_per_kg_per_year")
    further = dict.fromkeys((*names, "chelator_adherence_g_per_kg_per_year", "mean_weight_kg", "age_years", "splenectomy"), 1.0)
    interval = {"participant_id": "sub-a", "start_session": "ses-1", "end_session": "ses-2", "days": 400, "flags": "", "reason": ""}
    return lic, pd.DataFrame([{**interval, **further}])


@pytest.mark.parametrize(("days", "flags"), [(7, ""), (-7, ""), (8, "dates_disagree"), (-8, "dates_disagree")])
def test_the_images_dates_may_differ_from_the_records_by_a_week(days: int, flags: str) -> None:
    lic, exposure = one_interval()
    assert annual_change_rows(lic, exposure.assign(days=400 + days), PARAMS)[0]["flags"] == flags


@pytest.mark.parametrize(("tesla", "flags"), [(2.89, "field_strength_differs"), (2.95, "")])
def test_scanners_of_2_89_and_of_3_t_are_two_field_strengths_and_rounding_is_none(tesla: float, flags: str) -> None:
    lic, exposure = one_interval()
    lic["field_strength_t"] = [tesla, 3.0]
    assert annual_change_rows(lic, exposure, PARAMS)[0]["flags"] == flags


def test_an_interval_counts_for_the_method_that_has_both_ends() -> None:
    lic, exposure = one_interval()
    lic.loc[1, "lic_r2star_mg_g"] = np.nan
    row = annual_change_rows(lic, exposure, PARAMS)[0]
    assert (row["included"], row["reason"]) == (1, "")
    assert np.isnan(row["delta_lic_r2star_mg_g_per_year"])
    lic.loc[0, "lic_hqsm_mg_g"] = np.nan
    row = annual_change_rows(lic, exposure, PARAMS)[0]
    assert (row["included"], row["reason"]) == (0, "no LIC by either method at one of the visits")


def test_a_change_is_per_year_of_365_and_a_quarter_days() -> None:
    lic, exposure = one_interval()
    row = annual_change_rows(lic, exposure, PARAMS)[0]
    assert row["delta_lic_hqsm_mg_g_per_year"] == pytest.approx(2 * 365.25 / 400)
    assert (row["start_lic_hqsm_mg_g"], row["included"], row["flags"]) == (5.0, 1, "")
    for tesla, flags in ((1.4940, ""), (3.0, "field_strength_differs")):
        lic.loc[1, "field_strength_t"] = tesla
        assert annual_change_rows(lic, exposure, PARAMS)[0]["flags"] == flags
    gone = annual_change_rows(lic[:1], exposure, PARAMS)[0]
    assert (gone["included"], gone["reason"]) == (0, "no liver iron of ses-2 (see visits.tsv)")
