"""The simulator against closed forms: a wrong one makes results that look right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hqsm.phantom.anatomy import abdomen_labels
from hqsm.phantom.forward import (
    LiverState,
    ScanProtocol,
    SimulatedScan,
    _shimmed,
    breathing_displacement_mm,
    dipole_field_ppm,
    fat_phasor,
    image_grid,
    simulate_abdomen,
    simulate_explant,
)
from hqsm.phantom.tissue import LABELS

_EXPLANT = ScanProtocol(
    echo_times_s=(1.2e-3, 2.8e-3, 4.9e-3),  # uneven
    field_strength_tesla=1.5,
    shape=(44, 32, 30),
    voxel_size_mm=(5.0, 5.0, 5.0),
    tilt_degrees=10.0,
    snr=1e6,
    temperature_celsius=20.0,
    oversampling=(1, 1, 1),
)
_ABDOMEN = replace(_EXPLANT, shape=(72, 50, 24), voxel_size_mm=(5.0, 5.0, 6.0), tilt_degrees=0.0, temperature_celsius=37.0)
_COLD = 310.15 / 293.15


def explant(lic_mg_g: float = 3.0, pdff_percent: float = 0.0, protocol: ScanProtocol = _EXPLANT) -> SimulatedScan:
    return simulate_explant(LiverState(lic_mg_g=lic_mg_g, pdff_percent=pdff_percent, heterogeneity=0.0), protocol, 3, 4)


@pytest.mark.parametrize("b0", [(0.0, 0.0, 1.0), (0.0, np.sin(0.4), np.cos(0.4)), (1.0, 0.0, 0.0)])
def test_the_field_of_a_sphere_is_a_dipoles(b0: tuple[float, float, float]) -> None:
    size = np.array([2.0, 2.5, 3.0])
    at = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip((48, 40, 64), size, strict=True)]
    x, y, z = np.meshgrid(*at, indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    chi = (r < 18).astype(np.float32)
    field = dipole_field_ppm(chi, size, np.array(b0))
    cosine = (x * b0[0] + y * b0[1] + z * b0[2]) / r
    # a^3 of as many voxels as there are
    expected = chi.sum() * np.prod(size) / (4 * np.pi) * (3 * cosine**2 - 1) / r**3
    near = (r > 23) & (r < 36)
    difference = (field - expected)[near]
    assert np.sqrt(np.mean((difference - difference.mean()) ** 2)) < 0.06 * np.abs(expected[near]).max()
    # the mean over the volume is free; of a sphere's sharp steps something rings where B0 is tilted
    inside = field[r < 14] - difference.mean()
    assert abs(inside.mean()) < 0.003
    assert inside.std() < 0.025


def test_a_body_without_an_end_in_air_has_a_third_of_its_susceptibility_along_b0_and_a_sixth_less_across() -> None:
    at = (np.arange(64) - 31.5) * 2.0
    x, y = np.meshgrid(at, at, indexing="ij")
    r = np.hypot(x, y)
    chi = np.repeat(np.where(r < 24, 0.0, 9.4)[:, :, None], 8, axis=2).astype(np.float32)
    size = np.full(3, 2.0)
    inside, outside = r < 20, (r > 30) & (r < 50)
    along = dipole_field_ppm(chi, size, np.array([0.0, 0.0, 1.0]))
    assert np.ptp(along[inside]) < 0.1
    assert along[inside].mean() - along[outside].mean() == pytest.approx(-9.4 / 3, rel=0.01)
    across = dipole_field_ppm(chi, size, np.array([1.0, 0.0, 0.0]))
    assert across[inside].mean() - across[outside].mean() == pytest.approx(9.4 / 6, rel=0.05)
    expected = -9.4 / 2 * (24 / r[outside]) ** 2 * (x**2 - y**2)[outside] / r[outside] ** 2
    assert np.polyfit(expected, across[..., 0][outside], 1)[0] == pytest.approx(1, abs=0.05)


def test_fat_turns_backwards_against_water_and_faster_in_the_cold() -> None:
    at = np.array([0.0, 1.0e-3, 2.3e-3])
    peaks = {0.9: 0.088, 1.3: 0.7, 2.1: 0.12, 2.75: 0.006, 4.2: 0.039, 5.3: 0.047}
    for celsius, water_ppm in ((37.0, 4.70), (20.0, 4.87)):
        expected = sum(amount * np.exp(2j * np.pi * (ppm - water_ppm) * 42.577478518 * 3.0 * at) for ppm, amount in peaks.items())
        np.testing.assert_allclose(fat_phasor(at, 3.0, celsius), expected, rtol=1e-6)


def test_a_voxel_decays_and_turns_as_the_truth_says() -> None:
    scan = explant()
    signal, truth, t = scan.echoes.signal[..., 0], scan.truth, scan.echoes.echo_times_s
    assert truth.field_hz.shape == scan.echoes.grid.shape
    for tissue, lowest_n in (("liver", 2000), ("gel", 2000)):
        inside = truth.labels == LABELS[tissue]
        assert inside.sum() > lowest_n
        rate = np.log(np.abs(signal[..., 0]) / np.abs(signal[..., 2]))[inside] / (t[2] - t[0])
        np.testing.assert_allclose(rate, truth.r2star_per_s[inside], atol=0.1)
        turned = np.angle(signal[..., 1] * np.conj(signal[..., 0]))[inside]
        left = np.angle(np.exp(1j * (turned - 2 * np.pi * truth.field_hz[inside] * (t[1] - t[0]))))
        # what the scanner's clock drifts by, at most 1 Hz, is the same everywhere
        assert np.abs(left).max() < 2 * np.pi * 1.01 * (t[1] - t[0])
        assert left.std() < 1e-3
    assert truth.field_hz[truth.labels > 0].std() > 10


def test_iron_and_fat_are_what_the_liver_was_told_to_hold() -> None:
    with_fat = explant(3.0, 20.0).truth
    assert with_fat.liver_chi_ppm == pytest.approx(3.0 * 1.30 * _COLD * 1.051 / 3.33 + 0.2 * 0.6, rel=1e-4)
    assert with_fat.liver_r2star_per_s == pytest.approx(3.16 / 0.02603, rel=1e-4)
    assert with_fat.liver_pdff_percent == pytest.approx(20.0, rel=1e-4)
    liver = with_fat.labels == LABELS["liver"]
    np.testing.assert_allclose(with_fat.pdff_percent[liver], 20.0, rtol=1e-4)
    at_3t = explant(3.0, 0.0, replace(_EXPLANT, field_strength_tesla=3.0, echo_times_s=(1e-3, 2e-3, 3e-3))).truth
    assert at_3t.liver_r2star_per_s == pytest.approx(3.03 / 0.01349, rel=1e-4)
    assert at_3t.r2star_per_s[at_3t.labels == LABELS["gel"]].max() == pytest.approx(5 * np.sqrt(2), rel=1e-4)
    uneven = simulate_explant(LiverState(lic_mg_g=3.0, pdff_percent=0.0, heterogeneity=0.1), _EXPLANT, 3, 4).truth
    assert uneven.liver_r2star_per_s == pytest.approx(3.16 / 0.02603, rel=1e-3)
    scatter = (uneven.r2star_per_s * 0.02603 - 0.16)[uneven.labels == LABELS["liver"]].std()
    assert scatter == pytest.approx(0.3, rel=0.02)


def test_water_and_fat_add_up_as_complex_numbers() -> None:
    scan, pure = explant(3.0, 30.0), explant(3.0, 0.0)
    liver = scan.truth.labels == LABELS["liver"]
    ratio = np.abs(scan.echoes.signal[..., 0]) / np.abs(pure.echoes.signal[..., 0])
    fat = fat_phasor(scan.echoes.echo_times_s, 1.5, 20.0)
    # fat adds susceptibility and no decay; 30 % of it make the liver 6 % less dense
    for echo in range(3):
        np.testing.assert_allclose(ratio[..., echo][liver], 0.94 * np.abs(0.7 + 0.3 * fat[echo]), rtol=2e-3)


def test_noise_is_that_of_the_liver_at_its_snr_in_either_part() -> None:
    scan = explant(protocol=replace(_EXPLANT, snr=25.0))
    air = scan.echoes.signal[scan.truth.labels == LABELS["air"]]
    assert air.real.std() == pytest.approx(4.0, rel=0.02)
    assert air.imag.std() == pytest.approx(4.0, rel=0.02)
    assert abs(np.mean(air.real * air.imag)) < 0.2


def test_a_spleens_iron_shows_in_its_decay() -> None:
    state = LiverState(lic_mg_g=2.0, other_chi_ppm=(("spleen", 0.05 + 2 * 0.41030),))
    truth = simulate_abdomen(state, _ABDOMEN, 1, 2, np.zeros(1)).truth
    spleen = truth.labels == LABELS["spleen"]
    np.testing.assert_allclose(truth.r2star_per_s[spleen], 40 + 2 / 0.02603, rtol=1e-3)
    np.testing.assert_allclose(truth.chi_ppm[spleen], 0.05 + 2 * 0.41030, rtol=1e-3)


@pytest.mark.parametrize("tilt_degrees", [0.0, 25.0, 90.0])
def test_the_image_is_centred_and_turned_about_the_left_right_axis(tilt_degrees: float) -> None:
    protocol = replace(_ABDOMEN, tilt_degrees=tilt_degrees)
    grid = image_grid(protocol)
    tilt = np.radians(tilt_degrees)
    np.testing.assert_allclose(grid.affine_mm @ [35.5, 24.5, 11.5, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(grid.b0_direction, [0, np.sin(tilt), np.cos(tilt)], atol=1e-9)
    np.testing.assert_allclose(grid.voxel_size_mm, [5, 5, 6])
    # each voxel has the label of its centre
    index = np.indices(grid.shape, dtype=float)
    world = tuple((np.tensordot(grid.affine_mm[r, :3], index, axes=1) + grid.affine_mm[r, 3]).astype(np.float32) for r in range(3))
    labels = simulate_abdomen(LiverState(lic_mg_g=2.0), protocol, 1, 2, np.zeros(1)).truth.labels
    assert (labels == abdomen_labels((world[0], world[1], world[2]), 1.0, 2)).mean() > 0.9995


def test_a_voxel_is_the_mean_of_what_lies_within_its_edges() -> None:
    """The box of gel is even about the world's origin, whatever the raster; a quarter of a voxel off is 2 mm."""
    fine = replace(_EXPLANT, shape=(27, 20, 19), voxel_size_mm=(8.0, 8.0, 8.0), oversampling=(2, 3, 4))
    scan = explant(0.0, 0.0, fine)
    tissue = 1 - scan.truth.chi_ppm / 9.4
    index = np.indices(tissue.shape)
    for r in range(3):
        world = np.tensordot(scan.echoes.grid.affine_mm[r, :3], index, axes=1) + scan.echoes.grid.affine_mm[r, 3]
        assert abs((world * tissue).sum() / tissue.sum()) < 0.1


