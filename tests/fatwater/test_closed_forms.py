"""Fields, decays and standard errors that can be worked out by hand: two echoes, magnitudes alone, the bounds of the models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho
from hqsm.fatwater import constrained_step as lane
from hqsm.fatwater import without_fat
from hqsm.fatwater.blocks import gather
from hqsm.fatwater.bounds import LocalDecay, expected_errors, r2star_limit_per_s
from hqsm.fatwater.constrained_fit import Priors, fit_constrained
from hqsm.fatwater.decay import local_decay
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.iron_steps import field_steps_hz
from hqsm.fatwater.period import folded
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.start import Start
from hqsm.fatwater.tissue import Echoes, Tissue
from hqsm.fatwater.without_fat import magnitude_only, two_echoes

_T = 1.2e-3 + 1.6e-3 * np.arange(6)
_NO_FAT = np.ones(2, complex)
"""Signal of fat that is like water's: its share does nothing."""


def water(times_s: np.ndarray, field_hz: np.ndarray | float, r2star_per_s: np.ndarray | float, noise_sd: float) -> MultiEcho:
    grid = make_grid("axial", (12, 10, 6))
    rate = np.broadcast_to(2j * np.pi * np.asarray(field_hz) - r2star_per_s, grid.shape)
    signal = 100 * np.exp(rate[..., None] * times_s + 0.7j)
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=times_s, field_strength_tesla=1.5, grid=grid, noise_sd=noise_sd)


def test_two_echoes_know_field_and_decay_as_their_phases_and_logarithms_do() -> None:
    t = np.array([1.5e-3, 3.5e-3])
    # a turn between the echoes is 500 Hz: it wraps within the volume, and the body lies nearest zero
    field = np.linspace(-280, 330, 12)[:, None, None]
    echoes = water(t, field, 60.0, 2.0)
    maps = two_echoes(echoes, np.ones(echoes.grid.shape, bool), _NO_FAT, FatWaterParams())
    np.testing.assert_allclose(maps.field_hz, np.broadcast_to(field, maps.field_hz.shape), atol=0.01)
    np.testing.assert_allclose(maps.r2star_per_s, 60, rtol=1e-4)
    np.testing.assert_allclose(np.abs(maps.water), 100, rtol=1e-4)
    error = np.hypot(2 / (100 * np.exp(-60 * t[0])), 2 / (100 * np.exp(-60 * t[1]))) / (t[1] - t[0])
    np.testing.assert_allclose(maps.r2star_se_per_s, error, rtol=1e-4)
    np.testing.assert_allclose(maps.field_se_hz, error / (2 * np.pi), rtol=1e-2)  # by the neighbourhood's decay
    assert maps.r2star_limit_per_s == pytest.approx(1 / t[0])
    # a turn more or less is as good: the body's middle, at 465 Hz, lies nearest zero one turn lower
    for sign in (1, -1):
        far = sign * np.linspace(230, 700, 12)[:, None, None]
        found = two_echoes(water(t, far, 60.0, 2.0), np.ones(echoes.grid.shape, bool), _NO_FAT, FatWaterParams()).field_hz
        np.testing.assert_allclose(found, np.broadcast_to(far - sign * 500, found.shape), atol=0.02)


