from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from conftest import make_grid
from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, WaterFat
from hqsm.errors import InputError
from hqsm.fatwater import lower_order, maps, measurability, separation
from hqsm.fatwater.bounds import r2star_limit_per_s
from hqsm.fatwater.measurability import NearTheEnd
from hqsm.fatwater.separation import separate
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fit_models import FREE
from hqsm.lic import fit_facts, r2star_lower_bound_per_s

SHAPE = (48, 40, 12)


def blocks(field_tesla: float, snr: float, r2star_top: float = 350, n_echoes: int = 6) -> tuple[MultiEcho, dict[str, np.ndarray]]:
    """Blocks of R2* and fat fraction over a smooth field of several hundred Hz; the signal is written out here by hand."""
    grid = make_grid("anisotropic", SHAPE)
    rng = np.random.default_rng(5)
    i, j, k = np.indices(SHAPE)
    r2star = np.interp(i // 8, [0, 5], [30, r2star_top])
    pdff = np.array([0.0, 0.05, 0.2, 0.4, 0.9])[j // 8]
    scale = field_tesla / 1.5
    field = scale * (120 * np.sin(i / 17) + 90 * np.cos(j / 13) + 12 * k)
    t = (1.2e-3 + 1.6e-3 * np.arange(n_echoes)) / scale
    ppm = np.array([0.90, 1.30, 2.10, 2.75, 4.20, 5.30]) - 4.7
    amplitude = np.array([0.088, 0.700, 0.120, 0.006, 0.039, 0.047])
    fat = (amplitude * np.exp(2j * np.pi * ppm * 42.577478518 * field_tesla * t[:, None])).sum(axis=1)
    phase = np.exp(1j * (0.4 + i / 40))
    signal = 100 * phase[..., None] * ((1 - pdff)[..., None] + pdff[..., None] * fat)
    signal = signal * np.exp((2j * np.pi * field - r2star)[..., None] * t)
    sd = 100 / snr
    signal = signal + sd * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=field_tesla, grid=grid, noise_sd=sd)
    return echoes, {"r2star": r2star, "pdff": 100 * pdff, "field": field}


@pytest.fixture(scope="module", params=[1.5, 3.0])
def fitted(request: pytest.FixtureRequest) -> tuple[WaterFat, dict[str, np.ndarray]]:
    echoes, truth = blocks(request.param, snr=40)
    return separate(echoes, FatWaterParams()), truth


def test_no_voxel_is_swapped(fitted: tuple[WaterFat, dict[str, np.ndarray]]) -> None:
    fit, truth = fitted
    assert np.mean(np.abs(fit.pdff_percent - truth["pdff"]) > 30) < 5e-4


def test_the_field_has_the_right_sign_and_no_wraps(fitted: tuple[WaterFat, dict[str, np.ndarray]]) -> None:
    fit, truth = fitted
    assert np.mean(np.abs(fit.field_hz - truth["field"]) > 50) < 1e-3
    assert np.corrcoef(fit.field_hz.ravel(), truth["field"].ravel())[0, 1] > 0.999


def test_r2star_and_fat_fraction_are_unbiased(fitted: tuple[WaterFat, dict[str, np.ndarray]]) -> None:
    fit, truth = fitted
    assert abs(np.mean(fit.r2star_per_s - truth["r2star"])) < 0.6
    assert abs(np.median(fit.pdff_percent - truth["pdff"])) < 0.25


def test_errors_are_as_large_as_the_standard_errors_say(fitted: tuple[WaterFat, dict[str, np.ndarray]]) -> None:
    fit, truth = fitted
    free = fit.model == 1
    for value, error, true in (
        (fit.r2star_per_s, fit.r2star_se_per_s, truth["r2star"]),
        (fit.field_hz, fit.field_se_hz, truth["field"]),
    ):
        assert np.std(((value - true) / error)[free]) == pytest.approx(1, abs=0.06)


def test_severe_iron_loses_its_fat_unknowns_before_its_r2star() -> None:
    echoes, truth = blocks(1.5, snr=40, r2star_top=800)
    fit = separate(echoes, FatWaterParams())
    severe = truth["r2star"] > 600
    assert (fit.model[severe] > 1).mean() > 0.5
    lean = severe & (truth["pdff"] < 1)
    assert np.nanmedian(fit.r2star_per_s[lean] / truth["r2star"][lean]) == pytest.approx(1, abs=0.05)


def test_r2star_beyond_the_first_echo_is_censored_and_never_a_number() -> None:
    echoes, _ = blocks(1.5, snr=400, r2star_top=30)
    t = echoes.echo_times_s
    dead = echoes.signal.copy()
    dead[:8] *= np.exp(-2500 * t).astype(np.complex64)
    fit = separate(MultiEcho(signal=dead, echo_times_s=t, field_strength_tesla=1.5, grid=echoes.grid, noise_sd=0.25), FatWaterParams())
    assert not np.isfinite(fit.r2star_per_s[:8]).any()
    assert fit.censored[2:6].mean() > 0.5
    assert fit.r2star_limit_per_s == 2000


def test_the_limit_of_r2star_is_where_two_echoes_know_it_to_a_third_of_its_size() -> None:
    t, snr = np.array([1e-3, 3e-3]), 40.0
    limit = r2star_limit_per_s(t, snr)
    # two points of an exponential: var(R2*) = (exp(2 R2* t1) + exp(2 R2* t2)) / (snr * spacing)^2
    error = np.sqrt(np.exp(2 * limit * t[0]) + np.exp(2 * limit * t[1])) / (snr * (t[1] - t[0]))
    assert error == pytest.approx(0.35 * limit, rel=0.03)


def liver_in_muscle(
    r2star: float, tesla: float, t: np.ndarray, snr: float, pdff: float = 0.05, brightness: float = 1.0
) -> tuple[MultiEcho, np.ndarray]:
    """One liver of uniform iron inside muscle, a field across both; and where the liver is, away from its edge."""
    grid = make_grid("axial", (56, 48, 8))
    rng = np.random.default_rng(11)
    i, j, k = np.indices(grid.shape)
    liver = (i > 12) & (i < 44) & (j > 10) & (j < 38)
    rate, fraction = np.where(liver, r2star, 35.0), np.where(liver, pdff, 0.02)
    amplitude = np.where(liver, 100 * brightness, 100.0)[..., None]
    field = tesla / 1.5 * (60 * np.sin(i / 12) + 30 * np.cos(j / 9) + 4 * k)
    fat = fat_signal(SPECTRA["hamilton-liver-6"], t, tesla)
    signal = amplitude * (1 - fraction[..., None] * (1 - fat)) * np.exp((2j * np.pi * field - rate)[..., None] * t)
    sd = 100 / snr
    signal = signal + sd * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=tesla, grid=grid, noise_sd=sd)
    return echoes, ndimage.binary_erosion(liver, iterations=3)


