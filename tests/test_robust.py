"""Median and scaled median absolute deviation: closed forms of the normal distribution, and that outliers do not move them."""

import numpy as np
import pytest
from scipy import stats

from hqsm.robust import median_and_scaled_mad, scaled_mad

NORMAL = stats.norm.ppf((np.arange(2001) + 0.5) / 2001)


def test_of_a_normal_distribution_they_are_its_mean_and_standard_deviation() -> None:
    assert median_and_scaled_mad(7 + 3 * NORMAL) == pytest.approx((7, 3), rel=2e-3)
    assert scaled_mad(3 * NORMAL) == pytest.approx(3, rel=2e-3)


def test_deviations_count_from_zero_and_not_from_their_own_median() -> None:
    assert scaled_mad(np.full(5, -2.0)) == pytest.approx(2 * 1.4826)
    assert median_and_scaled_mad(np.full(5, -2.0)) == (-2, 0)


def test_one_value_in_twenty_gone_astray_moves_neither_by_more_than_a_tenth_of_the_spread() -> None:
    values = np.random.default_rng(1).permutation(NORMAL)
    values[:100] = 1e6
    assert median_and_scaled_mad(values) == pytest.approx((0, 1), abs=0.1)
