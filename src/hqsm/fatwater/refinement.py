"""The misfit of a block near one of its minima, once more along R2*: what water and fat of that field and decay leave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.compiled import njit
from hqsm.fatwater.blocks import EVEN_WITHIN_S, energies_of, pairs_of
from hqsm.fatwater.lanes import LANES, evenly, exponential, growth

_LOG_STEP = 0.2
_LOG_FASTEST_FAT = np.log(400.0)
_FAST_FAT_COST = 0.005
"""Share of the signal's energy that a field costs at which the tissue would be fat that decays faster than this: iron is in
water, and a dark liver whose few echoes fit as fat as well is no fat."""


class PairModel(NamedTuple):
    """The model of pairs of echoes; a named tuple because compiled code takes no dataclass.

    Attributes
    ----------
    echo_times_s, fat
        (echo,) [s]; (echo,) complex128 signal of unit fat, nil where there is no fat unknown.
    sums_s
        (sum,) the distinct sums of two echo times [s].
    pairs
        (pair, 3) numbers of the two echoes of each pair, and which of those sums theirs is.
    factors
        (pair, 7) what :func:`_terms` multiplies by.
    sum_of_echo
        (echo,) which of the sums twice each echo's time is.
    """

    echo_times_s: AnyArray
    fat: AnyArray
    sums_s: AnyArray
    pairs: AnyArray
    factors: AnyArray
    sum_of_echo: AnyArray


def pair_model(echo_times_s: FloatArray, fat: ComplexArray) -> PairModel:
    """That of these echoes."""
    n, m = pairs_of(fat.size)
    both_s = echo_times_s[n] + echo_times_s[m]
    sum_of = np.unique(np.round(both_s * 1e6).astype(np.int64), return_inverse=True)[1].ravel()
    of_fat = fat.astype(np.complex128)
    return PairModel(
        echo_times_s=np.asarray(echo_times_s, np.float64),
        fat=of_fat,
        sums_s=np.bincount(sum_of, both_s) / np.bincount(sum_of),
        pairs=np.stack([n, m, sum_of], axis=1),
        factors=_factors(of_fat, n, m),
        sum_of_echo=sum_of[n == m],
    )


def _factors(fat: ComplexArray, n: IntArray, m: IntArray) -> FloatArray:
    """(pair, 7) what :func:`_terms` multiplies by: a pair and its transpose, which is its conjugate, at once."""
    both = np.conj(fat[n]) * fat[m]
    plus, minus = fat[m] + fat[n], fat[m] - fat[n]
    factors = np.stack([np.full(n.size, 2.0), plus.real, minus.imag, plus.imag, minus.real, 2 * both.real, 2 * both.imag], axis=1)
    weighted: FloatArray = np.where(n == m, 0.5, 1.0)[:, None] * factors
    return weighted


def one_phase_misfit(
    products: ComplexArray, which: IntArray, field_hz: FloatArray, r2star_per_s: FloatArray, echo_times_s: FloatArray, fat: ComplexArray
) -> FloatArray:
    """(which,) misfit of some of the voxels that ``products`` are of, each at a field, R2* refined, water and fat of one phase."""
    places = np.stack([field_hz, np.log(r2star_per_s)]).astype(np.float64)
    energies = energies_of(products, fat.size)
    return refined(which.astype(np.int32), places, products, energies, pair_model(echo_times_s, fat), True)


@njit(error_model="numpy")
def refined(
    block: AnyArray, places: AnyArray, products: AnyArray, energies: AnyArray, model: PairModel, one_phase: bool
) -> AnyArray:  # pragma: no cover - compiled
    """Misfit of each minimum, once more along R2*, closer: on a few values alone a swapped minimum can look the better one.

    ``places`` (2, minimum) are its field and logarithm of R2*; that is moved, in place. Minima go through in lanes.
    """
    t, fat, sums_s, pairs, factors, sum_of_echo = model
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
