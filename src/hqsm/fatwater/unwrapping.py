"""Whole periods added to a field of evenly spaced echoes, so that neighbours agree and the body lies nearest zero."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.compiled import njit
from hqsm.fatwater.costs import JOINING_TRUST

_STEPS_OF_TRUST = 65535


def unwrapped(field_hz: FloatArray, table: IntArray, trusts: FloatArray, period_hz: float) -> FloatArray:
    """Whole periods added: along trusted blocks first, then to everything around them.

    The largest connected part of trusted blocks has its median nearest zero, and the others theirs nearest to that: a shim
    keeps a body, its arms and domes within a period.
    """
    if not np.isfinite(period_hz):
        return field_hz
    relative = trusts / trusts.max()
    joins = relative > JOINING_TRUST
    # ordered by so many steps of trust: a stable sort of small integers is one by counting
    order = np.argsort(np.round(_STEPS_OF_TRUST * (1 - relative)).astype(np.uint16), kind="stable")
    everything, nothing = np.ones(field_hz.size, bool), np.zeros(field_hz.size, bool)
    trusted_hz, visited, starts = _grow(field_hz, table, relative, order, period_hz, joins, nothing)
    _bring_near(trusted_hz, visited, starts[1:], period_hz)
    result_hz, visited, starts = _grow(trusted_hz, table, relative, order, period_hz, everything, joins)
    _bring_near(result_hz, visited, starts[1:], period_hz)
    return result_hz


def _bring_near(field_hz: FloatArray, nodes: IntArray, starts: IntArray, period_hz: float) -> None:
    """Move each part, in place: the largest's median nearest zero, the others' nearest to that.

    Part p is ``nodes[starts[p] : starts[p + 1]]``.
    """
    if starts.size < 2:
        return
    sizes = np.diff(starts)
    medians = np.array([np.median(field_hz[nodes[first:end]]) for first, end in zip(starts[:-1], starts[1:], strict=True)])
    largest = int(sizes.argmax())
    centre = medians[largest] - period_hz * np.round(medians[largest] / period_hz)
    field_hz[nodes[starts[0] : starts[-1]]] -= np.repeat(period_hz * np.round((medians - centre) / period_hz), sizes)


@njit()
def _grow(
    field: AnyArray, neighbours: AnyArray, trusts: AnyArray, order: AnyArray, period: float, inside: AnyArray, frozen: AnyArray
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields with whole periods added so that neighbours agree; the nodes ``inside`` part by part, and where each part starts there.

    Grown from trusted nodes outwards, the smallest step first (Prim), each part from its most trusted node; ``frozen`` nodes
    keep their field; the first part is what grows from all of them, and may be empty.
    """
    n = field.size
    n_buckets = 512
    out = field.copy()
    done = ~inside
    visited = np.empty(n, np.int64)
    starts = np.zeros(n + 2, np.int64)
    n_visited = 0
    head = np.full(n_buckets, -1, np.int32)
    capacity = 6 * n + 1
    following = np.empty(capacity, np.int32)
    target = np.empty(capacity, np.int32)
    source = np.empty(capacity, np.int32)
    n_parts = 0
    used = 0
    for turn in range(-1, n):
        v = -1
        if turn >= 0:
            v = order[turn]
            if done[v]:
                continue
            used = 0  # every bucket is empty
        u = -1
        queue = 0
        lowest = n_buckets
        while True:
            if turn < 0 and queue < n:
                # every frozen node first
                v = queue if frozen[queue] else -1
                queue += 1
            if v >= 0 and not done[v]:
                done[v] = True
                visited[n_visited] = v
                n_visited += 1
                if u >= 0:
                    out[v] = field[v] + period * np.round((out[u] - field[v]) / period)
                for d in range(6):
                    w = neighbours[v, d]
                    if w >= 0 and not done[w] and not frozen[w] and used < capacity:
                        step = (field[w] - field[v]) / period
                        step = abs(step - np.round(step))  # 0 .. 0.5
                        doubt = 1.0 - min(trusts[v], trusts[w])
                        k = min(int((step + 0.15 * doubt) * 1.5 * n_buckets), n_buckets - 1)
                        following[used] = head[k]
                        target[used] = w
                        source[used] = v
                        head[k] = used
                        lowest = min(lowest, k)
                        used += 1
            if turn < 0 and queue < n:
                continue
            while lowest < n_buckets and head[lowest] < 0:
                lowest += 1
            if lowest == n_buckets:
                break
            k = lowest
            top = head[k]
            head[k] = following[top]
            v = target[top]
            u = source[top]
        n_parts += 1
        starts[n_parts] = n_visited
    return out, visited, starts[: n_parts + 1]
