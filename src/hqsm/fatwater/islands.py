"""Whole pieces of tissue judged at once: is the piece's other field the better one?

Message passing leaves pieces that are swapped as a whole (a dome between lungs, an arm, a part of an explant): no single
block gains by changing alone. Here every connected piece of like field is moved to its other field as one, and the move
is kept where misfit and continuity with everything around it together get better. What the best such move would cost is
the piece's margin: how firmly its field stands.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit
from hqsm.fatwater.candidates import IMPOSSIBLE
from hqsm.fatwater.costs import Costs
from hqsm.fatwater.period import apart, fold

_SAME_PIECE_HZ_AT_1T5 = 20.0
_N_BINS = 48
_N_SWEEPS = 4
_LEAST_BLOCKS = 2


def settle(of: Costs, joins: Mask, chosen: IntArray, field_strength_tesla: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Move pieces of the blocks that ``joins`` names as long as that lowers the energy.

    Returns
    -------
    chosen, piece, margin
        (block,) minimum that each block takes; number of its piece; energy that the piece's best other field would cost
        more (infinite for the largest piece, which is what the others are compared with).
    """
    labels = chosen.copy()
    piece, margin = _settle(
        of.field_hz,
        of.unary,
        labels,
        of.table,
        of.weights,
        of.truncation_hz,
        of.period_hz,
        _SAME_PIECE_HZ_AT_1T5 * field_strength_tesla / 1.5,
        joins,
    )
    return labels, piece, margin


@njit()
def _pieces(
    fields: AnyArray, labels: AnyArray, table: AnyArray, period: float, limit: float, joins: AnyArray
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Piece of each node, the nodes sorted by piece, and where each piece starts in that list."""
    n = labels.size
    piece = np.full(n, -1, np.int64)
    order = np.empty(n, np.int64)
    starts = np.empty(n + 1, np.int64)
    used = 0
    count = 0
    for seed in range(n):
        if piece[seed] >= 0:
            continue
        starts[count] = used
        piece[seed] = count
        order[used] = seed
        used += 1
        at = starts[count]
        while at < used:
            v = order[at]
            at += 1
            for d in range(6):
                u = table[v, d]
                if u >= 0 and piece[u] < 0 and joins[u] and joins[v] and apart(fields[v, labels[v]], fields[u, labels[u]], period) < limit:
                    piece[u] = count
                    order[used] = u
                    used += 1
        count += 1
    starts[count] = used
    return piece, order, starts[: count + 1]


@njit()
def _settle(
    fields: AnyArray,
    unary: AnyArray,
    labels: AnyArray,
    table: AnyArray,
    weights: AnyArray,
    truncation: float,
    period: float,
    limit: float,
    joins: AnyArray,
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    reach = min(period, 2000.0)
    counts = np.zeros(labels.size, np.int64)
    for v in range(labels.size):
        for a in range(unary.shape[1]):
            counts[v] += unary[v, a] < IMPOSSIBLE
    trial = labels.copy()
    best_trial = labels.copy()
    piece = np.empty(0, np.int64)
    margin = np.empty(0, np.float64)
    for sweep in range(_N_SWEEPS + 1):
        piece, order, starts = _pieces(fields, labels, table, period, limit, joins)
        n_pieces = starts.size - 1
        sizes = starts[1:] - starts[:-1]
        largest = np.argmax(sizes)
        margin = np.full(n_pieces, np.inf)
        moved = False
        for p in range(n_pieces):
            if p == largest or sizes[p] < _LEAST_BLOCKS:
                continue
            members = order[starts[p] : starts[p + 1]]
            votes = np.zeros(_N_BINS)
            for v in members:
                for a in range(counts[v]):
                    if a != labels[v]:
                        d = fold(fields[v, a] - fields[v, labels[v]], period)
                        k = int((d / reach + 0.5) * _N_BINS)
                        if 0 <= k < _N_BINS:
                            votes[k] += 1
            lowest = np.inf
            for _ in range(4):
                k = int(np.argmax(votes))
                if votes[k] < 0.3 * members.size:
                    break
                shift = ((k + 0.5) / _N_BINS - 0.5) * reach
                votes[max(k - 1, 0) : k + 2] = 0
                change = 0.0
                for v in members:
                    wanted = fields[v, labels[v]] + shift
                    nearest = np.inf
                    for a in range(counts[v]):
                        d = abs(fold(fields[v, a] - wanted, period))
                        if d < nearest:
                            nearest = d
                            trial[v] = a
                    change += unary[v, trial[v]] - unary[v, labels[v]]
                for v in members:
                    for d in range(6):
                        u = table[v, d]
                        if u < 0:
                            continue
                        inside = piece[u] == p
                        half = 0.5 if inside else 1.0
                        there = trial[u] if inside else labels[u]
                        new = min(apart(fields[v, trial[v]], fields[u, there], period), truncation)
                        old = min(apart(fields[v, labels[v]], fields[u, labels[u]], period), truncation)
                        change += half * weights[v, d] * (new - old)
                if change < lowest:
                    lowest = change
                    for v in members:
                        best_trial[v] = trial[v]
            if lowest < -1e-6 and sweep < _N_SWEEPS:
                for v in members:
                    labels[v] = best_trial[v]
                moved = True
            margin[p] = lowest
        if not moved:
            break
    return piece, margin
