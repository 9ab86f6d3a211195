"""What fat does to field and R2* where the echoes cannot tell it from water: a part of their standard errors.

Water of share 1 - F and fat of share F, of one phase, give m(t) = 1 - F + F c(t), which the fit without fat takes for field and decay:
of two echoes

    df = arg(m(t2) m*(t1)) / (2 pi (t2 - t1)),    dR2* = log(|m(t1)| / |m(t2)|) / (t2 - t1).

Nothing in the echoes says how large F is. It is taken as any from 0 to 30 %, each as likely: from lean to severely steatotic liver.
Tissue that is mostly fat lies beyond.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray
from hqsm.fatwater.bounds import R2STAR_RANGE_PER_S
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.tissue import Echoes

LARGEST_SHARE = 0.3
_N_SHARES = 12
_NO_NOISE = 1e-9
_RASTER_PER_S = np.arange(0, R2STAR_RANGE_PER_S + 1, 100.0)


def errors_of_unknown_fat(echo_times_s: FloatArray, fat: ComplexArray, r2star_per_s: FloatArray) -> FloatArray:
    """(n, 2) root mean square errors of field [Hz] and R2* [1/s] that fat of unknown share makes of tissue that decays by ``r2star_per_s``.

    ``fat`` (echo,) is the signal of unit fat against water on resonance.
    """
    shares = LARGEST_SHARE * (np.arange(_N_SHARES) + 0.5) / _N_SHARES
    mixtures = 1 - shares[:, None] * (1 - fat)
    signal = (mixtures[None] * np.exp(-_RASTER_PER_S[:, None, None] * echo_times_s)).reshape(-1, echo_times_s.size).astype(np.complex64)
    start = np.repeat(_RASTER_PER_S, _N_SHARES)
    found = fit_free(np.arange(start.size), Echoes(signal, echo_times_s, fat, _NO_NOISE), np.zeros(start.size), start, False)
    off = np.stack([found.nonlinear[:, 0], found.nonlinear[:, 1] - start], axis=1).reshape(_RASTER_PER_S.size, _N_SHARES, 2)
    rms = np.sqrt(np.nanmean(off**2, axis=1))
    return np.stack([np.interp(r2star_per_s, _RASTER_PER_S, rms[:, k]) for k in range(2)], axis=1)
