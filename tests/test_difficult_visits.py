"""Susceptibility from visits that something is wrong with: an error, a flag or a wider interval, never a silent zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hqsm.config.lic import LicParams
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Regions, Susceptibility, VoxelGrid, WaterFat
from hqsm.dipole import forward_field_ppm
from hqsm.errors import ProcessingError
from hqsm.finite_maps import finite
from hqsm.lic import liver_iron
from hqsm.susceptibility import estimate
from hqsm.units import ppm_to_hz
from spheres import sphere
from water_fat_maps import water_fat_maps

_LIVER_PPM = 1.5


# Share of liver of a mixed voxel and the place of its R2* between muscle and liver, in simulated visits of 1.3 and 2.1 ppm: two
# fields beat in it, which is decay.
_SHARE = (0.0, 0.01, 0.07, 0.20, 0.34, 0.47, 0.60, 0.77, 0.92, 0.96, 1.0)
_WAY = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)


def visit(shape: tuple[int, int, int] = (52, 46, 18), *, second_body: bool = False) -> tuple[WaterFat, Regions]:
    """An upright cylinder of tissue in air that goes on beyond the slab, with an iron-loaded ball in it and muscle beside."""
    grid = VoxelGrid(shape=shape, affine_mm=np.diag([4.0, 4.0, 6.0, 1.0]) @ _centred(shape))
    x, y = (np.arange(n) - (n - 1) / 2 for n in shape[:2])
    radius_mm = 4 * np.hypot(x[:, None], y[None, :])
    body = np.repeat((radius_mm < 72)[:, :, None], shape[2], axis=2)
    if second_body:
        body |= np.repeat((np.hypot(4 * x[:, None] - 88, 4 * y[None, :]) < 10)[:, :, None], shape[2], axis=2)
    share = sphere(grid, 36.0, 0.0, (20.0, 0.0, 0.0))[0]
    liver = share > 0.5
    muscle = sphere(grid, 13.0, 0.0, (-45.0, 0.0, 0.0))[0] > 0.5
    longer = np.pad(np.where(body, _LIVER_PPM * share, 9.4), [(0, 0), (0, 0), (24, 24)], mode="edge")
    longer[:, :, :24], longer[:, :, -24:] = np.where(body, 0, 9.4)[:, :, :1], np.where(body, 0, 9.4)[:, :, -1:]
    field = forward_field_ppm(longer - 9.4, grid.voxel_size_mm, grid.b0_direction)[:, :, 24:-24]
    rng = np.random.default_rng(4)
    ones = np.ones(shape, np.float32)
    maps = water_fat_maps(
        grid,
        water=np.where(body, 100, 0.5).astype(np.complex64),
        r2star_per_s=(30 + 150 * np.interp(share, _SHARE, _WAY) + 3 * rng.standard_normal(shape)).astype(np.float32),
        field_hz=(ppm_to_hz(field, 1.5) + 0.5 * rng.standard_normal(shape)).astype(np.float32),
        r2star_se_per_s=3 * ones,
        model=body.astype(np.uint8),
    )
    nothing = np.zeros(shape, bool)
    regions = Regions(
        body=body, liver=share == 1, liver_whole=liver, vessel=nothing, references={"muscle": muscle}, mask_source="automatic", grid=grid
    )
    return maps, regions


def _centred(shape: tuple[int, int, int]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(shape) - 1) / 2
    return affine


def measured(maps: WaterFat, regions: Regions, tolerance: float = 2e-4) -> tuple[float, Susceptibility]:
    # some times the study's tolerance is enough to see a fault, in half the time
    chi = estimate(maps, regions, SusceptibilityParams(tolerance=tolerance), specimen="in_vivo")
    liver = regions.liver
    return (float(np.nanmedian(chi.chi_ppm[liver])) if liver.any() else float("nan")), chi


@pytest.fixture(scope="module")
def plain() -> tuple[WaterFat, Regions, float, Susceptibility]:
    maps, regions = visit()
    return maps, regions, *measured(maps, regions)


@pytest.fixture(scope="module")
def exact(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> tuple[float, Susceptibility]:
    """The same, solved further than a study needs."""
    return measured(*plain[:2], tolerance=3e-5)


def test_the_plain_visit_is_right_and_unflagged(exact: tuple[float, Susceptibility]) -> None:
    value, chi = exact
    assert value == pytest.approx(_LIVER_PPM, rel=0.02)
    assert not chi.codes
    assert 0.05 < chi.liver_se_ppm < 0.15


def test_venous_blood_before_the_spine_is_not_taken_off_the_liver(
    plain: tuple[WaterFat, Regions, float, Susceptibility], exact: tuple[float, Susceptibility]
) -> None:
    """A vena cava of 18 mm and 0.25 ppm, which no signal shows: -0.026 ppm of the liver where bone alone is expected there."""
    maps, regions, _, _ = plain
    grid = maps.grid
    x, y = (d * (np.arange(n) - (n - 1) / 2) for n, d in zip(grid.shape[:2], grid.voxel_size_mm[:2], strict=True))
    share = np.clip((9.0 - np.hypot(x[:, None] - 2, y[None, :] + 44)) / 4 + 0.5, 0, 1)
    longer = np.repeat(0.25 * share[:, :, None], grid.shape[2] + 48, axis=2).astype(np.float32)
    field = forward_field_ppm(longer, grid.voxel_size_mm, grid.b0_direction)[:, :, 24:-24]
    with_blood = replace(maps, field_hz=(maps.field_hz + ppm_to_hz(field, 1.5)).astype(np.float32))
    without, _ = exact
    value, _ = measured(with_blood, regions, tolerance=3e-5)
    assert abs(value - without) < 0.018


def test_voxels_without_a_finite_field_are_left_out_and_nowhere_becomes_the_map_empty_or_zero(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, _ = plain
    field, se = maps.field_hz.copy(), maps.field_se_hz.copy()
    rng = np.random.default_rng(5)
    field[rng.random(field.shape) < 0.1] = np.nan
    field[rng.random(field.shape) < 0.02] = np.inf
    se[rng.random(field.shape) < 0.05] = np.nan
    r2star = np.where(rng.random(field.shape) < 0.05, np.nan, maps.r2star_per_s).astype(np.float32)
    got, chi = measured(replace(maps, field_hz=field, field_se_hz=se, r2star_per_s=r2star), regions)
    assert got == pytest.approx(_LIVER_PPM, rel=0.05)
    assert np.isfinite(chi.chi_ppm[regions.body]).all()


@pytest.mark.parametrize("method", ["total-field", "regional", "tfi", "pdf+tkd", "lbv+medi", "v-sharp+tikhonov"])
@pytest.mark.parametrize("level_hz", [0.0, 50.0])
def test_a_map_of_one_value_holds_no_field_and_no_method_reads_zero_iron_from_it(
    plain: tuple[WaterFat, Regions, float, Susceptibility], method: str, level_hz: float
) -> None:
    maps, regions, _, _ = plain
    flat = replace(maps, field_hz=np.full_like(maps.field_hz, level_hz))
    with pytest.raises(ProcessingError) as error:
        estimate(flat, regions, replace(SusceptibilityParams(), method=method), specimen="in_vivo")
    assert error.value.code == "CHI_NO_FIELD"


def test_a_fit_without_a_field_is_refused_with_what_it_said_of_its_echoes(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, _ = plain
    nothing = replace(maps, field_hz=np.full_like(maps.field_hz, np.nan), codes=("ECHO_ORDER",))
    with pytest.raises(ProcessingError, match="ECHO_ORDER") as error:
        estimate(nothing, regions, SusceptibilityParams(), specimen="in_vivo")
    assert error.value.code == "CHI_NO_FIELD"


@pytest.mark.parametrize(("n_voxels", "widest_ppm"), [(1, 1.2), (5, 0.5)])
def test_the_liver_of_a_few_voxels_that_a_reader_marked_has_its_interval(
    plain: tuple[WaterFat, Regions, float, Susceptibility], n_voxels: int, widest_ppm: float
) -> None:
    maps, regions, _, whole = plain
    spot = np.zeros_like(regions.liver)
    spot[tuple(np.argwhere(regions.liver)[:n_voxels].T)] = True
    value, chi = measured(maps, replace(regions, liver=spot))
    assert whole.liver_se_ppm < chi.liver_se_ppm < widest_ppm
    assert abs(value - _LIVER_PPM) < 2 * chi.liver_se_ppm
    assert np.isfinite(chi.liver_regional_ppm)


_READ_FROM = ("water", "fat", "pdff_percent", "r2star_per_s", "field_hz", "pdff_se_percent", "field_se_hz")
_NOT_READ = ("r2star_se_per_s", "residual")


def spoilt(maps: WaterFat, name: str, number: float, share: float) -> WaterFat:
    values = getattr(maps, name).copy()
    values[np.random.default_rng(5).random(values.shape) < share] = number
    return replace(maps, **{name: values})


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", _READ_FROM)
def test_numbers_that_are_none_in_places_of_any_map_move_the_liver_hardly_and_never_narrow_its_interval(
    plain: tuple[WaterFat, Regions, float, Susceptibility], name: str, number: float
) -> None:
    """A twelfth of the voxels. A fit may leave as many without field, fat fraction or errors: these are no fault."""
    maps, regions, value, whole = plain
    got, chi = measured(spoilt(maps, name, number, 0.08), regions)
    assert got == pytest.approx(value, abs=0.01)
    assert np.isfinite(chi.chi_ppm[regions.body]).all()
    assert chi.liver_se_ppm > 0.9999 * whole.liver_se_ppm
    may_be_unknown = name.endswith(("se_percent", "se_hz")) or (np.isnan(number) and name in ("fat", "pdff_percent", "field_hz"))
    assert ("CHI_MAPS_NOT_FINITE" in chi.codes) == (not may_be_unknown)
    if not may_be_unknown:
        assert chi.liver_se_ppm**2 > whole.liver_se_ppm**2 + 0.9 * 0.05**2


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "said"), [("water", "signal"), ("r2star_per_s", "decay"), ("field_hz", "field"), ("field_se_hz", "field")]
)
def test_a_map_without_any_number_that_the_liver_cannot_be_measured_without_is_an_error(
    plain: tuple[WaterFat, Regions, float, Susceptibility], name: str, said: str, number: float
) -> None:
    maps, regions, _, _ = plain
    with pytest.raises(ProcessingError, match=said):
        measured(spoilt(maps, name, number, 1.1), regions)


@pytest.mark.parametrize(("name", "share"), [("pdff_percent", 1.1), ("pdff_se_percent", 1.1), ("field_hz", 0.2), ("field_se_hz", 0.2)])
def test_maps_that_lack_more_than_a_fit_leaves_unknown_are_flagged_and_widen_the_interval(
    plain: tuple[WaterFat, Regions, float, Susceptibility], name: str, share: float
) -> None:
    maps, regions, value, whole = plain
    got, chi = measured(spoilt(maps, name, np.nan, share), regions)
    assert "CHI_MAPS_NOT_FINITE" in chi.codes
    assert got == pytest.approx(value, abs=0.02)
    assert chi.liver_se_ppm**2 > whole.liver_se_ppm**2 + 0.9 * 0.05**2


def test_maps_that_lack_no_number_or_no_more_than_a_fit_leaves_unknown_stay_as_they_are(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, _ = plain
    assert finite(maps, regions.body) == (maps, False)
    for name, number in (("r2star_per_s", np.nan), ("field_hz", np.nan), ("pdff_percent", np.nan)):
        few = spoilt(maps, name, number, 0.01)
        assert finite(few, regions.body) == (few, False)
    for name in ("water", "fat", "r2star_per_s", "field_hz", "pdff_percent"):  # no fit leaves an infinite one
        assert finite(spoilt(maps, name, np.inf, 0.001), regions.body)[1]
    for name in _NOT_READ:
        spoiled = spoilt(maps, name, np.nan, 1.1)
        assert finite(spoiled, regions.body) == (spoiled, False)


def test_a_body_without_a_finite_field_is_an_error_that_says_where_to_look(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> None:
    maps, regions, _, _ = plain
    nowhere = np.full(maps.grid.shape, np.nan, np.float32)
    with pytest.raises(ProcessingError, match="field"):
        measured(replace(maps, field_hz=nowhere), regions)
    with pytest.raises(ProcessingError, match="field"):
        measured(maps, replace(regions, body=np.zeros_like(regions.body)))


def test_without_a_reference_tissue_the_visit_is_flagged_and_has_no_standard_error(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, _ = plain
    _, chi = measured(maps, replace(regions, references={}))
    assert "CHI_REFERENCE_MISSING" in chi.codes
    assert chi.reference_name == "none"
    assert np.isnan(chi.liver_se_ppm)
    row = liver_iron(maps, chi, replace(regions, references={}), LicParams(), temperature_celsius=37.0)
    assert row.chi_liver_ppm == pytest.approx(_LIVER_PPM, rel=0.05)
    # neither a reference of zero nor a difference from it
    for number in (row.chi_reference_ppm, row.chi_hqsm_ppm, row.lic_hqsm_mg_g, row.lic_hqsm_lo, row.lic_hqsm_hi):
        assert np.isnan(number)


def test_an_empty_liver_leaves_a_map_and_no_value(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> None:
    maps, regions, _, _ = plain
    nothing = np.zeros_like(regions.liver)
    value, chi = measured(maps, replace(regions, liver=nothing, liver_whole=nothing))
    assert np.isnan(value)
    assert np.isnan(chi.liver_se_ppm)
    assert np.isnan(chi.liver_regional_ppm)
    assert np.isfinite(chi.chi_ppm[regions.body]).all()


def test_a_swapped_region_is_left_out_and_flagged(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> None:
    maps, regions, value, _ = plain
    field = maps.field_hz.copy()
    field[14:22, 10:18, 5:12] += ppm_to_hz(3.4, 1.5)
    got, chi = measured(replace(maps, field_hz=field), regions)
    assert "CHI_FIELD_INCONSISTENT" in chi.codes
    assert abs(got - value) < 1.96 * chi.liver_se_ppm


@pytest.mark.parametrize("turns", [1, -1])
def test_a_liver_that_is_swapped_as_a_whole_is_flagged_and_its_interval_holds_the_truth(
    plain: tuple[WaterFat, Regions, float, Susceptibility], turns: int
) -> None:
    """Its edge is left out, and what is left of it is the field of more iron, or of less: off by 1 ppm where the error alone said 0.09."""
    maps, regions, _, _ = plain
    got, chi = measured(replace(maps, field_hz=maps.field_hz + turns * ppm_to_hz(3.4, 1.5) * regions.liver_whole), regions)
    assert {"CHI_FIELD_INCONSISTENT", "CHI_ESTIMATES_DIFFER"} <= set(chi.codes)
    assert 0.5 < abs(got - _LIVER_PPM) < 1.96 * chi.liver_se_ppm
    assert chi.liver_se_ppm > abs(chi.liver_regional_ppm - got) - 0.5


def test_a_body_that_the_images_cut_is_flagged_and_its_interval_wider(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> None:
    maps, regions, _, whole = plain
    value, chi = measured(*_cropped(maps, regions, (slice(14, 52), slice(0, 46), slice(0, 18))))
    assert "CHI_BODY_CUT" in chi.codes
    assert chi.liver_se_ppm > whole.liver_se_ppm
    assert abs(value - _LIVER_PPM) < 1.96 * chi.liver_se_ppm


def test_a_liver_that_the_slab_cuts_is_flagged_and_its_interval_wider(plain: tuple[WaterFat, Regions, float, Susceptibility]) -> None:
    maps, regions, _, whole = plain
    value, chi = measured(*_cropped(maps, regions, (slice(0, 52), slice(0, 46), slice(8, 18))))
    assert "CHI_LIVER_CUT" in chi.codes
    assert chi.liver_se_ppm > 1.5 * whole.liver_se_ppm
    assert abs(value - _LIVER_PPM) < 1.96 * chi.liver_se_ppm


def test_a_liver_whose_field_is_torn_is_measured_by_its_surroundings_with_an_interval_that_says_so(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, whole = plain
    rng = np.random.default_rng(7)
    torn = regions.liver_whole & (rng.random(regions.liver_whole.shape) < 0.2)
    value, chi = measured(replace(maps, field_hz=np.where(torn, maps.field_hz + ppm_to_hz(3.4, 1.5), maps.field_hz)), regions)
    assert "CHI_LIVER_DARK" in chi.codes
    assert chi.liver_se_ppm > 2 * whole.liver_se_ppm
    assert abs(value - _LIVER_PPM) < 1.96 * chi.liver_se_ppm


def test_an_automatic_mask_whose_edge_nothing_confirms_says_so_and_has_a_wider_interval_than_a_readers(
    plain: tuple[WaterFat, Regions, float, Susceptibility],
) -> None:
    maps, regions, _, _ = plain
    rng = np.random.default_rng(6)
    alike = replace(maps, r2star_per_s=(30 + 3 * rng.standard_normal(maps.r2star_per_s.shape)).astype(np.float32))
    few = SusceptibilityParams(max_iterations=5)  # the same for both: what differs is what the mask adds

    def error_ppm(of: WaterFat, source: str) -> float:
        chi = estimate(of, replace(regions, mask_source=source), few, specimen="in_vivo")
        assert ("CHI_MASK_UNCONFIRMED" in chi.codes) == (of is alike and source == "automatic")
        return chi.liver_se_ppm

    assert error_ppm(alike, "automatic") ** 2 == pytest.approx(error_ppm(alike, "reader") ** 2 + 0.025**2, rel=0.01)
    assert error_ppm(maps, "automatic") == pytest.approx(error_ppm(maps, "reader"), rel=1e-6)


def _cropped(maps: WaterFat, regions: Regions, box: tuple[slice, slice, slice]) -> tuple[WaterFat, Regions]:
    grid = maps.grid.cropped(box)
    names = ("water", "fat", "pdff_percent", "r2star_per_s", "field_hz", "pdff_se_percent", "r2star_se_per_s", "field_se_hz", "residual")
    smaller = replace(maps, grid=grid, **{name: getattr(maps, name)[box] for name in (*names, "model", "censored")})
    cut = Regions(
        body=regions.body[box],
        liver=regions.liver[box],
        liver_whole=regions.liver_whole[box],
        vessel=regions.vessel[box],
        references={"muscle": regions.references["muscle"][box]},
        mask_source="automatic",
        grid=grid,
    )
    return smaller, cut


def test_a_second_body_in_the_images_does_not_change_the_liver() -> None:
    maps, regions = visit(second_body=True)
    value, chi = measured(maps, regions)
    assert abs(value - _LIVER_PPM) < 1.96 * chi.liver_se_ppm
    assert abs(np.median(chi.chi_ppm[regions.body & ~_largest(regions.body)])) < 1  # tissue, not the air around both
    alone, single = measured(maps, replace(regions, body=regions.body & _largest(regions.body)))
    # whether the arm is part of the body or not
    assert abs(alone - _LIVER_PPM) < 1.96 * single.liver_se_ppm


def _largest(body: np.ndarray) -> np.ndarray:
    first = np.zeros_like(body)
    first[:46] = True
    return first
