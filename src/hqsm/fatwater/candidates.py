"""Each block's own few best fields: the lowest minima of its misfit, water, fat and R2* projected out.

The misfit over the field is a trigonometric polynomial of the block's products (:mod:`hqsm.fatwater.blocks`), tried at a
few decays; each minimum is refined along R2*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.fatwater.blocks import EVEN_WITHIN_S, Blocks
from hqsm.fatwater.lanes import evenly

R2STAR_CANDIDATES_PER_S = (15.0, 40.0, 90.0, 180.0, 320.0, 500.0, 750.0, 1100.0)
N_MINIMA = 4
N_FIELDS = 64
_CHUNK = 1024
_LOG_STEP = 0.2
IMPOSSIBLE = np.float32(1e6)
_FASTEST_FAT_PER_S = 400.0
_FAST_FAT_COST = 0.005
"""Share of the signal's energy that a field costs at which the tissue would be fat that decays faster than this: iron is in
water, and a dark liver whose few echoes fit as fat as well is no fat."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Each block's own few best fields.

    Attributes
    ----------
    field_hz, misfit, r2star_per_s
        (block, minimum) fields, best first; misfit, very large where there is no such minimum; R2* that came with it.
    period_hz
        What a field may be changed by without changing the signal; infinite for uneven echoes.
    """

    field_hz: FloatArray
    misfit: FloatArray
    r2star_per_s: FloatArray
    period_hz: float


def raster_of(echo_times_s: FloatArray, field_strength_tesla: float) -> tuple[FloatArray, float]:
    """Fields to try [Hz] and their period: one period of evenly spaced echoes; else two of the closest pair, no period."""
    spacing_s = float(np.diff(echo_times_s).min())
    if np.allclose(np.diff(echo_times_s), spacing_s, rtol=0.02):
        period_hz = 1.0 / float(np.diff(echo_times_s).mean())
        return np.arange(N_FIELDS) * period_hz / N_FIELDS - period_hz / 2, period_hz
    span_hz = min(2 / spacing_s, 1000.0 * field_strength_tesla)
    n_fields = int(np.clip(8 * span_hz * (echo_times_s[-1] - echo_times_s[0]), N_FIELDS, 8 * N_FIELDS))
    return (np.arange(n_fields) / n_fields - 0.5) * span_hz, np.inf


def candidates(
    blocks: Blocks, echo_times_s: FloatArray, fat: ComplexArray, field_strength_tesla: float, *, with_fat: bool, one_phase: bool = False
) -> Candidates:
    """The lowest minima of every block's misfit over the field; ``one_phase`` where a block's water and fat must share theirs."""
    raster_hz, period_hz = raster_of(echo_times_s, field_strength_tesla)
    decay = np.exp(-np.outer(R2STAR_CANDIDATES_PER_S, echo_times_s))
    columns = [decay + 0j, decay * fat] if with_fat else [decay + 0j]
    bases = np.linalg.qr(np.stack(columns, axis=2))[0]
    projectors = np.einsum("bni,bmi->nmb", bases, bases.conj())
    differences = np.round((echo_times_s[:, None] - echo_times_s[None, :]) * 1e6).astype(np.int64)
    lags, lag_of = np.unique(np.where(differences > 0, differences, differences.max()), return_inverse=True)
    both_s = echo_times_s[:, None] + echo_times_s[None, :]
    sum_of = np.unique(np.round(both_s * 1e6).astype(np.int64), return_inverse=True)[1].ravel()
    sums_s = np.bincount(sum_of, both_s.ravel()) / np.bincount(sum_of)
    turns = 2 * np.pi * np.outer(lags * 1e-6, raster_hz)
    step_hz = float(raster_hz[1] - raster_hz[0])
    fat_or_none = fat.astype(np.complex128) if with_fat else np.zeros(fat.size, np.complex128)
    field, misfit, r2star = _minima(
        blocks.products,
        np.stack([projectors.real, projectors.imag]).astype(np.float32),
        lag_of.reshape(differences.shape),
        np.cos(turns).astype(np.float32),
        np.sin(turns).astype(np.float32),
        bool(np.isfinite(period_hz)),
        np.asarray(echo_times_s, np.float64),
        sums_s,
        sum_of.reshape(differences.shape),
        fat_or_none,
        *_pairs(fat_or_none, sum_of.reshape(differences.shape)),
        float(raster_hz[0]),
        step_hz,
        np.log(np.array(R2STAR_CANDIDATES_PER_S)),
        one_phase and with_fat,
    )
    return Candidates(field_hz=field, misfit=misfit, r2star_per_s=r2star, period_hz=period_hz)


def _pairs(fat: ComplexArray, sum_of: IntArray) -> tuple[IntArray, FloatArray]:
    """(pair, 3) numbers n >= m of two echoes and of the sum of their times; (pair, 7) what :func:`_at_field` multiplies by."""
    which, factors = [], []
    for n in range(fat.size):
        for m in range(n + 1):
            cn, cm = fat[n], fat[m]
            both = np.conj(cn) * cm
            half = 0.5 if n == m else 1.0
            which.append((n, m, sum_of[n, m]))
            mine = (2, cm.real + cn.real, cm.imag - cn.imag, cm.imag + cn.imag, cm.real - cn.real, 2 * both.real, 2 * both.imag)
            factors.append([half * float(factor) for factor in mine])
    return np.array(which), np.array(factors)


@numba.njit(cache=True)
def _at_field(
    product: AnyArray, t: AnyArray, even: bool, pairs: AnyArray, factors: AnyArray, field_hz: float, phasor: AnyArray, terms: AnyArray
) -> None:  # pragma: no cover - compiled
    """What of a block's products A^H H A needs at any decay once the field is chosen: (4, sum of two echo times) terms.

    Water with water, water with fat (real, imaginary) and fat with fat, without the decay exp(-R2* (t_n + t_m)).
    """
    phasor[0] = 1
    turn = np.exp(2j * np.pi * field_hz * (t[1] - t[0]))
    for n in range(1, t.size):
        phasor[n] = phasor[n - 1] * turn if even else np.exp(2j * np.pi * field_hz * (t[n] - t[0]))
    terms[:, :] = 0
    for i in range(pairs.shape[0]):
        n, m, k = pairs[i, 0], pairs[i, 1], pairs[i, 2]
        # conj(g_n) H_nm g_m and its transpose, which is its conjugate, at once
        x = phasor[n].conjugate() * product[n, m] * phasor[m]
        terms[0, k] += factors[i, 0] * x.real
        terms[1, k] += factors[i, 1] * x.real - factors[i, 2] * x.imag
        terms[2, k] += factors[i, 3] * x.real + factors[i, 4] * x.imag
        terms[3, k] += factors[i, 5] * x.real - factors[i, 6] * x.imag


@numba.njit(cache=True)
def _equations(
    terms: AnyArray, sum_of: AnyArray, fat: AnyArray, decay: AnyArray
) -> tuple[float, float, float, float, float, float, complex, float]:  # pragma: no cover - compiled
    """A^H H A (11, 22, real and imaginary part of 12), A^H A (11, 22, 12) and its determinant at a decay over sums of echo times."""
    q11 = q22 = q12r = q12i = a11 = a22 = 0.0
    a12 = 0j
    for k in range(decay.size):
        q11 += decay[k] * terms[0, k]
        q12r += decay[k] * terms[1, k]
        q12i += decay[k] * terms[2, k]
        q22 += decay[k] * terms[3, k]
    for n in range(fat.size):
        d2 = decay[sum_of[n, n]]
        a11 += d2
        a12 += d2 * fat[n]
        a22 += d2 * (fat[n].real ** 2 + fat[n].imag ** 2)
    return q11, q22, q12r, q12i, a11, a22, a12, a11 * a22 - (a12.real**2 + a12.imag**2)


@numba.njit(cache=True)
def _unexplained(
    energy: float, terms: AnyArray, sums_s: AnyArray, even: bool, sum_of: AnyArray, fat: AnyArray, r2star: float, decay: AnyArray
) -> tuple[float, bool]:  # pragma: no cover - compiled
    """Energy that water and fat of this decay leave, tr(H) - tr((A^H A)^-1 A^H H A), and whether fat alone explains more than water."""
    n_sums = sums_s.size
    decay[0] = np.exp(-r2star * sums_s[0])
    step = np.exp(-r2star * (sums_s[1] - sums_s[0]))
    for k in range(1, n_sums):
        decay[k] = decay[k - 1] * step if even else np.exp(-r2star * sums_s[k])
    q11, q22, q12r, q12i, a11, a22, a12, determinant = _equations(terms, sum_of, fat, decay)
    explained = q11 / a11
    if determinant > 1e-9 * a11 * a22:
        explained = (a22 * q11 + a11 * q22 - 2 * (a12.real * q12r + a12.imag * q12i)) / determinant
    return energy - explained, q22 * a11 > q11 * a22


@numba.njit(cache=True)
def _lost_by_sharing(terms: AnyArray, sum_of: AnyArray, fat: AnyArray, decay: AnyArray) -> float:  # pragma: no cover - compiled
    """Energy that water and fat of one phase, neither below nothing, explain less than they do freely; ``decay`` as last used.

    The column 1 - p + p c explains N(p) / D(p), two parabolas: the best p in 0..1 is an end or where N' D = N D'.
    """
    q11, q22, q12r, q12i, a11, a22, a12, determinant = _equations(terms, sum_of, fat, decay)
    if not determinant > 1e-9 * a11 * a22:
        return 0.0
    freely = (a22 * q11 + a11 * q22 - 2 * (a12.real * q12r + a12.imag * q12i)) / determinant
    n1, n2 = 2 * (q12r - q11), q11 - 2 * q12r + q22
    d1, d2 = 2 * (a12.real - a11), a11 - 2 * a12.real + a22
    best = max(q11 / a11, q22 / a22)
    c0, c1, c2 = n1 * a11 - q11 * d1, 2 * (n2 * a11 - q11 * d2), n2 * d1 - n1 * d2
    root = c1 * c1 - 4 * c0 * c2
    if root >= 0:
        # the stable pair of roots
        half = -0.5 * (c1 + (np.sqrt(root) if c1 >= 0 else -np.sqrt(root)))
        for share in (half / c2 if c2 != 0 else -1.0, c0 / half if half != 0 else -1.0):
            if 0 < share < 1:
                best = max(best, (q11 + share * (n1 + share * n2)) / (a11 + share * (d1 + share * d2)))
    return max(freely - best, 0.0)


@numba.njit(cache=True, parallel=True)
def _minima(
    products: AnyArray,
    projectors: AnyArray,
    lag_of: AnyArray,
    cosines: AnyArray,
    sines: AnyArray,
    periodic: bool,
    t: AnyArray,
    sums_s: AnyArray,
    sum_of: AnyArray,
    fat: AnyArray,
    pairs: AnyArray,
    factors: AnyArray,
    first_hz: float,
    step_hz: float,
    log_r2stars: AnyArray,
    one_phase: bool,
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields [Hz], misfits and R2* [1/s] of each block's lowest minima.

    With y demodulated by f, the energy that water and fat explain is sum_nm conj(y_n) P_nm y_m exp(i 2 pi f (t_n - t_m)):
    a trigonometric polynomial in f with one coefficient for each distinct difference of echo times.
    """
    n_blocks, n_echoes, _ = products.shape
    n_lags, n_fields = cosines.shape
    n_bases = projectors.shape[3]
    even, even_sums = evenly(t, EVEN_WITHIN_S), evenly(sums_s, EVEN_WITHIN_S)
    fields = np.zeros((n_blocks, N_MINIMA))
    misfits = np.full((n_blocks, N_MINIMA), IMPOSSIBLE, np.float32)
    decays = np.full((n_blocks, N_MINIMA), 40.0)
    for chunk in numba.prange((n_blocks + _CHUNK - 1) // _CHUNK):
        all_values = np.empty((n_bases, n_fields), np.float32)
        explained = np.empty(n_fields, np.float32)
        which = np.empty(n_fields, np.int32)
        coefficients = np.empty((2, n_lags, n_bases), np.float32)
        constants = np.empty(n_bases, np.float32)
        phasor = np.empty(n_echoes, np.complex128)
        terms = np.empty((4, sums_s.size))
        decay = np.empty(sums_s.size)
        for v in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_blocks)):
            product = products[v]
            energy: float = np.float32(0.0)  # type: ignore[assignment]
            for e in range(n_echoes):
                energy += product[e, e].real
            explained[:] = -1
            coefficients[:, :, :] = 0
            constants[:] = 0
            for n in range(n_echoes):
                for b in range(n_bases):
                    constants[b] += projectors[0, n, n, b] * product[n, n].real
                for m in range(n):
                    # conj(y_n) y_m is the conjugate of the stored product
                    k = lag_of[n, m]
                    hr, hi = np.float32(2) * product[n, m].real, np.float32(2) * product[n, m].imag
                    for b in range(n_bases):
                        pr, pi = projectors[0, n, m, b], projectors[1, n, m, b]
                        coefficients[0, k, b] += hr * pr + hi * pi
                        coefficients[1, k, b] += hr * pi - hi * pr
            for b in range(n_bases):
                values = all_values[b]
                values[:] = constants[b]
                for k in range(n_lags):
                    cr = coefficients[0, k, b]
                    ci = coefficients[1, k, b]
                    for j in range(n_fields):
                        values[j] += cr * cosines[k, j] - ci * sines[k, j]
                for j in range(n_fields):
                    if values[j] > explained[j]:
                        explained[j] = values[j]
                        which[j] = b
            for k in range(n_fields):
                if not (periodic or 0 < k < n_fields - 1):
                    continue
                before = energy - explained[k - 1 if k > 0 else n_fields - 1]
                after = energy - explained[k + 1 if k < n_fields - 1 else 0]
                here = energy - explained[k]
                if not (here <= before and here < after):
                    continue
                curvature = before - 2 * here + after
                offset = np.float32(0.5) * (before - after) / curvature if curvature > 0 else np.float32(0.0)
                b = which[k]
                shift = np.float32(0.0)
                if 0 < b < n_bases - 1:
                    less = energy - all_values[b - 1, k]
                    more = energy - all_values[b + 1, k]
                    bend = less - 2 * here + more
                    if bend > 0:
                        shift = np.float32(0.5) * (less - more) / bend
                # and once more along R2*, closer: on a few values alone a swapped minimum can look the better one
                field_hz = first_hz + (k + float(offset)) * step_hz
                step = log_r2stars[min(b + 1, n_bases - 1)] - log_r2stars[b] if shift > 0 else log_r2stars[b] - log_r2stars[max(b - 1, 0)]
                middle = log_r2stars[b] + shift * step
                _at_field(product, t, even, pairs, factors, field_hz, phasor, terms)
                at, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle), decay)
                low, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle - _LOG_STEP), decay)
                high, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle + _LOG_STEP), decay)
                fine = low - 2 * at + high
                best = at
                if fine > 0:
                    move = min(max(0.5 * (low - high) / fine, -1.5), 1.5)
                    middle += move * _LOG_STEP
                    best = at - 0.5 * (low - high) * move + 0.5 * fine * move * move
                rate = np.exp(middle)
                misfit = max(np.float32(min(best, at, low, high)), np.float32(0.0))
                # three echoes hold no decay beside water, fat and field, that one could go by
                fast = n_echoes > 3 and rate > _FASTEST_FAT_PER_S
                if one_phase or fast:
                    _, is_fat = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, rate, decay)
                    if one_phase:
                        misfit += np.float32(_lost_by_sharing(terms, sum_of, fat, decay))
                    if fast and is_fat:
                        misfit += np.float32(_FAST_FAT_COST) * energy
                slot = N_MINIMA - 1
                if misfit < misfits[v, slot]:
                    while slot > 0 and misfit < misfits[v, slot - 1]:
                        misfits[v, slot] = misfits[v, slot - 1]
                        fields[v, slot] = fields[v, slot - 1]
                        decays[v, slot] = decays[v, slot - 1]
                        slot -= 1
                    misfits[v, slot] = misfit
                    fields[v, slot] = field_hz
                    decays[v, slot] = rate
    return fields, misfits, decays
