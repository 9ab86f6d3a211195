"""The proof on simulated free breathing with known displacement (docs/gating.md)."""

import numpy as np
import pytest

from gating.breathing import N_REPETITIONS, long_scan, origin_free, regions, scan
from hqsm.config.fatwater import FatWaterParams
from hqsm.config.gating import GatingParams
from hqsm.data import MultiEcho, NavigatorTrace
from hqsm.fatwater.separation import separate
from hqsm.gating.combine import combine, multi_echo
from hqsm.gating.gate import Sources, choose_repetitions, gate
from hqsm.gating.image_displacement import first_echo_magnitudes, follow, motion_from_images

SLABS = [("axial", 1), ("coronal", 3)]
MORE_SLABS = [*SLABS, pytest.param("axial", 2, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("slab", "seed"), MORE_SLABS)
def test_image_derived_displacement_is_right_within_a_millimetre(slab: str, seed: int) -> None:
    made = scan(slab, seed)
    found_mm = motion_from_images(made.echoes).displacement_mm
    error_mm = origin_free(found_mm - made.displacement_mm)
    assert np.sqrt(np.mean(error_mm**2)) < 0.4  # the slices are 5 to 9 mm apart; what is wanted is 1 mm
    assert np.abs(error_mm).max() < 1
    # wall and spine, which fill half of the picture, do not pull it to zero
    assert np.polyfit(made.displacement_mm, found_mm, 1)[0] == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("slab", ["axial", "coronal"])
def test_a_change_of_brightness_is_no_motion(slab: str) -> None:
    made = scan(slab, 1 if slab == "axial" else 3)
    magnitudes = first_echo_magnitudes(made.echoes)
    rng = np.random.default_rng(0)
    ramps = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in made.echoes.grid.shape), indexing="ij")
    for volume in magnitudes:
        volume *= rng.uniform(0.5, 1.6) * (1 + sum(rng.uniform(-0.2, 0.2) * ramp for ramp in ramps))
    error_mm = origin_free(follow(magnitudes, made.echoes.grid).displacement_mm - made.displacement_mm)
    assert np.sqrt(np.mean(error_mm**2)) < 0.5


def test_a_still_body_has_no_displacement_even_where_its_brightness_changes() -> None:
    made = scan("axial", 1, still_at_mm=0.0)
    magnitudes = first_echo_magnitudes(made.echoes)
    magnitudes[3:] *= 1.3
    assert np.abs(follow(magnitudes, made.echoes.grid).displacement_mm).max() < 0.5


def test_the_accepted_set_is_the_one_by_true_displacement() -> None:
    same = []
    for slab, seed in [("axial", 11), ("coronal", 12)]:
        made = long_scan(slab, seed)
        n = made.displacement_mm.size
        accepted = []
        for name, displacement_mm in (("navigator.csv", made.displacement_mm), ("images", motion_from_images(made.echoes).displacement_mm)):
            report = choose_repetitions(
                Sources(displacement_mm={name: displacement_mm}), np.arange(float(n)), GatingParams(), np.full(n, np.nan)
            )
            accepted.append(report.accepted)
        same += (accepted[0] == accepted[1]).tolist()
    assert np.mean(same) >= 0.95


@pytest.mark.parametrize(
    ("slab", "seed"), [("axial", 1), *(pytest.param(*slab, marks=pytest.mark.slow) for slab in (("axial", 2), ("coronal", 3)))]
)
def test_gated_data_agree_with_the_motionless_scan_and_the_plain_average_misses(slab: str, seed: int) -> None:
    made = scan(slab, seed)
    gated, report = gate(made.echoes, None, GatingParams())
    first = int(np.flatnonzero(report.accepted)[0])
    # the motionless scan holds the mean position of the accepted repetitions and has as many of them
    still_scan = scan(slab, seed, still_at_mm=round(float(made.displacement_mm[report.accepted].mean()), 3))
    still = combine(still_scan.echoes, report.accepted, np.zeros(N_REPETITIONS), first)
    plain = multi_echo(made.echoes, made.echoes.signal.mean(axis=-1), gated.noise_sd)
    aligned = combine(made.echoes, np.ones(N_REPETITIONS, bool), np.zeros(N_REPETITIONS), first)

    def medians(echoes: MultiEcho) -> dict[str, tuple[float, float]]:
        fit = separate(echoes, FatWaterParams())
        return {
            name: (float(np.nanmedian(fit.r2star_per_s[mask])), float(np.nanmedian(fit.pdff_percent[mask])))
            for name, mask in regions(made).items()
        }

    wanted, got, missed, ungated = (medians(e) for e in (still, gated, plain, aligned))
    for region in ("dome", "rest"):
        r2star_per_s, pdff_percent = np.subtract(got[region], wanted[region])
        assert abs(r2star_per_s) < 3, region
        assert abs(pdff_percent) < 0.5, region
    # neither a plain average nor one that only aligns the phase replaces the gate
    for ungated_mean in (missed, ungated):
        r2star_per_s, pdff_percent = np.subtract(ungated_mean["dome"], wanted["dome"])
        assert abs(r2star_per_s) > 3 or abs(pdff_percent) > 0.5
    assert ungated["dome"][0] > wanted["dome"][0]  # upward, as Zhong et al. found


@pytest.mark.parametrize("slab", ["axial", "coronal"])
def test_the_noise_level_that_is_carried_on_is_that_of_the_combination(slab: str) -> None:
    made = scan(slab, 1 if slab == "axial" else 3)
    gated, report = gate(made.echoes, None, GatingParams())
    assert gated.noise_sd == pytest.approx(100 / 40 / np.sqrt(report.n_accepted), rel=0.08)


def test_a_cough_is_left_out_by_its_image_although_the_navigator_calls_it_end_expiration() -> None:
    made = scan("axial", 1)
    report = gate(made.echoes, None, GatingParams())[1]
    victim = int(np.flatnonzero(report.accepted)[1])
    low = int(np.argmin(made.displacement_mm))
    signal = made.echoes.signal.copy()
    # every third line of k-space along y was read while the diaphragm was down: blur and ghosts
    spectrum = np.fft.fft(signal[..., victim], axis=1)
    spectrum[:, ::3] = np.fft.fft(signal[..., low], axis=1)[:, ::3]
    signal[..., victim] = np.fft.ifft(spectrum, axis=1)
    coughed = type(made.echoes)(
        signal=signal,
        echo_times_s=made.echoes.echo_times_s,
        field_strength_tesla=1.5,
        grid=made.echoes.grid,
        repetition_times_of_day_s=made.echoes.repetition_times_of_day_s,
    )
    trace = NavigatorTrace(displacement_mm=made.displacement_mm, source="navigator.csv")
    found = gate(coughed, trace, GatingParams())[1]
    assert not found.accepted[victim]
    assert "GATING_OUTLIERS" in found.codes
    others = np.delete(np.arange(N_REPETITIONS), victim)
    np.testing.assert_array_equal(found.accepted[others], report.accepted[others])
