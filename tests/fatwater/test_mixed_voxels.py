"""A voxel of dark and bright tissue says that its numbers may be off by what lies between the two; tissue of one kind says nothing new."""

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.mixed_voxels import errors_of_mixtures
from hqsm.fatwater.nodes import numbered
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.tissue import Tissue
from hqsm.fit_models import FREE

T = 1e-3 * (1.2 + 1.6 * np.arange(6))
FAT = fat_signal(SPECTRA["hamilton-liver-6"], T, 1.5)
SHAPE, NOISE_SD = (5, 5, 5), 0.02
MIDDLE = 62
SE_HZ, SE_PER_S, MISFIT = 4.0, 9.0, 20.0


def widened(field_hz: np.ndarray, r2star_per_s: np.ndarray, misfit: float = MISFIT) -> np.ndarray:
    """(x, y, z, 3) what is added to the errors where the middle voxel's squared residual per degree of freedom is ``misfit``."""
    n = int(np.prod(SHAPE))
    per_freedom = np.ones(n)
    per_freedom[MIDDLE] = misfit
    fit = Fit(
        linear=np.zeros((n, 2), np.complex64),
        nonlinear=np.stack([field_hz.ravel(), r2star_per_s.ravel()], axis=1).astype(float),
        errors=np.full((n, 3), [SE_HZ, SE_PER_S, 2.0]),
        residual=2 * NOISE_SD**2 * 3 * per_freedom,
        step=np.zeros(n, np.float32),
        model=np.full(n, FREE, np.int8),
    )
    tissue = Tissue(
        signal=np.ones((n, T.size), np.complex64),
        index=numbered(np.ones(SHAPE, bool)),
        echo_times_s=T,
        fat=FAT,
        noise_sd=NOISE_SD,
        voxel_size_mm=np.array([2.0, 3.0, 4.0]),
        b0_direction=np.array([0.0, 0.0, 1.0]),
        field_strength_tesla=1.5,
    )
    return errors_of_mixtures(fit, tissue).reshape(*SHAPE, 3)


def test_it_is_a_share_of_the_step_to_the_darker_tissue_beyond_noise_and_an_ordinary_slope() -> None:
    dark = np.indices(SHAPE)[0] > 2
    found = widened(np.where(dark, 70.0, 10.0), np.where(dark, 700.0, 40.0))
    # nine dark voxels, 2 mm away along x: 60 Hz less 4 Hz of slope, the noise of the voxel and of their mean
    expected = 0.6 * np.sqrt(60**2 - 4**2 - SE_HZ**2 - SE_HZ**2 / 9)
    of_decay = 0.6 * np.sqrt(660**2 - SE_PER_S**2 - SE_PER_S**2 / 9)
    # the fat fraction: what is left of the signal, which is of size 1 in each of six echoes
    left = 100 * np.sqrt(2 * NOISE_SD**2 * 3 * MISFIT / T.size)
    np.testing.assert_allclose(found[2, 2, 2], [expected, of_decay, left], rtol=1e-6)
    assert np.count_nonzero(found) == 3


def test_nothing_is_added_where_one_tissue_fits_or_nothing_around_is_darker_or_the_field_is_only_sloped() -> None:
    dark = np.indices(SHAPE)[0] > 2
    step, iron = np.where(dark, 70.0, 10.0), np.where(dark, 700.0, 40.0)
    assert not widened(step, iron, misfit=1.5).any()
    assert not widened(step, np.where(dark, 230.0, 40.0)).any()
    assert not widened(step, np.where(dark, 1100.0, 800.0)).any()
    assert not widened(1.9 * 2.0 * np.indices(SHAPE)[0], iron)[..., 0].any()
    assert not widened(step, np.where(dark, np.nan, 40.0)).any()


def test_voxels_of_two_tissues_have_honest_errors_and_those_of_one_tissue_those_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (28, 24, 12)
    rng = np.random.default_rng(3)
    x = np.indices(shape)[0]
    share = np.where(x > 14, 1.0, np.where(x == 14, rng.uniform(0.2, 0.8, shape), 0.0))
    bright = (1 - share)[..., None] * np.exp((2j * np.pi * 10.0 - 40.0) * T)
    iron = share[..., None] * np.exp((2j * np.pi * 60.0 - 500.0) * T)
    noise = rng.standard_normal((*shape, T.size)) + 1j * rng.standard_normal((*shape, T.size))
    signal = (100 * (bright + iron) + 2 * noise).astype(np.complex64)
    echoes = MultiEcho(signal=signal, echo_times_s=T, field_strength_tesla=1.5, grid=make_grid("axial", shape), noise_sd=2.0)
    fit = separate(echoes, FatWaterParams())
    monkeypatch.setattr("hqsm.fatwater.separation.errors_of_mixtures", lambda fit, _: np.zeros(fit.errors.shape))
    before = separate(echoes, FatWaterParams())
    error_hz = fit.field_hz - (10 + 50 * share)
    mixed = x == 14
    assert np.median(np.abs(error_hz / before.field_se_hz)[mixed]) > 15
    assert np.median(np.abs(error_hz / fit.field_se_hz)[mixed]) < 2
    r2star_off = fit.r2star_per_s - (40 + 460 * share)
    assert np.median(np.abs(r2star_off / before.r2star_se_per_s)[mixed]) > 15
    assert np.median(np.abs(r2star_off / fit.r2star_se_per_s)[mixed]) < 2
    given = mixed & np.isfinite(fit.pdff_percent)  # there is no fat
    assert np.sqrt(np.mean((fit.pdff_percent / before.pdff_se_percent)[given] ** 2)) > 2
    assert np.sqrt(np.mean((fit.pdff_percent / fit.pdff_se_percent)[given] ** 2)) < 1.2
    wider = fit.field_se_hz > 1.001 * before.field_se_hz
    assert wider[mixed].mean() > 0.7
    assert wider[~mixed].mean() < 0.01
    for name in ("field_hz", "r2star_per_s", "pdff_percent"):
        np.testing.assert_array_equal(getattr(fit, name), getattr(before, name))
