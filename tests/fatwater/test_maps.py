"""Which numbers of a fit are given, worked out voxel by voxel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import make_grid
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.maps import assemble, without_t1_weight
from hqsm.fatwater.pdff import without_t1
from hqsm.fatwater.separation import _unexplained
from hqsm.fatwater.tissue import Tissue
from hqsm.fit_models import CONSTRAINED, FREE

_T = 1.2e-3 + 1.6e-3 * np.arange(6)
_NOISE_SD = 2.0
_SHAPE = (8, 2, 1)


def maps_of(
    *,
    amplitude: float = 100.0,
    fraction: float = 0.2,
    model: int = FREE,
    r2star_per_s: float = 60.0,
    pdff_se_percent: float = 3.0,
    relative_residual: float = 0.05,
    of_mixtures: tuple[float, float, float] = (0.0, 0.0, 0.0),
    far_off_hz: float = 0.0,
    step: float = 0.005,
    **known: bool,
) -> dict[str, Any]:
    """One voxel's numbers, all sixteen being alike; its echoes have one magnitude."""
    n = 16
    signal = np.full((n, _T.size), amplitude, np.complex64)
    energy = _T.size * amplitude**2
    grid = make_grid("axial", _SHAPE)
    tissue = Tissue(
        signal=signal,
        index=np.arange(n).reshape(_SHAPE),
        echo_times_s=_T,
        fat=np.ones(_T.size, complex),
        noise_sd=_NOISE_SD,
        voxel_size_mm=grid.voxel_size_mm,
        b0_direction=grid.b0_direction,
        field_strength_tesla=1.5,
    )
    fit = Fit(
        linear=np.tile(np.array([[(1 - fraction), fraction]], np.complex64) * 100, (n, 1)),
        nonlinear=np.tile([[25.0, r2star_per_s]], (n, 1)),
        errors=np.tile([[1.5, 4.0, pdff_se_percent]], (n, 1)),
        residual=np.full(n, relative_residual**2 * energy),
        step=np.full(n, step, np.float32),
        model=np.full(n, model, np.int8),
    )
    start: Any = SimpleNamespace(swap_margin=np.full(n, 9.0), difference_hz=np.zeros(n), codes=())
    facts = {"censored": False, "lost": False, "fat": True, "lower_bound_per_s": 700.0, **known}
    measurable: Any = SimpleNamespace(**{name: np.full(n, value) for name, value in facts.items()}, r2star_limit_per_s=900.0)
    echoes = MultiEcho(signal=signal.reshape(*_SHAPE, -1), echo_times_s=_T, field_strength_tesla=1.5, grid=grid)
    maps = assemble(echoes, tissue, fit, np.tile(of_mixtures, (n, 1)), np.full(n, far_off_hz), start, measurable, separable=True)
    return {name: value[3, 1, 0] for name, value in vars(maps).items() if isinstance(value, np.ndarray)}


def test_what_a_second_tissue_adds_to_errors_does_not_decide_what_is_given() -> None:
    one, two = maps_of(), maps_of(of_mixtures=(30.0, 400.0, 60.0))
    for name, own, added in (
        ("field_se_hz", 1.5, 30.0),
        ("r2star_se_per_s", 4.0, 400.0),
        ("pdff_se_percent", one["pdff_se_percent"], 60.0),
    ):
        assert one[name] == pytest.approx(own, rel=1e-6)
        assert two[name] == pytest.approx(np.hypot(own, added), rel=1e-6)
    for name in ("field_hz", "r2star_per_s", "pdff_percent"):
        assert two[name] == one[name]


def test_what_lies_far_off_its_neighbours_lines_may_be_swapped_and_says_so() -> None:
    voxel = maps_of(far_off_hz=300.0)
    assert np.isnan(voxel["pdff_percent"])
    assert np.isnan(voxel["pdff_se_percent"])
    assert voxel["field_se_hz"] == pytest.approx(np.hypot(1.5, 300.0))
    assert voxel["field_hz"] == 25.0
    assert voxel["r2star_per_s"] == 60.0


def test_an_ordinary_voxel_has_every_number() -> None:
    voxel = maps_of()
    assert voxel["pdff_percent"] == pytest.approx(20 + 100 * 0.5 * 0.03**2 / 0.8, rel=1e-4)  # |W| is too long by its noise across
    assert maps_of(model=CONSTRAINED)["pdff_percent"] == pytest.approx(20)
    assert voxel["residual"] == pytest.approx(0.05)
    assert (voxel["field_hz"], voxel["field_se_hz"], voxel["r2star_per_s"], voxel["r2star_se_per_s"]) == (25, 1.5, 60, 4)
    assert (voxel["model"], voxel["censored"]) == (FREE, False)


@pytest.mark.parametrize(("amplitude", "given"), [(5.8, False), (6.2, True)])
def test_a_voxel_whose_brightest_echo_is_below_three_noise_sd_has_no_field(amplitude: float, given: bool) -> None:
    assert np.isfinite(maps_of(amplitude=amplitude)["field_hz"]) == given