@pytest.mark.parametrize("turns", [-1, 0, 3])
def test_whole_turns_that_unwrapping_adds_to_two_echoes_are_taken_off(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    echoes = water(np.array([1.5e-3, 3.5e-3]), 40.0, 60.0, 2.0)
    monkeypatch.setattr(without_fat, "_unwrapped", lambda phase_rad, usable, known: phase_rad + 2 * np.pi * turns)
    maps = two_echoes(echoes, np.ones(echoes.grid.shape, bool), _NO_FAT, FatWaterParams())
    np.testing.assert_allclose(maps.field_hz, 40, atol=0.01)


@pytest.mark.parametrize(("r2star_per_s", "given"), [(600.0, True), (720.0, False)])
def test_two_echoes_censor_what_is_gone_before_the_first(r2star_per_s: float, given: bool) -> None:
    echoes = water(np.array([1.5e-3, 3.5e-3]), 0.0, r2star_per_s, 0.01)
    maps = two_echoes(echoes, np.ones(echoes.grid.shape, bool), _NO_FAT, FatWaterParams())
    assert np.isfinite(maps.r2star_per_s).all() == given
    assert maps.censored.all() == (not given)


def test_magnitudes_alone_give_decay_and_amplitude() -> None:
    maps = magnitude_only(water(_T, 40.0, 100.0, 0.5), np.ones((12, 10, 6), bool), FatWaterParams(r2star_estimator="log-linear"))
    np.testing.assert_allclose(maps.r2star_per_s, 100, rtol=1e-3)
    np.testing.assert_allclose(np.abs(maps.water), 100, rtol=1e-3)
    assert maps.r2star_limit_per_s == pytest.approx(r2star_limit_per_s(_T, 200.0))


def fisher_covariance(model: Any, at: list[float]) -> np.ndarray:
    """Covariance of the estimates for noise of unit SD in either part, the derivatives taken by differences."""
    steps = [1e-4 * max(abs(value), 1) for value in at]
    columns = []
    for k, h in enumerate(steps):
        up, down = (model(*[v + sign * h * (j == k) for j, v in enumerate(at)]) for sign in (1, -1))
        columns.append((up - down) / (2 * h))
    jacobian = np.stack(columns, axis=1)
    return np.linalg.inv((jacobian.conj().T @ jacobian).real)


def fisher_se(model: Any, at: list[float]) -> np.ndarray:
    return np.sqrt(np.diag(fisher_covariance(model, at)))


@pytest.mark.parametrize("r2star_per_s", [50.0, 400.0])
def test_the_bounds_are_the_inverse_information_of_what_the_models_say(r2star_per_s: float) -> None:
    fat = fat_signal(SPECTRA["hamilton-liver-6"], _T, 1.5)
    expected = expected_errors(_T, fat)
    one = LocalDecay(snr=np.array([1.0, 25.0]), r2star_per_s=np.full(2, r2star_per_s))

    def free(hz: float, rate: float, wr: float, wi: float, fr: float, fi: float) -> np.ndarray:
        return (complex(wr, wi) + complex(fr, fi) * fat) * np.exp((2j * np.pi * hz - rate) * _T)

    def constrained(rate: float, phase: float, amplitude: float, share: float) -> np.ndarray:
        return amplitude * (1 - share + share * fat) * np.exp(1j * phase - rate * _T)

    se = fisher_se(free, [0.0, r2star_per_s, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(expected.at(expected.field_free, one), se[0] / [1, 25], rtol=1e-3)
    np.testing.assert_allclose(expected.at(expected.pdff_free, one), 100 * se[4] / [1, 25], rtol=1e-3)
    lean = fisher_se(constrained, [r2star_per_s, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(expected.at(expected.r2star_constrained, one), lean[0] / [1, 25], rtol=1e-3)
    for k, share in enumerate((0.0, 0.15, 0.35)):
        mixed = fisher_se(constrained, [r2star_per_s, 0.0, 1.0, share])
        np.testing.assert_allclose(expected.at(expected.pdff_of_share[k], one), 100 * mixed[3] / [1, 25], rtol=1e-3)
    alone = fisher_se(lambda rate, amplitude: amplitude * np.exp(-rate * _T), [r2star_per_s, 1.0])
    np.testing.assert_allclose(expected.at(expected.r2star_alone, one), alone[0] / [1, 25], rtol=1e-3)


_SD = 1e-3


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_the_free_fits_errors_are_the_inverse_information_at_what_it_finds(share: float) -> None:
    """Of PDFF by the derivatives of 1 - |W| / |W + F|, or |F| / |W + F| where fat leads."""
    fat = fat_signal(SPECTRA["hamilton-liver-6"], _T, 1.5)

    def model(hz: float, rate: float, wr: float, wi: float, fr: float, fi: float) -> np.ndarray:
        return (complex(wr, wi) + complex(fr, fi) * fat) * np.exp((2j * np.pi * hz - rate) * _T)

    def pdff(at: np.ndarray) -> float:
        w, f = complex(at[2], at[3]), complex(at[4], at[5])
        return 100 * (1 - abs(w) / abs(w + f) if abs(w) > abs(f) else abs(f) / abs(w + f))

    phase = np.exp(0.6j)
    w, f = (1 - share) * phase, share * phase * np.exp(0.6j)
    at = [35.0, 90.0, w.real, w.imag, f.real, f.imag]
    echoes = Echoes(model(*at).astype(np.complex64)[None], _T, fat, _SD)
    found = fit_free(np.zeros(1, np.int64), echoes, np.array([30.0]), np.array([70.0]), True)
    np.testing.assert_allclose(found.nonlinear[0], [35, 90], rtol=1e-3)
    np.testing.assert_allclose(found.linear[0], [w, f], atol=1e-3)
    covariance = _SD**2 * fisher_covariance(model, at)
    slope = [(pdff(np.array(at) + 1e-5 * unit) - pdff(np.array(at) - 1e-5 * unit)) / 2e-5 for unit in np.eye(6)]
    expected = [*np.sqrt(np.diag(covariance)[:2]), np.sqrt(slope @ covariance @ slope)]
    np.testing.assert_allclose(found.errors[0], expected, rtol=2e-3)
    assert found.step[0] < 0.01


@pytest.mark.parametrize("field_sd_hz", [1e-3, 0.1, 1e5])
@pytest.mark.parametrize(("share", "no_fat"), [(0.1, False), (0.4, False), (0.0, True)])
def test_the_constrained_fits_errors_are_the_inverse_information_less_half_of_what_the_fields_prior_claims(
    share: float, no_fat: bool, field_sd_hz: float
) -> None:
    """With no prior on R2*, and one on the field that is all that is known, about as much as the echoes know, or nothing."""
    fat = fat_signal(SPECTRA["hamilton-liver-6"], _T, 1.5)

    def model(hz: float, rate: float, phase: float, amplitude: float, *fraction: float) -> np.ndarray:
        f = fraction[0] if fraction else 0.0
        return amplitude * (1 - f + f * fat) * np.exp(1j * phase + (2j * np.pi * hz - rate) * _T)

    at = [35.0, 90.0, 0.6, 1.0, *([] if no_fat else [share])]
    echoes = Echoes(model(*at).astype(np.complex64)[None], _T, fat, _SD)
    one = np.zeros(1, np.int64)
    start = Start(np.array([35.0]), np.array([70.0]), np.full((1, 2), np.nan + 0j, np.complex64))
    priors = Priors(np.array([35.0]), np.array([field_sd_hz**-2.0]), np.array([90.0]), np.array([1e6]))
    found = fit_constrained(one, echoes, start, priors, np.array([no_fat]))
    np.testing.assert_allclose(found.nonlinear[0], [35, 90], rtol=1e-3)
    information = np.linalg.inv(_SD**2 * fisher_covariance(model, at))
    information[0, 0] += field_sd_hz**-2.0
    covariance = np.linalg.inv(information)
    # one half of the variance that the prior claims is no scatter of what hangs on the field
    scatter = covariance - 0.5 * field_sd_hz**-2.0 * np.outer(covariance[:, 0], covariance[:, 0])
    expected = [np.sqrt(covariance[0, 0]), np.sqrt(scatter[1, 1]), np.nan if no_fat else 100 * np.sqrt(scatter[4, 4])]
    np.testing.assert_allclose(found.errors[0], expected, rtol=3e-3)
    assert found.step[0] < 0.01


@pytest.mark.parametrize("with_fat", [True, False])
def test_the_step_that_is_left_is_as_long_as_the_information_makes_it(with_fat: bool) -> None:
    """g^T N^-1 g of five unknowns, or of four, field and phase apart from R2* and amplitude."""
    rng = np.random.default_rng(8)
    columns = rng.standard_normal((12, 5))
    information, slopes = columns.T @ columns, rng.standard_normal(5)
    for i, j in ((0, 1), (0, 3), (2, 1), (2, 3)):
        information[i, j] = information[j, i] = 0
    state, given = np.zeros((lane.N_STATES, 8)), np.zeros((lane.N_GIVEN, 8))
    places = {"FF": (0, 0), "FP": (0, 2), "PP": (2, 2), "RR": (1, 1), "RA": (1, 3), "AA": (3, 3)}
    places |= {"FS": (0, 4), "PS": (2, 4), "RS": (1, 4), "SA": (4, 3), "AS": (3, 4), "SS": (4, 4)}
    for name, at in places.items():
        if hasattr(lane, f"N_{name}"):
            state[getattr(lane, f"N_{name}"), 3] = information[at]
    for name, value in zip("FRPAS", slopes, strict=True):
        state[getattr(lane, f"G_{name}"), 3] = value
    given[lane.SHARE_FREE, 3] = 1.0 if with_fat else 0.0
    n = 5 if with_fat else 4
    wanted = slopes[:n] @ np.linalg.solve(information[:n, :n], slopes[:n])
    assert lane.gain_left(state, given, 3) == pytest.approx(wanted, rel=1e-12)


def test_a_field_may_step_by_the_iron_beside_it_and_a_fifth_of_that_within_it() -> None:
    """Four blocks in a row, the last beside nothing: 5 Hz for each 100 1/s that a neighbour is darker."""
    index = np.full((1, 1, 5), -1)
    index[0, 0, :4] = np.arange(4)
    blocks: Any = SimpleNamespace(index=index, of_voxel=np.arange(4), n_voxels=np.ones(4))
    decay = LocalDecay(snr=np.ones(4), r2star_per_s=np.array([30.0, 30.0, 530.0, 630.0]))
    darker, brighter = field_steps_hz(decay, blocks)
    np.testing.assert_allclose(darker, [0, 25, 5, 0], atol=1e-4)
    np.testing.assert_allclose(brighter, [0, 0, 5, 1], atol=1e-4)


def test_differences_of_fields_are_folded_to_half_a_period_of_nothing() -> None:
    np.testing.assert_allclose(folded(np.array([10.0, 290.0, 310.0, -310.0, -290.0, 640.0]), 600.0), [10, 290, -290, 290, -290, 40])
    np.testing.assert_array_equal(folded(np.array([1e4]), np.inf), [1e4])


def test_water_that_is_shifted_moves_all_of_its_fat_the_other_way() -> None:
    t = np.array([1e-3, 2.3e-3])
    spectrum = SPECTRA["hamilton-liver-9"]
    usual, shifted = fat_signal(spectrum, t, 3.0), fat_signal(spectrum, t, 3.0, water_shift_ppm=0.1)
    np.testing.assert_allclose(shifted / usual, np.exp(-2j * np.pi * 0.1 * 42.577478518 * 3.0 * t), rtol=1e-6)
    np.testing.assert_allclose(fat_signal(spectrum, t, 3.0, temperature_celsius=27.0), shifted, rtol=1e-6)
    assert [abs(fat_signal(s, np.zeros(1), 3.0)[0]) for s in SPECTRA.values()] == pytest.approx([1.0] * len(SPECTRA))


@pytest.mark.parametrize("share", [0.0, 0.07, 0.2, 0.25, 0.4])
@pytest.mark.parametrize(("tesla", "first_ms", "spacing_ms"), [(1.5, 1.2, 1.6), (3.0, 1.0, 1.0)])
def test_a_neighbourhoods_decay_is_that_of_its_tissue_whatever_its_share_of_fat(
    share: float, tesla: float, first_ms: float, spacing_ms: float
) -> None:
    t = 1e-3 * (first_ms + spacing_ms * np.arange(6))
    fat = fat_signal(SPECTRA["hamilton-liver-6"], t, tesla)
    rng = np.random.default_rng(5)
    grid = make_grid("axial", (24, 24, 8))
    noise = rng.standard_normal((*grid.shape, 6)) + 1j * rng.standard_normal((*grid.shape, 6))
    signal = (1 - share + share * fat) * np.exp(0.4j - 300 * t) + noise / 40
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=tesla, grid=grid, noise_sd=1 / 40)
    tissue = Tissue.of(echoes, np.ones(grid.shape, bool), fat)
    decay, _ = local_decay(tissue, gather(tissue), expected_errors(t, fat), with_fat=True)
    assert decay.r2star_per_s.mean() == pytest.approx(300, abs=3)
    assert decay.snr.mean() == pytest.approx(40, rel=0.03)
