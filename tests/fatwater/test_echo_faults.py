"""Echoes in another order than their times, or of another gain than the others, are told; sound ones are not accused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho
from hqsm.errors import InputError
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal

_T = 1.2e-3 + 1.6e-3 * np.arange(6)


def body(times_s: np.ndarray = _T, snr: float = 30.0) -> MultiEcho:
    """A liver of 300 1/s, a spleen of 40 1/s and a coat of fat."""
    grid = make_grid("axial", (30, 30, 8))
    i, j, _ = np.indices(grid.shape)
    rate = np.where(i < 15, 300.0, 40.0)[..., None]
    share = np.where(j < 6, 0.9, 0.05)[..., None]
    fat = fat_signal(SPECTRA["hamilton-liver-6"], times_s, 1.5)
    signal = 100 * (1 - share * (1 - fat)) * np.exp((2j * np.pi * (2.0 * i - j))[..., None] * times_s - rate * times_s)
    rng = np.random.default_rng(4)
    signal = signal + 100 / snr * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=times_s, field_strength_tesla=1.5, grid=grid, noise_sd=100 / snr)


def codes(echoes: MultiEcho) -> set[str]:
    return {"ECHO_ORDER", "ECHO_GAIN"} & set(separate(echoes, FatWaterParams()).codes)


def magnitude(echoes: MultiEcho) -> MultiEcho:
    return replace(echoes, signal=np.abs(echoes.signal).astype(np.complex64))


def reordered(echoes: MultiEcho, order: list[int]) -> MultiEcho:
    return replace(echoes, signal=np.ascontiguousarray(echoes.signal[..., order]))


@pytest.mark.parametrize("n_echoes", [2, 3, 4, 6])
def test_sound_echoes_are_not_accused_and_a_reverse_order_is_told(n_echoes: int) -> None:
    sound = body(_T[:n_echoes])
    backwards = reordered(sound, list(range(n_echoes))[::-1])
    assert codes(sound) == codes(magnitude(sound)) == set()
    assert codes(magnitude(backwards)) == {"ECHO_ORDER"}
    if n_echoes != 3:  # three complex echoes hold no more than the model
        assert codes(backwards) == {"ECHO_ORDER"}


@pytest.mark.parametrize("echo", [0, 2, 5])
@pytest.mark.parametrize("gain", [2.0, 1.3, 0.5])
def test_one_echo_of_another_gain_is_told(echo: int, gain: float) -> None:
    signal = body().signal.copy()
    signal[..., echo] *= gain
    assert codes(replace(body(), signal=signal))


def test_a_gain_that_belongs_to_one_place_is_no_fault_of_an_echo() -> None:
    signal = body().signal.copy()
    signal[:3, :, :, 2] *= 1.5
    assert codes(replace(body(), signal=signal)) == set()


@pytest.mark.parametrize("phase", [True, False])
def test_echoes_in_reverse_order_give_no_number(phase: bool) -> None:
    backwards = reordered(body(_T[:4]), [3, 2, 1, 0])
    maps = separate(backwards if phase else magnitude(backwards), FatWaterParams())
    assert "ECHO_ORDER" in maps.codes
    for name in ("r2star_per_s", "r2star_se_per_s", "pdff_percent", "field_hz"):
        assert np.isnan(getattr(maps, name)).all()


@pytest.mark.parametrize("order", [[3, 1, 2, 0, 4, 5], [0, 4, 2, 3, 1, 5]])
def test_magnitudes_under_each_others_times_follow_no_decay_and_give_no_number(order: list[int]) -> None:
    """300 1/s in the left half, which exchanged echoes would make 50 and 190."""
    sound = separate(magnitude(body()), FatWaterParams())
    wrong = separate(magnitude(reordered(body(), order)), FatWaterParams())
    iron = np.s_[2:13, 8:]
    assert np.isfinite(sound.r2star_per_s[iron]).mean() > 0.99
    assert np.isfinite(wrong.r2star_per_s[iron]).mean() < 0.01
    # noise of 1/30 in six echoes less two unknowns, over what decay leaves of them
    decayed = np.sqrt(np.exp(-2 * 300 * _T).sum())
    assert np.nanmedian(sound.residual[iron]) == pytest.approx(np.sqrt(4) / 30 / decayed, rel=0.15)
    assert np.nanmedian(wrong.residual[iron]) > 0.3


def test_a_body_of_magnitudes_that_follow_no_decay_is_told() -> None:
    iron = replace(magnitude(body()), signal=magnitude(body()).signal[:15, 8:], grid=make_grid("axial", (15, 22, 8)))
    assert "DECAY_INCONSISTENT" not in separate(iron, FatWaterParams()).codes
    assert "DECAY_INCONSISTENT" in separate(reordered(iron, [3, 1, 2, 0, 4, 5]), FatWaterParams()).codes


def test_two_echoes_of_the_same_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"The echoes at 1\.2 and 9\.2 ms hold the same images, equal to the last pixel") as caught:
        separate(reordered(body(), [5, 1, 2, 3, 4, 5]), FatWaterParams())
    assert caught.value.code == "ECHO_COPIED"
