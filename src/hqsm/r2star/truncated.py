"""Least squares of A exp(-R2* t) on the echoes before the first that sinks into the noise."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.r2star.least_squares import fit

_LEAST_SNR = 3.0


def estimate(magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); NaN where fewer than two echoes stand out or the fit leaves 0 to 4,000 1/s."""
    standing_out = np.cumprod(magnitude > _LEAST_SNR * noise_sd, axis=-1)
    return fit(magnitude, echo_times_s, noise_sd, n_used=standing_out.sum(axis=-1))
