"""Second-order bias of the constrained fit, for voxels in lanes."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit
from hqsm.fatwater.constrained_step import (
    PRECISION,
    RATE_PRECISION,
    S0,
    S1,
    S2,
    S3,
    SHARE_FREE,
    TRIAL,
    TURN,
    U0,
    U1,
    X0I,
    X0R,
    X1I,
    X1R,
    X2I,
    X2R,
)
from hqsm.fatwater.lanes import LANES, power
from hqsm.fatwater.standard_errors import TOO_WIDE, scatter

_SHARE_TRUSTED, _SHARE_UNTRUSTED = 0.15, 0.25
"""Second-order bias of the share of fat, in standard errors, up to which the expansion holds, and from which it is worse than none."""


@njit(error_model="numpy")
def second_order_bias(s: AnyArray, state: AnyArray, given: AnyArray, v: AnyArray, sigma: float) -> AnyArray:  # pragma: no cover
    """Bias of nonlinear least squares (Box, J R Stat Soc B 1971;33:171) where priors are wider than what they say is off.

    A decay read from late, dark echoes comes out too fast: with two echoes of SNR a > b by (1/b^2 - 1/a^2) / (2 dt).
    With V the inverse of the information, the priors' included, Box has -1/2 V Re(J^H tr(V H)): a prior counts as a measurement
    that scatters as it says. The neighbourhood's decay scatters far less than its prior is wide, the field somewhat less. With q the
    part of a prior's precision that is so (``TOO_WIDE``) and v the column of V, the estimate's covariance is
    S = V - sum q v v^T and the bias, in sigma^2, V [sum q Re((H v)^H J v) - 1/2 Re(J^H tr(S H))].

    At most half a standard error is taken off, which is as far as the expansion can be trusted; of the share of fat, whose skewness
    outgrows it sooner, nothing where it would be more than a quarter. At each echo tr(S H) is m (a0 + a1 t + a2 t^2) + u (b0 + b1 t),
    and J v is m (e0 + e1 t) + u e2, m and u as in :func:`hqsm.fatwater.constrained_step.moments`.
    """
    bias, slopes, scale = np.zeros((5, LANES)), np.zeros((5, LANES)), np.ones(LANES)
    for k in range(LANES):
        a = state[TRIAL + 3, k]
        a0 = complex(-a * scatter(v, 2, 2, given, k), 2 * scatter(v, 2, 3, given, k))
        a1 = complex(
            -2 * a * TURN * scatter(v, 0, 2, given, k) - 200 * scatter(v, 1, 3, given, k),
            -200 * a * scatter(v, 1, 2, given, k) + 2 * TURN * scatter(v, 0, 3, given, k),
        )
        a2 = a * complex(
            -TURN * TURN * scatter(v, 0, 0, given, k) + 1e4 * scatter(v, 1, 1, given, k), -200 * TURN * scatter(v, 0, 1, given, k)
        )
        b0 = complex(2 * scatter(v, 3, 4, given, k), 2 * a * scatter(v, 2, 4, given, k))
        b1 = complex(-200 * a * scatter(v, 1, 4, given, k), 2 * a * TURN * scatter(v, 0, 4, given, k))
        x0, x1, x2 = complex(s[X0R, k], s[X0I, k]), complex(s[X1R, k], s[X1I, k]), complex(s[X2R, k], s[X2I, k])
        s0, s1, s2, s3, u0, u1 = s[S0, k], s[S1, k], s[S2, k], s[S3, k], s[U0, k], s[U1, k]
        c0 = a0 * s0 + a1 * s1 + a2 * s2 + b0 * x0 + b1 * x1
        c1 = a0 * s1 + a1 * s2 + a2 * s3 + b0 * x1 + b1 * x2
        d = a0 * x0.conjugate() + a1 * x1.conjugate() + a2 * x2.conjugate() + b0 * u0 + b1 * u1
        slopes[0, k] = -0.5 * TURN * a * c1.imag
        slopes[2, k] = -0.5 * a * c0.imag
        of_rate = of_size = of_share = 0.0
        for j in range(2):
            loose = TOO_WIDE[0] * given[PRECISION, k] if j == 0 else TOO_WIDE[1] * given[RATE_PRECISION, k]
            e0, e1, e2 = complex(v[3, j, k], a * v[2, j, k]), a * complex(-100 * v[1, j, k], TURN * v[0, j, k]), a * v[4, j, k]
            p0, p1, p2 = power(e0), 2 * (e0 * e1.conjugate()).real, power(e1)
            w0 = p0 * s0 + p1 * s1 + p2 * s2 + e2 * e2 * u0 + 2 * e2 * (e0.conjugate() * x0 + e1.conjugate() * x1).real
            w1 = p0 * s1 + p1 * s2 + p2 * s3 + e2 * e2 * u1 + 2 * e2 * (e0.conjugate() * x1 + e1.conjugate() * x2).real
            of_rate += loose * w1
            of_size += loose * (w0 - v[3, j, k] * (e0.real * s0 + e1.real * s1 + e2 * x0.real)) / a
            of_share += loose * (p0 * x0.real + p1 * x1.real + p2 * x2.real + e2 * (e0.real * u0 + e1.real * u1))
        slopes[1, k] = -100 * (of_rate - 0.5 * a * c1.real)
        slopes[3, k] = of_size - 0.5 * c0.real
        slopes[4, k] = given[SHARE_FREE, k] * (of_share - 0.5 * a * d.real)
    for i in range(5):
        for j in range(5):
            for k in range(LANES):
                bias[i, k] += sigma**2 * v[i, j, k] * slopes[j, k]
        for k in range(LANES):
            limit, size = 0.5 * sigma * np.sqrt(v[i, i, k]), abs(bias[i, k])
            scale[k] = min(scale[k], limit / size if size > limit else 1.0)
    for k in range(LANES):
        skewed = abs(bias[4, k]) / (sigma * np.sqrt(max(v[4, 4, k], 1e-30)))
        trusted = min(max((_SHARE_UNTRUSTED - skewed) / (_SHARE_UNTRUSTED - _SHARE_TRUSTED), 0.0), 1.0)
        for i in range(5):
            bias[i, k] *= scale[k]
        bias[4, k] *= trusted
    return bias
