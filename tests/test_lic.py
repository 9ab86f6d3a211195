import numpy as np
import pytest

from hqsm.lic import R2STAR_CALIBRATIONS, apply_calibration, physical_calibration, r2star_calibration, roi_statistics


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
    assert 1 / physical_calibration(37.0, 0.1).slope == pytest.approx(0.41030, abs=1e-4)
    assert physical_calibration(37.0, 0.1).slope / physical_calibration(20.0, 0.1).slope == pytest.approx(310.15 / 293.15)


def test_the_interval_carries_the_scale_and_the_measurement() -> None:
    lic, lo, hi = apply_calibration(physical_calibration(37.0, 0.1), 2.0, 0.05)
    slope = 1 / 0.410297
    assert lic == pytest.approx(2 * slope, rel=1e-4)
    assert hi - lic == pytest.approx(1.96 * np.hypot(slope * 0.05, 2 * slope * 0.1), rel=1e-3)
    assert lic - lo == pytest.approx(hi - lic)


def test_vessels_and_failed_voxels_barely_move_the_median_inside_tukeys_fences() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(320, 20, 100_000)
    values[:7400], values[7400:9400] = rng.normal(60, 10, 7400), 2000.0
    found = roi_statistics(values, np.ones(values.size, bool))
    assert found.median == pytest.approx(320, abs=1)
    assert found.excluded_share == pytest.approx(0.094, abs=0.01)
    assert np.mean(values) > found.median + 10


def test_an_empty_region_is_nan_and_not_zero() -> None:
    assert np.isnan(roi_statistics(np.ones(10), np.zeros(10, bool)).median)
