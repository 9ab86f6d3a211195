from dataclasses import replace

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.gating import GatingParams
from hqsm.data import GatingReport, NavigatorTrace, RepeatedMultiEcho, VoxelGrid
from hqsm.errors import InputError
from hqsm.gating.combine import combine, phase_difference
from hqsm.gating.gate import Sources, choose_repetitions, gate
from hqsm.gating.noise import noise_sd_from_background
from hqsm.gating.window import end_expiration_mm

ECHO_TIMES_S = np.array([1.2, 2.8, 4.4]) * 1e-3


def repeated(n: int, noise: float = 0.0) -> tuple[RepeatedMultiEcho, np.ndarray]:
    """Repetitions of one object that differ by a global phase and a linear drift of the field."""
    grid = make_grid("axial", (20, 18, 10))
    rng = np.random.default_rng(3)
    x, y, z = (np.linspace(-0.5, 0.5, k) for k in grid.shape)
    base = 10 + 3 * np.cos(6 * x)[:, None, None] + 2 * y[None, :, None] + z[None, None, :]
    still = base[..., None] * np.exp((2j * np.pi * 20 - 60) * ECHO_TIMES_S)
    signal = np.empty((*still.shape, n), np.complex64)
    for r in range(n):
        drift_hz = 4 * r + 15 * r * x[:, None, None, None]
        turned = still * np.exp(1j * (0.7 * r + 2 * np.pi * drift_hz * ECHO_TIMES_S))
        signal[..., r] = turned + noise * (rng.standard_normal(still.shape) + 1j * rng.standard_normal(still.shape))
    made = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=ECHO_TIMES_S,
        field_strength_tesla=1.5,
        grid=grid,
        repetition_times_of_day_s=np.arange(float(n)),
    )
    return made, still


def chosen(displacement_mm: list[float], params: GatingParams | None = None, misfit: list[float] | None = None) -> GatingReport:
    d = np.array(displacement_mm, float)
    unlike = np.full(d.size, np.nan) if misfit is None else np.array(misfit)
    return choose_repetitions(Sources(displacement_mm={"navigator.csv": d}), np.arange(float(d.size)), params or GatingParams(), unlike)


def test_complex_combination_undoes_global_phase_and_linear_drift() -> None:
    data, still = repeated(4)
    trace = NavigatorTrace(displacement_mm=np.array([0.0, 0.5, -0.5, 0.2]), source="navigator.csv")
    combined, report = gate(data, trace, GatingParams())
    assert report.n_accepted == 4
    np.testing.assert_allclose(np.abs(combined.signal), np.abs(still), rtol=2e-3)
    assert np.abs(data.signal.mean(axis=-1)).mean() < 0.9 * np.abs(still).mean()  # the plain average loses signal


def test_a_drift_of_the_field_is_told_from_what_is_the_same_at_every_echo() -> None:
    """Two unknowns along each axis: 0.8 rad at every echo along x, and 15 Hz over the extent along y, which grows with the echo."""
    data, still = repeated(1)
    x, y = (np.linspace(-0.5, 0.5, n) for n in data.grid.shape[:2])
    phase = 0.4 + 0.8 * x[:, None, None, None] + 2 * np.pi * (7 + 15 * y[None, :, None, None]) * ECHO_TIMES_S
    found = phase_difference((still * np.exp(1j * phase)).astype(np.complex64), still.astype(np.complex64), ECHO_TIMES_S)
    np.testing.assert_allclose(found.offset_rad, [-0.8, 0, 0], atol=2e-3)
    np.testing.assert_allclose(found.rate_rad_per_s, [0, -2 * np.pi * 15, 0], atol=0.5)
    np.testing.assert_allclose(found.constant_rad, -(0.4 + 2 * np.pi * 7 * ECHO_TIMES_S), atol=2e-3)


def test_repetitions_away_from_end_expiration_are_left_out_with_a_reason() -> None:
    report = chosen([0.1, -0.3, -12.0, 0.4, -7.0])
    assert report.accepted.tolist() == [True, True, False, True, False]
    assert "from end-expiration" in report.reasons[2]
    assert report.efficiency == pytest.approx(0.6)


def test_the_window_widens_in_steps_until_enough_repetitions_are_inside() -> None:
    report = chosen([0.0, 0.1, 3.4, -3.4, 9, -9, 14, -14, 20, -20])
    assert report.window_mm == 7
    assert "GATING_WINDOW_WIDENED" in report.codes


def test_end_expiration_is_the_mode_and_not_the_mean() -> None:
    assert end_expiration_mm(np.array([0.0, 0.2, -0.1, 0.1, -15, -8, -11])) == pytest.approx(0.05, abs=0.3)


def test_one_repetition_passes_through_without_a_made_up_efficiency() -> None:
    data, _ = repeated(1)
    combined, report = gate(data, None, GatingParams())
    np.testing.assert_array_equal(combined.signal, data.signal[..., 0])
    assert np.isnan(report.efficiency)
    assert report.source == "prospective-or-breath-hold"


