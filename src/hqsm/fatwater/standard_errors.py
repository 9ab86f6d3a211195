"""Standard errors of the constrained fit, for voxels in lanes: the inverse of the information, and what estimates scatter by.

The information is Re(J^H J) / sigma^2, the priors' included.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit
from hqsm.fatwater.constrained_step import (
    N_AA,
    N_AS,
    N_FF,
    N_FP,
    N_FS,
    N_PP,
    N_PS,
    N_RA,
    N_RR,
    N_RS,
    N_SS,
    PRECISION,
    RATE_PRECISION,
    SHARE_FREE,
)
from hqsm.fatwater.lanes import LANES

TOO_WIDE = 0.5, 0.9
"""Shares of the variance of the priors on field and R2* by which they are wider than what they say is off."""


@njit(error_model="numpy")
def inverses(n: AnyArray, given: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(5, 5, lane) inverses of the information. Unknowns: field, R2*, phase, amplitude, share."""
    v = np.zeros((5, 5, LANES))
    b = np.zeros((5, LANES))
    for k in range(LANES):
        free = given[SHARE_FREE, k]
        ff, pp, fp = n[N_FF, k], n[N_PP, k], n[N_FP, k]
        rr, aa, ra = n[N_RR, k], n[N_AA, k], n[N_RA, k]
        one, two = ff * pp - fp * fp, rr * aa - ra * ra
        fs, ps, rs, sa = free * n[N_FS, k], free * n[N_PS, k], free * n[N_RS, k], free * n[N_AS, k]
        bf, br, bp, ba = (pp * fs - fp * ps) / one, (aa * rs - ra * sa) / two, (ff * ps - fp * fs) / one, (rr * sa - ra * rs) / two
        left = n[N_SS, k] - (fs * bf + rs * br + ps * bp + sa * ba)
        b[0, k], b[1, k], b[2, k], b[3, k] = bf, br, bp, ba
        b[4, k] = free / left if free > 0 else 0.0
        v[0, 0, k], v[2, 2, k], v[0, 2, k] = pp / one, ff / one, -(fp / one)
        v[1, 1, k], v[3, 3, k], v[1, 3, k] = aa / two, rr / two, -(ra / two)
    for i in range(4):
        for j in range(i, 4):
            for k in range(LANES):
                v[i, j, k] = b[i, k] * b[j, k] * b[4, k] + v[i, j, k]
            for k in range(LANES):
                v[j, i, k] = v[i, j, k]
        for k in range(LANES):
            v[i, 4, k] = -b[i, k] * b[4, k]
            v[4, i, k] = -b[i, k] * b[4, k]
    for k in range(LANES):
        v[4, 4, k] = b[4, k]
    return v


@njit(inline="always")
def scatter(v: AnyArray, i: int, j: int, given: AnyArray, k: int) -> float:  # pragma: no cover - compiled
    """Covariance of two of a lane's estimates, ``v`` the inverse information, where two priors claim less than they know: V - V Q V."""
    field, rate = TOO_WIDE[0] * given[PRECISION, k], TOO_WIDE[1] * given[RATE_PRECISION, k]
    return float(v[i, j, k] - field * v[i, 0, k] * v[0, j, k] - rate * v[i, 1, k] * v[1, j, k])


@njit(error_model="numpy")
def variance_of_rate(n: AnyArray, k: int, free_share: float) -> float:  # pragma: no cover - compiled
    """Variance of a lane's R2*, in sigma^2; NaN where the information is not positive definite."""
    ff, pp, fp = n[N_FF, k], n[N_PP, k], n[N_FP, k]
    rr, aa, ra = n[N_RR, k], n[N_AA, k], n[N_RA, k]
    one, two = ff * pp - fp * fp, rr * aa - ra * ra
    if not (one > 1e-14 * ff * pp and two > 1e-14 * rr * aa):
        return np.nan
    if free_share == 0:
        return float(aa / two)
    fs, ps, rs, sa, ss = n[N_FS, k], n[N_PS, k], n[N_RS, k], n[N_AS, k], n[N_SS, k]
    bf, br, bp, ba = (pp * fs - fp * ps) / one, (aa * rs - ra * sa) / two, (ff * ps - fp * fs) / one, (rr * sa - ra * rs) / two
    left = ss - (fs * bf + rs * br + ps * bp + sa * ba)
    return float(br * br * (1 / left) + aa / two) if left > 1e-14 * ss else np.nan
