"""Fit of water and fat that are complex and independent: four complex unknowns less than seven real ones.

With w = 2 pi f + i R2* the model is holomorphic in (w, W, F), and W and F are linear: they are projected out (variable projection,
Golub and Pereyra 1973; Kaufman 1975), which leaves one complex unknown and a step that is a ratio of two numbers.
Standard errors are the square roots of the diagonal of the inverse Fisher information Re(J^H J) / sigma^2.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.fit import CHUNK, Estimates, nothing_yet
from hqsm.fatwater.lanes import LANES, enter, evenly, growth
from hqsm.fatwater.linear import A11, A12I, A12R, A22, B1I, B1R, B2I, B2R, add_products
from hqsm.fatwater.pdff import pdff_variance
from hqsm.fatwater.tissue import Echoes

_MAX_ITERATIONS = 40
_ENOUGH = 1e-4
"""Squared standard errors that the next step would move by, below which it is not taken."""


@njit(parallel=True)
def fit_free(
    which: AnyArray, echoes: Echoes, start_field_hz: AnyArray, start_r2star_per_s: AnyArray, with_fat: bool
) -> Estimates:  # pragma: no cover - compiled
    """Fit the voxels ``which`` (n,) with water and fat (``with_fat``), or water alone, from the (voxel,) fields and R2* to start at."""
    n = which.size
    found = Estimates(*nothing_yet(n))
    for c in prange((n + CHUNK - 1) // CHUNK):
        _chunk(c * CHUNK, min((c + 1) * CHUNK, n), which, echoes, start_field_hz, start_r2star_per_s, with_fat, found)
    return found


_WR, _WI, _FR, _FI, _COST, _PP, _GR, _GI, _Q1R, _Q1I, _Q2R, _Q2I = range(8, 20)
_DETERMINANT, _P1R, _P1I, _P2R, _P2I, _KNOWN, _GAIN = range(20, 27)


@njit(error_model="numpy")
def _project(y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray, extra: float) -> AnyArray:  # pragma: no cover - compiled
    """W, F, squared residual, information and what a step gains, of each lane at growth ``g``; ``extra`` is 1 without fat.

    One new array for all, of a size known when compiling: only then does the compiler know that no two rows overlap.
    """
    s = np.zeros((27, LANES))
    for k in range(LANES):
        s[A22, k] = extra
    add_products(s, y, g, fat)
    for k in range(LANES):
        a11, ar, ai, a22 = s[A11, k], s[A12R, k], s[A12I, k], s[A22, k]
        b1r, b1i, b2r, b2i = s[B1R, k], s[B1I, k], s[B2R, k], s[B2I, k]
        s[_DETERMINANT, k] = a11 * a22 - (ar * ar + ai * ai)
        inverse = 1 / s[_DETERMINANT, k]
        s[_WR, k] = (a22 * b1r - (ar * b2r - ai * b2i)) * inverse
        s[_WI, k] = (a22 * b1i - (ar * b2i + ai * b2r)) * inverse
        s[_FR, k] = (a11 * b2r - (ar * b1r + ai * b1i)) * inverse
        s[_FI, k] = (a11 * b2i - (ar * b1i - ai * b1r)) * inverse
    for e in range(t.size):
        cr, ci, time = fat[e].real, fat[e].imag, t[e]
        for k in range(LANES):
            gr, gi, yr, yi = g[0, e, k], g[1, e, k], y[0, e, k], y[1, e, k]
            mr = s[_WR, k] + s[_FR, k] * cr - s[_FI, k] * ci
            mi = s[_WI, k] + s[_FR, k] * ci + s[_FI, k] * cr
            vr, vi = mr * gr - mi * gi, mr * gi + mi * gr
            rr, ri = yr - vr, yi - vi
            pr, pi = -time * vi, time * vr
            zr, zi = gr * pr + gi * pi, gr * pi - gi * pr
            s[_COST, k] += rr * rr + ri * ri
            s[_PP, k] += pr * pr + pi * pi
            s[_GR, k] += pr * rr + pi * ri
            s[_GI, k] += pr * ri - pi * rr
            s[_Q1R, k] += zr
            s[_Q1I, k] += zi
            s[_Q2R, k] += cr * zr + ci * zi
            s[_Q2I, k] += cr * zi - ci * zr
    for k in range(LANES):
        a11, ar, ai, a22 = s[A11, k], s[A12R, k], s[A12I, k], s[A22, k]
        q1r, q1i, q2r, q2i = s[_Q1R, k], s[_Q1I, k], s[_Q2R, k], s[_Q2I, k]
        inverse = 1 / s[_DETERMINANT, k]
        p1r, p1i = (a22 * q1r - (ar * q2r - ai * q2i)) * inverse, (a22 * q1i - (ar * q2i + ai * q2r)) * inverse
        p2r, p2i = (a11 * q2r - (ar * q1r + ai * q1i)) * inverse, (a11 * q2i - (ar * q1i - ai * q1r)) * inverse
        # what of the field's column water and fat cannot mimic
        known = s[_PP, k] - (q1r * p1r + q1i * p1i + q2r * p2r + q2i * p2i)
        s[_P1R, k], s[_P1I, k], s[_P2R, k], s[_P2I, k] = p1r, p1i, p2r, p2i
        s[_KNOWN, k] = known
        s[_GAIN, k] = (s[_GR, k] ** 2 + s[_GI, k] ** 2) / known
    return s


@njit(error_model="numpy")
def _stepped(s: AnyArray, trial: AnyArray, state: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Next state of each lane: the trial kept if it is better, the full step from there, damping, cost, and whether it was kept."""
    new = np.zeros((7, LANES))
    for k in range(LANES):
        better = s[_COST, k] <= state[_LOWEST, k] * (1 + 1e-12)
        new[_FIELD, k] = trial[0, k] if better else state[_FIELD, k]
        new[_RATE, k] = trial[1, k] if better else state[_RATE, k]
        # a step of w = 2 pi f + i R2*
        new[_TO_FIELD, k] = s[_GR, k] / s[_KNOWN, k] / (2 * np.pi) if better else state[_TO_FIELD, k]
        new[_TO_RATE, k] = s[_GI, k] / s[_KNOWN, k] if better else state[_TO_RATE, k]
        damping = state[_DAMPING, k]
        less, more = damping * 0.2, damping * 8
        less, more = less if less > 1e-7 else 1e-7, more if more > 1e-2 else 1e-2
        new[_DAMPING, k] = less if better else more
        new[_LOWEST, k] = s[_COST, k] if better else state[_LOWEST, k]
        new[_KEPT, k] = 1.0 if better else 0.0
    return new


