"""Window, drift, outliers, two sources, bellows: on displacements whose answer is known."""

import numpy as np
import pytest

from conftest import make_grid
from gating.breathing import lujan_mm
from hqsm.config.gating import GatingParams
from hqsm.data import GatingReport, MultiEcho, NavigatorTrace, RepeatedMultiEcho, RespiratoryLog, RespiratoryRecord
from hqsm.errors import ProcessingError
from hqsm.gating.gate import Sources, choose_repetitions, gate
from hqsm.gating.respiratory import displacement_from_bellows
from hqsm.gating.shift import noise_after_shift, shift_along_body
from hqsm.gating.window import end_expiration_drift_mm, end_expiration_mm

ECHO_TIMES_S = np.array([1.2e-3, 2.8e-3])
NAN = float("nan")


def chosen(sources: dict[str, list[float] | np.ndarray], misfit: list[float] | None = None, **params: object) -> GatingReport:
    arrays = {name: np.array(values, float) for name, values in sources.items()}
    n = next(iter(arrays.values())).size
    unlike = np.full(n, np.nan) if misfit is None else np.array(misfit)
    return choose_repetitions(Sources(displacement_mm=arrays), np.arange(float(n)), GatingParams(**params), unlike)


def moving_object(displacement_mm: np.ndarray, noise: float = 0.0, seed: int = 0) -> RepeatedMultiEcho:
    """A smooth blob that moves along the body below a wall that does not; 2 mm isotropic voxels."""
    grid = make_grid("axial", (24, 20, 40))
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(2.0 * (np.arange(n) - (n - 1) / 2) for n in grid.shape), indexing="ij")
    wall = np.where(np.abs(y) > 15, 80.0, 0.0)
    signal = np.empty((*grid.shape, 2, displacement_mm.size), np.complex64)
    for r, d in enumerate(displacement_mm):
        blob = 100 / (1 + np.exp((z - d - 8 * np.cos(x / 14)) / 3)) * (np.abs(y) <= 15)
        for e, t in enumerate(ECHO_TIMES_S):
            clean = (blob + wall) * np.exp((2j * np.pi * 15 - 40) * t + 1j * 0.9 * r)
            signal[..., e, r] = clean + noise * (rng.standard_normal(grid.shape) + 1j * rng.standard_normal(grid.shape))
    return RepeatedMultiEcho(
        signal=signal,
        echo_times_s=ECHO_TIMES_S,
        field_strength_tesla=1.5,
        grid=grid,
        repetition_times_of_day_s=36_000.0 + 7.3 * np.arange(displacement_mm.size),
    )


def bellows_log(position_mm: np.ndarray, times_s: np.ndarray, clock_error_s: float = 0.0) -> RespiratoryLog:
    """A belt that reads 1000 units at end-expiration and 60 more for each mm that the diaphragm goes down."""
    return RespiratoryLog(times_of_day_s=times_s + clock_error_s, values=1000 - 60 * position_mm, kind="siemens-pmu")


def breathing(times_s: np.ndarray) -> np.ndarray:
    """Breaths of unequal length, so that a wrong clock cannot fit by chance [mm]."""
    phase = np.pi * (times_s / 4.3 + 0.35 * np.sin(times_s / 11) + 0.2 * np.sin(times_s / 5.1))
    return -14 * np.cos(phase) ** 4


def test_end_expiration_counts_before_an_equally_frequent_inspiration() -> None:
    assert end_expiration_mm(np.array([0.0, -0.3, -12.0, -12.1])) == pytest.approx(-0.15, abs=0.2)


def test_the_window_widens_in_the_stated_steps_and_stops_at_its_limit() -> None:
    wide = chosen({"navigator.csv": [0.0, 0.1, *np.linspace(-40, -12, 12)]})
    assert wide.window_mm == 8
    assert {"GATING_WINDOW_WIDENED", "GATING_LOW_EFFICIENCY"} <= set(wide.codes)
    assert chosen({"navigator.csv": [0.0, 0.1, -3.3, *np.linspace(-40, -12, 6)]}, window_step_mm=0.5).window_mm == 6.5


def test_too_small_an_efficiency_rejects_the_visit_where_the_study_says_so() -> None:
    data = moving_object(np.array([0.0, -8, -12, -16, -20]))
    trace = NavigatorTrace(displacement_mm=np.array([0.0, -8, -12, -16, -20]), source="navigator.csv")
    assert "GATING_LOW_EFFICIENCY" in gate(data, trace, GatingParams())[1].codes
    with pytest.raises(ProcessingError, match=r"Only 1 of 5 repetitions .* 50% are needed"):
        gate(data, trace, GatingParams(minimum_efficiency=0.5))
    with pytest.raises(ProcessingError, match="2 are needed"):
        gate(data, trace, GatingParams(minimum_accepted=2))


