"""What a whole volume knows of itself: the phase that eddy currents add to its first echo, and where its water resonates."""

import dataclasses

import numpy as np
import pytest

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.fatwater import separation
from hqsm.fatwater.separation import separate
from hqsm.fatwater.tissue import Tissue
from hqsm.fatwater.water_shift import water_shift

PPM = np.array([0.90, 1.30, 2.10, 2.75, 4.20, 5.30]) - 4.7
AMPLITUDES = np.array([0.088, 0.700, 0.120, 0.006, 0.039, 0.047])
SHAPE = (40, 36, 6)
X, Y, Z = np.indices(SHAPE)
PDFF = np.where(Y < 12, 0.02, np.where(Y < 24, 0.1, 0.3))


def acquisition(
    tesla: float = 1.5,
    t: np.ndarray | None = None,
    eddy_rad: float | np.ndarray = 0.0,
    water_shift_ppm: float = 0.0,
    pdff: np.ndarray = PDFF,
    snr: float = 50.0,
    seed: int = 3,
) -> MultiEcho:
    """Layers of fat over a smooth field; the first echo turned by ``eddy_rad``; all fat peaks moved away from water."""
    t = (1.2e-3 + 1.6e-3 * np.arange(6)) * 1.5 / tesla if t is None else t
    rng = np.random.default_rng(seed)
    fat = (AMPLITUDES * np.exp(2j * np.pi * (PPM - water_shift_ppm) * 42.577478518 * tesla * t[:, None])).sum(axis=1)
    field = tesla / 1.5 * (40 * np.sin(X / 12) + 25 * np.cos(Y / 9) + 4 * Z)
    signal = 100 * np.exp(0.4j) * (1 - pdff[..., None] * (1 - fat)) * np.exp((2j * np.pi * field - 45)[..., None] * t)
    signal[..., 0] *= np.exp(1j * np.asarray(eddy_rad))
    sd = 100 / snr
    signal = signal + sd * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    grid = make_grid("axial", SHAPE)
    return MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=tesla, grid=grid, noise_sd=sd)


def layers_bias(fit: WaterFat, pdff: np.ndarray = PDFF) -> float:
    """Largest bias of the fat fraction among the layers [points]."""
    return max(abs(float(np.nanmean(fit.pdff_percent[pdff == layer])) - 100 * layer) for layer in np.unique(pdff))