_FIELD, _RATE, _TO_FIELD, _TO_RATE, _DAMPING, _LOWEST, _KEPT = range(7)


@njit(error_model="numpy")
def _chunk(
    first: int,
    last: int,
    which: AnyArray,
    echoes: Echoes,
    start_field_hz: AnyArray,
    start_r2star_per_s: AnyArray,
    with_fat: bool,
    found: Estimates,
) -> None:  # pragma: no cover - compiled
    """Those from the ``first`` of ``which`` to before the ``last``."""
    signal, t, fat_signal, sigma = echoes
    linear, nonlinear, errors, residuals, steps = found
    n_echoes = t.size
    enough = _ENOUGH * sigma**2
    even = evenly(t)
    fat = fat_signal if with_fat else np.zeros(n_echoes, np.complex128)
    extra = 0.0 if with_fat else 1.0
    trial = np.zeros((3, LANES))
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    at = np.full(LANES, -1, np.int64)
    count = np.zeros(LANES, np.int64)
    state = np.zeros((7, LANES))
    taken = done_with = first
    while done_with < last:
        for k in range(LANES):
            if at[k] < 0 and taken < last:
                enter(which[taken], signal, y, k)
                trial[0, k], trial[1, k] = start_field_hz[which[taken]], start_r2star_per_s[which[taken]]
                at[k], count[k], state[_LOWEST, k], state[_DAMPING, k] = taken, 0, np.inf, 1e-4
                taken += 1
        growth(trial, t, even, g, scratch, bits)
        s = _project(y, g, t, fat, extra)
        state = _stepped(s, trial, state)
        for k in range(LANES):
            trial[0, k] = state[_FIELD, k] + state[_TO_FIELD, k] / (1 + state[_DAMPING, k])
            trial[1, k] = state[_RATE, k] + state[_TO_RATE, k] / (1 + state[_DAMPING, k])
        for k in range(LANES):
            if at[k] < 0:
                continue
            done = False
            i = at[k]
            count[k] += 1
            if state[_KEPT, k] > 0:
                known, determinant = s[_KNOWN, k], s[_DETERMINANT, k]
                if not (determinant > 1e-12 * s[A11, k] * s[A22, k] and known > 0):
                    done = True
                elif s[_GAIN, k] < enough:
                    done = True
                    w, f = complex(s[_WR, k], s[_WI, k]), complex(s[_FR, k], s[_FI, k])
                    linear[i, 0], linear[i, 1] = w, f
                    nonlinear[i, 0], nonlinear[i, 1] = state[_FIELD, k], state[_RATE, k]
                    error = sigma / np.sqrt(known)
                    errors[i, 0], errors[i, 1] = error / (2 * np.pi), error
                    residuals[i], steps[i] = s[_COST, k], np.sqrt(s[_GAIN, k]) / sigma
                    if with_fat:
                        a12 = complex(s[A12R, k], s[A12I, k])
                        p1, p2 = complex(s[_P1R, k], s[_P1I, k]), complex(s[_P2R, k], s[_P2I, k])
                        of_known_field = s[A22, k] / determinant, s[A11, k] / determinant, -a12 / determinant
                        variance = pdff_variance(w, f, *of_known_field, p1, p2, known)
                        errors[i, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
            if done or count[k] >= _MAX_ITERATIONS or not abs(trial[1, k]) < 2e4:
                at[k] = -1
                done_with += 1
