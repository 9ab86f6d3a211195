"""The gate's arithmetic by hand: what is shifted by how much, matched where, smoothed over what, and which clock counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from conftest import make_grid
from gating.test_sources import chosen, moving_object
from hqsm.config.gating import GatingParams
from hqsm.data import NavigatorTrace, RepeatedMultiEcho, RespiratoryLog
from hqsm.gating import gate as gate_module
from hqsm.gating.combine import PhaseDifference, combine, local_field_difference
from hqsm.gating.gate import compare_sources, gate
from hqsm.gating.image_displacement import motion_from_images
from hqsm.gating.respiratory import displacement_from_bellows
from hqsm.gating.shift import noise_after_shift


def combined_with(displacement_mm: np.ndarray, monkeypatch: pytest.MonkeyPatch, **params: Any) -> dict[str, Any]:
    """What the gate asks to be combined; the images are too few to show any motion."""
    asked: dict[str, Any] = {}

    def combine(repeated: RepeatedMultiEcho, accepted: np.ndarray, shift_mm: np.ndarray, first: int) -> None:
        asked.update(accepted=accepted, shift_mm=shift_mm, first=first)

    monkeypatch.setattr(gate_module, "combine", combine)
    grid = make_grid("axial", (6, 5, 2))
    data = RepeatedMultiEcho(
        signal=np.ones((*grid.shape, 1, displacement_mm.size), np.complex64),
        echo_times_s=np.array([1e-3]),
        field_strength_tesla=1.5,
        grid=grid,
        repetition_times_of_day_s=np.arange(float(displacement_mm.size)),
    )
    gate(data, NavigatorTrace(displacement_mm=displacement_mm, source="navigator.csv"), GatingParams(**params))
    return asked


@pytest.mark.parametrize("follow", ["drift", "all"])
def test_a_repetition_that_has_drifted_down_is_moved_up_again(follow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drift_mm = -9 * np.linspace(-0.5, 0.5, 30)
    asked = combined_with(drift_mm, monkeypatch, follow=follow)
    assert asked["accepted"].all()
    np.testing.assert_allclose(asked["shift_mm"], -drift_mm, atol=0.3)


def test_without_following_nothing_is_moved_and_the_phase_is_that_of_the_repetition_nearest_to_the_windows_centre(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = combined_with(np.array([2.0, -1.9, -12.0, 0.1, 1.5, -1.4]), monkeypatch)
    assert asked["first"] == 3
    assert not asked["shift_mm"].any()
    assert asked["accepted"].tolist() == [True, True, False, True, True, True]


def test_a_repetition_that_interpolation_makes_quieter_counts_for_more() -> None:
    """Two even volumes, one of which is moved by half a voxel: their mean is that by inverse variance."""
    grid = make_grid("axial", (8, 7, 10))
    signal = np.ones((*grid.shape, 1, 2), np.complex64) * np.array([1.0, 2.0], np.complex64)
    data = RepeatedMultiEcho(
        signal=signal, echo_times_s=np.array([1e-3]), field_strength_tesla=1.5, grid=grid, repetition_times_of_day_s=np.arange(2.0)
    )
    found = combine(data, np.ones(2, bool), np.array([0.0, 1.0]), 0).signal
    quieter = noise_after_shift(1.0, grid)
    assert quieter < 0.9
    np.testing.assert_allclose(found, (1 + 2 / quieter**2) / (1 + 1 / quieter**2), rtol=1e-4)


def test_the_report_says_level_scatter_and_drift_of_what_was_accepted() -> None:
    quiet = chosen({"navigator.csv": [0.9, 1.1, 0.9, 1.1, -11.0, -14.0]})
    assert quiet.end_expiration_mm == pytest.approx(1.0, abs=0.06)
    assert quiet.residual_sd_mm == pytest.approx(0.2 / np.sqrt(3))
    drifting = chosen({"navigator.csv": 3 - 8 * np.linspace(-0.5, 0.5, 30)}, follow="drift")
    assert drifting.drift_mm == pytest.approx(-8, abs=0.6)
    assert drifting.end_expiration_mm == pytest.approx(3, abs=0.2)
    assert drifting.window_centre_mm[0] == pytest.approx(7, abs=0.4)
    assert drifting.residual_sd_mm < 0.2


def test_two_sources_are_matched_at_end_expiration_and_differ_by_what_is_left() -> None:
    first, second = np.array([0.0, 0, -10, -10, -10]), np.array([5.0, 5, 0, 0, 0])
    difference_mm, rms_mm = compare_sources(first, second, np.array([True, True, False, False, False]))
    np.testing.assert_allclose(difference_mm, [0, 0, 5, 5, 5])
    assert rms_mm == pytest.approx(np.sqrt(75 / 5))


@pytest.mark.parametrize(("away_mm", "accepted"), [(5.2, True), (5.8, False)])
def test_an_image_may_lie_elsewhere_by_half_a_window_and_the_tolerance(away_mm: float, accepted: bool) -> None:
    says = np.array([0.0, -0.1, -11.0, 0.1, -6.0, 0.0])
    shows = says.copy()
    shows[3] -= away_mm
    assert chosen({"navigator.csv": says, "physio": says, "images": shows}).accepted[3] == accepted


def no_difference(n_echoes: int) -> PhaseDifference:
    return PhaseDifference(constant_rad=np.zeros(n_echoes), offset_rad=np.zeros(3), rate_rad_per_s=np.zeros(3))


@pytest.mark.parametrize("times_ms", [(1.2, 2.8, 4.4), (1.2, 2.8, 7.0)])
def test_the_local_field_is_smoothed_over_5_mm_along_every_axis_whatever_the_echoes(times_ms: tuple[float, ...]) -> None:
    grid, t = make_grid("anisotropic", (20, 18, 14)), np.array(times_ms) * 1e-3
    field_hz = np.zeros(grid.shape)
    field_hz[6:14, 5:13, 4:10] = 12.0
    reference = np.ones((*grid.shape, 3), np.complex64)
    repetition = np.exp(2j * np.pi * field_hz[..., None] * t).astype(np.complex64)
    local = local_field_difference(repetition, reference, t, no_difference(3), grid.voxel_size_mm, float("nan"))
    np.testing.assert_allclose(local, -2 * np.pi * ndimage.gaussian_filter(field_hz, 5.0 / grid.voxel_size_mm), atol=1.0)


def test_a_local_field_is_believed_by_half_at_a_signal_power_of_25_times_that_of_noise() -> None:
    """Of the two pairs of echoes each adds the signal's power; the noise's is that of one part."""
    grid, t = make_grid("axial", (8, 8, 6)), np.array([1.2, 2.8, 4.4]) * 1e-3
    turn = 2 * np.pi * 60 * 1.6e-3
    reference = np.full((*grid.shape, 3), 10, np.complex64)
    repetition = (reference * np.exp(2j * np.pi * 60 * t)).astype(np.complex64)
    for noise_sd in (0.0, 2.0, 3.0):
        local = local_field_difference(repetition, reference, t, no_difference(3), grid.voxel_size_mm, noise_sd)
        expected = np.arctan2(-2 * 100 * np.sin(turn), 2 * 100 * np.cos(turn) + 25 * noise_sd**2) / 1.6e-3
        np.testing.assert_allclose(local, expected, rtol=1e-3)


_AT_S = 36_003.0 + 7.3 * np.arange(12)
_BREATH_MM = -7 * (1 + np.sin(np.arange(12) * 2.1))


def belt(offset_s: float = 0.0, clock_offset_s: float = float("nan"), *, relative: bool = False) -> RespiratoryLog:
    """Steps: from each repetition on, for 2 s, what the diaphragm's place makes the belt read, and nonsense before."""
    times_s = np.arange(_AT_S[0] - 5, _AT_S[-1] + 5, 0.05)
    values = np.full(times_s.size, 1500.0)
    for at_s, mm in zip(_AT_S, _BREATH_MM, strict=True):
        values[(times_s >= at_s - 1e-6) & (times_s < at_s + 2)] = 1000 - 60 * mm
    return RespiratoryLog(
        times_of_day_s=times_s - offset_s, values=values, kind="bids-physio", clock_offset_s=clock_offset_s, relative=relative
    )