def test_a_voxel_of_fat_and_air_holds_the_fats_own_fraction() -> None:
    truth = simulate_abdomen(LiverState(lic_mg_g=2.0), replace(_ABDOMEN, oversampling=(2, 2, 1)), 1, 2, np.zeros(1)).truth
    skin = np.zeros(truth.labels.shape, bool)
    skin[[*range(7), *range(-7, 0)]] = True
    skin &= (truth.chi_ppm > 1) & (truth.chi_ppm < 9)
    assert skin.sum() > 100
    np.testing.assert_allclose(truth.pdff_percent[skin], 92, rtol=1e-4)


def test_iron_that_lies_unevenly_makes_its_own_field() -> None:
    states = [LiverState(lic_mg_g=6.0, pdff_percent=0.0, heterogeneity=h) for h in (0.0, 0.3)]
    even, uneven = (simulate_explant(state, _EXPLANT, 3, 4).truth for state in states)
    grid = image_grid(_EXPLANT)
    padded = np.pad(uneven.chi_ppm - even.chi_ppm, [(0, 0), (0, 0), (30, 30)])
    expected = dipole_field_ppm(padded, grid.voxel_size_mm, grid.b0_direction)[:, :, 30:-30]
    liver = even.labels == LABELS["liver"]
    slope = np.polyfit(expected[liver] * 42.577478518 * 1.5, (uneven.field_hz - even.field_hz)[liver], 1)[0]
    assert slope == pytest.approx(1, abs=0.1)