@pytest.mark.parametrize(("brightness", "r2star"), [(0.3, 700.0), (0.5, 900.0), (1.0, 1200.0)])
def test_the_bound_of_a_censored_liver_is_that_of_its_own_brightness_and_true(brightness: float, r2star: float) -> None:
    t = 1.2e-3 + 1.6e-3 * np.arange(6)
    echoes, liver = liver_in_muscle(r2star, 1.5, t, snr=40, brightness=brightness)
    fit = separate(echoes, FatWaterParams())
    assert fit.r2star_limit_per_s > 1100  # of the whole volume: true of the brightest liver alone
    assert fit.censored[liver].mean() > 0.95
    bound = fit.r2star_lower_bound_per_s
    assert bound is not None
    np.testing.assert_array_equal(np.isfinite(bound), fit.censored)
    assert np.mean(bound[liver & fit.censored] > r2star) < 0.01  # the local decay alone: 45 %
    limit = r2star_limit_per_s(t, 40 * brightness, fat_signal(SPECTRA["hamilton-liver-6"], t, 1.5))
    # just beyond the limit the liver may hold more fat, and then has less iron
    assert (0.85 if r2star < 1.1 * limit else 0.97) < r2star_lower_bound_per_s(fit, liver) / limit < 1.03


def test_the_bound_of_a_censored_liver_that_holds_fat_is_true() -> None:
    """Early echoes show fat and iron as more iron: the share of fat that fits them best may leave too much of it."""
    echoes, liver = liver_in_muscle(1150.0, 1.5, 1.0e-3 + 1.4e-3 * np.arange(6), snr=40, pdff=0.3)
    fit = separate(echoes, FatWaterParams())
    assert fit.censored[liver].all()
    assert fit.r2star_lower_bound_per_s is not None
    assert np.mean(fit.r2star_lower_bound_per_s[liver] > 1150) < 0.1


