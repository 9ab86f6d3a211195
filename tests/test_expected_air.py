"""What the inversion is told of air, gas, lung, fat, bone and iron around the liver: shares, levels and widths worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, VoxelGrid, WaterFat
from hqsm.expected_sources import Expectation, expected_sources
from water_fat_maps import water_fat_maps

_VOXEL_MM = (4.0, 3.0, 6.0)
_SHAPE = (56, 60, 12)
_TISSUE = (28, 40, 6)
"""A voxel with nothing near it."""


def trunk(shape: tuple[int, int, int] = _SHAPE) -> tuple[WaterFat, Regions]:
    """An upright box of muscle, 192 by 156 mm, in air, whose outermost voxels are air to four tenths; x to the right, y to the front."""
    affine = np.diag([*_VOXEL_MM, 1.0])
    affine[:3, 3] = -np.array(_VOXEL_MM) * (np.array(shape) - 1) / 2
    grid = VoxelGrid(shape=shape, affine_mm=affine)
    body = np.zeros(shape, bool)
    body[4:-4, 4:-4] = True
    whole = np.zeros(shape, bool)
    whole[5:-5, 5:-5] = True
    water = np.where(whole, 100, np.where(body, 60, 0)).astype(np.complex64)
    maps = water_fat_maps(grid, water=water, model=body.astype(np.uint8))
    nothing = np.zeros(shape, bool)
    return maps, Regions(body=body, liver=nothing, liver_whole=nothing, vessel=nothing, references={}, mask_source="reader", grid=grid)


def changed(maps: WaterFat, name: str, place: tuple[slice, ...] | np.ndarray, value: float) -> WaterFat:
    volume = getattr(maps, name).copy()
    volume[place] = value
    return replace(maps, **{name: volume})


def expected_of(maps: WaterFat, regions: Regions, *, specimen: str = "in_vitro") -> Expectation:
    return expected_sources(maps, regions, SusceptibilityParams(), specimen=specimen)


def box(x: slice, y: slice, z: slice = slice(3, 9)) -> tuple[slice, slice, slice]:
    return x, y, z


_GAS, _LUNG = box(slice(38, 44), slice(30, 36), slice(4, 8)), box(slice(12, 22), slice(30, 46), slice(2, 10))


def with_lung_and_gas() -> tuple[WaterFat, Regions]:
    """92 mL that give a fifth of the tissue's signal and 10 mL that give none; what surrounds them gives six and four tenths."""
    maps, regions = trunk()
    for place, signal, at_edge in ((_LUNG, 20, 60), (_GAS, 0, 40)):
        inside = np.zeros(_SHAPE, bool)
        inside[place] = True
        maps = changed(changed(maps, "water", ndimage.binary_dilation(inside), at_edge), "water", inside, signal)
    return maps, regions


def test_a_voxel_that_a_surface_cuts_is_air_or_lung_in_the_share_of_signal_that_it_lacks() -> None:
    prior = expected_of(*with_lung_and_gas()).prior
    mean = prior.mean_ppm
    assert mean[_TISSUE] == 0
    assert mean[0, 0, 6] == pytest.approx(9.4)
    assert mean[4, 24, 6] == pytest.approx(0.4 * 9.4, rel=0.01)  # skin
    assert mean[41, 33, 6] == pytest.approx(9.4)
    assert mean[37, 33, 6] == pytest.approx(0.6 * 9.4, rel=0.01)
    assert mean[17, 38, 6] == pytest.approx(7.0)
    assert mean[11, 38, 6] == pytest.approx(0.5 * 7.0, rel=0.01)  # lung gives 0.2 of its own: (1 - 0.6) / (1 - 0.2)


