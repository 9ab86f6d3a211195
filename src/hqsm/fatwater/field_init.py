"""A first field map without swaps: every voxel's own few best fields, and the choice among them that fits together.

Candidates are the minima of the voxel's variable-projection cost (Hernando et al., MRM 2008;59:571) over one period of
the field, with water, fat and a few R2* values projected out, repeated at whole periods. The choice minimises

    sum_v misfit_v(f_v) + smoothness * sum_{v~w} weight_vw * min(|f_v - f_w|, truncation)

over the 6-neighbour graph by sequential tree-reweighted message passing (Kolmogorov, PAMI 2006;28:1568).
"""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.fatwater.fit import fit_free

R2STAR_CANDIDATES_PER_S = (30.0, 120.0, 350.0, 700.0)
N_MINIMA = 3
N_SHIFTS = 3
N_LABELS = N_MINIMA * N_SHIFTS
N_FIELDS = 64
_N_SWEEPS = 12
_IMPOSSIBLE = 1e3
_PRICE_OF_A_FIELD = 0.003
"""Enough to settle the whole period of an island; more would drag dark, iron-loaded tissue into a swap nearer zero."""
_MODEL_ERROR = 5e-4
"""Share of the signal's energy that the model itself may miss (spectrum, flow, partial volume)."""


def projection_bases(echo_times_s: FloatArray, fat: ComplexArray) -> ComplexArray:
    """Orthonormal bases (candidate, echo, 2) of water and fat signals decaying at each candidate R2*."""
    bases = []
    for r2star in R2STAR_CANDIDATES_PER_S:
        model = np.stack([np.ones_like(fat), fat], axis=1) * np.exp(-r2star * echo_times_s)[:, None]
        bases.append(np.linalg.qr(model)[0])
    return np.ascontiguousarray(np.stack(bases))