def test_a_drift_of_the_end_expiratory_level_is_followed_and_its_absence_is_seen() -> None:
    quiet = np.random.default_rng(4).normal(0, 0.4, 30)
    still = lujan_mm(30, 5) + quiet
    drifting = still - 9 * np.linspace(-0.5, 0.5, 30)
    assert end_expiration_drift_mm(drifting, np.arange(30.0)) == pytest.approx(-9, abs=1)
    assert end_expiration_drift_mm(still, np.arange(30.0)) == 0
    assert np.isnan(end_expiration_drift_mm(still[:9], np.arange(9.0)))
    fixed, followed = (chosen({"navigator.csv": drifting}, follow=follow) for follow in ("none", "drift"))
    assert "GATING_DRIFT" in fixed.codes
    assert (fixed.followed, followed.followed) == ("none", "drift")
    wanted = chosen({"navigator.csv": still}).accepted
    assert np.mean(followed.accepted == wanted) >= 0.95
    assert np.mean(fixed.accepted == wanted) < 0.9
    # a window that does not follow keeps one position: what it accepts lies inside its width
    assert np.ptp(drifting[fixed.accepted]) <= fixed.window_mm


def test_false_drifts_of_quiet_breathing_are_rare() -> None:
    found = [end_expiration_drift_mm(lujan_mm(16, seed), np.arange(16.0)) for seed in range(60)]
    assert np.mean(np.array(found) != 0) < 0.08


def test_two_sources_that_disagree_are_flagged_and_an_offset_is_no_disagreement() -> None:
    d = np.array([0.0, -0.4, -11.0, 0.3, -6.0, 0.1])
    agreeing = chosen({"navigator.csv": d, "images": d + 40 + np.array([0.2, -0.1, 0.3, 0, -0.2, 0.1])})
    assert "GATING_SOURCES_DISAGREE" not in agreeing.codes
    assert agreeing.disagreement_mm < 0.3
    inverted = chosen({"navigator.csv": d, "images": -d})
    assert "GATING_SOURCES_DISAGREE" in inverted.codes
    assert inverted.second_source == "images"


def test_a_repetition_that_its_image_shows_elsewhere_is_left_out() -> None:
    says = np.array([0.0, -0.4, -11.0, 0.3, -6.0, 0.1])
    shows = says.copy()
    shows[3] = -9.0
    report = chosen({"navigator.csv": says, "physio": says, "images": shows})
    assert report.accepted.tolist() == [True, True, False, False, False, True]
    assert "images show it -9.3 mm" in report.reasons[3]


def test_an_unlike_image_is_left_out_only_where_it_is_unlike_the_others() -> None:
    d = [0.0, 0.1, -0.2, 0.3, -12.0, 0.2]
    assert not chosen({"navigator.csv": d}, misfit=[0.01, 0.011, 0.05, 0.009, 0.03, 0.01]).accepted[2]
    assert chosen({"navigator.csv": d}, misfit=[0.01, 0.011, 0.012, 0.009, 0.3, 0.01]).accepted[2]


def test_bellows_take_scale_and_sign_from_the_images() -> None:
    times_s = 36_000 + np.arange(0, 120, 0.02)
    position_mm = breathing(times_s)
    at = 36_003.0 + 7.3 * np.arange(12)
    true_mm = breathing(at)
    images_mm = true_mm - np.median(true_mm)
    found = displacement_from_bellows(bellows_log(position_mm, times_s), at, images_mm, GatingParams(bellows_window_s=0.1))
    assert found.displacement_mm is not None
    error = found.displacement_mm - images_mm
    assert np.sqrt(np.mean(error**2)) < 0.5
    assert found.codes == ()


def test_bellows_without_visible_motion_take_the_assumed_excursion_and_say_so() -> None:
    times_s = 36_000 + np.arange(0, 120, 0.02)
    at = 36_003.0 + 7.3 * np.arange(12)
    found = displacement_from_bellows(bellows_log(breathing(times_s), times_s), at, np.full(12, NAN), GatingParams(bellows_window_s=0.1))
    assert found.displacement_mm is not None
    assert found.codes == ("GATING_BELLOWS_SCALE_ASSUMED",)
    assert np.corrcoef(found.displacement_mm, breathing(at))[0, 1] > 0.99  # inspiration is down


