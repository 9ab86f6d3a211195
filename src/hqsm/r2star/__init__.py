"""Fat-free R2* of magnitude data: one estimator a file, selected by name."""

from __future__ import annotations

from hqsm.arrays import FloatArray
from hqsm.r2star import arlo, log_linear, noise_floor, plain, truncated


def estimate(name: str, magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float, *, coils: int = 1) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo) by the named estimator; ``coils`` are those of a sum of squares (noise-floor)."""
    if name == "arlo":
        return arlo.estimate(magnitude, echo_times_s)
    if name == "log-linear":
        return log_linear.estimate(magnitude, echo_times_s)
    if name == "plain":
        return plain.estimate(magnitude, echo_times_s, noise_sd)
    if name == "truncated":
        return truncated.estimate(magnitude, echo_times_s, noise_sd)
    if name == "noise-floor":
        return noise_floor.estimate(magnitude, echo_times_s, noise_sd, coils=coils)
    raise ValueError(f"no estimator of R2* is named {name!r}")