@numba.njit(cache=True, parallel=True, fastmath=True)
def _candidates(
    signal: AnyArray, projectors: AnyArray, lag_of: AnyArray, cosines: AnyArray, sines: AnyArray, step_hz: float, scale: float
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """The lowest minima of each voxel's cost over the field.

    With y demodulated by f, the energy that water and fat explain is sum_nm conj(y_n) P_nm y_m exp(i 2 pi f (t_n - t_m)):
    a trigonometric polynomial in f with one coefficient for each distinct difference of echo times.
    """
    n_voxels, n_echoes = signal.shape
    n_lags, n_fields = cosines.shape
    n_bases = projectors.shape[0]
    fields = np.zeros((n_voxels, N_MINIMA), np.float32)
    costs = np.full((n_voxels, N_MINIMA), np.float32(1e6), np.float32)
    decays = np.zeros((n_voxels, N_MINIMA), np.int8)
    for v in numba.prange(n_voxels):
        energy = np.float32(0.0)
        for e in range(n_echoes):
            energy += signal[v, e].real ** 2 + signal[v, e].imag ** 2
        explained = np.full(n_fields, np.float32(-1.0), np.float32)
        which = np.zeros(n_fields, np.int8)
        real = np.empty(n_lags, np.float32)
        imag = np.empty(n_lags, np.float32)
        values = np.empty(n_fields, np.float32)
        for b in range(n_bases):
            constant = np.float32(0.0)
            real[:] = 0
            imag[:] = 0
            for n in range(n_echoes):
                constant += projectors[b, n, n].real * (signal[v, n].real ** 2 + signal[v, n].imag ** 2)
                for m in range(n):
                    c = 2 * np.conj(signal[v, n]) * projectors[b, n, m] * signal[v, m]
                    real[lag_of[n, m]] += c.real
                    imag[lag_of[n, m]] += c.imag
            values[:] = constant
            for k in range(n_lags):
                cr = real[k]
                ci = imag[k]
                for j in range(n_fields):
                    values[j] += cr * cosines[k, j] - ci * sines[k, j]
            for j in range(n_fields):
                if values[j] > explained[j]:
                    explained[j] = values[j]
                    which[j] = b
        for k in range(n_fields):
            before = energy - explained[k - 1]
            after = energy - explained[(k + 1) % n_fields]
            here = energy - explained[k]
            if here <= before and here < after:
                curvature = before - 2 * here + after
                offset = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
                # misfit in units of its noise; the model itself is only good to a few percent of the signal
                cost = np.float32(max(here - 0.25 * (before - after) * offset, 0.0) / (scale + 0.002 * energy))
                slot = N_MINIMA - 1
                if cost < costs[v, slot]:
                    while slot > 0 and cost < costs[v, slot - 1]:
                        costs[v, slot] = costs[v, slot - 1]
                        fields[v, slot] = fields[v, slot - 1]
                        decays[v, slot] = decays[v, slot - 1]
                        slot -= 1
                    costs[v, slot] = cost
                    fields[v, slot] = np.float32((k + offset) * step_hz)
                    decays[v, slot] = which[k]
    return fields, costs, decays


@numba.njit(cache=True)
def _message_passing(
    fields: AnyArray,
    unary: AnyArray,
    counts: AnyArray,
    neighbours: AnyArray,
    weights: AnyArray,
    truncation_hz: float,
    n_sweeps: int,
) -> AnyArray:  # pragma: no cover - compiled
    """TRW-S over voxels in raster order; ``neighbours`` (voxel, 6): three earlier ones, then three later ones.

    The first ``counts[v]`` labels of voxel v are in play; ``weights`` (6,) by direction.
    """
    n_voxels, n_labels = fields.shape
    messages = np.zeros((n_voxels, 6, n_labels), np.float32)  # message INTO the voxel from that neighbour
    opposite = np.array([3, 4, 5, 0, 1, 2])
    belief = np.empty(n_labels, np.float32)
    mine = np.empty(n_labels, np.float32)
    truncation = np.float32(truncation_hz)
    for _ in range(n_sweeps):
        for direction in range(2):
            for step in range(n_voxels):
                v = step if direction == 0 else n_voxels - 1 - step
                earlier = 0
                later = 0
                count = counts[v]
                for a in range(count):
                    belief[a] = unary[v, a]
                for d in range(6):
                    if neighbours[v, d] >= 0:
                        if d < 3:
                            earlier += 1
                        else:
                            later += 1
                        for a in range(count):
                            belief[a] += messages[v, d, a]
                share = np.float32(1.0) / np.float32(max(earlier, later, 1))
                start = 3 if direction == 0 else 0
                for d in range(start, start + 3):
                    u = neighbours[v, d]
                    if u < 0 or counts[u] < 2:
                        continue
                    weight = weights[d]
                    smallest = np.float32(1e30)
                    for a in range(count):
                        mine[a] = share * belief[a] - messages[v, d, a]
                        smallest = min(smallest, mine[a])
                    limit = smallest + weight * truncation
                    lowest = np.float32(1e30)
                    into = opposite[d]
                    for b in range(counts[u]):
                        best = limit
                        field = fields[u, b]
                        for a in range(count):
                            best = min(best, mine[a] + weight * abs(fields[v, a] - field))
                        messages[u, into, b] = best
                        lowest = min(lowest, best)
                    for b in range(counts[u]):
                        messages[u, into, b] -= lowest
    labels = np.zeros(n_voxels, np.int64)
    # final labels in raster order, each given the choices already made and the messages of what is still open
    for v in range(n_voxels):
        lowest = np.float32(1e30)
        for a in range(counts[v]):
            cost = unary[v, a]
            for d in range(6):
                u = neighbours[v, d]
                if u < 0:
                    continue
                if d < 3:
                    difference = abs(fields[v, a] - fields[u, labels[u]])
                    cost += weights[d] * min(difference, truncation)
                else:
                    cost += messages[v, d, a]
            if cost < lowest:
                lowest = cost
                labels[v] = a
    return labels


def neighbour_table(index: IntArray) -> IntArray:
    """(voxel, 6) neighbours of each numbered voxel of ``index`` (x, y, z; -1 = none): -x, -y, -z, +x, +y, +z."""
    inside = index >= 0
    table = np.full((int(inside.sum()), 6), -1, np.int64)
    for axis in range(3):
        earlier = [slice(None)] * 3
        later = [slice(None)] * 3
        earlier[axis], later[axis] = slice(None, -1), slice(1, None)
        a, b = index[tuple(earlier)], index[tuple(later)]
        both = (a >= 0) & (b >= 0)
        table[b[both], axis] = a[both]
        table[a[both], axis + 3] = b[both]
    return table


def initial_field(
    signal: ComplexArray,
    index: IntArray,
    echo_times_s: FloatArray,
    fat: ComplexArray,
    noise_sd: float,
    voxel_size_mm: FloatArray,
    field_strength_tesla: float,
    smoothness: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A swap-free field for every numbered voxel.

    Parameters
    ----------
    signal
        (voxel, echo) complex64, the voxels of ``index`` in its numbering.
    index
        (x, y, z) number of each voxel in raster order, -1 where there is none.
    smoothness
        Weight of continuity; 1 is a price of 1 for a step of 6 Hz at 1.5 T between voxels 3 mm apart.

    Returns
    -------
    field_hz, r2star_per_s, margin
        (voxel,) field; R2* candidate that came with it; how much worse the best alternative field's misfit is.
    """
    fields, costs, r2stars, span_hz = minima(signal, echo_times_s, fat, noise_sd, field_strength_tesla)
    # the same misfit at whole periods; a mild price on |f| settles what nothing else does
    wrapped = np.mod(fields + span_hz / 2, span_hz) - span_hz / 2
    shifts = (np.arange(N_SHIFTS) - N_SHIFTS // 2) * span_hz
    scale_hz = 6.0 * field_strength_tesla / 1.5
    labels_hz = (wrapped[:, :, None] + shifts[None, None, :]).reshape(fields.shape[0], N_LABELS).astype(np.float32)
    unary = (np.repeat(costs, N_SHIFTS, axis=1) + (_PRICE_OF_A_FIELD / scale_hz) * np.abs(labels_hz)).astype(np.float32)
    distance = np.array([*voxel_size_mm, *voxel_size_mm])
    weights = (smoothness / scale_hz * 3.0 / distance).astype(np.float32)
    truncation_hz = 25 * scale_hz
    # what the neighbours can ever say is bounded: a label that costs more than that cannot be the answer
    order = np.argsort(unary, axis=1, kind="stable")
    labels_hz = np.take_along_axis(labels_hz, order, axis=1)
    unary = np.take_along_axis(unary, order, axis=1)
    counts = (unary <= unary[:, :1] + weights.sum() * truncation_hz).sum(axis=1)
    table = neighbour_table(index)
    chosen = _message_passing(labels_hz, unary, counts, table, weights, truncation_hz, _N_SWEEPS)
    rows = np.arange(fields.shape[0])
    minimum = order[rows, chosen] // N_SHIFTS
    others = costs.copy()
    others[rows, minimum] = np.inf
    margin = others.min(axis=1) - costs[rows, minimum]
    return labels_hz[rows, chosen], r2stars[rows, minimum], margin


def minima(
    signal: ComplexArray, echo_times_s: FloatArray, fat: ComplexArray, noise_sd: float, field_strength_tesla: float
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Each voxel's best fields within one period: (voxel, minimum) field [Hz], misfit, R2* [1/s], and the period [Hz]."""
    spacing_s = float(np.diff(echo_times_s).min())
    period_hz = 1.0 / spacing_s
    uniform = np.allclose(np.diff(echo_times_s), spacing_s, rtol=0.02)
    span_hz = period_hz if uniform else min(2 * period_hz, 1000.0 * field_strength_tesla)
    n_fields = N_FIELDS if uniform else 2 * N_FIELDS
    raster_hz = np.arange(n_fields) * span_hz / n_fields
    bases = projection_bases(echo_times_s, fat)
    projectors = np.einsum("bni,bmi->bnm", bases, bases.conj()).astype(np.complex64)
    differences = np.round((echo_times_s[:, None] - echo_times_s[None, :]) * 1e6).astype(np.int64)
    lags, lag_of = np.unique(np.where(differences > 0, differences, differences.max()), return_inverse=True)
    turns = 2 * np.pi * np.outer(lags * 1e-6, raster_hz)
    cosines, sines = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)
    found = _candidates(signal, projectors, lag_of.reshape(differences.shape), cosines, sines, span_hz / n_fields, 2 * noise_sd**2)
    return *_refined(signal, echo_times_s, fat, noise_sd, *found), span_hz


def _refined(
    signal: ComplexArray,
    echo_times_s: FloatArray,
    fat: ComplexArray,
    noise_sd: float,
    fields: FloatArray,
    costs: FloatArray,
    decays: IntArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Each minimum fitted with a free R2*: on a few R2* values alone a swapped minimum can look the better one."""
    energy = (np.abs(signal) ** 2).sum(axis=1)
    scale = 2 * noise_sd**2 + _MODEL_ERROR * energy
    start_r2star = np.array(R2STAR_CANDIDATES_PER_S)[decays]
    found = costs < 1e6
    fields, costs = fields.astype(np.float64), np.full(costs.shape, _IMPOSSIBLE)
    r2stars = start_r2star.copy()
    for k in range(N_MINIMA):
        _, nonlinear, _, residual = fit_free(
            found[:, k], signal, echo_times_s, fat, fields[:, k].copy(), start_r2star[:, k].copy(), noise_sd, True
        )
        with np.errstate(invalid="ignore"):
            good = np.isfinite(residual) & (nonlinear[:, 1] > -30) & (nonlinear[:, 1] < 3000)
        fields[:, k] = np.where(good, nonlinear[:, 0], fields[:, k])
        r2stars[:, k] = np.where(good, nonlinear[:, 1], start_r2star[:, k])
        costs[:, k] = np.where(good, residual / scale, _IMPOSSIBLE)
    return fields, costs, np.maximum(r2stars, 0)
