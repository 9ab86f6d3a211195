"""Beside gas the field steps from voxel to voxel by as much as lies between water and fat: where its lines lead tells which."""

import numpy as np
import pytest

from first_field import first_field
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.leads import Known, _decide, far_off_hz, lead_back
from hqsm.fatwater.nodes import numbered
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.tissue import Tissue
from hqsm.fit_models import FREE

T = 1e-3 * (1 + np.arange(6))
PERIOD_HZ = 1000.0
FAT = fat_signal(SPECTRA["hamilton-liver-6"], T, 3.0)
FAT_HZ = -440.0
SHAPE = (14, 12, 8)
WITHIN = np.s_[4:10, 4:8, 2:6]


def tissue_of(field_hz: np.ndarray, *, fat: float = 0.03, sd: float = 2.0, seed: int = 0) -> Tissue:
    rng = np.random.default_rng(seed)
    signal = 100 * (1 - fat + fat * FAT) * np.exp((2j * np.pi * field_hz - 40)[..., None] * T)
    signal = signal + sd * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    return Tissue(
        signal=signal.reshape(-1, T.size).astype(np.complex64),
        index=numbered(np.ones(SHAPE, bool)),
        echo_times_s=T,
        fat=FAT,
        noise_sd=sd,
        voxel_size_mm=np.array([2.4, 2.4, 6.0]),
        b0_direction=np.array([0.0, 0.0, 1.0]),
        field_strength_tesla=3.0,
    )


def fitted(tissue: Tissue, start_hz: np.ndarray, fitted_from_hz: np.ndarray) -> tuple[InitialField, Fit]:
    """A first field, and the free fit that began at another one."""
    start = first_field(tissue, start_hz)
    fit = Fit.of(fit_free(np.arange(start_hz.size), tissue.echoes, fitted_from_hz.ravel(), start.r2star_per_s, True), FREE)
    return start, fit


