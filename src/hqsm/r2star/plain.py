"""Least squares of A exp(-R2* t) on magnitude as it is: late echoes are the noise floor, so that R2* reads low in severe iron."""

from __future__ import annotations

from hqsm.arrays import FloatArray
from hqsm.r2star.least_squares import fit


def estimate(magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); NaN where no echo stands out or the fit leaves 0 to 4,000 1/s."""
    return fit(magnitude, echo_times_s, noise_sd)
