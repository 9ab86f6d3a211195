"""Which way the phase runs: told by a body's shape, by fat, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, VoxelGrid
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal

SHAPE, SIZE_MM = (44, 44, 44), 5.0
SIGN_CODES = {"PHASE_SIGN", "SIGN_NOT_CHECKED", "PHASE_FILTERED"}


def ball(
    t: np.ndarray,
    tesla: float = 1.5,
    *,
    gas_mm: float = 25.0,
    fat: float = 0.0,
    skin_mm: float = 0.0,
    tilt_degrees: float = 0.0,
    snr: float = 20.0,
    field_left: float = 1.0,
    high_pass_mm: float = 0.0,
) -> MultiEcho:
    """A ball of tissue, in which the field of its own surface is uniform, and a ball of gas in it, whose field is a dipole's.

    All of it is ``fat`` to a share, its outer ``skin_mm`` wholly. ``field_left`` is what a filter of the phase leaves of the field in all,
    and ``high_pass_mm`` the SD of the Gaussian means in the tissue that it takes off.
    """
    tilt = np.radians(tilt_degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = SIZE_MM * turn
    grid = VoxelGrid(shape=SHAPE, affine_mm=affine)
    at = SIZE_MM * (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2)  # (z, y, x, 3), of the grid
    at = np.moveaxis(at, (0, 1, 2), (2, 1, 0))
    from_gas = at - np.array([10.0, -15.0, 20.0])
    distance = np.linalg.norm(from_gas, axis=-1)
    along = (from_gas @ turn.T)[..., 2] / np.maximum(distance, 1e-9)  # B0 is z of the world
    radius = np.linalg.norm(at, axis=-1)
    tissue = (radius < 95) & (distance > gas_mm)
    field_ppm = 9.4 / 3 * (gas_mm / np.maximum(distance, gas_mm)) ** 3 * (3 * along**2 - 1)
    field_hz = 42.577 * tesla * field_left * field_ppm + 10
    if high_pass_mm > 0:
        means = [ndimage.gaussian_filter(each, high_pass_mm / SIZE_MM) for each in (tissue * field_hz, tissue.astype(float))]
        field_hz = field_hz - means[0] / np.maximum(means[1], 1e-3)
    share = np.where(radius > 95 - skin_mm, 1.0, fat)[..., None]
    species = 1 - share + share * fat_signal(SPECTRA["hamilton-liver-6"], t, tesla)
    rng = np.random.default_rng(4)
    signal = 100 * tissue[..., None] * species * np.exp((2j * np.pi * field_hz - 40)[..., None] * t)
    signal = signal + 100 / snr * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=tesla, grid=grid, noise_sd=100 / snr)


def said(echoes: MultiEcho) -> tuple[set[str], set[str]]:
    """Codes about the sign, of the echoes and of their conjugate."""
    turned = replace(echoes, signal=echoes.signal.conj())
    right, reversed_ = (set(separate(each, FatWaterParams()).codes) & SIGN_CODES for each in (echoes, turned))
    return right, reversed_


@pytest.mark.parametrize(
    ("tesla", "first_ms", "spacing_ms", "n_echoes", "tilt_degrees"),
    [(1.5, 2.3, 2.3, 2, 0.0), (1.5, 2.3, 2.3, 2, 40.0), (3.0, 1.15, 1.15, 2, 0.0), (3.0, 4.0, 2.46, 2, 90.0), (1.5, 2.3, 2.3, 3, 0.0)],
)
def test_gas_in_tissue_tells_the_phase_s_sign_without_fat_and_by_two_echoes(
    tesla: float, first_ms: float, spacing_ms: float, n_echoes: int, tilt_degrees: float
) -> None:
    t = 1e-3 * (first_ms + spacing_ms * np.arange(n_echoes))
    assert said(ball(t, tesla, tilt_degrees=tilt_degrees)) == (set(), {"PHASE_SIGN"})


@pytest.mark.parametrize(("tesla", "spacing_ms"), [(1.5, 1.0), (1.5, 2.3), (3.0, 1.15)])
def test_a_skin_of_fat_that_two_echoes_take_for_a_field_hides_the_shape_from_nobody(tesla: float, spacing_ms: float) -> None:
    t = 1e-3 * spacing_ms * np.array([1.0, 2.0])
    assert said(ball(t, tesla, skin_mm=20.0)) == (set(), {"PHASE_SIGN"})


@pytest.mark.parametrize("n_echoes", [2, 6])
def test_a_ball_of_water_alone_tells_nothing_and_that_is_said(n_echoes: int) -> None:
    # its own field is uniform inside
    t = 1e-3 * (1.2 + 1.6 * np.arange(n_echoes))
    assert said(ball(t, gas_mm=0.0)) == ({"SIGN_NOT_CHECKED"}, {"SIGN_NOT_CHECKED"})


@pytest.mark.parametrize(("tesla", "first_ms", "spacing_ms", "n_echoes"), [(1.5, 1.2, 2.3, 4), (1.5, 1.2, 1.6, 6), (3.0, 1.0, 1.0, 4)])
def test_some_fat_tells_the_phase_s_sign_where_the_shape_does_not(tesla: float, first_ms: float, spacing_ms: float, n_echoes: int) -> None:
    t = 1e-3 * (first_ms + spacing_ms * np.arange(n_echoes))
    assert said(ball(t, tesla, gas_mm=0.0, fat=0.15)) == (set(), {"PHASE_SIGN"})


def test_three_echoes_whose_first_may_be_bent_are_not_taken_at_fat_s_word() -> None:
    t = 1e-3 * np.array([1.2, 2.8, 4.4])
    echoes = ball(t, gas_mm=0.0, fat=0.15, snr=40)
    for bent_rad in (-0.3, -0.15, 0.0, 0.15, 0.3):
        bent = np.where(np.arange(3) == 0, np.exp(1j * bent_rad), 1)
        codes = separate(replace(echoes, signal=(echoes.signal * bent).astype(np.complex64)), FatWaterParams()).codes
        assert {"SIGN_NOT_CHECKED", "FIRST_ECHO_NOT_CHECKED"} <= set(codes), bent_rad


@pytest.mark.parametrize(("tesla", "n_echoes", "fat", "field_left"), [(1.5, 2, 0.0, 0.1), (3.0, 4, 0.15, 0.0), (1.5, 6, 0.15, -0.2)])
def test_a_phase_whose_field_a_filter_took_out_is_told_from_one_that_tells_no_sign(
    tesla: float, n_echoes: int, fat: float, field_left: float
) -> None:
    t = 1e-3 * (1.2 + (1.6 if n_echoes > 4 else 2.3 * 1.5 / tesla) * np.arange(n_echoes))
    assert "PHASE_FILTERED" in separate(ball(t, tesla, fat=fat, field_left=field_left), FatWaterParams()).codes
    for high_pass_mm in (8.0, 12.0, 15.0):
        assert "PHASE_FILTERED" in separate(ball(t, tesla, fat=fat, high_pass_mm=high_pass_mm), FatWaterParams()).codes
    assert "PHASE_FILTERED" not in separate(ball(t, tesla, fat=fat, field_left=0.6), FatWaterParams()).codes
