"""Signal that went beyond the images' range is told and has no number; magnitudes that only touch their maximum are not accused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho
from hqsm.fatwater.clipping import clipped_voxels
from hqsm.fatwater.separation import separate
from real_cases import challenge, phantom, philips_abdomen

_T = 1.2e-3 + 1.6e-3 * np.arange(6)
_RATE_PER_S, _SNR = 60.0, 40.0
_GRID = make_grid("axial", (32, 26, 8))


def liver(noise: float = 1 / _SNR) -> np.ndarray:
    """(x, y, z, echo) 60 1/s, brighter towards a coil at one side, 0.65 to 1.35, in noise."""
    i, j, _ = np.indices(_GRID.shape)
    sensitivity = (1.35 - 0.7 * i / 31)[..., None]
    signal = sensitivity * np.exp((2j * np.pi * (20.0 * i - 10.0 * j))[..., None] * _T - _RATE_PER_S * _T)
    rng = np.random.default_rng(8)
    return signal + noise * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))


def steps(values: np.ndarray, top: int, low: int) -> np.ndarray:
    """As stored in whole numbers that end at ``low`` and ``top``, 2,000 of them being one."""
    return np.clip(np.round(2000 * values), low, top)


def as_magnitude(signal: np.ndarray, top: int) -> np.ndarray:
    return steps(np.abs(signal), top, 0) * np.exp(2j * np.pi / 4096 * np.round(np.angle(signal) / (2 * np.pi) * 4096))


@pytest.mark.parametrize("how", ["magnitude and phase", "magnitude", "real and imaginary"])
def test_what_the_range_of_the_images_cannot_hold_is_told_voxel_by_voxel(how: str) -> None:
    signal = liver()
    if how == "real and imaginary":
        stored = steps(signal.real, 2047, -2048) + 1j * steps(signal.imag, 2047, -2048)
        parts = 2000 * np.stack([signal.real, signal.imag])
        beyond = ((parts > 2047.5) | (parts < -2048.5)).any(axis=(0, 4))
    else:
        stored = as_magnitude(signal, 2047)
        stored = stored if how == "magnitude and phase" else np.abs(stored)
        beyond = (2000 * np.abs(signal) > 2047.5).any(axis=3)
    found = clipped_voxels(stored.astype(np.complex64))
    assert beyond.mean() > 0.1
    assert found[beyond].all()
    assert (found & ~beyond).mean() < 0.005


@pytest.mark.parametrize("levels", [32767, 4095, 255, 100])
def test_a_magnitude_that_touches_its_maximum_is_not_accused(levels: int) -> None:
    signal = liver()
    whole = as_magnitude(signal * (levels / 2000 / np.abs(signal).max()), levels)
    assert np.abs(whole).max() == pytest.approx(levels)
    assert not clipped_voxels(whole.astype(np.complex64)).any()
    parts = np.round(whole.real) + 1j * np.round(whole.imag)
    assert not clipped_voxels(parts.astype(np.complex64)).any()


def test_tissue_without_noise_holds_one_value_and_is_not_accused() -> None:
    i, j, _ = np.indices(_GRID.shape)
    rate = np.where(i < 10, 45.0 + i + 0.1 * j, 40.0)[..., None]
    for still in (np.exp(-rate * _T), np.exp(-rate * _T + 2j * np.pi * (2.0 * i - j)[..., None] * _T)):
        assert not clipped_voxels(still.astype(np.complex64)).any()


def test_real_scans_are_not_accused(real_data_dir: Path) -> None:
    scans = [challenge(real_data_dir, name) for name in ("12", "15", "17")]
    scans += [phantom(real_data_dir, "invivo_0p35T_6echo_pelvis"), philips_abdomen(real_data_dir)[0]]
    assert not any(clipped_voxels(scan.signal).any() for scan in scans)


@pytest.mark.parametrize("phase", [True, False])
def test_clipped_voxels_have_no_number_and_the_others_keep_theirs(phase: bool) -> None:
    stored = as_magnitude(liver(), 2047)
    echoes = MultiEcho(
        signal=(stored if phase else np.abs(stored)).astype(np.complex64),
        echo_times_s=_T,
        field_strength_tesla=1.5,
        grid=_GRID,
        noise_sd=2000 / _SNR,
    )
    beyond = (np.abs(stored) >= 2046.9).any(axis=3)
    maps = separate(echoes, FatWaterParams())
    assert "SIGNAL_CLIPPED" in maps.codes
    assert not {"PHASE_SIGN", "PHASE_FILTERED"} & set(maps.codes)
    assert maps.clipped_percent == pytest.approx(100 * beyond.mean(), abs=0.5)
    for name in ("r2star_per_s", "r2star_se_per_s", "pdff_percent", "field_hz"):
        assert np.isnan(getattr(maps, name)[beyond]).all()
    assert (maps.model[beyond] > 0).all()  # they are body all the same
    assert np.nanmedian(maps.r2star_per_s[~beyond]) == pytest.approx(_RATE_PER_S, abs=2)
