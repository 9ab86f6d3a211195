import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hqsm.config.records import RecordsParams
from hqsm.statistics.comparison import cluster_bootstrap, pitman_morgan
from hqsm.statistics.correlation import steiger, williams, zou_interval
from hqsm.statistics.effects import dry_iron_mg_g, holm
from hqsm.statistics.regression import ols_cluster

FOLDER = Path(__file__).parent / "oracles"
R = json.loads((FOLDER / "statistics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def synthetic() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "annual_synth.csv")


def design(frame: pd.DataFrame) -> np.ndarray:
    return np.stack([np.ones(len(frame)), frame["fe_in_mgkg"], frame["dfx_gkg"]], axis=1)


@pytest.mark.parametrize("outcome", ["dlic_qsm", "dlic_r2s"])
def test_regression_agrees_with_clubsandwich(synthetic: pd.DataFrame, outcome: str) -> None:
    fit = ols_cluster(design(synthetic), synthetic[outcome].to_numpy(float), synthetic["subject"].to_numpy())
    key = f"annual/{outcome}"
    np.testing.assert_allclose(fit.coefficients, R[f"{key}/ols_coef"], rtol=1e-6)
    np.testing.assert_allclose(fit.standard_errors, R[f"{key}/CR2_se"], rtol=1e-6)
    np.testing.assert_allclose(fit.degrees_of_freedom, R[f"{key}/CR2_df"], rtol=1e-6)
    np.testing.assert_allclose(fit.p_values, R[f"{key}/CR2_p"], rtol=1e-5)
    assert fit.r_squared == pytest.approx(np.ravel(R[f"{key}/r2"])[0], rel=1e-6)


def test_bootstrap_interval_of_the_difference_of_r_squared(synthetic: pd.DataFrame) -> None:
    outcomes = synthetic[["dlic_qsm", "dlic_r2s"]].to_numpy(float)
    r2, _ = cluster_bootstrap(design(synthetic), outcomes, synthetic["subject"].to_numpy(), 10_000, 1)
    lo, hi = np.percentile(r2[:, 0] - r2[:, 1], [2.5, 97.5])
    assert lo == pytest.approx(0.063, abs=0.006)
    assert hi == pytest.approx(0.2165, abs=0.006)


def test_pitman_morgan_on_the_residuals(synthetic: pd.DataFrame) -> None:
    residuals = [
        ols_cluster(design(synthetic), synthetic[c].to_numpy(float), synthetic["subject"].to_numpy()).residuals
        for c in ("dlic_qsm", "dlic_r2s")
    ]
    r, t, p = pitman_morgan(*residuals)
    assert (r, t, p) == pytest.approx((-0.5211392, -3.957212, 2.866e-4), rel=1e-3)


CASES = sorted({key.split("/")[1] for key in R if key.startswith("cocor/")})


@pytest.mark.parametrize("case", CASES)
def test_dependent_correlations_agree_with_cocor(case: str) -> None:
    r12, r13, r23, n = (float(v) for v in case.split(","))
    key = f"cocor/{case}"
    assert williams(r12, r13, r23, int(n)) == pytest.approx([np.ravel(R[f"{key}/williams_{name}"])[0] for name in "tp"], rel=1e-6)
    assert steiger(r12, r13, r23, int(n)) == pytest.approx([np.ravel(R[f"{key}/steiger_{name}"])[0] for name in "zp"], rel=1e-6)
    np.testing.assert_allclose(zou_interval(r12, r13, r23, int(n)), R[f"{key}/zou_ci"], rtol=1e-6)


def test_holm_on_the_published_example() -> None:
    p = np.array([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216])
    np.testing.assert_allclose(holm(p), [0.010, 0.072, *[0.312] * 3, *[0.312] * 0, 0.312, 0.312, *[0.615] * 3][: len(p)], rtol=1e-9)


def test_swapping_the_methods_flips_the_sign_and_a_constant_changes_only_the_intercept(synthetic: pd.DataFrame) -> None:
    x, y, who = design(synthetic), synthetic["dlic_qsm"].to_numpy(float), synthetic["subject"].to_numpy()
    plain, shifted = ols_cluster(x, y, who), ols_cluster(x, y + 3, who)
    np.testing.assert_allclose(shifted.coefficients - plain.coefficients, [3, 0, 0], atol=1e-9)
    np.testing.assert_allclose(shifted.standard_errors, plain.standard_errors, rtol=1e-9)


def test_collinear_terms_are_refused(synthetic: pd.DataFrame) -> None:
    x = design(synthetic)
    x[:, 2] = 2 * x[:, 1]
    with pytest.raises(ValueError, match="cannot be told apart"):
        ols_cluster(x, synthetic["dlic_qsm"].to_numpy(float), synthetic["subject"].to_numpy())


@pytest.mark.parametrize(
    ("value", "unit", "basis", "prep", "expected"),
    [
        (100, "umol/g", "dry", "fresh", 5.5845),
        (5000, "ug/g", "dry", "fresh", 5.0),
        (2.1, "mg/g", "wet", "fresh", 6.993),
        (12.4, "mg/g", "dry", "paraffin", 7.0827),
    ],
)
def test_chemistry_in_any_unit_becomes_fresh_dry_weight(value: float, unit: str, basis: str, prep: str, expected: float) -> None:
    assert dry_iron_mg_g(value, unit, basis, prep, RecordsParams()) == pytest.approx(expected, rel=1e-5)
