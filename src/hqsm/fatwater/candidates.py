"""Each block's own few best fields: the lowest minima of its misfit, water, fat and R2* projected out.

The misfit over the field is a trigonometric polynomial of the block's products (:mod:`hqsm.fatwater.blocks`), tried at a
few decays; each minimum is refined along R2*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.blocks import EVEN_WITHIN_S, Blocks, pairs_of
from hqsm.fatwater.lanes import LANES, evenly, exponential, growth

R2STAR_CANDIDATES_PER_S = (15.0, 40.0, 90.0, 180.0, 320.0, 500.0, 750.0, 1100.0)
_N_BASES = len(R2STAR_CANDIDATES_PER_S)
N_MINIMA = 4
N_FIELDS = 64
_CHUNK = 1024
_LOG_STEP = 0.2
IMPOSSIBLE = np.float32(1e6)
_LOG_FASTEST_FAT = np.log(400.0)
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
    n, m = pairs_of(fat.size)
    projectors = np.einsum("bpi,bpi->pb", bases[:, n], bases[:, m].conj())
    apart_us = np.round((echo_times_s[n] - echo_times_s[m]) * 1e6).astype(np.int64)
    lags_us, lag_of = np.unique(apart_us, return_inverse=True)
    turns = 2 * np.pi * np.outer(lags_us * 1e-6, raster_hz)
    field, misfit, r2star = _minima(
        blocks.products,
        np.stack([projectors.real, projectors.imag]).astype(np.float32),
        lag_of.ravel(),
        np.stack([np.cos(turns), np.sin(turns)]).astype(np.float32),
        bool(np.isfinite(period_hz)),
        *_of_echoes(echo_times_s, fat if with_fat else np.zeros_like(fat)),
        raster_hz,
        np.log(np.array(R2STAR_CANDIDATES_PER_S)),
        one_phase and with_fat,
    )
    return Candidates(field_hz=field, misfit=misfit, r2star_per_s=r2star, period_hz=period_hz)


def one_phase_misfit(
    products: ComplexArray, which: IntArray, field_hz: FloatArray, r2star_per_s: FloatArray, echo_times_s: FloatArray, fat: ComplexArray
) -> FloatArray:
    """(which,) misfit of some of the voxels that ``products`` are of, each at a field, R2* refined, water and fat of one phase."""
    places = np.stack([field_hz, np.log(r2star_per_s)]).astype(np.float64)
    n, m = pairs_of(fat.size)
    energies = _energies(products, np.where(n == m, 0, 1))
    misfit: FloatArray = _refined(which.astype(np.int32), places, products, energies, *_of_echoes(echo_times_s, fat), True)
    return misfit


def _of_echoes(echo_times_s: FloatArray, fat: ComplexArray) -> tuple[FloatArray, FloatArray, IntArray, FloatArray, IntArray, ComplexArray]:
    """What of echo times and fat the refinement of minima takes."""
    n, m = pairs_of(fat.size)
    both_s = echo_times_s[n] + echo_times_s[m]
    sum_of = np.unique(np.round(both_s * 1e6).astype(np.int64), return_inverse=True)[1].ravel()
    sums_s = np.bincount(sum_of, both_s) / np.bincount(sum_of)
    pairs, of_fat = np.stack([n, m, sum_of], axis=1), fat.astype(np.complex128)
    return np.asarray(echo_times_s, np.float64), sums_s, pairs, _factors(of_fat, n, m), sum_of[n == m], of_fat


def _factors(fat: ComplexArray, n: IntArray, m: IntArray) -> FloatArray:
    """(pair, 7) what :func:`_terms` multiplies by: a pair and its transpose, which is its conjugate, at once."""
    both = np.conj(fat[n]) * fat[m]
    plus, minus = fat[m] + fat[n], fat[m] - fat[n]
    factors = np.stack([np.full(n.size, 2.0), plus.real, minus.imag, plus.imag, minus.real, 2 * both.real, 2 * both.imag], axis=1)
    weighted: FloatArray = np.where(n == m, 0.5, 1.0)[:, None] * factors
    return weighted


@njit(parallel=True)
def _minima(
    products: AnyArray,
    projectors: AnyArray,
    lag_of: AnyArray,
    turns: AnyArray,
    periodic: bool,
    t: AnyArray,
    sums_s: AnyArray,
    pairs: AnyArray,
    factors: AnyArray,
    sum_of_echo: AnyArray,
    fat: AnyArray,
    raster_hz: AnyArray,
    log_r2stars: AnyArray,
    one_phase: bool,
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields [Hz], misfits and R2* [1/s] of each block's lowest minima."""
    n_blocks = products.shape[0]
    fields = np.zeros((n_blocks, N_MINIMA))
    misfits = np.full((n_blocks, N_MINIMA), IMPOSSIBLE, np.float32)
    decays = np.full((n_blocks, N_MINIMA), 40.0)
    for chunk in prange((n_blocks + _CHUNK - 1) // _CHUNK):
        start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_blocks)
        mine = products[start:end]
        energies = _energies(mine, lag_of)
        block, places = _tried(mine, energies, projectors, lag_of, turns, periodic, raster_hz[0], raster_hz[1] - raster_hz[0], log_r2stars)
        costs = _refined(block, places, mine, energies, t, sums_s, pairs, factors, sum_of_echo, fat, one_phase)
        for i in range(block.size):
            v, slot = start + block[i], N_MINIMA - 1
            misfit = np.float32(costs[i])
            if misfit < misfits[v, slot]:
                while slot > 0 and misfit < misfits[v, slot - 1]:
                    misfits[v, slot], fields[v, slot], decays[v, slot] = misfits[v, slot - 1], fields[v, slot - 1], decays[v, slot - 1]
                    slot -= 1
                misfits[v, slot], fields[v, slot], decays[v, slot] = misfit, places[0, i], np.exp(places[1, i])
    return fields, misfits, decays