def test_iron_lies_in_the_liver_as_it_does_however_finely_it_is_simulated() -> None:
    state = LiverState(lic_mg_g=6.0, pdff_percent=0.0, heterogeneity=0.2)
    once, thrice = (simulate_explant(state, replace(_EXPLANT, oversampling=parts), 3, 4).truth for parts in ((1, 1, 1), (1, 1, 3)))
    liver = ndimage.binary_erosion((once.labels == LABELS["liver"]) & (thrice.labels == LABELS["liver"]))
    assert liver.sum() > 1500
    assert np.corrcoef(once.r2star_per_s[liver], thrice.r2star_per_s[liver])[0, 1] > 0.98


def test_the_shim_is_set_on_the_tissue() -> None:
    """What is left there has no gradient and no offset, though lungs and gas make them; second order is left in part."""
    truth = simulate_abdomen(LiverState(lic_mg_g=2.0), _ABDOMEN, 1, 2, np.zeros(1)).truth
    tissue = ~np.isin(truth.labels, [LABELS[name] for name in ("air", "lung", "gas")])
    x, y, z = (((c - (n - 1) / 2) * d)[tissue] / 180 for c, n, d in zip(np.indices(tissue.shape), tissue.shape, (5, 5, 6), strict=True))
    terms = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2], axis=1)
    left = np.linalg.lstsq(terms, truth.field_hz[tissue], rcond=None)[0]
    assert np.abs(left[:4]).max() < 1.0
    assert np.abs(left[4:]).max() > 10


