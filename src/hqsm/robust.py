"""The middle of a distribution and its spread, which outliers do not move."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def scaled_mad(deviations: FloatArray) -> float:
    """Standard deviation that a normal distribution with the median absolute deviation of these deviations would have."""
    return MAD_TO_SD * float(np.median(np.abs(deviations)))


def tukey_weights(deviations: FloatArray, sd: float) -> FloatArray:
    """Tukey's biweight: 1 for no deviation, 0 from 4.685 standard deviations on (95 % efficient for normal ones)."""
    weights: FloatArray = np.maximum(1 - (deviations / (4.685 * sd)) ** 2, 0) ** 2
    return weights


def median_and_scaled_mad(values: FloatArray) -> tuple[float, float]:
    """The median, and that of the deviations from it."""
    middle = float(np.median(values))
    return middle, scaled_mad(values - middle)
