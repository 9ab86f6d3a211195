"""Fat-free R2* of magnitude data: one estimator a file, selected by name."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.r2star import arlo, log_linear, noise_floor, plain, truncated


def estimate(name: str, magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo) by the named estimator."""
    if name == "arlo":
        return arlo.estimate(magnitude, echo_times_s)
    if name == "log-linear":
        return log_linear.estimate(magnitude, echo_times_s)
    if name == "plain":
        return plain.estimate(magnitude, echo_times_s, noise_sd)
    if name == "truncated":
        return truncated.estimate(magnitude, echo_times_s, noise_sd)
    return noise_floor.estimate(magnitude, echo_times_s, noise_sd)


def standard_error(name: str, magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float) -> FloatArray:
    """Standard error [1/s] of :func:`estimate`: what one noise SD of each echo, more or less, moves the estimate by.

    The delta method with steps as large as the noise, so that it holds for an estimator that chooses echoes, too. What fat biases the
    estimate by is not in it.
    """
    estimated = estimate(name, magnitude, echo_times_s, noise_sd)
    variance = np.zeros(estimated.shape)
    for echo in range(echo_times_s.size):
        moved = []
        for step in (-noise_sd, noise_sd):
            changed = magnitude.copy()
            changed[..., echo] = np.maximum(changed[..., echo] + step, 0)
            moved.append((estimate(name, changed, echo_times_s, noise_sd) - estimated) ** 2)
        # near 0 and 4,000 1/s a fit may hold on one side only
        down, up = moved
        variance += (np.where(np.isnan(down), up, down) + np.where(np.isnan(up), down, up)) / 2
    error: FloatArray = np.sqrt(variance)
    return error
