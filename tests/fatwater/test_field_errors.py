"""The field's standard error is as large as its error, whether its neighbours foresee it well or badly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater import lower_order, separation
from hqsm.fatwater.blocks import Blocks, gather
from hqsm.fatwater.field_errors import Departures, field_errors, on_another_field
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.nodes import numbered
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.tissue import Tissue

SHAPE = (40, 40, 12)
N = int(np.prod(SHAPE))
T = 1e-3 * (1.2 + 1.6 * np.arange(6))
FAT = fat_signal(SPECTRA["hamilton-liver-6"], T, 1.5)


def tissue_of(signal: np.ndarray) -> tuple[Tissue, Blocks]:
    tissue = Tissue(
        signal=signal.astype(np.complex64),
        index=numbered(np.ones(SHAPE, bool)),
        echo_times_s=T,
        fat=FAT,
        noise_sd=0.02,
        voxel_size_mm=np.array([2.4, 2.4, 4.0]),
        b0_direction=np.array([0.0, 0.0, 1.0]),
        field_strength_tesla=1.5,
    )
    return tissue, gather(tissue)


def from_departures(
    real_share: float, slope_hz_per_mm: float = 0.0, of_iron: float | None = None, gap: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(voxel,) standard errors found and true, of estimates whose priors have ``real_share`` of the variance that they claim.

    Half of the voxels know their field better than their neighbours do, the others hardly. Where ``of_iron`` is given, a quarter of
    either claims three times as much because of iron that steps, of which there is that share. ``gap``: blocks 8 along x are no tissue.
    """
    rng = np.random.default_rng(6)
    own = np.where(rng.random(N) < 0.5, 1 / 9, 1 / 400)
    iron_hz2 = np.where(rng.random(N) < 0.25, 50.0, 0.0) if of_iron is not None else np.zeros(N)
    precision = 1 / (25 + iron_hz2)
    own_error = rng.standard_normal(N) / np.sqrt(own)
    really_hz2 = 25 * real_share + iron_hz2 * (of_iron or 0.0)
    prior_error = np.sqrt(really_hz2) * rng.standard_normal(N)
    error = (own * own_error + precision * prior_error) / (own + precision)
    claimed = 1 / np.sqrt(own + precision)
    field = slope_hz_per_mm * 2.4 * np.indices(SHAPE)[0].ravel()
    tissue, blocks = tissue_of(np.ones((N, T.size)))
    departures = Departures(departure_hz=error - prior_error, precision=precision, plane_hz2=np.zeros(N), iron_hz2=iron_hz2)
    share = np.where(gap & (np.argwhere(blocks.index >= 0)[:, 0] == 8), 0.0, 1.0)
    found = field_errors(claimed, departures, np.arange(N), field, claimed, np.zeros(N), blocks, share, tissue)
    true = np.sqrt(own + precision**2 * really_hz2) / (own + precision)
    return found, true


