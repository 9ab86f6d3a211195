"""Statistics of a region, and what the liver's values are read from."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erfinv

from hqsm.config.lic import LicParams
from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho, Regions, RoiStatistics, Susceptibility, WaterFat
from hqsm.lic import liver_iron
from hqsm.liver import consensus, dice, find_regions
from hqsm.liver.geometry import depth_mm, eroded
from hqsm.phantom.tissue import LABELS
from hqsm.roi import mean_of_readers, roi_statistics
from masks.conftest import true_liver

Visit = tuple[MultiEcho, WaterFat, np.ndarray]


def test_the_standard_error_of_white_noise_is_the_scatter_of_repeated_medians() -> None:
    rng = np.random.default_rng(1)
    mask, errors = np.ones(2000, bool), np.full(2000, 8.0)
    found = [roi_statistics(rng.normal(100, 8, 2000), mask, errors) for _ in range(400)]
    scatter = float(np.std([f.median for f in found], ddof=1))
    stated = float(np.median([f.standard_error for f in found]))
    # the fences take the tails, and what is left of texture by chance counts as texture
    assert 0.8 * scatter < stated < 2.5 * scatter
    unknowing = float(np.median([roi_statistics(rng.normal(100, 8, 2000), mask).standard_error for _ in range(20)]))
    assert unknowing > 4 * scatter


def test_vessels_and_failed_voxels_do_not_move_the_value() -> None:
    """A liver of 320 1/s with 7.4 % of vessel at 60 and 2 % of failed fits at 2,000: the mean is 336."""
    liver = 320 + 15 * np.sqrt(2) * erfinv(np.linspace(-0.999, 0.999, 9060))  # a normal distribution without chance
    values = np.concatenate([liver, np.full(740, 60.0), np.full(200, 2000.0), np.full(100, np.nan)])
    found = roi_statistics(values, np.ones(values.size, bool))
    assert np.nanmean(values) > 333
    assert found.median == pytest.approx(320, abs=0.5)
    assert found.trimmed_mean == pytest.approx(320, abs=0.5)
    assert found.iqr == pytest.approx(2 * 0.6745 * 15, rel=0.15)
    assert found.excluded_share == pytest.approx((740 + 200 + 100) / values.size, abs=0.01)
    assert found.n_voxels == pytest.approx(9060, abs=80)


def test_texture_that_neighbours_share_is_not_taken_for_noise() -> None:
    """Cubes of 27 voxels with one value each: the error is that of the cubes' number, whatever the voxel's noise."""
    rng = np.random.default_rng(2)
    errors = np.full(27 * 200, 1.0)
    found = []
    for _ in range(300):
        values = np.repeat(rng.normal(100, 8, 200), 27) + rng.normal(0, 1, 27 * 200)
        found.append(roi_statistics(values, np.ones(values.size, bool), errors))
    scatter = float(np.std([f.median for f in found], ddof=1))
    assert np.median([f.standard_error for f in found]) == pytest.approx(scatter, rel=0.2)


def test_the_studys_value_is_the_mean_of_the_readers_medians_and_its_error_knows_their_difference() -> None:
    a, b = (RoiStatistics(median=m, iqr=4, standard_error=0.3, n_voxels=100, excluded_share=0.1, trimmed_mean=m) for m in (10, 12))
    both = mean_of_readers([a, b])
    assert both.median == 11
    assert both.standard_error == pytest.approx(np.sqrt(0.09 + 2 / 2))
    nothing = RoiStatistics(median=np.nan, iqr=np.nan, standard_error=np.nan, n_voxels=0, excluded_share=1)
    assert mean_of_readers([a, nothing]) == a


def test_dice_and_consensus_by_hand() -> None:
    a, b, c = (np.array(m, bool) for m in ([1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]))
    assert dice(a, b) == 0.5
    np.testing.assert_array_equal(consensus([a, b, c]), np.array([0, 1, 1, 0], bool))


@pytest.fixture(scope="module")
def regions(visit: Visit) -> Regions:
    return find_regions(visit[0], visit[1], {}, LiverParams(), specimen="in_vivo")


def test_the_liver_is_read_away_from_edge_and_vessels(visit: Visit, regions: Regions) -> None:
    depth = depth_mm(regions.liver_whole, regions.grid)
    assert depth[regions.liver].min() > LiverParams().edge_mm
    assert not (regions.liver & regions.vessel).any()
    vessel = visit[2] == LABELS["vessel"]
    assert (regions.vessel & vessel).sum() > 0.6 * (vessel & (depth > 8.4)).sum()
    assert regions.vessel.sum() < 0.12 * regions.liver_whole.sum()


def test_susceptibility_is_read_farther_from_the_lung_than_r2star(visit: Visit, regions: Regions) -> None:
    lung = visit[2] == LABELS["lung"]
    assert regions.near_gas is not None
    near = ~eroded(~lung, regions.grid, 9.0) & regions.liver
    assert near.sum() > 5
    assert (regions.near_gas & near).sum() > 0.9 * near.sum()
    assert regions.liver_for_susceptibility.sum() < regions.liver.sum()


def test_the_references_are_what_their_names_say(visit: Visit, regions: Regions) -> None:
    names = {"fat": "subcutaneous_fat", "muscle": "muscle", "aorta": "aorta"}
    assert set(regions.references) == set(names)
    for name, tissue in names.items():
        assert (visit[2][regions.references[name]] == LABELS[tissue]).mean() > (0.6 if name == "aorta" else 0.9)


def chi_of(maps: WaterFat, level_ppm: float) -> Susceptibility:
    return Susceptibility(
        chi_ppm=np.full(maps.grid.shape, level_ppm, np.float32),
        reference_name="muscle",
        reference_chi_ppm=0.1,
        all_references_ppm={},
        methods={},
        solutions={},
        grid=maps.grid,
    )


def test_an_iron_far_below_zero_is_not_reported(visit: Visit, regions: Regions) -> None:
    iron = liver_iron(visit[1], chi_of(visit[1], -3.0), regions, LicParams(), temperature_celsius=37)
    assert "LIC_IMPLAUSIBLE" in iron.codes
    assert np.isnan(iron.lic_hqsm_mg_g)
    assert iron.lic_r2star_mg_g == pytest.approx(5.0, rel=0.1)
    assert "LIC_IMPLAUSIBLE" not in liver_iron(visit[1], chi_of(visit[1], -0.2), regions, LicParams(), temperature_celsius=37).codes


def test_a_lic_by_hqsm_beyond_its_calibrations_range_is_flagged_and_not_given(visit: Visit, regions: Regions) -> None:
    given = liver_iron(visit[1], chi_of(visit[1], 24.0), regions, LicParams(), temperature_celsius=37)  # 60 mg/g are 24.6 ppm
    assert given.lic_hqsm_mg_g > 55
    beyond = liver_iron(visit[1], chi_of(visit[1], 26.0), regions, LicParams(), temperature_celsius=37)
    assert beyond.codes.count("LIC_BEYOND_CALIBRATION") == 1 > given.codes.count("LIC_BEYOND_CALIBRATION")
    assert np.isnan([beyond.lic_hqsm_mg_g, beyond.lic_hqsm_lo, beyond.lic_hqsm_hi]).all()
    assert beyond.chi_hqsm_ppm == pytest.approx(26.0)
    assert np.isfinite(beyond.lic_r2star_mg_g)


def test_what_a_reader_draws_where_nothing_could_be_fitted_is_liver_and_counted(visit: Visit) -> None:
    """A liver with very much iron is a hole in the maps; drawn, it must show as not fitted and not vanish."""
    echoes, maps, labels = visit
    whole = true_liver(labels)
    dark = eroded(whole, maps.grid, 12.0)
    found = find_regions(
        echoes, replace(maps, model=np.where(dark, 0, maps.model)), {"A": {"liver": whole}}, LiverParams(), specimen="in_vivo"
    )
    np.testing.assert_array_equal(found.liver_whole & dark, dark)
    assert found.shares["not_fitted"] == pytest.approx(dark.sum() / found.liver_whole.sum(), abs=0.01)
    assert not (found.liver & dark).any()


def test_two_readers_count_alike_and_a_repeat_reading_does_not_count(visit: Visit) -> None:
    echoes, maps, labels = visit
    whole = true_liver(labels)
    x = np.indices(whole.shape)[0]
    middle = int(np.median(x[whole]))
    readings = {"A": {"liver": whole & (x < middle)}, "B": {"liver": whole & (x >= middle)}, "A.2": {"liver": whole}}
    found = find_regions(echoes, maps, readings, LiverParams(edge_mm=0), specimen="in_vivo")
    assert found.mask_source == "reader"
    assert found.overlaps["A~B"] == 0
    assert found.overlaps["A~A.2"] == pytest.approx(dice(whole & (x < middle), whole))
    iron = liver_iron(maps, chi_of(maps, 1.0), found, LicParams(), temperature_celsius=37)
    rows = {(r["reader"], r["quantity"]): r for r in iron.details["regions"] if r["region"] == "liver"}
    a, b, study = (rows[name, "r2star_per_s"]["median"] for name in ("A", "B", "study"))
    assert study == pytest.approx((a + b) / 2)
    assert iron.r2star_per_s == study
    assert a != b


def test_segments_make_the_liver_and_the_right_lobe(visit: Visit) -> None:
    echoes, maps, labels = visit
    whole = true_liver(labels)
    z = np.indices(whole.shape)[2]
    middle = int(np.median(z[whole]))
    readings = {"A": {"segment-5": whole & (z < middle), "segment-2": whole & (z >= middle)}}
    found = find_regions(echoes, maps, readings, LiverParams(), specimen="in_vivo")
    np.testing.assert_array_equal(found.liver_whole, whole & found.body)
    assert set(found.parts) == {"segment-2", "segment-5", "right-lobe"}
    np.testing.assert_array_equal(found.parts["right-lobe"], found.parts["segment-5"])


def test_spots_are_read_as_drawn_and_the_organ_is_still_found(visit: Visit) -> None:
    echoes, maps, labels = visit
    deep = eroded(true_liver(labels), maps.grid, 25.0)
    found = find_regions(echoes, maps, {"A": {"liver-roi": deep}}, LiverParams(), specimen="in_vivo")
    assert found.mask_source == "reader"
    assert (found.liver == deep & ~found.vessel & (maps.model > 0)).all()
    assert dice(found.liver_whole, true_liver(labels)) > 0.9


def test_a_readers_reference_replaces_the_automatic_one(visit: Visit) -> None:
    echoes, maps, labels = visit
    spleen = labels == LABELS["spleen"]
    readings = {"A": {"liver": true_liver(labels), "reference-muscle": spleen}}
    found = find_regions(echoes, maps, readings, LiverParams(), specimen="in_vivo")
    np.testing.assert_array_equal(found.references["muscle"], spleen & found.body)
    assert "aorta" in found.references


def test_susceptibility_is_not_read_where_the_signal_is_gone(visit: Visit, regions: Regions) -> None:
    maps = visit[1]
    x = np.indices(regions.liver.shape)[0]
    gone = regions.liver & (x < np.quantile(x[regions.liver], 0.65))
    chi = chi_of(maps, 1.0)
    chi = replace(chi, chi_ppm=np.where(gone, 9.0, 1.0).astype(np.float32))
    censored = replace(maps, censored=gone, r2star_per_s=np.where(gone, np.nan, maps.r2star_per_s))
    iron = liver_iron(censored, chi, regions, LicParams(), temperature_celsius=37)
    assert iron.chi_hqsm_ppm == pytest.approx(1.0)
    liver = {r["quantity"]: r for r in iron.details["regions"] if (r["region"], r["reader"]) == ("liver", "study")}
    assert liver["r2star_per_s"]["excluded_share"] == pytest.approx(gone.sum() / regions.liver.sum(), abs=0.02)
    everywhere = replace(maps, censored=regions.liver)
    assert liver_iron(everywhere, chi_of(maps, 1.0), regions, LicParams(), temperature_celsius=37).chi_hqsm_ppm == pytest.approx(1.0)


def test_what_is_left_out_is_counted_by_cause(visit: Visit) -> None:
    echoes, maps, labels = visit
    whole = true_liver(labels)
    censored = whole & (np.indices(whole.shape)[2] == int(np.median(np.indices(whole.shape)[2][whole])))
    found = find_regions(echoes, replace(maps, censored=censored), {"A": {"liver": whole}}, LiverParams(), specimen="in_vivo")
    assert found.shares["censored"] == pytest.approx(censored.sum() / found.liver_whole.sum(), rel=1e-3)
    assert 0 < found.shares["edge"] < 0.5


@pytest.mark.parametrize("case", ["thin", "outside", "apart", "one of two", "as drawn"])
def test_a_readers_liver_of_which_nothing_is_left_is_never_silent(visit: Visit, case: str) -> None:
    echoes, maps, labels = visit
    whole = true_liver(labels)
    x = np.indices(whole.shape)[0]
    thin = whole & (x == int(np.median(x[whole])))
    outside = np.zeros_like(whole)
    outside[:3, :3, :3] = True
    third = (x[whole].min() + np.arange(4) * (np.ptp(x[whole]) + 1) / 3).tolist()
    apart = [whole & (x >= low) & (x < high) for low, high in zip(third[:-1], third[1:], strict=True)]
    drawn = {"thin": [thin], "outside": [outside], "apart": apart, "one of two": [whole, thin], "as drawn": [whole]}[case]
    readings = {reader: {"liver": mask} for reader, mask in zip("ABC", drawn, strict=False)}
    found = find_regions(echoes, maps, readings, LiverParams(), specimen="in_vivo")
    assert ("MASK_EMPTY" in found.codes) == (case != "as drawn")
    if case == "thin":
        iron = liver_iron(maps, chi_of(maps, 1.0), found, LicParams(), temperature_celsius=37)
        assert np.isnan([iron.chi_hqsm_ppm, iron.r2star_per_s, iron.lic_hqsm_mg_g, iron.lic_r2star_mg_g]).all()
    if case == "apart":
        assert not found.liver_whole.any()
