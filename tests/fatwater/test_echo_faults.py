"""Echoes in another order than their times, or of another gain than the others, are told; sound ones are not accused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho
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


@pytest.mark.parametrize("n_echoes", [2, 3, 4, 6])
def test_sound_echoes_are_not_accused_and_a_reverse_order_is_told(n_echoes: int) -> None:
    sound = body(_T[:n_echoes])
    backwards = replace(sound, signal=np.ascontiguousarray(sound.signal[..., ::-1]))
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
