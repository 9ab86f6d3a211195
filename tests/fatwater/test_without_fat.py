"""Two echoes, and magnitudes alone: R2* is numbered where it can be measured, and severe iron that noise makes look moderate is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import make_grid
from hqsm import r2star
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.errors import InputError
from hqsm.fatwater.bounds import r2star_limit_per_s
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.without_fat import magnitude_only, phase_sd_rad, two_echoes

_TWO, _SIX = np.array([1.2e-3, 2.8e-3]), 1.2e-3 + 1.6e-3 * np.arange(6)
_SNR = 40.0
_GRID = make_grid("axial", (24, 24, 12))
_BODY = np.ones(_GRID.shape, bool)
_IRON = np.zeros(_GRID.shape, bool)
_IRON[4:20, 4:20, 2:10] = True
_INSIDE = np.zeros(_GRID.shape, bool)
_INSIDE[6:18, 6:18, 4:8] = True
"""Of the iron, two voxels and more from its surface."""


def echoes_of(how: str, r2star_per_s: float, *, coils: int = 1, snr: float = _SNR) -> MultiEcho:
    """A body of 40 1/s with iron in it: two complex echoes, or the magnitude of six; the signal is one coil's."""
    t = _TWO if how == "two echoes" else _SIX
    rng = np.random.default_rng(3)
    rate = np.where(_IRON, r2star_per_s, 40.0)[..., None]
    signal = snr * np.exp(-rate * t + 0.7j + 40j * np.pi * t)
    signal = signal + rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape)
    if how != "two echoes":
        power = np.abs(signal) ** 2
        for _ in range(coils - 1):
            power += rng.standard_normal(signal.shape) ** 2 + rng.standard_normal(signal.shape) ** 2
        signal = np.sqrt(power)
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=1.5, grid=_GRID, noise_sd=1.0)


def maps_of(how: str, echoes: MultiEcho, *, coils: int = 1) -> WaterFat:
    if how == "two echoes":
        return two_echoes(echoes, _BODY, np.ones(2, complex), FatWaterParams())
    return magnitude_only(echoes, _BODY, FatWaterParams(r2star_estimator=how, coils_in_magnitude=coils))


def by_itself(how: str, echoes: MultiEcho) -> np.ndarray:
    """R2* [1/s] that each voxel's own echoes say."""
    magnitude = np.abs(echoes.signal).astype(float)
    if how == "two echoes":
        return np.log(magnitude[..., 0] / magnitude[..., 1]) / (_TWO[1] - _TWO[0])
    return r2star.estimate(how, magnitude, _SIX, 1.0)


# truncated gives hardly a number beyond 1,200 1/s by itself: the rule would not be seen
@pytest.mark.parametrize(
    ("how", "r2star_per_s"),
    [
        *((how, rate) for how in ("two echoes", "noise-floor", "arlo", "log-linear", "plain") for rate in (1500.0, 2000.0)),
        ("truncated", 1200.0),
    ],
)
def test_severe_iron_is_censored_whatever_noise_makes_of_a_voxel(how: str, r2star_per_s: float) -> None:
    echoes = echoes_of(how, r2star_per_s)
    maps = maps_of(how, echoes)
    assert (by_itself(how, echoes)[_INSIDE] < maps.r2star_limit_per_s).mean() > 0.05  # by that rule it would have been given
    assert maps.censored[_INSIDE].mean() > 0.99
    bound = maps.r2star_lower_bound_per_s
    assert bound is not None
    np.testing.assert_array_equal(np.isfinite(bound), maps.censored)
    assert (bound[_INSIDE] < r2star_per_s).mean() > 0.98
    assert np.nanmedian(bound[_INSIDE]) > 0.6 * min(maps.r2star_limit_per_s, r2star_per_s)
    assert np.isfinite(maps.r2star_per_s[_INSIDE]).mean() < 0.01
    assert np.isnan(maps.r2star_se_per_s[~np.isfinite(maps.r2star_per_s)]).all()
    assert np.isfinite(maps.r2star_per_s[~_IRON]).mean() > 0.99


@pytest.mark.parametrize("how", ["two echoes", "noise-floor", "plain", "truncated"])
@pytest.mark.parametrize("r2star_per_s", [50.0, 400.0, 600.0])
def test_livers_keep_their_numbers_and_these_scatter_as_they_claim(how: str, r2star_per_s: float) -> None:
    echoes = echoes_of(how, r2star_per_s)
    maps = maps_of(how, echoes)
    assert not maps.censored[_IRON].any()
    np.testing.assert_allclose(maps.r2star_per_s[_INSIDE], by_itself(how, echoes)[_INSIDE], rtol=1e-3, atol=0.1)
    error = (maps.r2star_per_s - r2star_per_s)[_INSIDE]
    assert np.sqrt(np.mean((error / maps.r2star_se_per_s[_INSIDE]) ** 2)) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize(("share_of_limit", "given"), [(0.85, True), (1.3, False)])
