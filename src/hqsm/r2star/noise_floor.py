"""Least squares of magnitude against the Rician mean, so that the noise floor is part of the model.

The mean of a Rician magnitude with signal A and noise sigma is m(A) = sigma sqrt(pi/2) L_(1/2)(-A^2 / (2 sigma^2))
(Feng et al., MRM 2013;70:1765, first-moment model): fitting the mean leaves little bias by the floor, and
that of the second order is taken off. Weights by the measured magnitude would bring it back, because they follow the noise.
``coils`` > 1 takes the non-central chi of a sum of squares.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from hqsm.arrays import FloatArray
from hqsm.r2star.least_squares import fit

_RASTER = np.linspace(0, 12, 1201)


def mean_magnitude(signal_over_sd: FloatArray, coils: int = 1) -> FloatArray:
    """Mean of a magnitude in units of the noise SD of one coil's real part; Rician for one coil."""
    lead = np.sqrt(2) * np.exp(special.gammaln(coils + 0.5) - special.gammaln(coils))
    mean: FloatArray = lead * special.hyp1f1(-0.5, coils, -(signal_over_sd**2) / 2)
    return mean


def estimate(magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float, *, coils: int = 1) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); NaN where no echo stands out or the fit leaves 0 to 4,000 1/s."""
    return fit(magnitude, echo_times_s, noise_sd, floor=mean_magnitude(_RASTER, coils), coils=coils)
