"""The misfit of blocks at every field of a raster, water and fat projected out at a few decays, and its minima.

Over the field the misfit is a trigonometric polynomial of the block's products (:mod:`hqsm.fatwater.blocks`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray
from hqsm.compiled import njit
from hqsm.fatwater.blocks import pairs_of
from hqsm.fatwater.lanes import LANES
from hqsm.fatwater.period import period_hz

_R2STARS_PER_S = (15.0, 40.0, 90.0, 180.0, 320.0, 500.0, 750.0, 1100.0)
_N_BASES = len(_R2STARS_PER_S)
_N_FIELDS = 64


class Raster(NamedTuple):
    """Fields and decays that are tried; a named tuple because compiled code takes no dataclass.

    Attributes
    ----------
    first_hz, step_hz, period_hz
        The fields, and what they may be changed by without changing the signal; infinite for uneven echoes.
    log_r2stars
        (base,) logarithms of the decays [1/s].
    lag_of
        (pair,) which of the distinct differences of echo times each pair of echoes has.
    projectors
        (2, pair, base) real and imaginary part of what projects on water and fat of each decay.
    turns
        (2, difference, field) cosine and sine of what each field turns by in each of those differences.
    """

    first_hz: float
    step_hz: float
    period_hz: float
    log_r2stars: AnyArray
    lag_of: AnyArray
    projectors: AnyArray
    turns: AnyArray


def _fields(echo_times_s: FloatArray, field_strength_tesla: float) -> tuple[FloatArray, float]:
    """Fields to try [Hz] and their period: one period of evenly spaced echoes; else two of the closest pair, no period."""
    period = period_hz(echo_times_s)
    if np.isfinite(period):
        return np.arange(_N_FIELDS) * period / _N_FIELDS - period / 2, period
    span_hz = min(2 / float(np.diff(echo_times_s).min()), 1000.0 * field_strength_tesla)
    n_fields = int(np.clip(8 * span_hz * (echo_times_s[-1] - echo_times_s[0]), _N_FIELDS, 8 * _N_FIELDS))
    return (np.arange(n_fields) / n_fields - 0.5) * span_hz, np.inf


def raster_of(echo_times_s: FloatArray, fat: ComplexArray, field_strength_tesla: float, *, with_fat: bool) -> Raster:
    """Where the misfit of blocks with these echoes is tried."""
    fields_hz, period_hz = _fields(echo_times_s, field_strength_tesla)
    decay = np.exp(-np.outer(_R2STARS_PER_S, echo_times_s))
    columns = [decay + 0j, decay * fat] if with_fat else [decay + 0j]
    bases = np.linalg.qr(np.stack(columns, axis=2))[0]
    n, m = pairs_of(fat.size)
    projectors = np.einsum("bpi,bpi->pb", bases[:, n], bases[:, m].conj())
    apart_us = np.round((echo_times_s[n] - echo_times_s[m]) * 1e6).astype(np.int64)
    lags_us, lag_of = np.unique(apart_us, return_inverse=True)
    turns = 2 * np.pi * np.outer(lags_us * 1e-6, fields_hz)
    return Raster(
        first_hz=float(fields_hz[0]),
        step_hz=float(fields_hz[1] - fields_hz[0]),
        period_hz=period_hz,
        log_r2stars=np.log(np.array(_R2STARS_PER_S)),
        lag_of=lag_of.ravel(),
        projectors=np.stack([projectors.real, projectors.imag]).astype(np.float32),
        turns=np.stack([np.cos(turns), np.sin(turns)]).astype(np.float32),
    )


@njit()
def minima_of_raster(products: AnyArray, energies: AnyArray, raster: Raster) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Minima of the raster: number of the block of each, and its field [Hz] and logarithm of R2* by parabolas (2, minimum).

    Blocks go through in lanes.
    """
    first_hz, step_hz, period_hz, log_r2stars, lag_of, projectors, turns = raster
    periodic = np.isfinite(period_hz)
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
        _values(coefficients, turns, energies, first, count, values, left)
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
def _values(
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
