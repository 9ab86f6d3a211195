"""Straight line through log|S| with weights |S|^2: the error of log|S| is inverse to |S|."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray


def estimate(magnitude: FloatArray, echo_times_s: FloatArray) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); low where late echoes lie at the noise floor."""
    weight = magnitude**2
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithm = np.where(magnitude > 0, np.log(magnitude), 0)
        total = weight.sum(-1)
        t_mean = (weight * echo_times_s).sum(-1) / total
        l_mean = (weight * logarithm).sum(-1) / total
        spread = (weight * echo_times_s**2).sum(-1) / total - t_mean**2
        r2star: FloatArray = -((weight * logarithm * echo_times_s).sum(-1) / total - t_mean * l_mean) / spread
    return r2star