def test_a_voxel_that_a_lungs_surface_cuts_is_liver_in_what_of_it_is_neither_air_nor_fat() -> None:
    maps, regions = with_lung_and_gas()
    liver = np.zeros(_SHAPE, bool)
    liver[22:36, 32:44, 3:9] = True  # its first layer is that of the lung's surface, six tenths as bright
    regions = replace(regions, liver=liver, liver_whole=liver)
    maps = changed(maps, "r2star_per_s", liver, 200.0)
    share = expected_of(maps, regions).prior.organs[0].share
    assert share[29, 38, 6] == 1
    assert share[22, 38, 6] == pytest.approx(0.5, abs=0.03)
    assert share[21, 38, 6] == 0
    # half of the way to pure fat (85 %)
    with_fat = expected_of(changed(maps, "pdff_percent", (22, slice(None), slice(None)), 42.5), regions).prior.organs[0].share
    np.testing.assert_allclose(with_fat[22, 34:42, 5:7], 0.5 * share[22, 34:42, 5:7], rtol=1e-3)
    unknown = changed(changed(maps, "pdff_percent", (22, slice(None), slice(None)), 42.5), "model", (22, slice(None), slice(None)), 3)
    np.testing.assert_allclose(expected_of(unknown, regions).prior.organs[0].share[22, 34:42, 5:7], share[22, 34:42, 5:7], rtol=1e-3)


def test_a_lung_has_a_level_of_its_own_and_goes_on_where_gas_is_gas() -> None:
    (lung,) = expected_of(*with_lung_and_gas()).prior.organs
    assert lung.goes_on
    assert lung.level_sd_ppm == 2.0
    assert lung.share[17, 38, 6] == 1
    assert lung.share[11, 38, 6] == pytest.approx(0.5, rel=0.01)
    assert lung.share[41, 33, 6] == 0


def test_air_is_certain_gas_nearly_so_and_a_surface_as_its_signal_tells() -> None:
    maps, regions = with_lung_and_gas()
    for place, name, value in (
        ((4, 10, 6), "r2star_per_s", np.nan),
        ((4, 14, 6), "r2star_per_s", 310.0),
        ((4, 18, 6), "r2star_per_s", 290.0),
        ((4, 22, 6), "pdff_se_percent", 40.0),
    ):
        maps = changed(maps, name, place, value)
    expected = expected_of(maps, regions)
    sd = expected.prior.sd_ppm
    assert sd[_TISSUE] == pytest.approx(0.12)
    assert sd[0, 0, 6] == sd[-1, 0, 6] == pytest.approx(0.02)
    assert sd[41, 33, 6] == sd[17, 38, 6] == pytest.approx(0.3)
    assert [float(sd[4, y, 6]) for y in (10, 14, 18, 22)] == pytest.approx([1.5, 1.5, 0.6, 1.5])
    assert not expected.without_data[_TISSUE]
    assert all(expected.without_data[place] for place in ((4, 18, 6), (41, 33, 6), (37, 33, 6), (17, 38, 6)))
    at_3t = expected_of(replace(maps, field_strength_tesla=3.0), regions).prior.sd_ppm
    assert at_3t[4, 14, 6] == pytest.approx(0.6)


def test_air_on_either_side_of_a_body_that_reaches_from_the_back_to_the_front_is_around_it() -> None:
    maps, regions = trunk()
    body = np.zeros(_SHAPE, bool)
    body[4:-4] = True
    maps = replace(maps, water=(100 * body).astype(np.complex64), model=body.astype(np.uint8))
    sd = expected_of(maps, replace(regions, body=body)).prior.sd_ppm
    assert sd[0, 30, 6] == sd[-1, 30, 6] == pytest.approx(0.02)
    across = np.zeros(_SHAPE, bool)
    across[:, 4:-4] = True
    maps = replace(maps, water=(100 * across).astype(np.complex64), model=across.astype(np.uint8))
    sd = expected_of(maps, replace(regions, body=across)).prior.sd_ppm
    assert sd[28, 0, 6] == sd[28, -1, 6] == pytest.approx(0.02)


