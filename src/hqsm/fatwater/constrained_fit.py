"""Fit of water and fat behind one phase, or of water alone, with Gaussian priors on field and R2*.

Each voxel is fitted (:mod:`hqsm.fatwater.constrained_step`), then its information is taken
(:mod:`hqsm.fatwater.standard_errors`), then its bias off (:mod:`hqsm.fatwater.bias`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.bias import second_order_bias
from hqsm.fatwater.constrained_step import (
    BETTER,
    COST_SO_FAR,
    FITTING,
    GAINS,
    LEVEL,
    N_GIVEN,
    N_STATES,
    N_SUMS,
    OFF,
    PRECISION,
    RATE_OFF,
    RATE_PRECISION,
    SHARE_FREE,
    SQUARES_SO_FAR,
    THETA,
    TRIAL,
    gain_left,
    moments,
    step,
)
from hqsm.fatwater.fit import CHUNK, Estimates, nothing_yet
from hqsm.fatwater.lanes import LANES, enter, evenly, growth
from hqsm.fatwater.standard_errors import inverses, scatter, variance_of_rate
from hqsm.fatwater.start import Start, starts
from hqsm.fatwater.tissue import Echoes

_MAX_TRIALS = 200
_ENOUGH = 1e-4
"""Squared standard errors that the next step would move by, below which it is not taken."""
_COMPATIBLE = 2.5
"""Standard errors within which a voxel's R2* may be its neighbourhood's."""


class Priors(NamedTuple):
    """What neighbours say of n voxels.

    Attributes
    ----------
    field_hz, field_precision
        (n,) mean [Hz] and inverse variance [1/Hz2] of a Gaussian prior on the field; precision 0 is no prior.
    r2star_per_s, r2star_sd_per_s
        (n,) mean and SD of a wide Gaussian prior on R2* [1/s]. The information is taken there too: at its own estimate a
        voxel whose noise made R2* low would also call it certain.
    """

    field_hz: AnyArray
    field_precision: AnyArray
    r2star_per_s: AnyArray
    r2star_sd_per_s: AnyArray


@njit(parallel=True)
def fit_constrained(
    which: AnyArray, echoes: Echoes, start: Start, priors: Priors, no_fat: AnyArray
) -> Estimates:  # pragma: no cover - compiled
    """Fit the voxels ``which`` (n,); of those that have ``no_fat`` (n,) water alone."""
    n = which.size
    found = Estimates(*nothing_yet(n))
    for c in prange((n + CHUNK - 1) // CHUNK):
        _chunk(c * CHUNK, min((c + 1) * CHUNK, n), which, echoes, start, priors, no_fat, found)
    return found


_FIT, _AT_PRIOR, _AT_OWN = range(3)


@njit(error_model="numpy")
def _chunk(
    first: int, last: int, which: AnyArray, echoes: Echoes, start: Start, priors: Priors, no_fat: AnyArray, found: Estimates
) -> None:  # pragma: no cover - compiled
    """Those from the ``first`` of ``which`` to before the ``last``.

    Each lane goes through the fit, then its information where the neighbourhood's R2* is, or at its own; those that are done wait
    for others, to have their bias taken off together.
    """
    signal, t, fat, sigma = echoes
    prior_field, prior_precision, prior_r2star, prior_r2star_sd = priors
    n_echoes = t.size
    enough = _ENOUGH * sigma**2
    begin = starts(first, last, which, echoes, start, no_fat, prior_r2star)
    even = evenly(t)
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    physical, given = np.zeros((3, LANES)), np.zeros((N_GIVEN, LANES))
    state = np.zeros((N_STATES, LANES))
    at = np.full(LANES, -1, np.int64)
    mode = np.zeros(LANES, np.int64)
    count = np.zeros(LANES, np.int64)
    failed = np.zeros(LANES, np.int64)
    left = np.zeros(LANES)
    kept, kept_sums, kept_given = np.ones((N_STATES, LANES)), np.ones((N_SUMS, LANES)), np.ones((N_GIVEN, LANES))
    kept_at, n_kept = np.zeros(LANES, np.int64), 0
    taken = done_with = first
    while done_with < last:
        for k in range(LANES):
            if at[k] < 0 and taken < last:
                i = at[k] = taken
                taken += 1
                enter(which[i], signal, y, k)
                state[:, k] = 0
                for j in range(5):
                    state[TRIAL + j, k] = begin[j, i - first]
                mode[k], count[k], failed[k], state[COST_SO_FAR, k], state[LEVEL, k] = _FIT, 0, 0, np.inf, 1e-3
                given[OFF, k], given[PRECISION, k] = prior_field[i] / 100, prior_precision[i] * 1e4 * sigma**2
                given[RATE_OFF, k], given[RATE_PRECISION, k] = prior_r2star[i] / 100, 1e4 * sigma**2 / prior_r2star_sd[i] ** 2
                given[SHARE_FREE, k], given[FITTING, k] = 0.0 if no_fat[i] else 1.0, 1.0
        for k in range(LANES):
            physical[0, k], physical[1, k] = 100 * state[TRIAL, k], 100 * state[TRIAL + 1, k]
            physical[2, k] = state[TRIAL + 2, k] / (2 * np.pi)
        growth(physical, t, even, g, scratch, bits)
        s = moments(state, y, g, t, fat)
        state = step(s, state, given)
        for k in range(LANES):
            i = at[k]
            if i < 0:
                continue
            leaves = False
            if mode[k] == _FIT:
                count[k] += 1
                failed[k] = 0 if state[BETTER, k] > 0 else failed[k] + 1
                if failed[k] >= 8 or state[GAINS, k] < enough:
                    left[k] = gain_left(state, given, k)
                    mode[k], given[FITTING, k] = _AT_PRIOR, 0.0
                    _move(state, prior_r2star[i] / 100, t[0], k)
                leaves = count[k] > _MAX_TRIALS or not np.isfinite(state[COST_SO_FAR, k])
            else:
                own = state[THETA + 1, k]
                variance = variance_of_rate(state, k, given[SHARE_FREE, k])
                beyond = own - state[TRIAL + 1, k]
                near = _COMPATIBLE * sigma * np.sqrt(variance)
                if mode[k] == _AT_PRIOR and not abs(beyond) <= near:
                    mode[k] = _AT_OWN
                    # a faster decay may be one that noise made fast: half of what noise does is allowed for
                    _move(state, own - 0.5 * near if beyond > near else own, t[0], k)
                else:
                    leaves = True
                    if not np.isnan(variance):
                        _copied(state, k, kept, n_kept)
                        _copied(s, k, kept_sums, n_kept)
                        _copied(given, k, kept_given, n_kept)
                        kept_at[n_kept], found.step[i] = i, np.sqrt(left[k]) / sigma
                        n_kept += 1
            if leaves:
                at[k], given[FITTING, k] = -1, 0.0
                done_with += 1
            if n_kept == LANES or (n_kept > 0 and done_with == last):
                _keep(n_kept, kept_at, kept_sums, kept, kept_given, sigma, found)
                n_kept = 0


@njit(inline="always")
def _copied(source: AnyArray, k: int, into: AnyArray, n: int) -> None:  # pragma: no cover - compiled
    for j in range(source.shape[0]):
        into[j, n] = source[j, k]


@njit()
def _move(state: AnyArray, rate: float, first_s: float, k: int) -> None:  # pragma: no cover - compiled
    """The lane's estimate with another R2*, the first echo as bright as it is."""
    for j in range(5):
        state[TRIAL + j, k] = state[THETA + j, k]
    state[TRIAL + 1, k] = rate
    state[TRIAL + 3, k] *= np.exp(min(max(100 * (rate - state[THETA + 1, k]) * first_s, -3.0), 3.0))