def test_voxels_in_which_nothing_converges_have_no_number_and_are_told() -> None:
    t = 1.2e-3 + 1.6e-3 * np.arange(6)
    echoes, _ = liver_in_muscle(60.0, 1.5, t, snr=40)
    signal = echoes.signal.copy()
    signal[20:23, 20:23, 4] = 100 * np.exp(700 * (t - t[-1]))  # grows from echo to echo: no decay fits it
    fit = separate(replace(echoes, signal=signal), FatWaterParams())
    assert fit.convergence is not None
    planted = np.zeros(fit.grid.shape, bool)
    planted[20:23, 20:23, 4] = True
    assert (fit.convergence[planted] == 3).all()
    assert np.isnan([fit.r2star_per_s[planted], fit.field_hz[planted]]).all()
    assert (fit.convergence[~planted] == 1).mean() > 0.999
    assert fit_facts(fit, planted)["not_converged"] == 1
    assert fit_facts(fit, ~planted)["not_converged"] < 1e-3


@pytest.mark.parametrize("r2star", [1400.0, 1850.0, 2600.0])
def test_iron_that_no_echo_time_can_measure_is_never_a_number(r2star: float) -> None:
    # LIC 19, 25 and 35 mg/g at 3 T; SNR 25: the first echo stands at 6, 4 and 2 noise SD
    echoes, liver = liver_in_muscle(r2star, 3.0, 1e-3 * np.arange(1, 7), snr=25)
    fit = separate(echoes, FatWaterParams())
    assert np.isfinite(fit.r2star_per_s[liver]).mean() < 0.02
    assert np.isfinite(fit.pdff_percent[liver]).mean() < 0.02
    assert (fit.censored | (fit.model == 0))[liver].mean() > 0.97


@pytest.mark.parametrize(
    ("r2star", "spacing_ms", "snr"), [(700.0, 1.0, 40), (1000.0, 1.0, 40), (1200.0, 1.0, 40), (1700.0, 0.7, 80), (1900.0, 0.7, 80)]
)
def test_iron_that_can_be_measured_is_not_censored_and_not_biased(r2star: float, spacing_ms: float, snr: float) -> None:
    echoes, liver = liver_in_muscle(r2star, 3.0, 1e-3 * spacing_ms * np.arange(1, 7), snr=snr)
    fit = separate(echoes, FatWaterParams())
    assert np.isfinite(fit.r2star_per_s[liver]).mean() > 0.95
    error = (fit.r2star_per_s - r2star)[liver]
    assert abs(np.nanmean(error)) < 0.035 * r2star
    assert np.nanstd(error / fit.r2star_se_per_s[liver]) == pytest.approx(1, abs=0.08)


