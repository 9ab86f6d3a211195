"""Odd/even phase of bipolar readouts: found where it is, left alone where it is not."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from conftest import make_grid
from hqsm.bipolar import correct_odd_even_phase
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, VoxelGrid
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal

SHAPE = (24, 20, 12)
POSITIONS = [((np.arange(n) + 0.5) / n - 0.5).reshape([-1 if k == a else 1 for k in range(3)]) for a, n in enumerate(SHAPE)]


def liver(
    echo_times_ms: list[float], theta: np.ndarray | float = 0.0, *, fat: float = 0.15, iron: float = 60.0, snr: float = 60.0
) -> MultiEcho:
    """Water and fat with R2* and a field that bends, and (-1)^n theta on echo n."""
    rng = np.random.default_rng(11)
    t = np.array(echo_times_ms) * 1e-3
    x, y, z = (np.broadcast_to(p, SHAPE) for p in POSITIONS)
    field_hz = 80 * x - 120 * y**2 + 60 * z * x + 30
    fraction = np.clip(fat + 0.9 * (np.hypot(x, y) > 0.45) + 0.1 * x, 0, 1)  # a rim of fat around the liver
    rate = np.where(np.hypot(x, y) > 0.45, 30.0, iron)
    phasor = fat_signal(SPECTRA["hamilton-liver-6"], t, 1.5, 37.0)
    species = (1 - fraction)[..., None] + fraction[..., None] * phasor
    signal = 100 * species * np.exp((2j * np.pi * field_hz - rate)[..., None] * t)
    signal = signal * np.exp(1j * np.asarray(theta)[..., None] * (-1.0) ** np.arange(t.size))
    signal = signal + 100 / snr * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    grid = make_grid("anisotropic", SHAPE)
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=1.5, grid=grid)


def plane(constant: float, slopes: tuple[float, float, float]) -> np.ndarray:
    return np.zeros(SHAPE) + constant + sum(s * p for s, p in zip(slopes, POSITIONS, strict=True))


EVEN = {
    "six echoes": [1.2 + 1.6 * k for k in range(6)],
    "short echoes of severe iron": [0.9 + 0.9 * k for k in range(8)],
    "four echoes": [1.3 + 2.1 * k for k in range(4)],
    "in and opposed phase": [2.3 + 2.3 * k for k in range(6)],
}


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize("iron", [30.0, 600.0])
@pytest.mark.parametrize("fat", [0.0, 0.25])
def test_unipolar_echoes_come_back_as_they_are(name: str, iron: float, fat: float) -> None:
    echoes = liver(EVEN[name], iron=iron, fat=fat)
    after, found = correct_odd_even_phase(echoes, smallest_rms_rad=0.05)
    assert after is echoes
    assert found.polarity == "unipolar"
    assert found.rms_rad < 0.04


@pytest.mark.parametrize("name", EVEN)
@pytest.mark.parametrize(
    ("constant", "slopes"), [(0.3, (0.0, 0.0, 0.0)), (0.1, (2.5, 0.0, 0.0)), (-0.2, (0.0, -4.0, 0.4)), (0.0, (9.0, 1.0, -0.5))]
)
def test_a_plane_of_odd_even_phase_is_found_and_removed(name: str, constant: float, slopes: tuple[float, float, float]) -> None:
    clean = liver(EVEN[name])
    after, found = correct_odd_even_phase(liver(EVEN[name], plane(constant, slopes)), smallest_rms_rad=0.05)
    assert found.polarity == "bipolar"
    np.testing.assert_allclose(found.slope_rad_per_axis, slopes, atol=0.06)
    turn = (found.constant_rad - constant + np.pi / 4) % (np.pi / 2) - np.pi / 4
    assert turn == pytest.approx(0, abs=0.04)
    assert found.unexplained_after < 0.85 * found.unexplained_before
    # what is left differs from the clean echoes by at most a field that no data can tell from it
    step = np.angle(np.sum(after.signal[..., 1] * np.conj(clean.signal[..., 1]) * np.conj(after.signal[..., 0]) * clean.signal[..., 0]))
    quarter = np.round(step / np.pi)
    left = after.signal * np.conj(clean.signal) * np.exp(-1j * np.pi * quarter * np.arange(after.echo_times_s.size))
    left *= np.exp(-1j * np.angle(left.sum()))
    assert np.sqrt(np.average(np.angle(left) ** 2, weights=np.abs(left))) < 0.05


def quality(after: MultiEcho, clean: MultiEcho) -> float:
    """RMS phase [rad] by which echoes differ from clean ones, but for a field and a phase that no data can tell from none."""
    left = after.signal * np.conj(clean.signal)
    step = np.angle((left[..., 1:] * np.conj(left[..., :-1])).sum(axis=(0, 1, 2)))
    turned = left * np.exp(-1j * np.concatenate([[0], np.cumsum(np.round(step / np.pi) * np.pi)]))
    turned *= np.exp(-1j * np.angle(turned.sum()))
    return float(np.sqrt(np.average(np.angle(turned) ** 2, weights=np.abs(turned))))


@pytest.mark.parametrize("name", ["six echoes", "short echoes of severe iron", "in and opposed phase"])
def test_a_phase_that_bends_is_removed_beyond_its_plane(name: str) -> None:
    x, y, z = POSITIONS
    bent = plane(0.15, (2.0, 0.0, 0.0)) + 1.2 * (x**2 - 1 / 12) + 1.5 * x * y + 0.8 * z * y + 3 * y**3
    clean = liver(EVEN[name], snr=200)
    after, found = correct_odd_even_phase(liver(EVEN[name], bent, snr=200), smallest_rms_rad=0.05)
    assert found.polarity == "bipolar"
    assert found.bend_rms_rad > 0.1
    assert quality(after, clean) < 0.03
    assert quality(liver(EVEN[name], bent, snr=200), clean) > 0.3


@pytest.mark.parametrize("name", EVEN)
def test_where_nothing_bends_nothing_is_removed_beyond_the_plane(name: str) -> None:
    _, found = correct_odd_even_phase(liver(EVEN[name], plane(0.1, (2.5, 0.0, 0.0)), snr=30), smallest_rms_rad=0.05)
    assert found.polarity == "bipolar"
    assert found.bend_rms_rad == 0


def test_correction_is_idempotent() -> None:
    once, _ = correct_odd_even_phase(liver(EVEN["six echoes"], plane(0.2, (1.5, 0, 0))), smallest_rms_rad=0.05)
    twice, found = correct_odd_even_phase(once, smallest_rms_rad=0.05)
    assert twice is once
    assert found.polarity == "unipolar"


@pytest.mark.parametrize("times", [[1.2, 2.8, 4.4], [1.2, 2.8, 4.6, 6.0, 7.9, 9.2], [2.0, 4.0]])
def test_echoes_that_cannot_tell_are_not_checked(times: list[float]) -> None:
    echoes = liver(times, plane(0.3, (2.0, 0, 0)))
    after, found = correct_odd_even_phase(echoes, smallest_rms_rad=0.05)
    assert after is echoes
    assert found.polarity == "not-checked"


def test_noise_alone_is_no_bipolar_readout() -> None:
    rng = np.random.default_rng(2)
    signal = rng.standard_normal((*SHAPE, 6)) + 1j * rng.standard_normal((*SHAPE, 6))
    echoes = liver(EVEN["six echoes"])
    noise = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=echoes.echo_times_s, field_strength_tesla=1.5, grid=echoes.grid)
    after, found = correct_odd_even_phase(noise, smallest_rms_rad=0.05)
    assert after is noise
    assert found.polarity == "not-checked"


def residual(echoes: MultiEcho, keep: slice = slice(None)) -> float:
    """Root mean square of the fit residual over the signal in the containers."""
    part = MultiEcho(
        signal=np.asarray(echoes.signal)[..., keep],
        echo_times_s=echoes.echo_times_s[keep],
        field_strength_tesla=echoes.field_strength_tesla,
        grid=echoes.grid,
    )
    fit = separate(part, FatWaterParams(), temperature_celsius=20.0)
    strength = np.linalg.norm(part.signal, axis=3)
    inside = (strength > 0.2 * np.percentile(strength, 99.5)) & np.isfinite(fit.residual)
    return float(np.sqrt(np.average(fit.residual[inside] ** 2, weights=strength[inside] ** 2)))


@pytest.mark.real_data
def test_a_real_bipolar_phantom_fits_nearly_as_well_as_its_odd_echoes_alone(real_data_dir: Path) -> None:
    stored = scipy.io.loadmat(real_data_dir / "bydder_pdff" / "phantom_16echo_bipolar.mat")
    signal = stored["data"][:, :, None, :].astype(np.complex64)
    grid = VoxelGrid(shape=signal.shape[:3], affine_mm=np.diag([2.0, 2.0, 5.0, 1.0]))
    echoes = MultiEcho(signal=signal, echo_times_s=stored["te"].ravel().astype(float), field_strength_tesla=1.5, grid=grid)
    after, found = correct_odd_even_phase(echoes, smallest_rms_rad=0.05)
    assert found.polarity == "bipolar"
    assert abs(found.slope_rad_per_axis[0]) > 10 * abs(found.slope_rad_per_axis[1])  # the readout is one axis
    assert found.unexplained_after < 0.4 * found.unexplained_before
    before, corrected, odd = residual(echoes), residual(after), residual(echoes, slice(0, None, 2))
    assert before > 5 * odd
    assert corrected < 1.5 * odd
    # and each half of the corrected echoes says the same as before: the correction is of phase alone
    np.testing.assert_allclose(np.abs(after.signal), np.abs(echoes.signal), rtol=1e-5)


@pytest.mark.real_data
@pytest.mark.parametrize("case", ["12", "15"])
def test_real_unipolar_livers_are_left_alone(real_data_dir: Path, case: str) -> None:
    stored = scipy.io.loadmat(real_data_dir / "ismrm2012_fatwater_cases" / f"{case}.mat")["imDataParams"][0, 0]
    signal = stored["images"][:, :, :, 0, :].astype(np.complex64)
    grid = VoxelGrid(shape=signal.shape[:3], affine_mm=np.diag([1.5, 1.5, 8.0, 1.0]))
    echoes = MultiEcho(
        signal=signal,
        echo_times_s=stored["TE"].ravel().astype(float),
        field_strength_tesla=float(stored["FieldStrength"].item()),
        grid=grid,
    )
    after, found = correct_odd_even_phase(echoes, smallest_rms_rad=0.05)
    assert after is echoes
    assert found.rms_rad < 0.02
