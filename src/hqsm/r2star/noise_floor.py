"""Nonlinear least squares of A exp(-R2* t) on magnitude, plain, truncated, or against the Rician mean.

The mean of a Rician magnitude with signal A and noise sigma is m(A) = sigma sqrt(pi/2) L_(1/2)(-A^2 / (2 sigma^2))
(Feng et al., MRM 2013;70:1765, first-moment model): fitting the mean leaves little bias by the floor, and
that of the second order is taken off. Weights by the measured magnitude would bring it back, because they follow the noise.
``coils`` > 1 takes the non-central chi of a sum of squares.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import special

from hqsm.arrays import AnyArray, FloatArray
from hqsm.r2star import log_linear

_RASTER = np.linspace(0, 12, 1201)


def mean_magnitude(signal_over_sd: FloatArray, coils: int = 1) -> FloatArray:
    """Mean of a magnitude in units of the noise SD of one coil's real part; Rician for one coil."""
    lead = np.sqrt(2) * np.exp(special.gammaln(coils + 0.5) - special.gammaln(coils))
    mean: FloatArray = lead * special.hyp1f1(-0.5, coils, -(signal_over_sd**2) / 2)
    return mean


def estimate(magnitude: FloatArray, echo_times_s: FloatArray, noise_sd: float, *, model: str = "noise-floor", coils: int = 1) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); NaN where no echo stands out or the fit leaves 0 to 4,000 1/s.

    ``model``: ``plain`` (no floor), ``truncated`` (no floor, echoes after the first below 3 noise SD left out),
    ``noise-floor``.
    """
    voxels = np.ascontiguousarray(magnitude.reshape(-1, magnitude.shape[-1]), dtype=np.float64)
    raster = _RASTER
    means = mean_magnitude(raster, coils)
    start = np.nan_to_num(log_linear.estimate(voxels, echo_times_s), nan=50.0)
    kind = {"plain": 0, "truncated": 1, "noise-floor": 2}[model]
    t = np.asarray(echo_times_s, np.float64)
    fitted: FloatArray = _fit(voxels, t, float(noise_sd), start, means, kind, 2.0 * coils)
    return fitted.reshape(magnitude.shape[:-1])


@numba.njit(cache=True, parallel=True)
def _fit(
    voxels: AnyArray, t: AnyArray, sigma: float, start: AnyArray, means: AnyArray, kind: int, offset: float
) -> AnyArray:  # pragma: no cover - compiled
    n_voxels, n_echoes = voxels.shape
    result = np.full(n_voxels, np.nan)
    for v in numba.prange(n_voxels):
        if not voxels[v].max() > 3 * sigma:
            continue
        used = n_echoes
        if kind == 1:
            used = 0
            while used < n_echoes and voxels[v, used] > 3 * sigma:
                used += 1
        if used < 2:
            continue
        rate = min(max(start[v], 1.0), 3000.0)
        amplitude = voxels[v, 0] * np.exp(rate * t[0])
        damping = 1e-3
        last = np.inf
        kaa = kar = krr = ka = kr = 0.0
        old_rate, old_amplitude = rate, amplitude
        for _ in range(40):
            cost = haa = har = hrr = ga = gr = 0.0
            for e in range(used):
                decay = np.exp(-rate * t[e])
                s = amplitude * decay
                slope = 1.0
                mean = s
                if kind == 2 and s >= 0:
                    mean, slope, _ = _mean(s / sigma, means, offset)
                    mean *= sigma
                r = voxels[v, e] - mean
                da = slope * decay
                dr = -slope * t[e] * s
                cost += r * r
                haa += da * da
                har += da * dr
                hrr += dr * dr
                ga += da * r
                gr += dr * r
            if cost <= last:
                small = last - cost < 1e-8 * cost
                last, old_rate, old_amplitude = cost, rate, amplitude
                kaa, kar, krr, ka, kr = haa, har, hrr, ga, gr
                if small:
                    break
                damping *= 0.1
            else:
                damping *= 10
                if damping > 1e6:
                    break
            a = kaa * (1 + damping)
            b = krr * (1 + damping)
            determinant = a * b - kar * kar
            if not determinant > 0:
                break
            amplitude = old_amplitude + (b * ka - kar * kr) / determinant
            rate = old_rate + (a * kr - kar * ka) / determinant
        if 0 < old_rate < 4000:
            result[v] = old_rate
            if kind == 2:
                result[v] -= _bias(old_amplitude, old_rate, t, sigma, means, offset, kaa, kar, krr)
    return result


@numba.njit(cache=True)
def _mean(x: float, means: AnyArray, offset: float) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Mean magnitude of a signal of ``x`` noise SD, its slope and its bend."""
    if 0 <= x < (means.size - 2) / 100.0:
        k = max(int(x * 100), 1)
        here = x * 100 - k
        slope = 100 * (means[k + 1] - means[k])
        return means[k] + here * (means[k + 1] - means[k]), slope, 1e4 * (means[k + 1] - 2 * means[k] + means[k - 1])
    mean = np.sqrt(x * x + offset - 1)
    return mean, x / mean, (offset - 1) / mean**3


@numba.njit(cache=True)
def _bias(
    amplitude: float, rate: float, t: AnyArray, sigma: float, means: AnyArray, offset: float, haa: float, har: float, hrr: float
) -> float:  # pragma: no cover - compiled
    """Bias of the rate to second order (Box, J R Stat Soc B 1971;33:171), for noise that differs from echo to echo.

    With J the slopes, H_e the bends, S the variances, A = (J^T J)^-1 J^T, V = A S A^T and C = S A^T - J V:
    (J^T J)^-1 sum_e (H_e C_e - J_e tr(V H_e) / 2). At most half a standard error and a tenth
    of the rate: as far as the expansion can be trusted.
    """
    determinant = haa * hrr - har * har
    if not determinant > 0:
        return 0.0
    iaa, iar, irr = hrr / determinant, -har / determinant, haa / determinant
    vaa = var_ = vrr = 0.0
    for e in range(t.size):
        decay = np.exp(-rate * t[e])
        x = amplitude * decay / sigma
        mean, slope, _ = _mean(x, means, offset)
        variance = sigma * sigma * max(x * x + offset - mean * mean, 0.0)
        ja, jr = slope * decay, -slope * t[e] * amplitude * decay
        pa, pr = iaa * ja + iar * jr, iar * ja + irr * jr
        vaa += variance * pa * pa
        var_ += variance * pa * pr
        vrr += variance * pr * pr
    ba = br = 0.0
    for e in range(t.size):
        decay = np.exp(-rate * t[e])
        s = amplitude * decay
        mean, slope, bend = _mean(s / sigma, means, offset)
        variance = sigma * sigma * max((s / sigma) ** 2 + offset - mean * mean, 0.0)
        bend /= sigma
        sa, sr = decay, -t[e] * s
        ja, jr = slope * sa, slope * sr
        haa_e, har_e, hrr_e = bend * sa * sa, bend * sa * sr - slope * t[e] * decay, bend * sr * sr + slope * t[e] * t[e] * s
        ca = variance * (iaa * ja + iar * jr) - (ja * vaa + jr * var_)
        cr = variance * (iar * ja + irr * jr) - (ja * var_ + jr * vrr)
        half = 0.5 * (vaa * haa_e + 2 * var_ * har_e + vrr * hrr_e)
        ba += haa_e * ca + har_e * cr - ja * half
        br += har_e * ca + hrr_e * cr - jr * half
    limit = min(0.5 * np.sqrt(vrr), 0.1 * rate)
    return float(min(max(iar * ba + irr * br, -limit), limit))