def test_what_is_dark_early_is_lung_and_what_decays_fast_or_is_half_as_bright_is_tissue() -> None:
    maps, regions = trunk()
    maps = changed(maps, "r2star_per_s", box(slice(12, 22), slice(8, 20)), 200.0)
    maps = changed(maps, "water", box(slice(12, 22), slice(24, 36)), 50.0)
    # a fit that extrapolates to TE = 0, and one that gives no decay at all: 0.165 and 0.30 of tissue at 1.2 ms
    maps = changed(maps, "r2star_per_s", box(slice(34, 44), slice(8, 20)), np.nan)
    maps = changed(maps, "r2star_per_s", box(slice(34, 44), slice(24, 36)), 1500.0)
    mean = expected_of(maps, regions).prior.mean_ppm
    assert mean[17, 14, 6] == mean[17, 30, 6] == 0
    assert mean[39, 14, 6] > 6
    assert mean[39, 30, 6] > 6


def test_exchanging_the_two_axes_of_a_slice_exchanges_what_is_expected() -> None:
    """A receive field across the body and voxels that are not square: distances are millimetres on either axis."""
    maps, regions = with_lung_and_gas()
    at = np.indices(_SHAPE)
    maps = replace(maps, water=(maps.water * np.exp(0.03 * at[0] + 0.03 * at[2])).astype(np.complex64))

    def exchanged(volume: np.ndarray) -> np.ndarray:
        return np.swapaxes(volume, 0, 1).copy()

    grid = VoxelGrid(shape=(_SHAPE[1], _SHAPE[0], _SHAPE[2]), affine_mm=maps.grid.affine_mm @ np.eye(4)[:, [1, 0, 2, 3]])
    volumes = {name: exchanged(value) for name, value in vars(maps).items() if isinstance(value, np.ndarray)}
    nothing = np.zeros(grid.shape, bool)
    other = expected_of(
        replace(maps, grid=grid, **volumes),
        replace(regions, grid=grid, body=exchanged(regions.body), liver=nothing, liver_whole=nothing, vessel=nothing),
    )
    here = expected_of(maps, regions)
    np.testing.assert_allclose(exchanged(here.prior.mean_ppm), other.prior.mean_ppm, atol=1e-3)
    np.testing.assert_allclose(exchanged(here.field_error_ppm), other.field_error_ppm, atol=1e-5)


def test_the_field_errs_by_the_square_of_the_distance_from_air_in_units_of_the_largest_edge() -> None:
    error = expected_of(*trunk()).field_error_ppm
    # the surface cuts through voxels 4 and those before; the front is far
    for voxels in (1, 2, 4):
        assert error[28, 4 + voxels, 6] == pytest.approx(0.032 * 9.4 * (6.0 / (3.0 * voxels)) ** 2, rel=0.01)
    assert error[9, 30, 6] == pytest.approx(0.032 * 9.4 * (6.0 / (4.0 * 5)) ** 2, rel=0.01)


@pytest.mark.parametrize("tesla", [1.5, 3.0])
def test_what_decays_fast_may_be_iron_and_deviates_more_by_its_decay_at_1_5_tesla(tesla: float) -> None:
    maps, regions = trunk()
    maps = changed(maps, "r2star_per_s", box(slice(26, 28), slice(30, 32)), 200.0 * tesla / 1.5)
    sd = expected_of(replace(maps, field_strength_tesla=tesla), regions).prior.sd_ppm
    assert sd[26, 30, 6] == pytest.approx(0.12 * 200 / 80)
    assert sd[_TISSUE] == pytest.approx(0.12)


def test_tissue_deviates_together_a_little_over_centimetres() -> None:
    (together,) = (part for part in expected_of(*trunk()).prior.smooth if part.spacing_mm == 50.0)
    assert together.sd_ppm[_TISSUE] == pytest.approx(0.015)
    assert together.sd_ppm[0, 0, 6] == 0