def test_a_belt_is_averaged_from_the_repetitions_time_on() -> None:
    found = displacement_from_bellows(belt(), _AT_S, _BREATH_MM - np.median(_BREATH_MM), GatingParams(bellows_window_s=1.5))
    assert found.displacement_mm is not None
    np.testing.assert_allclose(found.displacement_mm, _BREATH_MM - np.median(_BREATH_MM), atol=1e-6)


def test_a_log_relative_to_the_first_repetition_counts_from_there() -> None:
    params = GatingParams(bellows_window_s=1.5)
    usual = displacement_from_bellows(belt(), _AT_S, _BREATH_MM, params)
    relative = displacement_from_bellows(belt(_AT_S[0], relative=True), _AT_S, _BREATH_MM, params)
    assert usual.displacement_mm is not None
    assert relative.displacement_mm is not None
    np.testing.assert_allclose(relative.displacement_mm, usual.displacement_mm, atol=1e-6)


@pytest.mark.parametrize(("offset_s", "codes"), [(4.9, ()), (-5.1, ("GATING_PHYSIO_CLOCK",))])
def test_a_recording_unit_that_is_more_than_five_seconds_off_is_flagged(offset_s: float, codes: tuple[str, ...]) -> None:
    found = displacement_from_bellows(belt(clock_offset_s=offset_s), _AT_S, _BREATH_MM, GatingParams(bellows_window_s=1.5))
    assert found.codes == codes
    assert found.displacement_mm is not None
    assert f"{offset_s:+.2f} s" in found.notes[0]


def test_a_flat_belt_says_nothing_and_the_assumed_excursion_is_that_of_its_percentiles() -> None:
    flat = RespiratoryLog(times_of_day_s=belt().times_of_day_s, values=np.full(belt().values.size, 7.0), kind="bids-physio")
    nothing = np.full(12, np.nan)
    found = displacement_from_bellows(flat, _AT_S, nothing, GatingParams())
    assert (found.displacement_mm, found.codes) == (None, ("GATING_PHYSIO_FLAT",))
    low, high = np.percentile(belt().values, [5, 95])
    assumed = displacement_from_bellows(belt(), _AT_S, nothing, GatingParams(bellows_window_s=1.5, bellows_excursion_mm=12.0))
    assert assumed.displacement_mm is not None
    # stretched in inspiration, when the diaphragm is low
    np.testing.assert_allclose(assumed.displacement_mm, -12 * (1000 - 60 * _BREATH_MM - low) / (high - low), rtol=1e-6)


def test_images_know_a_displacement_between_the_millimetres_that_were_tried() -> None:
    true_mm = np.array([0.0, -3.4, -6.7, 0.3, -1.6, -9.5])
    found_mm = motion_from_images(moving_object(true_mm)).displacement_mm
    error_mm = found_mm - true_mm
    assert np.abs(error_mm - np.median(error_mm)).max() < 0.2