def test_few_echoes_that_fit_fields_far_apart_alike_give_no_fat_to_lean_iron(monkeypatch: pytest.MonkeyPatch) -> None:
    # over 3 ms at 1.5 T a lean voxel of 1,700 1/s and one half of fat, 190 Hz away, look nearly alike
    echoes, liver = liver_in_muscle(1700.0, 1.5, 5e-4 * np.arange(1, 7), snr=150)
    i, j, k = np.indices(echoes.grid.shape)
    field = 60 * np.sin(i / 12) + 30 * np.cos(j / 9) + 4 * k

    def off() -> tuple[float, float]:
        """Shares of the voxels that are off by 75 Hz, and of the fat fractions that are off by four standard errors."""
        fit = separate(echoes, FatWaterParams())
        given = liver & np.isfinite(fit.pdff_percent)
        assert given.mean() > 0.9 * liver.mean()
        fat = np.abs((fit.pdff_percent - 5) / fit.pdff_se_percent)[given]
        return float(np.mean(np.abs(fit.field_hz - field)[liver] > 75)), float(np.mean(fat > 4))

    of_field, of_fat = off()
    assert of_field < 0.002
    assert of_fat < 0.005
    monkeypatch.setattr("hqsm.fatwater.lower_order.DOUBTFUL_ERRORS", 0.0)
    of_field, of_fat = off()
    assert of_field > 0.03
    assert of_fat > 0.03


def nowhere_near_the_end(*_: object, **__: object) -> NearTheEnd:
    """What ``near_the_end`` would give if every neighbourhood's decay were taken for granted."""
    none = np.zeros(0)
    return NearTheEnd(
        which=np.zeros(0, np.int64),
        r2star_per_s=none,
        least_r2star_per_s=none,
        r2star_se_per_s=none,
        strict_r2star_se_per_s=none,
        pdff_se_percent=none,
        strict_pdff_se_percent=none,
    )


def test_fat_is_not_numbered_where_only_neighbourhoods_that_came_out_too_slow_would_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # at 1,000 1/s its standard error is 29 points where 25 are allowed: a tenth of the neighbourhoods say 900 by chance
    echoes, liver = liver_in_muscle(1000.0, 1.5, 1e-3 * (1.2 + 1.6 * np.arange(6)), snr=40, pdff=0.0)
    numbered = np.isfinite(separate(echoes, FatWaterParams()).pdff_percent[liver])
    assert numbered.mean() < 0.01
    monkeypatch.setattr(separation, "near_the_end", nowhere_near_the_end)
    numbered = np.isfinite(separate(echoes, FatWaterParams()).pdff_percent[liver])
    assert numbered.mean() > 0.08


def test_a_fat_fraction_near_the_end_of_the_data_does_not_look_most_certain_where_noise_made_it_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    echoes, liver = liver_in_muscle(600.0, 1.5, 1e-3 * (1.2 + 2.0 * np.arange(6)), snr=20)

    def inside() -> tuple[float, float]:
        fit = separate(echoes, FatWaterParams())
        error = fit.pdff_percent[liver] - 5
        return float(np.nanmean(error)), float(np.nanmean(np.abs(error / fit.pdff_se_percent[liver])[np.isfinite(error)] < 1.96))

    bias, covered = inside()
    assert abs(bias) < 1.3
    assert 0.935 < covered < 0.985
    monkeypatch.setattr(NearTheEnd, "errors_of_pdff", lambda _, own, *__: own)
    bias, covered = inside()
    assert bias > 1.3
    assert covered < 0.925