def test_magnitudes_alone_are_numbered_up_to_the_limit_and_censored_beyond(share_of_limit: float, given: bool) -> None:
    """Of a place of one tissue; the limit is that of the brightness, which is the same everywhere."""
    limit = r2star_limit_per_s(_SIX, _SNR)
    maps = maps_of("noise-floor", echoes_of("noise-floor", share_of_limit * limit))
    assert maps.r2star_limit_per_s == pytest.approx(limit, rel=0.02)
    found = maps.r2star_per_s[_INSIDE]
    if given:
        assert np.isfinite(found).mean() > 0.9
        error = found - share_of_limit * limit
        assert abs(np.nanmean(error)) < 0.1 * np.nanstd(error)
        assert np.sqrt(np.nanmean((error / maps.r2star_se_per_s[_INSIDE]) ** 2)) == pytest.approx(1, abs=0.12)
    else:
        assert maps.censored[_INSIDE].mean() > 0.99


@pytest.mark.parametrize("how", ["arlo", "log-linear"])
def test_an_estimator_that_the_noise_floor_biases_by_more_than_it_scatters_gives_no_number(how: str) -> None:
    echoes = echoes_of(how, 1000.0)
    maps = maps_of(how, echoes)
    assert np.nanmedian(by_itself(how, echoes)[_INSIDE]) < 800
    assert maps.censored[_INSIDE].mean() > 0.99
    assert not maps.censored[~_IRON].any()


@pytest.mark.parametrize(("how", "given"), [("log-linear", False), ("noise-floor", True)])
def test_of_complex_echoes_too_such_an_estimator_gives_no_number(how: str, given: bool) -> None:
    magnitude = echoes_of(how, 850.0)
    echoes = replace(magnitude, signal=magnitude.signal * np.exp(2j * np.pi * 30 * _SIX).astype(np.complex64))
    maps = separate(echoes, FatWaterParams(r2star_estimator=how))
    assert np.isfinite(separate(echoes, FatWaterParams()).r2star_per_s[_INSIDE]).mean() > 0.9
    assert np.isfinite(maps.r2star_per_s[_INSIDE]).mean() == pytest.approx(float(given), abs=0.1)
    bound = maps.r2star_lower_bound_per_s
    assert bound is not None
    np.testing.assert_array_equal(np.isfinite(bound), maps.censored)
    np.testing.assert_array_equal(np.isfinite(maps.r2star_se_per_s), np.isfinite(maps.r2star_per_s))
    if not given:
        assert np.nanmax(bound[_INSIDE]) < 900


def test_magnitudes_of_several_coils_are_read_by_their_own_floor() -> None:
    echoes = echoes_of("noise-floor", 400.0, coils=8)
    wrong, right = (maps_of("noise-floor", echoes, coils=n).r2star_per_s[_INSIDE] for n in (1, 8))
    assert np.nanmean(wrong) < 350
    assert np.isfinite(right).mean() > 0.99
    assert np.mean(right) == pytest.approx(400, abs=8)
    severe = maps_of("noise-floor", echoes_of("noise-floor", 1500.0, coils=8), coils=8)
    assert severe.censored[_INSIDE].mean() > 0.99


def test_the_configured_number_of_coils_reaches_the_estimator_of_complex_echoes_too() -> None:
    magnitude = echoes_of("noise-floor", 400.0)
    echoes = replace(magnitude, signal=magnitude.signal * np.exp(2j * np.pi * 30 * _SIX).astype(np.complex64))
    found = separate(echoes, FatWaterParams(r2star_estimator="noise-floor", coils_in_magnitude=8)).r2star_per_s[_INSIDE]
    expected = r2star.estimate("noise-floor", np.abs(echoes.signal[_INSIDE]), _SIX, 1.0, coils=8)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("noise_sd", [1.0, float("nan")])
@pytest.mark.parametrize("coils", [1, 4])
def test_magnitudes_of_noise_alone_are_refused(noise_sd: float, coils: int) -> None:
    rng = np.random.default_rng(8)
    magnitude = np.sqrt(rng.chisquare(2 * coils, (*_GRID.shape, 6)))
    echoes = MultiEcho(signal=magnitude.astype(np.complex64), echo_times_s=_SIX, field_strength_tesla=1.5, grid=_GRID, noise_sd=noise_sd)
    with pytest.raises(InputError, match="rises above the noise") as caught:
        separate(echoes, FatWaterParams(coils_in_magnitude=coils))
    assert caught.value.code == "NO_SIGNAL"


@pytest.mark.parametrize("r2star_per_s", [50.0, 800.0, 1500.0, 2000.0])
def test_the_field_of_two_echoes_errs_as_it_claims_up_to_iron_that_leaves_the_second_one_noise(r2star_per_s: float) -> None:
    maps = maps_of("two echoes", echoes_of("two echoes", r2star_per_s))
    ratio = (maps.field_hz - 20) / maps.field_se_hz
    for place in (_INSIDE, _IRON, ~_IRON):
        assert np.sqrt(np.mean(ratio[place] ** 2)) == pytest.approx(1, abs=0.08)


