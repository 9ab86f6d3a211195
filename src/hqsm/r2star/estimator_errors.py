"""How wrong an estimator of R2* is by itself: simulated at the echo times of the scan, once for a raster of decays.

Noise floor, truncation and the estimator's own rule make an error that no Fisher information tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from hqsm import r2star
from hqsm.arrays import FloatArray, Mask

_R2STAR_PER_S = np.array([0, 50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 1000, 1200, 1400, 1700, 2000], dtype=float)
_SNR = np.geomspace(3, 1000, 14)
_N_SIMULATED = 400
_LEAST_ANSWERED = 0.9
"""Share of voxels with an estimate below which these are no fair sample."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EstimatorErrors:
    """What an estimator makes of decays without fat, each (...,).

    Attributes
    ----------
    bias_per_s, rms_error_per_s
        Mean and root mean square of its error, of the voxels that it gives a number.
    answered
        The share of these.
    """

    bias_per_s: FloatArray
    rms_error_per_s: FloatArray
    answered: FloatArray

    @property
    def misleads(self) -> Mask:
        """Where it is off by more than it scatters, or gives a number to the lucky ones: it would look certain and be wrong."""
        return np.asarray((2 * self.bias_per_s**2 > self.rms_error_per_s**2) | (self.answered < _LEAST_ANSWERED))

    def at(self, snr: FloatArray, r2star_per_s: FloatArray) -> EstimatorErrors:
        """Of a raster (SNR, R2*): (voxel,) where the neighbourhood has this SNR at TE = 0 and R2* [1/s]; beyond it those of its edge."""
        places = np.stack([np.log(np.clip(snr, _SNR[0], _SNR[-1])), np.clip(r2star_per_s, _R2STAR_PER_S[0], _R2STAR_PER_S[-1])], axis=-1)
        values = np.stack([self.bias_per_s, np.log(self.rms_error_per_s), self.answered], axis=-1)
        bias, log_error, answered = RegularGridInterpolator((np.log(_SNR), _R2STAR_PER_S), values)(places).T
        return EstimatorErrors(bias_per_s=bias, rms_error_per_s=np.exp(log_error), answered=answered)


def estimator_errors(name: str, echo_times_s: FloatArray, *, coils: int = 1) -> EstimatorErrors:
    """(SNR, R2*) the errors of the named estimator of the magnitude of ``coils`` combined by the sum of squares."""
    rng = np.random.default_rng(0)
    decay = _SNR[:, None, None, None] * np.exp(-_R2STAR_PER_S[:, None, None] * echo_times_s)
    shape = (_SNR.size, _R2STAR_PER_S.size, _N_SIMULATED, echo_times_s.size)
    # all coils but one hold noise alone: the sum of squares does not know how the signal is spread over them
    power = (decay + rng.standard_normal(shape)) ** 2 + rng.chisquare(2 * coils - 1, shape)
    error = r2star.estimate(name, np.sqrt(power), echo_times_s, 1.0, coils=coils) - _R2STAR_PER_S[:, None]
    known = np.isfinite(error)
    n = np.maximum(known.sum(axis=-1), 1)
    error = np.where(known, error, 0)
    return EstimatorErrors(
        bias_per_s=error.sum(axis=-1) / n,
        rms_error_per_s=np.sqrt((error**2).sum(axis=-1) / n) + 1e-3,  # not nil where nothing was answered: its logarithm is taken
        answered=known.mean(axis=-1),
    )