def test_a_fat_fraction_whose_voxel_decays_faster_than_all_around_it_is_as_uncertain_as_its_own_decay_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # noise alone: one voxel in six reads 750 1/s and more, in one place as in the other; what is really faster cannot be told from it
    echoes, liver = liver_in_muscle(600.0, 1.5, 1e-3 * (1.2 + 2.0 * np.arange(6)), snr=20)

    def spread_of_fast_and_slow() -> tuple[float, float]:
        fit = separate(echoes, FatWaterParams())
        ratio = (fit.pdff_percent - 5) / fit.pdff_se_percent
        given = liver & np.isfinite(ratio)
        fast, slow = given & (fit.r2star_per_s > 750), given & (fit.r2star_per_s < 500)
        return float(np.sqrt(np.mean(ratio[fast] ** 2))), float(np.sqrt(np.mean(ratio[slow] ** 2)))

    fast, slow = spread_of_fast_and_slow()
    assert 0.8 < fast < 1.0
    assert slow == pytest.approx(1, abs=0.05)
    monkeypatch.setattr("hqsm.fatwater.measurability._TOWARDS_OWN_DECAY", 0.0)
    fast, slow = spread_of_fast_and_slow()
    assert fast > 1.1
    assert slow < 0.9


def places_of_other_iron(dark: float, bright: float) -> tuple[MultiEcho, np.ndarray, np.ndarray]:
    """A liver of 14 mm squares of two decays in turn, inside muscle, at SNR 20; R2* and where the liver is, away from its edge."""
    grid = make_grid("axial", (56, 48, 8))
    rng = np.random.default_rng(11)
    t = 1e-3 * (1.2 + 2.0 * np.arange(6))
    i, j, k = np.indices(grid.shape)
    liver = (i >= 12) & (i < 44) & (j >= 10) & (j < 38)
    rate = np.where(liver, np.where(((i - 12) // 7 + (j - 10) // 7) % 2 == 0, dark, bright), 35.0)
    field = 60 * np.sin(i / 12) + 30 * np.cos(j / 9) + 4 * k
    fraction = np.where(liver, 0.05, 0.02)
    fat = fat_signal(SPECTRA["hamilton-liver-6"], t, 1.5)
    signal = 100 * (1 - fraction[..., None] * (1 - fat)) * np.exp((2j * np.pi * field - rate)[..., None] * t)
    signal = signal + 5 * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    echoes = MultiEcho(signal=signal.astype(np.complex64), echo_times_s=t, field_strength_tesla=1.5, grid=grid, noise_sd=5)
    return echoes, rate, ndimage.binary_erosion(liver, iterations=2)


@pytest.mark.parametrize("bright", [450.0, 600.0])
def test_iron_beside_slower_decay_is_not_numbered_by_the_neighbourhood_that_holds_both(
    bright: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes, rate, liver = places_of_other_iron(900.0, bright)
    dark, slower = liver & (rate == 900), liver & (rate == bright)
    fit = separate(echoes, FatWaterParams())
    assert np.isfinite(fit.pdff_percent[dark]).mean() < 0.01
    assert np.isfinite(fit.r2star_per_s[dark]).mean() < (0.02 if bright < 500 else 0.17)
    known = np.isfinite(fit.pdff_percent[slower])
    assert known.mean() > (0.95 if bright < 500 else 0.5)
    assert np.std(((fit.pdff_percent - 5) / fit.pdff_se_percent)[slower][known]) == pytest.approx(0.95, abs=0.06)
    monkeypatch.setattr(separation, "near_the_end", nowhere_near_the_end)
    fit = separate(echoes, FatWaterParams())
    assert np.isfinite(fit.pdff_percent[dark]).mean() > 0.05
    assert np.std(((fit.pdff_percent - 5) / fit.pdff_se_percent)[dark & np.isfinite(fit.pdff_percent)]) > 1.3
    assert np.isfinite(fit.r2star_per_s[dark]).mean() > (0.11 if bright < 500 else 0.2)


def test_severe_iron_is_unbiased_and_near_its_bound_whatever_its_fat() -> None:
    echoes, truth = blocks(1.5, snr=40, r2star_top=800)
    fit = separate(echoes, FatWaterParams())
    for low, high, bias, rmse in ((450, 520, 4, 55), (600, 700, 8, 110), (750, 850, 25, 200)):
        band = (truth["r2star"] > low) & (truth["r2star"] < high) & (truth["pdff"] < 50)
        error = (fit.r2star_per_s - truth["r2star"])[band]
        assert high > 700 or np.isfinite(error).mean() > 0.95
        assert abs(np.nanmean(error)) < bias
        assert np.sqrt(np.nanmean(error**2)) < rmse
        assert high > 700 or abs(np.nanmean((fit.pdff_percent - truth["pdff"])[band])) < 4


def test_a_voxel_s_own_noise_does_not_choose_whether_its_number_is_kept() -> None:
    echoes, truth = blocks(1.5, snr=40, r2star_top=800)
    fit = separate(echoes, FatWaterParams())
    assert 1000 < fit.r2star_limit_per_s < 1200
    assert fit.censored[(truth["r2star"] < 700) & (truth["pdff"] < 10)].mean() < 0.01


def test_noise_that_makes_a_voxel_look_slow_hardly_decides_whether_its_r2star_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    echoes, rate, liver = places_of_other_iron(850.0, 600.0)
    dark = liver & (rate == 850)
    of_second_echo = np.abs(echoes.signal[..., 1]) ** 2 / echoes.noise_sd**2

    def how_much_brighter_are_the_given() -> float:
        given = np.isfinite(separate(echoes, FatWaterParams()).r2star_per_s)
        assert 0.1 < given[dark].mean() < 0.4
        return float(of_second_echo[dark & given].mean() - of_second_echo[dark & ~given].mean())

    # standard error 0.18, of a mean of 3.5
    assert how_much_brighter_are_the_given() < 0.4
    monkeypatch.setattr(measurability, "_HEARD", 1.0)
    assert how_much_brighter_are_the_given() > 0.6


def test_a_voxel_of_two_fields_has_no_fat_fraction_far_below_none_or_above_all(monkeypatch: pytest.MonkeyPatch) -> None:
    # the outer millimetres beside lung: three tenths of the signal at a field 100 Hz from that of the other
    t = 1e-3 * (1.744 + 3.076 * np.arange(4))
    echoes, liver = liver_in_muscle(60.0, 1.5, t, snr=60)
    rim = ndimage.binary_dilation(liver, iterations=4) & ~ndimage.binary_dilation(liver, iterations=3)
    beat = np.where(rim[..., None], 0.7 + 0.3 * np.exp(2j * np.pi * 100 * t), 1)
    echoes = replace(echoes, signal=(echoes.signal * beat).astype(np.complex64))

    fit = separate(echoes, FatWaterParams())
    assert np.isfinite(fit.pdff_percent[rim]).mean() < 0.02
    assert np.isfinite(fit.pdff_percent[liver]).mean() > 0.999
    monkeypatch.setattr(maps, "_FARTHEST_OUTSIDE_SE", np.inf)
    wrong = separate(echoes, FatWaterParams())
    assert np.nanmedian(np.abs(wrong.pdff_percent - 50)[rim]) > 50 + 7 * np.nanmedian(wrong.pdff_se_percent[rim])


@pytest.mark.parametrize("ms", [(1.2, 2.4, 4.8), (0.9, 2.1, 4.5)])
def test_three_uneven_echoes_swap_nothing(ms: tuple[float, ...]) -> None:
    """Water and fat of free phases fit three echoes whatever the field."""
    for pdff in (0.05, 0.15):
        echoes, liver = liver_in_muscle(60.0, 1.5, 1e-3 * np.array(ms), snr=40, pdff=pdff)
        fit = separate(echoes, FatWaterParams())
        assert np.abs(fit.pdff_percent - 2)[~ndimage.binary_dilation(liver, iterations=4)].max() < 30
        assert np.abs(fit.pdff_percent - 100 * pdff)[liver].max() < 30


def test_what_may_lie_on_another_field_has_no_fat_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    echoes, liver = liver_in_muscle(500.0, 1.5, 1.2e-3 + 1.6e-3 * np.arange(6), snr=40)
    for probability, given in ((0.04, 1.0), (0.06, 0.0)):
        monkeypatch.setattr(lower_order, "on_another_field", lambda _, blocks, __, p=probability: np.full(blocks.n_voxels.size, p))
        fit = separate(echoes, FatWaterParams())
        assert np.isfinite(fit.pdff_percent[liver]).mean() == pytest.approx(given, abs=0.01)
        assert np.isfinite(fit.r2star_per_s[liver]).mean() > 0.99


def test_two_echoes_give_a_field_and_no_fat_fraction_and_say_so() -> None:
    grid = make_grid("axial", (30, 30, 8))
    i, j, _ = np.indices(grid.shape)
    field = 5.0 * i - 4.0 * j  # 240 Hz across: more than a turn between the echoes
    t = np.array([2e-3, 8e-3])
    signal = (100 * np.exp((2j * np.pi * field - 40)[..., None] * t)).astype(np.complex64)
    fit = separate(MultiEcho(signal=signal, echo_times_s=t, field_strength_tesla=3.0, grid=grid, noise_sd=0.5), FatWaterParams())
    difference = fit.field_hz - field
    assert np.nanstd(difference) < 0.5
    assert np.isnan(fit.pdff_percent).all()
    assert np.nanmedian(fit.r2star_per_s) == pytest.approx(40, abs=0.5)
    assert "TWO_ECHOES_NO_FAT" in fit.codes


def test_echoes_that_a_scanner_has_set_to_zero_somewhere_stop_nothing() -> None:
    """Late echoes below a scanner's own threshold are zero, not noise."""
    echoes, truth = blocks(1.5, snr=40)
    signal = echoes.signal.copy()
    signal[:16, :8, :, 3:] = 0
    fit = separate(replace(echoes, signal=signal), FatWaterParams())
    whole = np.zeros(SHAPE, bool)
    whole[24:] = True
    assert np.median(np.abs(fit.r2star_per_s - truth["r2star"])[whole]) < 15


def test_a_common_phase_everywhere_makes_the_fat_fraction_no_worse_and_better_where_little_is_known() -> None:
    echoes, truth = blocks(1.5, snr=40, n_echoes=5)
    free, common = (separate(echoes, FatWaterParams(common_phase=common)) for common in (False, True))
    assert np.mean(free.model == FREE) > 0.5
    assert np.mean(common.model == FREE) < 0.002  # where the constrained fit did not arrive
    for least, most, gain in ((0, 80, 1.02), (80, 200, 0.98)):
        of_those = (truth["r2star"] >= least) & (truth["r2star"] < most) & (truth["pdff"] < 50)
        rmse = [np.sqrt(np.nanmean((fit.pdff_percent - truth["pdff"])[of_those] ** 2)) for fit in (free, common)]
        assert rmse[1] < gain * rmse[0], rmse


def test_noise_alone_is_refused() -> None:
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((*SHAPE, 6)) + 1j * rng.standard_normal((*SHAPE, 6))).astype(np.complex64)
    t = 1e-3 * np.arange(1, 7)
    with pytest.raises(InputError, match="above the noise"):
        separate(
            MultiEcho(signal=noise, echo_times_s=t, field_strength_tesla=1.5, grid=make_grid("axial", SHAPE), noise_sd=1.0),
            FatWaterParams(),
        )


def test_fat_moves_away_from_water_when_it_is_cold() -> None:
    t = np.array([0.0, 1e-3])
    one_peak = SPECTRA["hamilton-liver-6"]
    warm, cold = (np.angle(fat_signal(one_peak, t, 1.5, c)[1]) for c in (37.0, 20.0))
    # 17 degrees at -0.01 ppm each: 0.17 ppm * 63.87 Hz/ppm * 1 ms of a turn
    assert warm - cold == pytest.approx(2 * np.pi * 0.17 * 63.866 * 1e-3, rel=1e-3)