@pytest.mark.parametrize(
    ("tesla", "n_echoes", "spacing_ms", "size"),
    [(1.5, 6, 1.6, 1.0), (1.5, 6, 1.6, 4.5), (3.0, 6, 0.8, 1.0), (1.5, 4, 1.6, 1.0), (1.5, 4, 2.3, 1.0)],
)
def test_a_first_echo_bent_by_eddy_currents_biases_fat_until_its_smooth_phase_is_taken_off(
    tesla: float, n_echoes: int, spacing_ms: float, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    eddy = size * (0.2 + 0.15 * (X - 20) / 20)
    echoes = acquisition(tesla, 1e-3 * (1.8 / tesla + spacing_ms * np.arange(n_echoes)), eddy_rad=eddy)
    fit = separate(echoes, FatWaterParams())
    assert set(fit.codes) == {"FIRST_ECHO_PHASE"}
    backwards = separate(dataclasses.replace(echoes, signal=echoes.signal.conj()), FatWaterParams())
    assert "PHASE_SIGN" in backwards.codes
    assert fit.first_echo_phase_rad == pytest.approx(np.sqrt(np.mean(eddy**2)), abs=0.02)
    assert layers_bias(fit) < 0.3
    monkeypatch.setattr(separation, "first_echo_phase", lambda *_: None)
    assert layers_bias(separate(echoes, FatWaterParams())) > 1.5


def test_that_three_echoes_cannot_show_a_bent_first_one_is_said() -> None:
    fit = separate(acquisition(t=1e-3 * np.array([1.2, 2.8, 4.4]), eddy_rad=0.2), FatWaterParams())
    assert "FIRST_ECHO_NOT_CHECKED" in fit.codes
    assert "FIRST_ECHO_NOT_CHECKED" not in separate(acquisition(t=1e-3 * np.array([1.2, 2.8, 4.4, 6.0])), FatWaterParams()).codes


@pytest.mark.parametrize(("tesla", "n_echoes"), [(1.5, 6), (3.0, 6), (1.5, 4), (3.0, 4)])
def test_a_first_echo_that_fits_the_others_is_left_as_it_is(tesla: float, n_echoes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    t = 1e-3 * (1.2 + 1.6 * np.arange(n_echoes)) * 1.5 / tesla
    fit = separate(acquisition(tesla, t), FatWaterParams())
    assert "FIRST_ECHO_PHASE" not in fit.codes
    assert fit.first_echo_phase_rad == 0
    monkeypatch.setattr(separation, "first_echo_phase", lambda *_: None)
    untouched = separate(acquisition(tesla, t), FatWaterParams())
    np.testing.assert_array_equal(fit.pdff_percent, untouched.pdff_percent)


@pytest.mark.parametrize(("tesla", "shift_ppm"), [(1.5, 0.1), (3.0, -0.08), (3.0, 0.16)])
def test_water_of_a_specimen_is_found_where_it_is_whatever_the_thermometer_said(tesla: float, shift_ppm: float) -> None:
    echoes = acquisition(tesla, water_shift_ppm=shift_ppm)
    fit = separate(echoes, FatWaterParams(), setting="in_vitro")
    assert "WATER_SHIFT_ESTIMATED" in fit.codes
    assert fit.water_shift_ppm == pytest.approx(shift_ppm, abs=0.01)
    assert layers_bias(fit) < 0.3
    assert layers_bias(fit) < 0.5 * layers_bias(separate(echoes, FatWaterParams()))


@pytest.mark.parametrize(
    ("tesla", "n_echoes", "spacing_ms", "size", "shift_ppm"),
    [(3.0, 6, 1.0, 1.0, 0.0), (3.0, 6, 1.0, 2.0, -0.2), (1.5, 4, 1.6, 1.0, 0.0), (1.5, 4, 1.6, 1.0, 0.1)],
)
def test_a_bent_first_echo_is_told_from_a_shift_of_water(
    tesla: float, n_echoes: int, spacing_ms: float, size: float, shift_ppm: float
) -> None:
    eddy = size * (0.2 + 0.15 * (X - 20) / 20)
    echoes = acquisition(tesla, 1e-3 * (1.2 + spacing_ms * np.arange(n_echoes)), eddy_rad=eddy, water_shift_ppm=shift_ppm)
    fit = separate(echoes, FatWaterParams(), setting="in_vitro")
    assert set(fit.codes) == {"FIRST_ECHO_PHASE"} | ({"WATER_SHIFT_ESTIMATED"} if shift_ppm else set())
    assert fit.water_shift_ppm == pytest.approx(shift_ppm, abs=0.006)
    assert fit.first_echo_phase_rad == pytest.approx(np.sqrt(np.mean(eddy**2)), abs=0.01)
    assert layers_bias(fit) < 0.3


@pytest.mark.parametrize("pdff", [0.02, 0.2])
def test_the_error_of_a_shift_of_water_is_what_it_varies_by_with_little_fat_too(pdff: float) -> None:
    def fat_at(shift_ppm: float) -> np.ndarray:
        return (AMPLITUDES * np.exp(2j * np.pi * (PPM - shift_ppm) * 42.577478518 * 3.0 * t[:, None])).sum(axis=1)

    t = 1e-3 * (1.0 + 1.0 * np.arange(6))
    ppm, se_ppm = np.empty((2, 16))
    for seed in range(16):
        echoes = acquisition(3.0, t, pdff=np.full(SHAPE, pdff), snr=30, seed=seed)
        tissue = Tissue.of(echoes, Y < 18, fat_at(0.0))
        field_hz = 2.0 * (40 * np.sin(X / 12) + 25 * np.cos(Y / 9) + 4 * Z)[Y < 18]
        shift = water_shift(tissue, fat_at, field_hz, np.full(field_hz.size, 45.0))
        ppm[seed], se_ppm[seed] = shift.ppm, shift.se_ppm
    assert 0.7 < np.std(ppm) / np.median(se_ppm) < 1.4


def test_a_shift_that_is_not_there_or_that_no_fat_shows_is_not_made_up() -> None:
    lean = np.zeros(SHAPE)
    for echoes in (acquisition(), acquisition(water_shift_ppm=0.1, pdff=lean)):
        fit = separate(echoes, FatWaterParams(), setting="in_vitro")
        assert fit.water_shift_ppm == 0
        assert "WATER_SHIFT_ESTIMATED" not in fit.codes
    shifted = acquisition(water_shift_ppm=0.1)
    assert separate(shifted, FatWaterParams()).water_shift_ppm == 0  # a living liver has its temperature
    assert separate(shifted, FatWaterParams(water_shift_of_explants=False), setting="in_vitro").water_shift_ppm == 0


def test_the_same_place_of_a_participant_gets_the_same_model_at_every_visit() -> None:
    # iron from mild to severe; the second visit has other noise, another field, another phase and scale of the receiver
    rng = np.random.default_rng(8)
    rate = np.interp(X, [0, SHAPE[0] - 1], [40, 900])
    t = 1.2e-3 + 1.6e-3 * np.arange(6)
    fat = (AMPLITUDES * np.exp(2j * np.pi * PPM * 42.577478518 * 1.5 * t[:, None])).sum(axis=1)
    models = []
    for scale, slope, phase in ((1.0, 3.0, 0.2), (7.0, -4.0, 2.5)):
        field = slope * X + 2 * Y
        signal = 100 * np.exp(1j * phase) * (1 - 0.05 * (1 - fat)) * np.exp((2j * np.pi * field - rate)[..., None] * t)
        signal = scale * (signal + 2.5 * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape)))
        whole = {"signal": signal.astype(np.complex64), "echo_times_s": t, "noise_sd": 2.5 * scale}
        models.append(separate(dataclasses.replace(acquisition(), **whole), FatWaterParams()).model)
    assert len(np.unique(models[0])) >= 2
    assert np.mean(models[0] == models[1]) > 0.95
    # and no change of order is one by chance: where they differ, the decay lies at the rule's edge
    edges = [np.flatnonzero(np.diff(np.round(m.mean(axis=(1, 2))))) for m in models]
    assert edges[0].size == edges[1].size
    assert np.abs(edges[0] - edges[1]).max() <= 2
