"""The fat fraction: magnitude discrimination, and the T1 that a short repetition time weighs it with."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray
from hqsm.compiled import njit
from hqsm.fatwater.lanes import power

_T1_S = {1.5: (0.586, 0.343), 3.0: (0.809, 0.382)}
"""T1 of liver and of fat [s] (de Bazelaire et al., Radiology 2004;230:652); other field strengths between or beyond."""


def pdff_percent(water: ComplexArray, fat: ComplexArray, se_percent: FloatArray | float = 0.0) -> FloatArray:
    """Fat fraction [%] by magnitude discrimination (Liu et al., MRM 2007;58:354), free of the noise bias of |F|.

    The modulus of z = W / (W + F) (or F / (W + F)) that remains is too large by se^2 / (2 |z|), as noise at right angles to z
    lengthens it; z itself is unbiased to that order, as a ratio of complex estimates with circular noise. That is taken off,
    with the fraction's standard error as se.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        of_water, of_fat = np.abs(water), np.abs(fat)
        water_leads = of_water >= of_fat
        size = np.where(water_leads, of_water, of_fat) / np.abs(water + fat)
        size = size - 0.5 * (np.asarray(se_percent) / 100) ** 2 / size
        fraction = np.where(water_leads, 1 - size, size)
    return 100 * fraction


@njit(error_model="numpy")
def pdff_variance(
    w: complex, f: complex, i11: float, i22: float, i12: complex, p1: complex, p2: complex, information: float
) -> float:  # pragma: no cover - compiled
    """Of PDFF by magnitude discrimination: 1 - |W|/|W+F| where water dominates, |F|/|W+F| where fat does; noise of unit SD."""
    whole = w + f
    size2 = max(power(whole), 1e-24)
    water_leads = power(w) >= power(f)
    part = w if water_leads else f
    p = np.sqrt(max(power(part), 1e-24))
    size = np.sqrt(size2)
    common = whole * (-p / (size2 * size))
    own = part / (p * size)
    gw = common + own if water_leads else common
    gf = common if water_leads else common + own
    # covariance of (W, F): that of a known field plus what the field's error carries over
    variance = i11 * power(gw) + i22 * power(gf) + 2 * (gw.conjugate() * i12 * gf).real
    return float(variance + power(gw.conjugate() * p1 + gf.conjugate() * p2) / information)


def t1_weight_of_fat(flip_angle_degrees: float, repetition_time_s: float, field_strength_tesla: float) -> float:
    """By how much a spoiled gradient echo overstates fat against water: ratio of sin a (1 - E1) / (1 - E1 cos a)."""
    fields = np.array(sorted(_T1_S))
    cosine = np.cos(np.radians(flip_angle_degrees))
    weights = []
    for species in range(2):
        t1_s = float(np.interp(field_strength_tesla, fields, [_T1_S[f][species] for f in fields]))
        recovered = np.exp(-repetition_time_s / t1_s)
        weights.append((1 - recovered) / (1 - recovered * cosine))
    return float(weights[1] / weights[0])


def without_t1(pdff: FloatArray, weight: float) -> tuple[FloatArray, FloatArray]:
    """Fat fraction [%] with fat's overweight taken out, and what its standard error is to be multiplied by."""
    fraction = pdff / 100
    scale = fraction + weight * (1 - fraction)
    return 100 * fraction / scale, weight / scale**2