def test_a_navigator_of_another_length_is_refused() -> None:
    data, _ = repeated(3)
    with pytest.raises(InputError, match="2 repetitions but the images have 3"):
        gate(data, NavigatorTrace(displacement_mm=np.zeros(2), source="navigator.csv"), GatingParams())


@pytest.mark.parametrize("mark_mm", [-999.0, 1e9])
def test_a_navigator_that_moves_as_no_diaphragm_does_is_refused_before_it_is_searched_for_a_rest_position(mark_mm: float) -> None:
    data, _ = repeated(3)
    with pytest.raises(InputError, match="no diaphragm does"):
        gate(data, NavigatorTrace(displacement_mm=np.array([0.0, 1.0, mark_mm]), source="navigator.csv"), GatingParams())


def test_a_repetition_without_a_navigator_is_left_out_and_says_so() -> None:
    data, _ = repeated(3)
    _, report = gate(data, NavigatorTrace(displacement_mm=np.array([0.0, np.nan, 0.5]), source="navigator.csv"), GatingParams())
    assert report.accepted.tolist() == [True, False, True]
    assert report.reasons[1] == "no displacement known"


def test_noise_of_the_combination_falls_with_the_square_root_of_the_repetitions() -> None:
    data, _ = repeated(4, noise=0.5)
    trace = NavigatorTrace(displacement_mm=np.zeros(4), source="navigator.csv")
    combined, _ = gate(data, trace, GatingParams())
    assert noise_sd_from_background(data.signal[..., 0]) == pytest.approx(0.5, rel=0.1)
    assert combined.noise_sd == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("coils", [1, 4, 16])
@pytest.mark.parametrize("body", [0.0, 0.3, 0.7, 1.0])
def test_noise_of_a_magnitude_is_that_of_one_coil_s_real_part_however_much_of_it_is_background(body: float, coils: int) -> None:
    rng = np.random.default_rng(5)
    shape = (48, 40, 6, 1)
    tissue = np.zeros(shape)
    tissue[: round(body * shape[0])] = 100 + 20 * np.sin(np.arange(shape[1]) / 4)[:, None, None]
    power = (tissue + 3 * rng.standard_normal(shape)) ** 2 + 9 * rng.chisquare(2 * coils - 1, shape)
    assert noise_sd_from_background(np.sqrt(power).astype(np.complex64), coils) == pytest.approx(3, rel=0.06)


def test_a_noisier_repetition_counts_for_less() -> None:
    data, still = repeated(2)
    sd = np.array([0.3, 1.2])
    noise = np.random.default_rng(4).standard_normal((2, *data.signal.shape)) * sd
    same = np.repeat(still[..., None], 2, axis=-1)
    combined = combine(replace(data, signal=(same + noise[0] + 1j * noise[1]).astype(np.complex64)), np.ones(2, bool), np.zeros(2), 0)
    left = combined.signal - still
    # inverse variance: 1 / sqrt(1/0.3^2 + 1/1.2^2); equal weights would leave 0.62
    assert float(np.sqrt(np.mean(np.abs(left) ** 2) / 2)) == pytest.approx(0.291, rel=0.06)
    assert combined.noise_sd == pytest.approx(0.291, rel=0.12)


def test_a_local_change_of_the_field_is_undone() -> None:
    data, still = repeated(3, noise=0.1)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, k) for k in data.grid.shape), indexing="ij")
    bump_hz = 60 * np.exp(-((x - 0.4) ** 2 + y**2 + z**2) / 0.6)
    signal = data.signal.copy()
    for r in (1, 2):
        signal[..., r] *= np.exp(2j * np.pi * (r * bump_hz)[..., None] * ECHO_TIMES_S)
    moved = replace(data, signal=signal)
    combined = combine(moved, np.ones(3, bool), np.zeros(3), 0)
    last = np.abs(combined.signal[..., -1]) / np.abs(still[..., -1])
    assert last[bump_hz > 40].mean() > 0.91  # without it: 0.79


def test_the_phase_of_noise_is_not_taken_for_a_local_field() -> None:
    """Tissue as faint as the noise, in voxels too coarse to average it away: aligned by its noise it would lose a third."""
    data, still = repeated(3)
    coarse = VoxelGrid(shape=data.grid.shape, affine_mm=np.diag([6.0, 6.0, 9.0, 1.0]))
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((2, *data.signal.shape))
    faint = np.repeat((still / np.abs(still).mean())[..., None], 3, axis=-1)
    signal = (faint + noise[0] + 1j * noise[1]).astype(np.complex64)
    combined = combine(replace(data, signal=signal, grid=coarse), np.ones(3, bool), np.zeros(3), 0).signal
    kept = np.abs((combined * np.conj(faint[..., 0])).mean(axis=(0, 1, 2))) / (np.abs(faint[..., 0]) ** 2).mean(axis=(0, 1, 2))
    assert kept.min() > 0.76