def test_fat_at_the_skin_counts_by_its_fraction_of_what_is_no_air() -> None:
    maps, regions = trunk()
    maps = changed(maps, "pdff_percent", (slice(4, 9), slice(10, 50), slice(None)), 90.0)
    prior = expected_of(maps, regions).prior
    (fat,) = prior.organs
    assert fat.level_sd_ppm == 0.4
    assert fat.share[6, 30, 6] == pytest.approx(0.9)
    assert fat.share[4, 30, 6] == pytest.approx(0.6 * 0.9, rel=0.02)
    assert prior.mean_ppm[6, 30, 6] == pytest.approx(0.6 * 0.9)
    assert prior.mean_ppm[4, 30, 6] == pytest.approx(0.4 * 9.4 + 0.6 * 0.6 * 0.9, rel=0.02)


def test_bone_in_the_back_has_a_level_of_its_own_and_is_neither_fat_nor_iron() -> None:
    maps, regions = trunk()
    vertebra, same_in_front = box(slice(24, 32), slice(12, 20), slice(0, 12)), box(slice(24, 32), slice(38, 46), slice(0, 12))
    for place in (vertebra, same_in_front):
        maps = changed(maps, "pdff_percent", place, 40.0)
    expected = expected_of(maps, regions, specimen="in_vivo")
    bones = [organ for organ in expected.prior.organs if organ.level_sd_ppm == 1.0]
    assert len(bones) == 1
    assert bones[0].goes_on
    assert bones[0].share[28, 16, 6] == 1
    assert bones[0].share[28, 42, 6] == 0
    assert expected.prior.mean_ppm[28, 16, 6] == 0
    assert expected.prior.mean_ppm[28, 42, 6] == pytest.approx(0.6 * 0.4)
    fats = sum(organ.share for organ in expected.prior.organs if organ.level_sd_ppm == 0.4)
    assert fats[28, 16, 6] == 0
    (around,) = (part for part in expected.prior.smooth if part.spacing_mm == 20.0 and part.sd_ppm.any())
    assert around.sd_ppm[28, 16, 6] == pytest.approx(0.3)
    assert around.sd_ppm[28, 42, 6] == 0
    # red marrow decays as iron does: in the spine it is none
    iron = changed(changed(trunk()[0], "r2star_per_s", vertebra, 120.0), "r2star_per_s", same_in_front, 120.0)
    (elsewhere,) = expected_of(iron, regions, specimen="in_vivo").prior.organs
    assert elsewhere.share[28, 42, 6] == 1
    assert not elsewhere.share[24:32, 10:22].any()
    in_vitro = expected_of(maps, regions, specimen="in_vitro").prior.smooth
    assert not any(part.sd_ppm.any() for part in in_vitro if part.spacing_mm == 20.0)


def test_two_millilitres_without_signal_are_gas_and_less_may_be_anything() -> None:
    maps, regions = trunk()
    maps = changed(maps, "water", box(slice(40, 43), slice(30, 34), slice(4, 8)), 0.0)  # 3.5 mL
    maps = changed(maps, "water", box(slice(14, 16), slice(30, 33), slice(4, 7)), 0.0)  # 1.3 mL
    mean = expected_of(maps, regions).prior.mean_ppm
    assert mean[41, 32, 6] > 9
    assert mean[14, 31, 5] == pytest.approx(4.7)


def with_liver(r2star_per_s: float = 200.0) -> tuple[WaterFat, Regions]:
    maps, regions = trunk()
    liver = np.zeros(_SHAPE, bool)
    liver[30:48, 22:46, 2:10] = True
    return changed(maps, "r2star_per_s", liver, r2star_per_s), replace(regions, liver=liver, liver_whole=liver)


def test_around_the_liver_and_in_it_voxels_may_deviate_more() -> None:
    maps, regions = with_liver(60.0)
    sd = expected_of(maps, regions).prior.sd_ppm
    assert sd[39, 34, 6] == pytest.approx(0.36)
    assert sd[28, 34, 6] >= 0.36 > 0.12 == pytest.approx(float(sd[25, 34, 6]))