@pytest.mark.parametrize("clock_error_s", [3.0, 3600.0])
def test_a_log_on_another_clock_is_not_used_and_the_clock_is_named(clock_error_s: float) -> None:
    times_s = 36_000 + np.arange(0, 120, 0.02)
    at = 36_012.0 + 7.3 * np.arange(12)
    log = bellows_log(breathing(times_s), times_s, clock_error_s)
    found = displacement_from_bellows(log, at, breathing(at), GatingParams(bellows_window_s=0.1))
    assert found.displacement_mm is None
    assert found.codes == ("GATING_PHYSIO_CLOCK",)
    assert ("+3.0 s" if clock_error_s == 3 else "another scan's log, or a clock that is off") in found.notes[-1]


def test_the_first_source_that_is_there_counts_and_the_next_is_compared() -> None:
    d = np.array([0.0, -0.5, -9.0, 0.4, -6.0, -12.0])
    data = moving_object(d)
    log = RespiratoryLog(times_of_day_s=36_000 + 7.3 * np.arange(6), values=1000 - 50 * d, kind="cmrr-log")
    header = NavigatorTrace(displacement_mm=d, source="dicom")
    params = GatingParams(bellows_window_s=0.1)
    everything = gate(data, NavigatorTrace(displacement_mm=d, source="navigator.csv"), params, RespiratoryRecord(log=log, header=header))[1]
    assert (everything.source, everything.second_source) == ("navigator.csv", "physio")
    assert gate(data, None, params, RespiratoryRecord(log=log, header=header))[1].source == "physio"
    assert gate(data, None, params, RespiratoryRecord(header=header))[1].source == "dicom"
    images = gate(data, None, params)[1]
    assert images.source == "images"
    assert images.accepted.tolist() == everything.accepted.tolist() == [True, True, False, True, False, False]
    broken = gate(data, None, params, RespiratoryRecord(problems=("x.resp is cut off.",)))[1]
    assert "GATING_PHYSIO_UNREADABLE" in broken.codes


@pytest.mark.parametrize("kind", ["axial", "anisotropic", "oblique", "coronal"])
def test_a_shift_moves_a_point_along_the_body_and_its_noise_is_known(kind: str) -> None:
    grid = make_grid(kind, (30, 28, 26))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    world = index @ grid.affine_mm[:3, :3].T + grid.affine_mm[:3, 3]
    spread = 1.6 * grid.voxel_size_mm.max()
    blob = np.exp(-0.5 * (world**2).sum(axis=-1) / spread**2).astype(np.float32)
    moved = shift_along_body(blob, 3.3, grid)
    centre = (world * moved[..., None]).sum(axis=(0, 1, 2)) / moved.sum()
    start = (world * blob[..., None]).sum(axis=(0, 1, 2)) / blob.sum()
    np.testing.assert_allclose(centre - start, [0, 0, 3.3], atol=0.15)
    noise = np.random.default_rng(0).standard_normal(grid.shape).astype(np.float32)
    assert shift_along_body(noise, 3.3, grid).std() == pytest.approx(noise_after_shift(3.3, grid), rel=0.03)


def test_gate_and_follow_sharpens_what_the_window_lets_blur() -> None:
    d = np.array([0.0, 2.4, -2.4, 2.2, -2.1, 0.1])
    data = moving_object(d)
    trace = NavigatorTrace(displacement_mm=d, source="navigator.csv")

    def error(echoes: MultiEcho, position_mm: float) -> float:
        still = np.abs(moving_object(np.array([position_mm])).signal[..., 0])
        return float(np.abs(np.abs(echoes.signal) - still)[:, :, 2:-2].max())

    only, report = gate(data, trace, GatingParams(follow="none", window_mm=8))
    follow, followed = gate(data, trace, GatingParams(follow="all", window_mm=8))
    assert report.n_accepted == followed.n_accepted == 6
    # the gate alone lies at the mean of its repetitions, gate-and-follow at end-expiration
    assert error(follow, followed.end_expiration_mm) < 0.3 * error(only, float(d.mean()))


def test_noise_after_a_shift_is_carried_on() -> None:
    d = np.array([0.0, 1.0, -1.0, 1.0])
    data = moving_object(d, noise=2.0)
    trace = NavigatorTrace(displacement_mm=d, source="navigator.csv")
    follow, report = gate(data, trace, GatingParams(follow="all"))
    factors = np.array([noise_after_shift(float(-v), data.grid) for v in d])
    weights = factors**-2 / (factors**-2).sum()
    assert report.n_accepted == 4
    # the shift correlates neighbours along the body only, the estimate differs across it
    assert follow.noise_sd == pytest.approx(2.0 * np.sqrt((weights**2 * factors**2).sum()), rel=0.08)
    only, _ = gate(data, trace, GatingParams(follow="none"))
    assert only.noise_sd == pytest.approx(1.0, rel=0.08)