def test_a_phase_scatters_as_drawn_ones_do() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(400_000) + 1j * rng.standard_normal(400_000)
    lengths = np.array([0, 0.5, 1.5, 3, 8, 30.0])
    drawn = [np.sqrt(np.mean(np.angle(length + noise) ** 2)) for length in lengths]
    np.testing.assert_allclose(phase_sd_rad(lengths), drawn, rtol=6e-3)
    assert phase_sd_rad(np.zeros(1))[0] == pytest.approx(np.pi / np.sqrt(3), rel=1e-4)


def with_fat_of(shares: np.ndarray, t: np.ndarray, r2star_per_s: float = 60.0) -> tuple[MultiEcho, np.ndarray]:
    """A lean body whose every column of voxels has one of the shares of fat, and the share of each voxel."""
    fat = fat_signal(SPECTRA["hamilton-liver-6"], t, 1.5)
    share = np.broadcast_to(shares[:, None, None], _GRID.shape)
    signal = 400 * (1 - share[..., None] * (1 - fat)) * np.exp((40j * np.pi - r2star_per_s) * t + 0.7j)
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=1.5, grid=_GRID, noise_sd=1.0), share


@pytest.mark.parametrize("times_s", [_TWO, 4.1e-3 * np.arange(1, 4)])
def test_errors_allow_for_fat_from_none_to_30_percent_where_the_echoes_cannot_tell_it(times_s: np.ndarray) -> None:
    """Their root mean square over these shares; 20 % of fat is worth 36 Hz of two echoes and 25 1/s of three in phase."""
    echoes, share = with_fat_of(np.linspace(0, 0.3, _GRID.shape[0]), times_s)
    maps = separate(echoes, FatWaterParams())
    assert {"TWO_ECHOES_NO_FAT", "FAT_NOT_SEPARABLE"} & set(maps.codes)
    off_hz, off_per_s = maps.field_hz - 20, maps.r2star_per_s - 60
    assert np.sqrt(np.mean((off_per_s / maps.r2star_se_per_s) ** 2)) == pytest.approx(1, abs=0.1)
    at_20_percent = np.abs(share - 0.2) < 0.01
    if times_s.size == 2:
        assert np.mean(off_hz[at_20_percent]) == pytest.approx(36, abs=2)
        assert np.sqrt(np.mean((off_hz / maps.field_se_hz) ** 2)) == pytest.approx(1, abs=0.05)
        assert np.ptp(maps.field_se_hz) < 0.1
    else:
        assert np.mean(off_per_s[at_20_percent]) == pytest.approx(25, abs=1)


def test_an_estimator_of_r2star_is_heard_of_two_complex_echoes_too() -> None:
    echoes, _ = with_fat_of(np.zeros(_GRID.shape[0]), _TWO, 400.0)
    usual, asked = (separate(echoes, FatWaterParams(r2star_estimator=name)) for name in ("complex", "noise-floor"))
    expected = r2star.estimate("noise-floor", np.abs(echoes.signal), _TWO, 1.0)
    np.testing.assert_allclose(asked.r2star_per_s, expected, rtol=1e-4)
    np.testing.assert_array_equal(asked.field_hz, usual.field_hz)
    assert "R2STAR_FAT_FREE" in asked.codes
    assert "R2STAR_FAT_FREE" not in usual.codes
    assert (asked.r2star_se_per_s < 0.5 * usual.r2star_se_per_s).all()  # it knows of no fat
    with pytest.raises(InputError, match="three or more"):
        separate(echoes, FatWaterParams(r2star_estimator="arlo"))


@pytest.mark.parametrize(("times_s", "told"), [(_TWO, True), (np.array([4.6e-3, 9.2e-3]), False)])
def test_two_echoes_say_where_they_are_not_in_phase_as_the_configuration_asks(times_s: np.ndarray, told: bool) -> None:
    echoes, _ = with_fat_of(np.zeros(_GRID.shape[0]), times_s)
    assert ("IN_PHASE_NOT_POSSIBLE" in separate(echoes, FatWaterParams(field_initialisation="in-phase")).codes) is told
    assert "IN_PHASE_NOT_POSSIBLE" not in separate(echoes, FatWaterParams()).codes


def test_the_configured_number_of_coils_tells_the_noise_of_a_magnitude_by_its_background() -> None:
    echoes = echoes_of("noise-floor", 400.0, coils=8)
    signal = echoes.signal.copy()
    signal[:, 12:] = np.sqrt(np.random.default_rng(2).chisquare(16, signal[:, 12:].shape))  # nothing but noise
    params = FatWaterParams(coils_in_magnitude=8)
    known, told = (separate(replace(echoes, signal=signal, noise_sd=sd), params).r2star_per_s for sd in (1.0, float("nan")))
    both = np.isfinite(known) & np.isfinite(told)
    assert both.sum() == pytest.approx(np.isfinite(known).sum(), rel=0.02)
    assert np.abs((told - known)[both]).mean() < 2
