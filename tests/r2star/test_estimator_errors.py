"""What an estimator of R2* is said to be off by is what it is off by."""

import numpy as np
import pytest

from hqsm.r2star import estimate
from hqsm.r2star.estimator_errors import EstimatorErrors, estimator_errors

T = 1.2e-3 + 1.6e-3 * np.arange(6)


def off_by(name: str, r2star: float, snr: float, coils: int) -> np.ndarray:
    rng = np.random.default_rng(17)
    noise = rng.standard_normal((2 * coils, 30_000, T.size))
    # the signal spread evenly over the coils
    noise[::2] += snr / np.sqrt(coils) * np.exp(-r2star * T)
    return estimate(name, np.sqrt((noise**2).sum(axis=0)), T, 1.0, coils=coils) - r2star


@pytest.mark.parametrize(("r2star", "snr"), [(60.0, 25.0), (550.0, 45.0), (700.0, 60.0)])
@pytest.mark.parametrize(
    ("name", "coils"), [("plain", 1), ("truncated", 1), ("arlo", 1), ("log-linear", 4), ("noise-floor", 1), ("noise-floor", 8)]
)
def test_bias_and_error_between_the_steps_of_the_raster_are_those_of_fresh_noise(name: str, coils: int, r2star: float, snr: float) -> None:
    found = estimator_errors(name, T, coils=coils).at(np.array([snr]), np.array([r2star]))
    error = off_by(name, r2star, snr, coils)
    error = error[np.isfinite(error)]
    assert found.bias_per_s[0] == pytest.approx(error.mean(), abs=0.15 * error.std())
    assert found.rms_error_per_s[0] == pytest.approx(np.sqrt((error**2).mean()), rel=0.12)


def test_beyond_the_raster_its_edge_counts() -> None:
    errors = estimator_errors("plain", T)
    outside, edge = errors.at(np.array([1.0, 3e3]), np.array([-5.0, 4e3])), errors.at(np.array([3.0, 1e3]), np.array([0.0, 2e3]))
    np.testing.assert_array_equal(outside.bias_per_s, edge.bias_per_s)
    np.testing.assert_array_equal(outside.rms_error_per_s, edge.rms_error_per_s)


def test_an_estimator_misleads_where_bias_outweighs_scatter_or_the_lucky_alone_have_a_number() -> None:
    bias = np.array([-30.0, 50.0, -50.0, 0.0, 0.0])
    errors = EstimatorErrors(bias_per_s=bias, rms_error_per_s=np.hypot(bias, 40), answered=np.array([1, 1, 1, 0.91, 0.89]))
    assert errors.misleads.tolist() == [False, True, True, False, True]
    # of 1,700 1/s at SNR 10 hardly a second echo stands out
    assert estimator_errors("truncated", T).at(np.array([10.0]), np.array([1700.0])).misleads.all()