def test_organs_lie_where_they_do_in_a_person() -> None:
    at = np.arange(-168, 169, 4.0)
    x, y, z = np.meshgrid(at, np.arange(-120, 121, 4.0), np.arange(-120, 121, 4.0), indexing="ij")
    labels = abdomen_labels((x, y, z), 1.0, 7)
    middle = {
        name: tuple(float(np.median(c[labels == number])) for c in (x, y, z)) for name, number in LABELS.items() if (labels == number).any()
    }
    assert middle["liver"][0] > 30
    assert middle["spleen"][0] < -70
    assert middle["vena_cava"][0] > 10 > -8 > middle["aorta"][0]
    assert middle["vertebra"][1] < middle["aorta"][1] < 0
    assert middle["lung"][2] > middle["liver"][2] + 40
    radius = np.hypot(x / 163, y / 108)
    assert np.median(radius[labels == LABELS["subcutaneous_fat"]]) > np.median(radius[labels == LABELS["muscle"]])


@pytest.mark.parametrize("tilt_degrees", [0.0, 90.0])
def test_in_inspiration_the_dome_lies_lower(tilt_degrees: float) -> None:
    shape = (48, 36, 36) if tilt_degrees == 0 else (48, 36, 24)
    protocol = replace(_ABDOMEN, shape=shape, voxel_size_mm=(7.0, 6.0, 6.0), tilt_degrees=tilt_degrees, echo_times_s=(1.2e-3,))
    scan = simulate_abdomen(LiverState(lic_mg_g=1.0), protocol, 1, 2, np.array([0.0, -12.0]))
    grid = scan.echoes.grid
    index = np.indices(grid.shape)
    world = [np.tensordot(grid.affine_mm[r, :3], index, axes=1) + grid.affine_mm[r, 3] for r in range(3)]
    column = (np.abs(world[0] - 72) < 20) & (np.abs(world[1] + 5) < 20) & (world[2] > 0) & (world[2] < 100)
    bright = [(np.abs(scan.echoes.signal[..., 0, r]) > 50)[column].mean() * 100 for r in range(2)]
    assert bright[1] - bright[0] == pytest.approx(-12, abs=2.5)
    np.testing.assert_array_equal(scan.displacement_mm, [0, -12])