@pytest.mark.parametrize(
    ("voxel", "given"),
    [
        ({"pdff_se_percent": 59.0}, True),
        ({"pdff_se_percent": 61.0}, False),
        ({"relative_residual": 0.24}, True),
        ({"relative_residual": 0.26}, False),
        # 8 noise variances an echo, of 13 noise SD: a relative residual of 0.28 is noise
        ({"relative_residual": 0.28, "amplitude": 19.0}, True),
        ({"relative_residual": 0.31, "amplitude": 19.0}, False),
        ({"fraction": -0.09, "model": CONSTRAINED, "pdff_se_percent": 1.0}, True),
        ({"fraction": -0.11, "model": CONSTRAINED, "pdff_se_percent": 1.0}, False),
        ({"fraction": -0.11, "model": CONSTRAINED, "pdff_se_percent": 3.0}, True),
        ({"fraction": 1.11, "model": CONSTRAINED, "pdff_se_percent": 1.0}, False),
        ({"fat": False}, False),
        ({"lost": True}, False),
    ],
)
def test_a_fat_fraction_is_given_where_it_is_known_fits_and_is_a_fraction(voxel: dict[str, Any], given: bool) -> None:
    found = maps_of(**voxel)
    assert np.isfinite(found["pdff_percent"]) == np.isfinite(found["fat"]) == np.isfinite(found["pdff_se_percent"]) == given


@pytest.mark.parametrize(
    # a voxel whose own estimate noise made fast is given where its place is not censored: without such ones the others' mean is low
    ("voxel", "censored"),
    [({"r2star_per_s": 2500.0}, False), ({"r2star_per_s": 1999.0}, False), ({"censored": True}, True)],
)
def test_a_censored_decay_is_no_number_and_leaves_the_field(voxel: dict[str, Any], censored: bool) -> None:
    found = maps_of(**voxel)
    assert found["censored"] == censored
    assert np.isfinite(found["r2star_per_s"]) == np.isfinite(found["r2star_se_per_s"]) == (not censored)
    assert found["r2star_lower_bound_per_s"] == pytest.approx(700 if censored else np.nan, nan_ok=True)
    assert np.isfinite(found["field_hz"])


def test_a_fraction_and_its_error_are_freed_of_t1_alike() -> None:
    weight = 2.3
    pdff, factor = without_t1(np.array([5.0, 40.0]), weight)
    step = 1e-4
    slope = (without_t1(np.array([5.0, 40.0]) + step, weight)[0] - pdff) / step
    np.testing.assert_allclose(factor, slope, rtol=1e-4)
    grid = make_grid("axial", _SHAPE)
    ones = np.ones(_SHAPE, np.float32)
    maps = WaterFat(
        water=ones.astype(np.complex64),
        fat=ones.astype(np.complex64),
        pdff_percent=20 * ones,
        r2star_per_s=ones,
        field_hz=ones,
        pdff_se_percent=2 * ones,
        r2star_se_per_s=ones,
        field_se_hz=ones,
        residual=ones,
        model=ones.astype(np.uint8),
        censored=ones < 0,
        r2star_limit_per_s=900.0,
        field_strength_tesla=1.5,
        grid=grid,
    )
    echoes = MultiEcho(
        signal=np.ones((*_SHAPE, 2), np.complex64),
        echo_times_s=_T[:2],
        field_strength_tesla=1.5,
        grid=grid,
        flip_angle_degrees=20.0,
        repetition_time_s=0.015,
    )
    cosine = np.cos(np.radians(20))
    gained = [(1 - np.exp(-0.015 / t1)) / (1 - np.exp(-0.015 / t1) * cosine) for t1 in (0.586, 0.343)]
    found = without_t1_weight(maps, echoes)
    true = found.pdff_percent[0, 0, 0] / 100
    assert true < 0.2
    # what is seen of it with fat's gain
    seen = true * gained[1] / (true * gained[1] + (1 - true) * gained[0])
    assert seen == pytest.approx(0.2, rel=1e-4)
    assert found.pdff_se_percent[0, 0, 0] == pytest.approx(2 * without_t1(np.array([20.0]), gained[1] / gained[0])[1][0], rel=1e-4)
    silent = without_t1_weight(maps, MultiEcho(signal=echoes.signal, echo_times_s=_T[:2], field_strength_tesla=1.5, grid=grid))
    assert silent.codes == ("T1_NOT_CORRECTED",)


def test_what_no_field_explains_is_counted_without_the_noise() -> None:
    energy = np.full(10, 600.0)
    tissue: Any = SimpleNamespace(powers=(energy, None), noise_sd=_NOISE_SD, echo_times_s=_T)
    # six echoes less three unknowns, two parts each: 24
    residual = np.array([24.0] * 4 + [10.0] * 2 + [84.0] * 3 + [np.nan])
    assert _unexplained(residual, tissue) == pytest.approx((3 * 60 + 600 - 24) / 6000)


@pytest.mark.parametrize(
    ("voxel", "convergence"),
    [({"step": 0.09}, 1), ({"step": 0.11}, 2), ({"step": np.nan}, 2), ({"relative_residual": np.nan}, 3)],
)
def test_a_voxel_whose_fit_did_not_converge_is_told(voxel: dict[str, Any], convergence: int) -> None:
    found = maps_of(**voxel)
    assert found["convergence"] == convergence
    assert np.isfinite(found["r2star_per_s"]) == (convergence < 3)
