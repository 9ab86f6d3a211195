"""Nonlinear least squares of A exp(-R2* t) on magnitude (Levenberg-Marquardt), which several estimators share.

With a floor, the mean magnitude is fitted instead of the signal, and the rate's bias of second order is taken off.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.compiled import njit, prange
from hqsm.r2star import log_linear


def fit(
    magnitude: FloatArray,
    echo_times_s: FloatArray,
    noise_sd: float,
    *,
    n_used: IntArray | None = None,
    floor: FloatArray | None = None,
    coils: int = 1,
) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo); NaN where no echo stands out or the fit leaves 0 to 4,000 1/s.

    Parameters
    ----------
    magnitude, noise_sd
        In the same unit; ``noise_sd`` of one coil's real part.
    echo_times_s
        (echo,) [s].
    n_used
        (...,) how many echoes, from the first on, are looked at; None for all.
    floor
        Mean magnitude over the noise SD, at every hundredth of the signal over it, of a sum of squares of ``coils``; None for no floor.
    """
    voxels = np.ascontiguousarray(magnitude.reshape(-1, magnitude.shape[-1]), dtype=np.float64)
    used = np.full(voxels.shape[0], voxels.shape[1]) if n_used is None else n_used.reshape(-1)
    start = np.nan_to_num(log_linear.estimate(voxels, echo_times_s), nan=50.0)
    means = np.empty(0) if floor is None else floor
    fitted: FloatArray = _fit(voxels, np.asarray(echo_times_s, np.float64), float(noise_sd), start, used, means, 2.0 * coils)
    return fitted.reshape(magnitude.shape[:-1])


@njit(parallel=True)
def _fit(
    voxels: AnyArray, t: AnyArray, sigma: float, start: AnyArray, n_used: AnyArray, means: AnyArray, offset: float
) -> AnyArray:  # pragma: no cover - compiled
    n_voxels = voxels.shape[0]
    result = np.full(n_voxels, np.nan)
    for v in prange(n_voxels):
        if not voxels[v].max() > 3 * sigma:
            continue
        used = n_used[v]
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
                if means.size and s >= 0:
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
            if means.size:
                result[v] -= _bias(old_amplitude, old_rate, t, sigma, means, offset, kaa, kar, krr)
    return result


@njit()
def _mean(x: float, means: AnyArray, offset: float) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Mean magnitude of a signal of ``x`` noise SD, its slope and its bend."""
    if 0 <= x < (means.size - 2) / 100.0:
        k = max(int(x * 100), 1)
        here = x * 100 - k
        slope = 100 * (means[k + 1] - means[k])
        return means[k] + here * (means[k + 1] - means[k]), slope, 1e4 * (means[k + 1] - 2 * means[k] + means[k - 1])
    mean = np.sqrt(x * x + offset - 1)
    return mean, x / mean, (offset - 1) / mean**3


@njit()
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
