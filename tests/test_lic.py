"""Calibrations against what their papers print, and what of a liver's values becomes a LIC, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hqsm.config.lic import LicParams
from hqsm.data import LiverIron, Regions, Susceptibility, VoxelGrid, WaterFat
from hqsm.lic import (
    HQSM_CALIBRATIONS,
    R2STAR_CALIBRATIONS,
    apply_calibration,
    fit_facts,
    liver_iron,
    physical_calibration,
    r2star_calibration,
    roi_statistics,
)
from water_fat_maps import water_fat_maps


def test_hernando_2023_gives_the_published_lic_by_hand() -> None:
    at_1t5 = r2star_calibration("hernando2023", 1.5)
    assert at_1t5 is not None
    assert apply_calibration(at_1t5, 200.0, 0.0)[0] == pytest.approx(-0.16 + 0.02603 * 200)


def test_the_slope_at_3_tesla_is_about_half_of_that_at_1_5_tesla() -> None:
    slopes = {c.field_strength_tesla: c.slope for c in R2STAR_CALIBRATIONS if c.name == "hernando2023"}
    assert slopes[3.0] / slopes[1.5] == pytest.approx(0.518, abs=0.01)


def test_a_calibration_without_a_line_for_the_field_strength_is_not_stretched() -> None:
    assert r2star_calibration("wood2005", 3.0) is None
    nearest = r2star_calibration("hernando2023", 2.8936)
    assert nearest is not None
    assert nearest.field_strength_tesla == 2.89


def test_the_physical_calibration_follows_from_its_constants() -> None:
    # 1.30 ppm per mg/mL * 1.051 g/mL / 3.33 = 0.4103 ppm per mg/g
    assert 1 / physical_calibration(37.0, LicParams()).slope == pytest.approx(0.41030, abs=1e-4)
    assert physical_calibration(37.0, LicParams()).slope / physical_calibration(20.0, LicParams()).slope == pytest.approx(310.15 / 293.15)


def test_the_interval_carries_the_scale_liver_without_iron_and_the_measurement() -> None:
    lic, lo, hi = apply_calibration(physical_calibration(37.0, LicParams()), 2.0, 0.05)
    slope = 1 / 0.410297
    assert lic == pytest.approx(2 * slope, rel=1e-4)
    # the scale is known to 20 %, liver without iron to 0.1 ppm
    assert hi - lic == pytest.approx(1.96 * slope * np.sqrt(0.05**2 + (2 * 0.2) ** 2 + 0.1**2), rel=1e-3)
    assert lic - lo == pytest.approx(hi - lic)


def test_the_interval_of_a_liver_without_iron_reaches_what_is_published_of_it() -> None:
    # -8.8 to -9.05 ppm, water -9.05, muscle -9.0: 0 to 0.2 ppm above the one, -0.05 to 0.2 above the other
    for chi_ppm in (-0.05, 0.0, 0.19):
        _, lo, hi = apply_calibration(physical_calibration(37.0, LicParams()), chi_ppm, 0.0)
        assert lo < 0 < hi
    assert apply_calibration(physical_calibration(37.0, LicParams()), 0.25, 0.0)[1] > 0


def test_a_studys_own_liver_without_iron_is_taken_off_by_every_reference() -> None:
    own = LicParams(iron_free_liver_ppm=0.08, iron_free_liver_sd_ppm=0.02)
    for reference, above_ppm, sd_ppm in (("muscle", 0.0, 0.0), ("medium", 0.0, 0.0), ("aorta", 0.0, 0.05), ("fat", 0.6, 0.3)):
        lic, lo, _ = apply_calibration(physical_calibration(37.0, own, reference), 0.08 - above_ppm, 0.0)
        assert lic == pytest.approx(0, abs=1e-9)
        assert lic - lo == pytest.approx(1.96 * np.hypot(0.02, sd_ppm) / 0.410297, rel=1e-3)


def test_vessels_and_failed_voxels_barely_move_the_median_inside_tukeys_fences() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(320, 20, 100_000)
    values[:7400], values[7400:9400] = rng.normal(60, 10, 7400), 2000.0
    found = roi_statistics(values, np.ones(values.size, bool))
    assert found.median == pytest.approx(320, abs=1)
    assert found.excluded_share == pytest.approx(0.094, abs=0.01)
    assert np.mean(values) > found.median + 10


@pytest.mark.parametrize("from_quartile", [1.45, 1.55])
@pytest.mark.parametrize("side", [-1, 1])
def test_what_lies_one_and_a_half_quartile_ranges_beyond_a_quartile_is_no_part_of_the_region(side: int, from_quartile: float) -> None:
    values = np.append(np.linspace(-1, 1, 2001), side * (0.5 + from_quartile))
    assert roi_statistics(values, np.ones(values.size, bool)).n_voxels == 2001 + (from_quartile < 1.5)


def test_an_empty_region_is_nan_and_not_zero() -> None:
    assert np.isnan(roi_statistics(np.ones(10), np.zeros(10, bool)).median)


@pytest.mark.parametrize(
    ("name", "tesla", "r2star_per_s", "lic_mg_g"),
    [
        ("hernando2023", 1.5, 800, 20.66),
        ("hernando2023", 3.0, 800, 10.76),
        ("wood2005", 1.5, 800, 20.52),
        ("hankins2009", 1.5, 800, 21.96),
        ("henninger2015", 1.5, 800, 19.48),
        ("dassignies2018", 3.0, 300, (0.314 * 300 - 0.96) / 17.9),  # umol/g, printed the other way round
    ],
)
def test_the_published_lines_give_what_their_papers_do(name: str, tesla: float, r2star_per_s: float, lic_mg_g: float) -> None:
    line = r2star_calibration(name, tesla)
    assert line is not None
    assert apply_calibration(line, r2star_per_s, 0.0)[0] == pytest.approx(lic_mg_g, abs=0.011)


def test_the_published_lines_of_susceptibility_do_too() -> None:
    def lic(name: str, chi_ppm: float) -> float:
        return apply_calibration(HQSM_CALIBRATIONS[name], chi_ppm, 0.0)[0]

    assert 1 / 0.123 < lic("buelo2025", 1.0) < 1 / 0.102  # between centres
    assert lic("tipirneni2021", 1.0) == pytest.approx(3.3)
    cut_offs = ((0.34, 1.8), (0.63, 3.2), (1.29, 7.0), (2.22, 15.0))
    assert [lic("lin2018", chi) for chi, _ in cut_offs] == pytest.approx([mg_g for _, mg_g in cut_offs], abs=1.0)


def visit(r2star_per_s: float = 200.0, chi_ppm: float = 1.0, **of_maps: Any) -> tuple[WaterFat, Susceptibility, Regions]:
    """A liver of 320 voxels of 24 mm3, whose core of 240 is read."""
    shape = (8, 8, 5)
    grid = VoxelGrid(shape=shape, affine_mm=np.diag([2.0, 2.0, 6.0, 1.0]))
    ones = np.ones(shape, np.float32)
    everywhere, nothing, core = np.ones(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
    core[:, 6:] = False
    maps = water_fat_maps(
        grid,
        water=ones.astype(np.complex64),
        fat=ones.astype(np.complex64),
        pdff_percent=5 * ones,
        r2star_per_s=np.float32(r2star_per_s) * ones,
        residual=0 * ones,
        r2star_limit_per_s=900.0,
    )
    chi = Susceptibility(
        chi_ppm=np.float32(chi_ppm) * ones,
        reference_name="muscle",
        reference_chi_ppm=0.25,
        all_references_ppm={},
        methods={},
        solutions={},
        grid=grid,
        liver_se_ppm=0.0,
    )
    regions = Regions(
        body=everywhere,
        liver=core,
        liver_whole=everywhere,
        vessel=nothing,
        references={},
        mask_source="reader",
        grid=grid,
        near_gas=nothing,
    )
    return replace(maps, **of_maps), chi, regions


def read(parts: tuple[WaterFat, Susceptibility, Regions], *, digest: str = "", **params: Any) -> LiverIron:
    maps, chi, regions = parts
    return liver_iron(maps, chi, regions, LicParams(**params), temperature_celsius=37.0, reconstruction_digest=digest)


def test_a_visits_two_lic_by_hand() -> None:
    maps, chi, regions = visit()
    iron = read((maps, replace(chi, liver_se_ppm=0.05, liver_regional_ppm=1.1), regions))
    assert iron.codes == ()
    assert iron.lic_r2star_mg_g == pytest.approx(0.02603 * 200 - 0.16)
    assert iron.lic_hqsm_mg_g == pytest.approx(1 / 0.4103, rel=1e-3)
    assert iron.lic_hqsm_hi - iron.lic_hqsm_mg_g == pytest.approx(1.96 * np.sqrt(0.05**2 + 0.20**2 + 0.1**2) / 0.4103, rel=1e-3)
    assert iron.chi_liver_ppm == pytest.approx(1.25)
    assert iron.details["chi_se_ppm"] == pytest.approx(0.05)
    assert iron.liver_volume_ml == pytest.approx(320 * 0.024)
    assert (iron.n_voxels, iron.calibration_r2star, iron.calibration_hqsm) == (240, "hernando2023", "physical")


def test_without_a_standard_error_of_the_inversion_there_is_a_value_and_no_interval() -> None:
    maps, chi, regions = visit()
    iron = read((maps, replace(chi, liver_se_ppm=float("nan")), regions))
    assert iron.lic_hqsm_mg_g == read((maps, chi, regions)).lic_hqsm_mg_g
    assert np.isnan([iron.lic_hqsm_lo, iron.lic_hqsm_hi, iron.details["chi_se_ppm"]]).all()


@pytest.mark.parametrize(("beyond", "given"), [(0.2, True), (0.3, False)])
@pytest.mark.parametrize("why", ["censored", "not fitted"])
def test_a_liver_beyond_the_measurable_in_more_than_a_quarter_has_a_bound_and_no_r2star(beyond: float, given: bool, why: str) -> None:
    maps, chi, regions = visit()
    where = np.zeros(maps.grid.shape, bool)
    where[regions.liver] = np.arange(240) < 240 * beyond
    changed = {"censored": where} if why == "censored" else {"model": np.where(where, 0, 1).astype(np.uint8)}
    iron = read((replace(maps, **changed), chi, regions))
    assert ("R2STAR_CENSORED" in iron.codes) != given
    assert np.isfinite([iron.r2star_per_s, iron.lic_r2star_mg_g, iron.lic_r2star_lo]).tolist() == [given] * 3
    # the median liver voxel is one of those that were measured
    assert iron.details["r2star_lower_bound_per_s"] == (None if given else 200.0)
    assert np.isfinite(iron.lic_hqsm_mg_g)


def test_the_bound_of_a_liver_is_its_own_and_nothing_is_known_of_what_was_not_fitted() -> None:
    maps, chi, regions = visit(float("nan"))
    rank = np.zeros(maps.grid.shape)
    rank[regions.liver] = np.arange(240) / 240
    own = np.where(rank < 0.6, 300.0, 800.0).astype(np.float32)

    def bound(**of_maps: Any) -> float:
        if "r2star_lower_bound_per_s" in of_maps:  # as maps have it, NaN where R2* is not censored
            of_maps["r2star_lower_bound_per_s"] = np.where(of_maps["censored"], own, np.nan)
        return float(read((replace(maps, **of_maps), chi, regions)).details["r2star_lower_bound_per_s"])

    assert bound(censored=rank >= 0, r2star_lower_bound_per_s=own) == 300
    assert bound(censored=rank >= 0) == 900  # maps of one limit for all
    assert bound(censored=rank >= 0.2, r2star_lower_bound_per_s=own, r2star_per_s=np.where(rank < 0.2, 250, np.nan)) == 300
    assert bound(censored=rank >= 0.6, r2star_lower_bound_per_s=own, model=np.where(rank < 0.6, 0, 1)) == 0


def test_no_lic_beyond_its_calibration_nor_far_below_none_nor_at_another_field_strength_nor_by_two_echoes() -> None:
    for parts, params, code in (
        (visit(1600.0), {}, "LIC_BEYOND_CALIBRATION"),
        (visit(1.0), {"lowest_plausible_mg_g": -0.1}, "LIC_IMPLAUSIBLE"),
        (visit(field_strength_tesla=3.0), {"r2star_calibration": "wood2005"}, "CALIBRATION_NO_FIELD_STRENGTH"),
        (visit(codes=("R2STAR_TWO_ECHOES",)), {}, "LIC_R2STAR_CONFOUNDED"),
    ):
        iron = read(parts, **params)
        assert iron.codes == (code,)
        assert np.isnan([iron.lic_r2star_mg_g, iron.lic_r2star_lo, iron.lic_r2star_hi]).all()
        assert np.isfinite([iron.r2star_per_s, iron.lic_hqsm_mg_g]).all()


def test_susceptibility_is_read_away_from_gas_and_r2star_everywhere() -> None:
    maps, chi, regions = visit()
    gas = np.zeros(maps.grid.shape, bool)
    gas[:5] = True
    at_gas = replace(chi, chi_ppm=np.where(gas, 9, 1).astype(np.float32))
    iron = read((replace(maps, r2star_per_s=np.where(gas, 220, 200).astype(np.float32)), at_gas, replace(regions, near_gas=gas)))
    assert iron.chi_hqsm_ppm == 1
    assert iron.r2star_per_s == 220


def test_without_a_reference_there_is_no_lic_by_hqsm() -> None:
    maps, chi, regions = visit()
    iron = read((maps, replace(chi, reference_name="none"), regions))
    assert np.isnan([iron.lic_hqsm_mg_g, iron.lic_hqsm_lo, iron.lic_hqsm_hi]).all()


def test_of_a_filtered_phase_r2star_is_read_and_no_susceptibility() -> None:
    maps, chi, regions = visit()
    iron = read((replace(maps, codes=("PHASE_FILTERED",)), replace(chi, liver_regional_ppm=0.0), regions))
    of_chi = [iron.chi_liver_ppm, iron.chi_hqsm_ppm, iron.lic_hqsm_mg_g, iron.lic_hqsm_lo, iron.lic_hqsm_hi]
    assert np.isnan([*of_chi, iron.details["chi_se_ppm"], iron.details["chi_regional_ppm"]]).all()
    assert iron.lic_r2star_mg_g == read((maps, chi, regions)).lic_r2star_mg_g > 0


def test_the_physical_line_knows_that_fat_is_no_liver_without_iron() -> None:
    maps, chi, regions = visit()
    by_muscle, by_fat, by_aorta = (
        read((maps, replace(chi, chi_ppm=chi.chi_ppm - np.float32(above_ppm), reference_name=name), regions))
        for name, above_ppm in (("muscle", 0.0), ("fat", 0.6), ("aorta", 0.0))
    )
    assert by_fat.lic_hqsm_mg_g == pytest.approx(by_muscle.lic_hqsm_mg_g, rel=1e-5)
    assert by_aorta.lic_hqsm_mg_g == pytest.approx(by_muscle.lic_hqsm_mg_g, rel=1e-5)
    half = by_muscle.lic_hqsm_hi - by_muscle.lic_hqsm_mg_g
    for found, sd_ppm in ((by_fat, 0.3), (by_aorta, 0.05)):
        assert found.lic_hqsm_hi - found.lic_hqsm_mg_g == pytest.approx(np.hypot(half, 1.96 * sd_ppm / 0.410297), rel=1e-3)


def test_a_line_of_ones_own_holds_for_its_reference_and_its_reconstruction() -> None:
    own: dict[str, Any] = {
        "hqsm_calibration": "own",
        "own_slope_mg_g_per_ppm": 2.0,
        "own_intercept_mg_g": 0.5,
        "own_slope_relative_sd": 0.2,
    }
    iron = read(visit(), digest="ab", own_reference_tissue="muscle", own_reconstruction_digest="ab", **own)
    assert iron.codes == ()
    assert (iron.lic_hqsm_mg_g, iron.lic_hqsm_hi) == pytest.approx((2.5, 2.5 + 1.96 * 0.4))
    turned = read(visit(), own_centre_ppm=0.5, own_centre_sd_mg_g=0.3, own_reference_tissue="muscle", digest="ab", **own)
    assert turned.lic_hqsm_hi - turned.lic_hqsm_mg_g == pytest.approx(1.96 * np.hypot(0.3, 0.5 * 0.4))
    other = read(visit(), digest="cd", own_reference_tissue="muscle", own_reconstruction_digest="ab", **own)
    assert other.codes == ("CALIBRATION_OTHER_RECONSTRUCTION",)
    assert other.lic_hqsm_mg_g == pytest.approx(2.5)
    fat = read(visit(), digest="ab", own_reference_tissue="fat", own_reconstruction_digest="ab", **own)
    assert fat.codes == ("CALIBRATION_OTHER_REFERENCE",)
    assert np.isnan(fat.lic_hqsm_mg_g)
    silent = read(visit(), digest="ab", own_reconstruction_digest="ab", **own)
    assert silent.codes == ("CALIBRATION_REFERENCE_UNKNOWN",)
    assert silent.lic_hqsm_mg_g == pytest.approx(2.5)
    assert read(visit(), digest="ab", hqsm_calibration="buelo2025").codes == (
        "CALIBRATION_REFERENCE_UNKNOWN",
        "CALIBRATION_OTHER_RECONSTRUCTION",
    )


def test_every_published_line_of_susceptibility_says_its_reference_or_that_it_is_not_known() -> None:
    for line in HQSM_CALIBRATIONS.values():
        assert line.reference_tissue or "names no reference" in line.source


@pytest.mark.parametrize("tesla", [1.5, 3.0])
def test_how_a_region_was_fitted_is_told_in_shares_of_its_voxels(tesla: float) -> None:
    maps, _, regions = visit(field_strength_tesla=tesla)
    layer = np.indices(maps.grid.shape)[0]
    maps = replace(
        maps,
        model=np.where(layer < 2, 2, 1).astype(np.uint8),
        swap_margin=np.where(layer < 1, 1.9, 2.1).astype(np.float32),
        field_difference_hz=np.where(layer < 3, 111, -109).astype(np.float32) * np.float32(tesla / 1.5),
    )
    facts = fit_facts(maps, regions.liver)
    assert facts["model_fat_constrained"] == pytest.approx(2 / 8)
    assert facts["model_water_fat"] == pytest.approx(6 / 8)
    assert facts["swap_margin_low"] == pytest.approx(1 / 8)
    assert facts["first_fields_disagree"] == pytest.approx(3 / 8)