def test_a_liver_that_cannot_be_measured_has_the_level_of_the_highest_decay_that_can() -> None:
    maps, regions = with_liver(900.0)
    gone = replace(changed(maps, "r2star_per_s", regions.liver, np.nan), censored=regions.liver, r2star_limit_per_s=900.0)
    of_measured, of_gone = (
        [part.sd_ppm[39, 34, 6] for part in expected_of(m, regions).prior.smooth if part.spacing_mm == 30.0] for m in (maps, gone)
    )
    # 0.0107 ppm s * 900 1/s - 0.05 ppm, a tenth of it uneven, three hundredths where it is dark
    assert of_measured == pytest.approx([0.1 * (0.0107 * 900 - 0.05)])
    assert of_gone == pytest.approx([0.03 * (0.0107 * 900 - 0.05)])


@pytest.mark.parametrize(("share", "dark"), [(0.05, False), (0.2, True)])
def test_a_liver_is_dark_where_more_than_a_tenth_of_it_was_fitted_without_fat(share: float, dark: bool) -> None:
    maps, regions = with_liver()
    unfitted = regions.liver & (np.random.default_rng(1).random(_SHAPE) < share)
    assert expected_of(changed(maps, "model", unfitted, 3), regions).liver_is_dark == dark


@pytest.mark.parametrize("tesla", [1.5, 3.0])
@pytest.mark.parametrize(("step_ppm", "torn"), [(1.2, False), (2.2, True)])
def test_a_liver_is_torn_by_steps_of_half_the_shift_of_fat_at_any_field_strength(tesla: float, step_ppm: float, torn: bool) -> None:
    maps, regions = with_liver()
    swapped = regions.liver & (np.random.default_rng(2).random(_SHAPE) < 0.1)
    maps = replace(changed(maps, "field_hz", swapped, step_ppm * 42.577 * tesla), field_strength_tesla=tesla)
    expected = expected_of(maps, regions)
    assert expected.liver_is_left_out == torn
    half_lengths = [organ.half_length_mm for organ in expected.prior.organs if organ.may_hold_lesions]
    assert half_lengths == [80.0 if torn else 0.0]


def test_iron_that_is_fainter_than_half_of_the_liver_at_its_edge_is_gas_and_what_is_not_is_liver() -> None:
    """A liver with so much iron that it gives a fifth of the signal: the limit for lung, 0.35, does not hold near it."""
    maps, regions = with_liver()
    maps = changed(maps, "water", regions.liver, 20.0)
    edge = ndimage.binary_dilation(regions.liver) & ~regions.liver
    mean = expected_of(changed(maps, "water", edge, 20.0), regions).prior.mean_ppm
    assert mean[29, 34, 6] == 0
    assert expected_of(changed(maps, "water", edge, 5.0), regions).prior.mean_ppm[29, 34, 6] > 4


def test_the_field_of_a_voxel_that_the_livers_surface_cuts_errs_by_the_liver_and_that_at_a_vessels_by_a_tenth_of_it() -> None:
    maps, regions = with_liver()
    vessel = np.zeros(_SHAPE, bool)
    vessel[38:42, 32:37, 4:8] = True
    maps = changed(maps, "r2star_per_s", vessel, 30.0)
    error = expected_of(maps, replace(regions, vessel=vessel, liver=regions.liver & ~vessel)).field_error_ppm
    liver_ppm = 0.0107 * (200 - 30) - 0.05
    # in the surface's own voxel its place is unknown too: a distance of three tenths
    assert error[30, 34, 6] == pytest.approx(liver_ppm * np.hypot(1, 0.032 / 0.3**2), rel=0.01)
    assert error[38, 34, 6] == pytest.approx(0.1 * liver_ppm, rel=0.03)
