import numpy as np
import pytest

from hqsm.errors import InputError
from hqsm.r2star import arlo, estimate, log_linear, noise_floor, plain, standard_error, truncated

T = 1.2e-3 + 1.6e-3 * np.arange(6)


def noisy(r2star: float, snr: float, n: int = 20_000, t: np.ndarray = T) -> np.ndarray:
    rng = np.random.default_rng(3)
    signal = snr * np.exp(-r2star * t) + rng.standard_normal((n, t.size)) + 1j * rng.standard_normal((n, t.size))
    return np.abs(signal)


@pytest.mark.parametrize("r2star", [30.0, 200.0, 600.0])
def test_every_estimator_returns_a_noise_free_decay(r2star: float) -> None:
    decay = 1e6 * np.exp(-r2star * T)[None]
    assert log_linear.estimate(decay, T)[0] == pytest.approx(r2star, rel=1e-9)
    for estimator in (plain, truncated, noise_floor):
        assert estimator.estimate(decay, T, 1.0)[0] == pytest.approx(r2star, rel=1e-3)
    # Simpson's rule over an exponential is off by (R2* dt)^4 / 180
    assert arlo.estimate(decay, T)[0] == pytest.approx(r2star, rel=1e-4 + (r2star * 1.6e-3) ** 4 / 60)


def test_the_mean_magnitude_of_noise_alone_is_that_of_rayleigh_and_chi() -> None:
    assert noise_floor.mean_magnitude(np.array([0.0]))[0] == pytest.approx(np.sqrt(np.pi / 2))
    # four coils: chi with eight degrees of freedom
    assert noise_floor.mean_magnitude(np.array([0.0]), coils=4)[0] == pytest.approx(2.7415, rel=1e-4)
    assert noise_floor.mean_magnitude(np.array([10.0]))[0] == pytest.approx(10.05, abs=0.002)


def test_the_noise_floor_biases_the_plain_fit_and_not_the_model_that_knows_it() -> None:
    data = noisy(600, 40)
    assert np.nanmean(plain.estimate(data, T, 1.0)) < 580
    # without the second-order bias taken off, the mean is 6 high
    assert abs(np.nanmean(noise_floor.estimate(data, T, 1.0)) - 600) < 2
    assert abs(np.nanmedian(noise_floor.estimate(data, T, 1.0)) - 600) < 8


def test_severe_iron_is_read_without_bias_on_average_from_magnitude_alone() -> None:
    for r2star, snr, most in ((430, 40, 2), (750, 40, 5), (600, 20, 8), (900, 40, 12)):  # before: 2, 18, 41, 60
        assert abs(np.nanmean(noise_floor.estimate(noisy(r2star, snr, 60_000), T, 1.0)) - r2star) < most


def test_uneven_echoes_are_refused_by_arlo_alone() -> None:
    t = np.array([1e-3, 2e-3, 4e-3, 5e-3])
    decay = np.exp(-100 * t)[None]
    with pytest.raises(InputError):
        arlo.estimate(decay, t)
    assert log_linear.estimate(decay, t)[0] == pytest.approx(100)


def test_voxels_of_noise_have_no_number() -> None:
    assert np.isnan(noise_floor.estimate(np.full((1, 6), 1.2), T, 1.0)).all()


def test_truncation_ends_at_the_first_echo_below_three_noise_sd_whatever_comes_later() -> None:
    clean = 100 * np.exp(-300 * T)
    for third in (2.9, 3.1):
        spoiled = clean.copy()
        spoiled[2], spoiled[3:] = third, 60.0
        found = truncated.estimate(spoiled[None], T, 1.0)[0]
        assert (found == pytest.approx(300, rel=1e-3)) == (third < 3)


def test_a_sum_of_squares_of_four_coils_is_read_by_its_own_floor() -> None:
    rng = np.random.default_rng(6)
    noise = rng.standard_normal((2, 20_000, T.size, 4))
    coil = 40 * np.exp(-600 * T)[None, :, None] * np.array([0.5, 0.5, 0.5, 0.5])
    magnitude = np.sqrt(((coil + noise[0]) ** 2 + noise[1] ** 2).sum(axis=-1))
    assert abs(np.nanmean(noise_floor.estimate(magnitude, T, 1.0, coils=4)) - 600) < 10
    assert np.nanmean(noise_floor.estimate(magnitude, T, 1.0)) < 530  # by the floor of one coil


def test_log_linear_trusts_an_echo_by_the_square_of_its_signal() -> None:
    """Weights and a straight line through three points, by hand."""
    t, magnitude = np.array([1e-3, 2e-3, 4e-3]), np.array([8.0, 5.0, 1.0])
    slope = np.polyfit(t, np.log(magnitude), 1, w=magnitude)[0]  # polyfit squares its weights
    assert log_linear.estimate(magnitude[None], t)[0] == pytest.approx(-slope)


@pytest.mark.parametrize("name", ["plain", "truncated", "noise-floor", "log-linear", "arlo"])
def test_an_estimator_is_the_one_that_its_name_says(name: str) -> None:
    data = noisy(700, 15, 50)
    modules = {"plain": plain, "truncated": truncated, "noise-floor": noise_floor}
    expected = modules[name].estimate(data, T, 1.0) if name in modules else {"log-linear": log_linear, "arlo": arlo}[name].estimate(data, T)
    np.testing.assert_array_equal(estimate(name, data, T, 1.0), expected)


def test_arlo_is_the_published_ratio_of_sums() -> None:
    """T2* = (sum I^2 + dt/3 sum I D) / (dt/3 sum D^2 + sum I D), I Simpson's integral over three echoes and D their difference."""
    magnitude, dt = np.array([9.0, 7.5, 4.0, 4.5, 2.0, 1.9]), 1.6e-3
    squares = products = differences = 0.0
    for first in range(4):
        a, b, c = magnitude[first : first + 3]
        integral, difference = dt / 3 * (a + 4 * b + c), a - c
        squares, products, differences = squares + integral**2, products + integral * difference, differences + difference**2
    expected = (dt / 3 * differences + products) / (squares + dt / 3 * products)
    assert arlo.estimate(magnitude[None], T)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["arlo", "log-linear", "plain", "truncated", "noise-floor"])
@pytest.mark.parametrize(("r2star", "snr"), [(30.0, 20.0), (100.0, 40.0), (200.0, 40.0)])
def test_the_standard_error_of_every_estimator_is_what_it_scatters_by(name: str, r2star: float, snr: float) -> None:
    data = noisy(r2star, snr)
    found, error = estimate(name, data, T, 1.0), standard_error(name, data, T, 1.0)
    assert np.isfinite(error[np.isfinite(found)]).all()
    assert np.nanstd((found - np.nanmean(found)) / error) == pytest.approx(1, abs=0.05)