def test_quiet_breathing_rests_at_end_expiration_and_goes_down_from_there() -> None:
    for seed in range(20):
        mm = breathing_displacement_mm(12, np.random.default_rng(seed))
        assert mm.max() <= 0.3
        assert (mm > -2.5).sum() >= 6
        assert -21 <= mm.min() < -5


def test_a_shim_takes_gradients_away_and_six_tenths_of_the_second_order() -> None:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 18, 16)), indexing="ij", sparse=True)
    inside = x**2 + y**2 + z**2 < 0.9
    second = 20 * (2 * z**2 - x**2 - y**2) - 15 * x * y
    left = _shimmed(100 + 50 * x - 30 * y + 70 * z + second, inside, (x, y, z))
    np.testing.assert_allclose(left, 0.4 * second, atol=1e-3)


def test_no_part_of_a_voxel_is_longer_than_two_and_a_half_millimetres() -> None:
    for size_mm, expected in (((3.2, 3.2, 3.5), (2, 2, 2)), ((3.75, 3.75, 7.0), (2, 2, 3)), ((2.5, 5.0, 7.6), (2, 2, 4))):
        assert replace(_ABDOMEN, voxel_size_mm=size_mm, oversampling=None).sub_voxels == expected
    assert replace(_ABDOMEN, oversampling=(1, 2, 5)).sub_voxels == (1, 2, 5)


def test_organs_that_move_take_their_own_field_along_and_leave_that_of_the_wall() -> None:
    """By twelve millimetres, two voxels, against the field of the labels as they then lie."""
    protocol = replace(_ABDOMEN, shape=(72, 50, 30), snr=1e9, echo_times_s=(1.0e-3, 1.6e-3))
    state = LiverState(lic_mg_g=4.0, heterogeneity=0.0, pdff_percent=0.0)
    scan = simulate_abdomen(state, protocol, 1, 2, np.array([0.0, -12.0]))
    turned = np.angle(scan.echoes.signal[..., 1, :] * np.conj(scan.echoes.signal[..., 0, :]))
    moved_hz = np.angle(np.exp(1j * (turned[..., 1] - turned[..., 0]))) / (2 * np.pi * 0.6e-3)

    labels, chi = scan.truth.labels, scan.truth.chi_ppm
    still = np.isin(labels, [LABELS[name] for name in ("air", "subcutaneous_fat", "muscle", "vertebra", "aorta")])
    inhaled = np.where(still, chi, np.roll(chi, -2, axis=2))
    inhaled[:, :, -2:] = chi[:, :, -2:]
    grid = scan.echoes.grid
    before, after = (dipole_field_ppm(each, grid.voxel_size_mm, grid.b0_direction) for each in (chi, inhaled))
    expected_hz = (after - before) * 42.577478518 * 1.5
    wall, organs = (np.isin(labels, [LABELS[name] for name in names]) for names in (("muscle", "subcutaneous_fat"), ("liver", "bowel")))
    organs &= np.roll(labels, -2, axis=2) == labels
    for where in (wall, organs):
        where[:, :, :6] = where[:, :, -8:] = False
        # the scanner's clock and what breathing adds everywhere: a plane along the slab
        z = np.indices(labels.shape)[2][where]
        columns = np.stack([np.ones(z.size), z, expected_hz[where]], axis=1)
        fitted = np.linalg.lstsq(columns, moved_hz[where], rcond=None)[0]
        assert where.sum() > 2000
        assert fitted[2] == pytest.approx(1, abs=0.05)
        assert np.std(moved_hz[where] - columns @ fitted) < 0.3 * np.std(moved_hz[where])