def led(tissue: Tissue, start_hz: np.ndarray, fitted_from_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the fit had arrived, where it begins after, and which voxels are to be fitted again."""
    start, fit = fitted(tissue, start_hz, fitted_from_hz)
    after, astray = lead_back(start, fit, tissue, 1.0)
    again = np.zeros(start_hz.size, bool)
    again[astray] = True
    return fit.nonlinear[:, 0].reshape(SHAPE), after.field_hz.reshape(SHAPE), again.reshape(SHAPE)


def steep() -> np.ndarray:
    """100 Hz from voxel to voxel along x, that get more by 10 from one to the next."""
    x = np.arange(SHAPE[0])[:, None, None] - 7.0
    return np.broadcast_to(100 * x + 5 * x**2, SHAPE).copy()


@pytest.mark.parametrize("seed", range(5))
def test_a_swapped_row_is_led_back_from_its_ends(seed: int) -> None:
    field = steep()
    swapped = field.copy()
    swapped[4:9, 6, 4] += FAT_HZ
    # their water and fat have nearly one phase as fat too: five voxels beside gas at SNR 50 that their misfit leaves open
    tissue = tissue_of(field, seed=seed)
    arrived, begin, again = led(tissue, swapped, swapped)
    wrong = np.abs(arrived - field) > 300
    assert wrong[4:9, 6, 4].sum() >= 4
    np.testing.assert_array_equal(again, wrong)
    np.testing.assert_allclose(begin[again], field[again], atol=15)


def test_a_voxel_at_the_rim_that_says_fat_and_lies_on_its_lines_stays_fat() -> None:
    field = steep()
    arrived, begin, again = led(tissue_of(field, fat=0.9), field, field)
    np.testing.assert_allclose(arrived[WITHIN], field[WITHIN], atol=15)
    assert not again.any()
    np.testing.assert_array_equal(begin, field)


def test_a_fit_that_left_a_wrong_block_and_arrived_on_its_lines_begins_there() -> None:
    # started again from the plane through its neighbours it would end 440 Hz away
    field = steep()
    begins = field.copy()
    begins[7, 6, 4] -= 200
    arrived, begin, again = led(tissue_of(field), begins, field)
    assert not again.any()
    assert begin[7, 6, 4] == arrived[7, 6, 4] != begins[7, 6, 4]


def test_a_piece_whose_steps_to_others_are_of_more_than_half_a_period_is_turned() -> None:
    field = steep()
    off = field.copy()
    off[WITHIN] += PERIOD_HZ
    arrived, begin, again = led(tissue_of(field), off, off)
    assert again[WITHIN].all()
    assert again.sum() == again[WITHIN].size
    np.testing.assert_allclose(begin[again], (arrived - PERIOD_HZ)[again], atol=1)


def test_a_field_that_truly_steps_by_more_than_half_a_period_is_left() -> None:
    # lines lead over the step: 550 Hz from voxel to voxel along z, of 6 mm, and on
    field = np.broadcast_to(550.0 * (np.arange(SHAPE[2]) - 3.5), SHAPE).copy()
    _, begin, again = led(tissue_of(field), field, field)
    assert not again.any()
    np.testing.assert_array_equal(begin, field)


@pytest.mark.parametrize("off_hz", [120.0, -260.0, 260.0])
def test_what_stays_far_from_its_lines_is_told(off_hz: float) -> None:
    # its echoes say so and fit nothing else; beyond a third of what lies between water and fat it may as well be on another field
    field = steep()
    field[7, 6, 4] += off_hz
    tissue = tissue_of(field)
    start, fit = fitted(tissue, field, field)
    off = far_off_hz(start, fit, tissue, 1.0).reshape(SHAPE)
    assert off[7, 6, 4] == (pytest.approx(abs(off_hz), abs=15) if abs(off_hz) > 150 else 0)
    off[7, 6, 4] = 0
    assert not off.any()


@pytest.mark.parametrize(
    ("price_per_hz", "brightness", "moves"),
    [
        (0.018, (1.0, 1.0), False),
        (0.022, (1.0, 1.0), True),
        (0.022, (0.31, 0.31), True),
        (0.022, (0.29, 1.0), False),
        (0.022, (1.0, 0.29), False),
    ],
)
def test_a_line_of_tissue_moves_a_voxel_that_fits_two_fields_alike_if_it_gains_3_by_that(
    price_per_hz: float, brightness: tuple[float, float], moves: bool
) -> None:
    # 150 of the 200 Hz from its line count: 2.7 or 3.3; what is darker than 0.3 of it leads nobody
    known = Known(
        field_hz=np.array([0.0, 200.0, 200.0]),
        sure=np.array([False, True, True]),
        brightness=np.array([1, *brightness], np.float32),
        numbers=np.arange(3).reshape(1, 1, 3),
        places=np.arange(3),
        price_per_hz=np.full(3, price_per_hz),
        truncation_hz=150.0,
    )
    fields, unary = np.array([[0.0, 200.0]]), np.zeros((1, 2), np.float32)
    taken = _decide(np.array([0]), fields, unary, np.array([2]), PERIOD_HZ, known)
    assert (taken[0] == 1) == moves
    assert known.field_hz[0] == (200 if moves else 0)
    assert known.sure[0] == (min(brightness) > 0.3)


def test_a_voxel_with_one_line_waits_for_those_with_two_and_hears_what_they_became() -> None:
    # a's one line says 200 Hz, at a price of 1.5; two say that b, beside it, is on 0, and then b's line says so of a too, at 6:
    # a decided first, or not led by what b became, stays on 200
    a, b, sure_zero = (2, 0, 0), (2, 1, 0), [(0, 1, 0), (1, 1, 0), (2, 2, 0), (2, 3, 0)]
    shape = (3, 4, 1)
    field, numbers = np.full(shape, 200.0), np.arange(12).reshape(shape)
    for place in sure_zero:
        field[place] = 0
    sure = np.ones(shape, bool)
    sure[a] = sure[b] = False
    known = Known(
        field_hz=field.ravel(),
        sure=sure.ravel(),
        brightness=np.ones(12, np.float32),
        numbers=numbers,
        places=np.arange(12),
        price_per_hz=np.array([0.01, 0.04, 0.01]),
        truncation_hz=150.0,
    )
    fields, unary = np.array([[0.0, 200.0]] * 2), np.zeros((2, 2), np.float32)
    taken = _decide(numbers[[a[0], b[0]], [a[1], b[1]], 0], fields, unary, np.array([2, 2]), PERIOD_HZ, known)
    np.testing.assert_array_equal(taken, [0, 0])
    np.testing.assert_array_equal(known.field_hz[[numbers[a], numbers[b]]], 0)


def test_a_single_voxel_that_no_line_reaches_keeps_what_it_has() -> None:
    field = steep()
    tissue = tissue_of(field)
    swapped = field.copy()
    swapped[7, 6, 4] += FAT_HZ
    alone = np.zeros(SHAPE, bool)
    alone[7, 6, 4] = True
    tissue.signal[~alone.ravel()] *= 0.01
    _, begin, again = led(tissue, swapped, swapped)
    assert not again.any()
    assert begin[7, 6, 4] == swapped[7, 6, 4]
