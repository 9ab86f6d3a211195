"""The choice among the blocks' fields by sequential tree-reweighted message passing (Kolmogorov, PAMI 2006;28:1568)."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, IntArray, Mask
from hqsm.compiled import njit
from hqsm.fatwater.candidates import IMPOSSIBLE
from hqsm.fatwater.costs import Costs
from hqsm.fatwater.period import apart

N_SWEEPS = 15
_NEWS = np.float32(1e-2)
"""Change of a message that is worth passing on."""


def smoothest_choice(of: Costs, chosen: IntArray | None = None, open_: Mask | None = None) -> IntArray:
    """(block,) which minimum each block takes; with ``open_``, only those choose and the others keep what they have ``chosen``."""
    counts = _in_play(of.unary, of.weights, of.truncation_hz)
    result = np.zeros(counts.size, np.int64) if chosen is None else chosen.copy()
    which = np.flatnonzero(counts > 1 if open_ is None else open_ & (counts > 1))
    unary = of.unary.astype(np.float32)
    problem = _of_open_blocks(of.field_hz, unary, counts, result, of.table, of.weights, of.truncation_hz, of.period_hz, which)
    result[which] = choice_by_messages(*problem, of.truncation_hz, of.period_hz, N_SWEEPS)
    return result


@njit()
def _in_play(unary: AnyArray, weights: AnyArray, truncation: float) -> AnyArray:  # pragma: no cover - compiled
    """(block,) how many of its first fields do not cost more than the best one and all the steps to all neighbours together."""
    counts = np.empty(unary.shape[0], np.int64)
    for v in range(unary.shape[0]):
        lowest, steps = np.inf, 0.0
        for a in range(unary.shape[1]):
            lowest = min(lowest, unary[v, a])
        for d in range(weights.shape[1]):
            steps += weights[v, d]
        count = unary.shape[1]
        while count > 0 and not (unary[v, count - 1] < IMPOSSIBLE and unary[v, count - 1] - lowest <= truncation * steps):
            count -= 1
        counts[v] = count if count > 0 else unary.shape[1]
    return counts


@njit()
def _of_open_blocks(
    fields: AnyArray,
    unary: AnyArray,
    counts: AnyArray,
    chosen: AnyArray,
    table: AnyArray,
    weights: AnyArray,
    truncation: float,
    period: float,
    open_: AnyArray,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields, costs, counts, neighbours and weights of the blocks with a choice; steps to the others go into the costs."""
    n, n_labels = open_.size, fields.shape[1]
    number = np.full(counts.size, -1, np.int32)
    number[open_] = np.arange(n).astype(np.int32)
    field, cost = np.empty((n, n_labels), np.float32), np.empty((n, n_labels), np.float32)
    neighbours, weight = np.full((n, 6), -1, np.int32), np.zeros((n, 6), np.float32)
    for i in range(n):
        v = open_[i]
        field[i] = fields[v]
        cost[i] = unary[v]
        for d in range(6):
            u = table[v, d]
            if u < 0:
                continue
            if number[u] >= 0:
                neighbours[i, d] = number[u]
                weight[i, d] = weights[v, d]
            else:
                for a in range(counts[v]):
                    cost[i, a] += weights[v, d] * min(apart(fields[v, a], fields[u, chosen[u]], period), truncation)
    return field, cost, counts[open_], neighbours, weight


@njit()
def choice_by_messages(
    fields: AnyArray,
    unary: AnyArray,
    counts: AnyArray,
    neighbours: AnyArray,
    weights: AnyArray,
    truncation_hz: float,
    period_hz: float,
    n_sweeps: int,
) -> AnyArray:  # pragma: no cover - compiled
    """TRW-S over blocks in raster order; ``neighbours``, ``weights`` (block, 6): three earlier ones, then three later ones.

    The first ``counts[v]`` labels of block v are in play.
    """
    n_nodes, n_labels = fields.shape
    messages = np.zeros((n_nodes, 6, n_labels), np.float32)  # message INTO the block from that neighbour
    opposite = np.array([3, 4, 5, 0, 1, 2])
    belief = np.empty(n_labels, np.float32)
    mine = np.empty(n_labels, np.float32)
    sent = np.empty(n_labels, np.float32)
    truncation = np.float32(truncation_hz)
    period: float = np.float32(period_hz)  # type: ignore[assignment]
    # a block into which no message has changed since it sent its own has nothing new to say
    news = np.ones((2, n_nodes), np.bool_)
    for _ in range(n_sweeps):
        for direction in range(2):
            for step in range(n_nodes):
                v = step if direction == 0 else n_nodes - 1 - step
                if not news[direction, v]:
                    continue
                news[direction, v] = False
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
                    if u < 0:
                        continue
                    weight = weights[v, d]
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
                            best = min(best, mine[a] + weight * apart(fields[v, a], field, period))
                        sent[b] = best
                        lowest = min(lowest, best)
                    changed = np.float32(0)
                    for b in range(counts[u]):
                        message = sent[b] - lowest
                        changed = max(changed, abs(message - messages[u, into, b]))
                        messages[u, into, b] = message
                    if changed > _NEWS:
                        news[0, u] = news[1, u] = True
    labels = np.zeros(n_nodes, np.int64)
    # final labels in raster order, each given the choices already made and the messages of what is still open
    for v in range(n_nodes):
        lowest = np.float32(1e30)
        for a in range(counts[v]):
            cost = unary[v, a]
            for d in range(6):
                u = neighbours[v, d]
                if u < 0:
                    continue
                if d < 3:
                    cost += weights[v, d] * min(apart(fields[v, a], fields[u, labels[u]], period), truncation)
                else:
                    cost += messages[v, d, a]
            if cost < lowest:
                lowest = cost
                labels[v] = a
    return labels