@pytest.mark.parametrize("real_share", [0.1, 0.4, 1.0, 3.0])
def test_what_a_prior_is_really_off_by_is_found_from_departures_and_gives_the_closed_form(
    real_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in these draws no voxel's noise is in its neighbours' priors
    monkeypatch.setattr("hqsm.fatwater.field_errors._LEFT_OF_NOISE", 0.0)
    found, true = from_departures(real_share)
    assert np.sqrt(np.mean(found**2) / np.mean(true**2)) == pytest.approx(1, abs=0.03)
    assert np.mean(np.abs(found / true - 1) < 0.35) > 0.9  # some hundred voxels around each say what it is


@pytest.mark.parametrize("of_iron", [0.0, 0.5, 2.0])
def test_what_iron_that_steps_does_to_the_prior_is_told_from_what_the_plane_cannot_follow(
    of_iron: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hqsm.fatwater.field_errors._LEFT_OF_NOISE", 0.0)
    found, true = from_departures(0.3, of_iron=of_iron)
    kinds = np.unique(np.round(true, 6))
    assert kinds.size == 4
    for kind in kinds:
        here = np.isclose(true, kind, atol=1e-5)
        assert np.sqrt(np.mean(found[here] ** 2)) == pytest.approx(kind, rel=0.12)


def test_where_nothing_departs_or_no_prior_is_the_claim_stands() -> None:
    tissue, blocks = tissue_of(np.ones((N, T.size)))
    claimed, which = np.full(N, 4.0), np.arange(N)
    for departure, precision in ((np.full(N, np.nan), np.full(N, 1 / 25)), (np.zeros(N), np.zeros(N))):
        departures = Departures(departure_hz=departure, precision=precision, plane_hz2=np.zeros(N), iron_hz2=np.zeros(N))
        share = np.ones(blocks.n_voxels.size)
        found = field_errors(claimed, departures, which, np.zeros(N), claimed, np.zeros(N), blocks, share, tissue)
        np.testing.assert_array_equal(found, claimed)


def test_a_field_as_steep_as_beside_lung_is_less_certain_and_an_ordinary_one_is_not() -> None:
    flat, _ = from_departures(0.4)
    ordinary, _ = from_departures(0.4, slope_hz_per_mm=1.5)
    steep, _ = from_departures(0.4, slope_hz_per_mm=12.0)
    np.testing.assert_allclose(ordinary, flat, rtol=1e-3)
    # 10 Hz/mm more than is ordinary, over 2 mm, where the neighbours are trusted most
    dark = flat > np.median(flat)
    assert np.median(steep[dark]) == pytest.approx(20 * 16 / 17, rel=0.2)


def test_what_lives_on_neighbours_on_one_side_of_it_is_less_certain_and_what_ends_with_the_volume_is_not() -> None:
    whole, _ = from_departures(0.4)
    beside, _ = from_departures(0.4, gap=True)
    i = np.indices(SHAPE)[0].ravel()
    # blocks of two voxels: 7 and 9 beside what is no tissue, a third of the 27 around; own information 1 / 400, prior 1 / 25
    near, far = ((i // 2 == 7) | (i // 2 == 9)), (i // 2 < 7) | (i // 2 > 9)
    dark = whole > np.median(whole)
    widened = np.sqrt((beside**2 - whole**2)[near & dark])
    assert np.median(widened) == pytest.approx(30 * 16 / 17, rel=0.02)
    np.testing.assert_allclose(beside[far], whole[far], rtol=1e-5)
    edge = (np.indices(SHAPE)[2].ravel() == 0) & (i > 1) & (i < SHAPE[0] - 2)
    assert np.median(whole[edge & dark]) == pytest.approx(np.median(whole[far & ~edge & dark]), rel=0.05)
    # what knows its own field asks the others little
    assert np.median(np.sqrt((beside**2 - whole**2)[near & ~dark])) == pytest.approx(30 * 9 / 34, rel=0.02)


def test_blocks_in_the_noise_whose_fields_step_are_on_another_field_as_often_as_that_takes() -> None:
    # each block by itself on the other field with a probability of 0.1: 2 * 0.1 * 0.9 of the faces step
    _, blocks = tissue_of(np.ones((N, T.size)))
    rng = np.random.default_rng(2)
    slope = 1.0 * np.indices(SHAPE)[0].ravel()
    field = slope + 217.0 * (rng.random(blocks.n_voxels.size) < 0.1)[blocks.of_voxel]
    field[::7] = np.nan  # not fitted
    dark = np.arange(blocks.n_voxels.size) >= blocks.n_voxels.size // 2  # the half of larger x
    found = on_another_field(field, replace(blocks, dark=dark), 217.0 / 2)
    assert np.mean(found[dark]) == pytest.approx(0.1, abs=0.02)
    np.testing.assert_array_equal(found[~dark], 0)  # bright blocks know their field
    np.testing.assert_array_equal(on_another_field(slope, replace(blocks, dark=dark), 217.0 / 2), 0)
    # all of the faces step: nothing is known
    board = 217.0 * (np.argwhere(blocks.index >= 0).sum(axis=1) % 2)[blocks.of_voxel]
    np.testing.assert_allclose(on_another_field(board, replace(blocks, dark=dark), 217.0 / 2)[dark], 0.5)


def iron_liver(ripple_hz: float) -> tuple[MultiEcho, np.ndarray, np.ndarray]:
    """A liver of 300 and 550 1/s in turns, its field smooth but for ripples that no plane foresees; the field, and where it is deep."""
    rng = np.random.default_rng(4)
    i, j, k = np.indices(SHAPE)
    rate = np.where((i // 5 + j // 5) % 2 == 0, 300.0, 550.0)
    ripple = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (1.2, 1.2, 0.8))
    field = 40 * np.sin(i / 14) + 30 * np.cos(j / 11) + 4 * k + ripple_hz * ripple / ripple.std()
    signal = 100 * (1 - 0.05 * (1 - FAT)) * np.exp((2j * np.pi * field - rate)[..., None] * T)
    signal = signal + 2.5 * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    grid = make_grid("axial", SHAPE)
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=T, field_strength_tesla=1.5, grid=grid, noise_sd=2.5)
    return echoes, field, ndimage.binary_erosion(np.ones(SHAPE, bool), iterations=2)


@pytest.mark.parametrize(("ripple_hz", "least", "most"), [(0.0, 0.65, 1.05), (8.0, 0.9, 1.1)])
def test_the_field_of_iron_has_an_honest_error_where_its_neighbours_foresee_it_and_where_not(
    ripple_hz: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes, field, deep = iron_liver(ripple_hz)

    def scatter(fit: WaterFat) -> float:
        return float(np.nanstd(((fit.field_hz - field) / fit.field_se_hz)[deep]))

    fit = separate(echoes, FatWaterParams())
    assert least < scatter(fit) < most
    monkeypatch.setattr(lower_order, "field_errors", lambda claimed, *_: claimed)
    by_claim = separate(echoes, FatWaterParams())
    assert not 0.6 < scatter(by_claim) < 1.6
    # errors alone differ
    np.testing.assert_array_equal(fit.field_hz, by_claim.field_hz)
    np.testing.assert_array_equal(fit.r2star_per_s, by_claim.r2star_per_s)


def test_the_noise_of_dark_neighbours_is_in_the_field_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # half of a liver knows its field to some hertz, the other half lives on its neighbours, which know it as badly
    i, j, k = np.indices(SHAPE)
    dark = i >= SHAPE[0] // 2
    field = 40 * np.sin(i / 14) + 30 * np.cos(j / 11) + 4 * k
    free_of_noise = 100 * (1 - 0.05 * (1 - FAT)) * np.exp((2j * np.pi * field - np.where(dark, 620.0, 60.0))[..., None] * T)
    grid = make_grid("axial", SHAPE)
    near = (i >= SHAPE[0] // 2 + 3) & (i < SHAPE[0] // 2 + 8)

    def error_over_se(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        signal = free_of_noise + 5 * (rng.standard_normal(free_of_noise.shape) + 1j * rng.standard_normal(free_of_noise.shape))
        echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=T, field_strength_tesla=1.5, grid=grid, noise_sd=5)
        fit = separate(echoes, FatWaterParams())
        return np.asarray(((fit.field_hz - field) / fit.field_se_hz)[near])

    def scatter() -> float:
        # neighbours err together: one scan says it to a fifth
        return float(np.sqrt(np.nanmean(np.square([error_over_se(seed) for seed in (4, 5, 6)]))))

    assert 0.85 < scatter() < 1.15
    monkeypatch.setattr("hqsm.fatwater.field_errors._LEFT_OF_NOISE", 0.0)
    assert scatter() > 1.25


@pytest.mark.parametrize(
    ("rate_per_s", "of_block", "of_piece", "swaps"), [(450.0, 0, 50, False), (450.0, 0, 0, True), (1000.0, 0, 50, True)]
)
def test_another_field_is_feared_where_a_piece_may_be_swapped_or_a_block_is_in_the_noise(
    rate_per_s: float, of_block: float, of_piece: float, swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a block that shows its echoes would step from its neighbours if it alone were on another field
    rng = np.random.default_rng(5)
    i, j, k = np.indices(SHAPE)
    field = 40 * np.sin(i / 14) + 30 * np.cos(j / 11) + 4 * k
    rate = np.where(i < SHAPE[0] // 2, 40.0, rate_per_s)
    signal = 100 * (1 - 0.05 * (1 - FAT)) * np.exp((2j * np.pi * field - rate)[..., None] * T)
    signal = signal + 2.5 * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    grid = make_grid("axial", SHAPE)
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=T, field_strength_tesla=1.5, grid=grid, noise_sd=2.5)
    real = separation.initialise

    def undecided(*arguments: Any, **named: Any) -> InitialField:
        start = real(*arguments, **named)
        return replace(start, swap_margin=np.full(N, of_block), piece_margin=np.full(N, of_piece))

    monkeypatch.setattr(separation, "initialise", undecided)
    fit = separate(echoes, FatWaterParams())
    assert (np.nanmedian(fit.field_se_hz[i > SHAPE[0] // 2 + 4]) > 100) == swaps