@njit()
def _keep(
    n: int, at: AnyArray, s: AnyArray, state: AnyArray, given: AnyArray, sigma: float, found: Estimates
) -> None:  # pragma: no cover - compiled
    """Estimates of the first ``n`` lanes, whose voxels are ``at``, less their bias, and standard errors.

    These are less by what priors wider than they need be keep from scattering. What the field's prior claims is kept: beside
    surfaces it is needed.
    """
    linear, nonlinear, errors, residual, _ = found
    v = inverses(state, given)
    bias = second_order_bias(s, state, given, v, sigma)
    for k in range(n):
        i = at[k]
        phase, size, share = state[THETA + 2, k] - bias[2, k], state[THETA + 3, k] - bias[3, k], state[THETA + 4, k] - bias[4, k]
        whole = size * complex(np.cos(phase), np.sin(phase))
        linear[i, 0], linear[i, 1] = (1 - share) * whole, share * whole
        nonlinear[i, 0], nonlinear[i, 1] = 100 * (state[THETA, k] - bias[0, k]), 100 * (state[THETA + 1, k] - bias[1, k])
        errors[i, 0] = 100 * sigma * np.sqrt(v[0, 0, k])
        errors[i, 1] = 100 * sigma * np.sqrt(scatter(v, 1, 1, given, k))
        if given[SHARE_FREE, k] > 0:
            errors[i, 2] = 100 * sigma * np.sqrt(scatter(v, 4, 4, given, k))
        residual[i] = state[SQUARES_SO_FAR, k]