@njit()
def _energies(products: AnyArray, lag_of: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(block,) trace of its products."""
    energies = np.zeros(products.shape[0], np.float32)
    for v in range(products.shape[0]):
        for i in range(lag_of.size):
            if lag_of[i] == 0:
                energies[v] += products[v, i].real
    return energies


@njit()
def _tried(
    products: AnyArray,
    energies: AnyArray,
    projectors: AnyArray,
    lag_of: AnyArray,
    turns: AnyArray,
    periodic: bool,
    first_hz: float,
    step_hz: float,
    log_r2stars: AnyArray,
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Minima of the raster: number of the block of each, and its field [Hz] and logarithm of R2* by parabolas (2, minimum).

    Blocks go through in lanes.
    """
    n_fields, n_blocks = turns.shape[2], products.shape[0]
    coefficients = np.zeros((2, turns.shape[1], _N_BASES * LANES), np.float32)
    values = np.zeros((n_fields, _N_BASES * LANES), np.float32)
    left, lowest = np.zeros((n_fields, LANES), np.float32), np.zeros(LANES, np.bool_)
    capacity = n_blocks * (n_fields // 2 + 1)
    block, places = np.empty(capacity, np.int32), np.empty((2, capacity))
    found = 0
    for first in range(0, n_blocks, LANES):
        count = min(LANES, n_blocks - first)
        _coefficients(products, first, count, lag_of, projectors, coefficients)
        _raster(coefficients, turns, energies, first, count, values, left)
        for j in range(n_fields):
            if not (periodic or 0 < j < n_fields - 1):
                continue
            one, other = j - 1 if j > 0 else n_fields - 1, j + 1 if j < n_fields - 1 else 0
            for k in range(LANES):
                lowest[k] = (left[j, k] <= left[one, k]) & (left[j, k] < left[other, k])
            for k in range(count):
                if not lowest[k]:
                    continue
                b, energy = _best_base(values, j, k), energies[first + k]
                inner = 0 < b < _N_BASES - 1
                shift = np.float32(0)
                if inner:
                    below, above = values[j, (b - 1) * LANES + k], values[j, (b + 1) * LANES + k]
                    shift = _vertex(energy - below, left[j, k], energy - above)
                step = log_r2stars[min(b + 1, _N_BASES - 1)] - log_r2stars[b] if shift > 0 else log_r2stars[b] - log_r2stars[max(b - 1, 0)]
                block[found] = first + k
                places[0, found] = first_hz + (j + float(_vertex(left[one, k], left[j, k], left[other, k]))) * step_hz
                places[1, found] = log_r2stars[b] + shift * step
                found += 1
    return block[:found], places[:, :found]


@njit()
def _coefficients(
    products: AnyArray, first: int, count: int, lag_of: AnyArray, projectors: AnyArray, coefficients: AnyArray
) -> None:  # pragma: no cover - compiled
    """Fill (2, difference of echo times, base and lane) the coefficients of the energy that water and fat explain over the field.

    With y demodulated by f that energy is sum_nm conj(y_n) P_nm y_m exp(i 2 pi f (t_n - t_m)): a trigonometric polynomial in f with
    one coefficient for each distinct difference of echo times, the first of them none.
    """
    coefficients[:] = 0
    h = np.zeros((2, LANES), np.float32)
    for i in range(lag_of.size):
        lag = lag_of[i]
        # conj(y_n) y_m is the conjugate of the stored product; both orders at once
        twice = np.float32(1) if lag == 0 else np.float32(2)
        for k in range(count):
            h[0, k], h[1, k] = twice * products[first + k, i].real, twice * products[first + k, i].imag
        for b in range(projectors.shape[2]):  # not the constant, by which the compiler would unroll instead of making vectors
            pr, pi = projectors[0, i, b], projectors[1, i, b]
            for k in range(LANES):
                coefficients[0, lag, b * LANES + k] += h[0, k] * pr + h[1, k] * pi
            for k in range(LANES):
                coefficients[1, lag, b * LANES + k] += h[0, k] * pi - h[1, k] * pr


@njit()
def _raster(
    coefficients: AnyArray, turns: AnyArray, energies: AnyArray, first: int, count: int, values: AnyArray, left: AnyArray
) -> None:  # pragma: no cover - compiled
    """Fill the energy explained at each field of the raster (field, base and lane), and what the best base leaves (field, lane)."""
    energy = np.zeros(LANES, np.float32)
    for k in range(count):
        energy[k] = energies[first + k]
    for j in range(turns.shape[2]):
        for m in range(_N_BASES * LANES):
            values[j, m] = coefficients[0, 0, m]
        for lag in range(1, turns.shape[1]):
            cos, sin = turns[0, lag, j], turns[1, lag, j]
            for m in range(_N_BASES * LANES):
                values[j, m] += coefficients[0, lag, m] * cos - coefficients[1, lag, m] * sin
        for k in range(LANES):
            most = np.float32(-1)
            for b in range(_N_BASES):
                value = values[j, b * LANES + k]
                most = value if value > most else most
            left[j, k] = energy[k] - most


@njit(inline="always")
def _best_base(values: AnyArray, j: int, k: int) -> int:  # pragma: no cover - compiled
    """The base that explains most of a lane's energy at a field of the raster."""
    best = 0
    for b in range(1, _N_BASES):
        if values[j, b * LANES + k] > values[j, best * LANES + k]:
            best = b
    return best


@njit(inline="always")
def _vertex(before: Any, here: Any, after: Any) -> Any:  # pragma: no cover - compiled
    """Where between -1/2 and 1/2 the parabola through three values has its minimum; 0 where it has none."""
    curvature = before - 2 * here + after
    return np.float32(0.5) * (before - after) / curvature if curvature > 0 else np.float32(0)


@njit(error_model="numpy")
def _refined(
    block: AnyArray,
    places: AnyArray,
    products: AnyArray,
    energies: AnyArray,
    t: AnyArray,
    sums_s: AnyArray,
    pairs: AnyArray,
    factors: AnyArray,
    sum_of_echo: AnyArray,
    fat: AnyArray,
    one_phase: bool,
) -> AnyArray:  # pragma: no cover - compiled
    """Misfit of each minimum, once more along R2*, closer: on a few values alone a swapped minimum can look the better one.

    ``places`` (2, minimum) are its field and logarithm of R2*; that is moved, in place. Minima go through in lanes.
    """
    n_minima = block.size
    even, even_sums = evenly(t, EVEN_WITHIN_S), evenly(sums_s, EVEN_WITHIN_S)
    misfits = np.empty(n_minima)
    h, g = np.zeros((2, pairs.shape[0], LANES)), np.zeros((2, t.size, LANES))
    w, middle, rate = np.zeros((3, LANES)), np.zeros(LANES), np.zeros(LANES)
    decay, scratch = np.zeros((sums_s.size, LANES)), np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    left = np.zeros((3, LANES))
    for first in range(0, n_minima, LANES):
        count = min(LANES, n_minima - first)
        for k in range(count):
            v = block[first + k]
            w[0, k], middle[k] = places[0, first + k], places[1, first + k]
            for i in range(pairs.shape[0]):
                h[0, i, k], h[1, i, k] = products[v, i].real, products[v, i].imag
        growth(w, t, even, g, scratch, bits)
        terms = _terms(h, g, pairs, factors, sums_s.size)
        for trial in range(3):
            for k in range(LANES):
                rate[k] = middle[k] + (trial - 1) * _LOG_STEP
            s = _equations(terms, rate, sums_s, even_sums, sum_of_echo, fat, decay, scratch, bits)
            for k in range(count):
                left[trial, k] = energies[block[first + k]] - s[_EXPLAINED, k]
        fast = False
        for k in range(count):
            low, at, high = left[0, k], left[1, k], left[2, k]
            fine, best = low - 2 * at + high, at
            if fine > 0:
                move = min(max(0.5 * (low - high) / fine, -1.5), 1.5)
                middle[k] += move * _LOG_STEP
                best = at - 0.5 * (low - high) * move + 0.5 * fine * move * move
            places[1, first + k] = rate[k] = middle[k]
            misfits[first + k] = max(min(best, at, low, high), 0.0)
            fast = fast or middle[k] > _LOG_FASTEST_FAT
        # three echoes hold no decay beside water, fat and field, that one could go by
        if not (one_phase or (fast and t.size > 3)):
            continue
        s = _equations(terms, rate, sums_s, even_sums, sum_of_echo, fat, decay, scratch, bits)
        for k in range(count):
            if one_phase:
                misfits[first + k] += _lost_by_sharing(s, k)
            if t.size > 3 and middle[k] > _LOG_FASTEST_FAT and s[_Q22, k] * s[_A11, k] > s[_Q11, k] * s[_A22, k]:
                misfits[first + k] += _FAST_FAT_COST * energies[block[first + k]]
    return misfits


@njit(error_model="numpy")
def _terms(h: AnyArray, g: AnyArray, pairs: AnyArray, factors: AnyArray, n_sums: int) -> AnyArray:  # pragma: no cover - compiled
    """What of each lane's A^H H A is needed at any decay once the field is chosen: (sum of two echo times, 4, lane) terms.

    Water with water, water with fat (real, imaginary) and fat with fat, without the decay exp(-R2* (t_n + t_m)).
    """
    terms = np.zeros((n_sums, 4, LANES))
    for i in range(pairs.shape[0]):
        n, m, at = pairs[i, 0], pairs[i, 1], pairs[i, 2]
        ww, r, ri, ir, i_, fr, fi = factors[i, 0], factors[i, 1], factors[i, 2], factors[i, 3], factors[i, 4], factors[i, 5], factors[i, 6]
        for k in range(LANES):
            # conj(g_n) H_nm g_m
            pr = g[0, n, k] * g[0, m, k] + g[1, n, k] * g[1, m, k]
            pi = g[0, n, k] * g[1, m, k] - g[1, n, k] * g[0, m, k]
            xr = h[0, i, k] * pr - h[1, i, k] * pi
            xi = h[0, i, k] * pi + h[1, i, k] * pr
            terms[at, 0, k] += ww * xr
            terms[at, 1, k] += r * xr - ri * xi
            terms[at, 2, k] += ir * xr + i_ * xi
            terms[at, 3, k] += fr * xr - fi * xi
    return terms


_Q11, _Q22, _Q12R, _Q12I, _A11, _A22, _A12R, _A12I, _DETERMINANT, _EXPLAINED = range(10)


@njit(error_model="numpy")
def _equations(
    terms: AnyArray,
    log_rate: AnyArray,
    sums_s: AnyArray,
    even: bool,
    sum_of_echo: AnyArray,
    fat: AnyArray,
    decay: AnyArray,
    scratch: AnyArray,
    bits: AnyArray,
) -> AnyArray:  # pragma: no cover - compiled
    """A^H H A, A^H A, its determinant, and the energy tr((A^H A)^-1 A^H H A) that water and fat of each lane's decay explain."""
    rate = scratch[4]
    rate[:] = log_rate
    exponential(rate, scratch, bits)
    for j in range(2 if even else sums_s.size):
        time = sums_s[1] - sums_s[0] if even and j == 1 else sums_s[j]
        for k in range(LANES):
            decay[j, k] = -rate[k] * time
        exponential(decay[j], scratch, bits)
    if even:
        _powers_of_second(decay)
    s = np.zeros((10, LANES))
    for j in range(sums_s.size):
        for k in range(LANES):
            s[_Q11, k] += decay[j, k] * terms[j, 0, k]
            s[_Q12R, k] += decay[j, k] * terms[j, 1, k]
            s[_Q12I, k] += decay[j, k] * terms[j, 2, k]
            s[_Q22, k] += decay[j, k] * terms[j, 3, k]
    for n in range(fat.size):
        cr, ci = fat[n].real, fat[n].imag
        for k in range(LANES):
            d2 = decay[sum_of_echo[n], k]
            s[_A11, k] += d2
            s[_A12R, k] += d2 * cr
            s[_A12I, k] += d2 * ci
            s[_A22, k] += d2 * (cr * cr + ci * ci)
    for k in range(LANES):
        a11, a22, ar, ai = s[_A11, k], s[_A22, k], s[_A12R, k], s[_A12I, k]
        determinant = a11 * a22 - (ar * ar + ai * ai)
        both = (a22 * s[_Q11, k] + a11 * s[_Q22, k] - 2 * (ar * s[_Q12R, k] + ai * s[_Q12I, k])) / determinant
        s[_DETERMINANT, k] = determinant
        s[_EXPLAINED, k] = both if determinant > 1e-9 * a11 * a22 else s[_Q11, k] / a11
    return s


@njit(error_model="numpy")
def _powers_of_second(decay: AnyArray) -> None:  # pragma: no cover - compiled
    """Decays over evenly spaced times, in place, from the first row and what happens from one to the next, in the second."""
    for k in range(LANES):
        step, here = decay[1, k], decay[0, k]
        for j in range(1, decay.shape[0]):
            here *= step
            decay[j, k] = here


@njit(error_model="numpy")
def _lost_by_sharing(s: AnyArray, k: int) -> float:  # pragma: no cover - compiled
    """Energy that a lane's water and fat of one phase, neither below nothing, explain less than they do freely.

    The column 1 - p + p c explains N(p) / D(p), two parabolas: the best p in 0..1 is an end or where N' D = N D'.
    """
    q11, q22, q12r, a11, a22, a12r = s[_Q11, k], s[_Q22, k], s[_Q12R, k], s[_A11, k], s[_A22, k], s[_A12R, k]
    if not s[_DETERMINANT, k] > 1e-9 * a11 * a22:
        return 0.0
    n1, n2 = 2 * (q12r - q11), q11 - 2 * q12r + q22
    d1, d2 = 2 * (a12r - a11), a11 - 2 * a12r + a22
    best = max(q11 / a11, q22 / a22)
    c0, c1, c2 = n1 * a11 - q11 * d1, 2 * (n2 * a11 - q11 * d2), n2 * d1 - n1 * d2
    root = c1 * c1 - 4 * c0 * c2
    if root >= 0:
        # the stable pair of roots
        half = -0.5 * (c1 + (np.sqrt(root) if c1 >= 0 else -np.sqrt(root)))
        for share in (half / c2 if c2 != 0 else -1.0, c0 / half if half != 0 else -1.0):
            if 0 < share < 1:
                best = max(best, (q11 + share * (n1 + share * n2)) / (a11 + share * (d1 + share * d2)))
    return float(max(s[_EXPLAINED, k] - best, 0.0))
