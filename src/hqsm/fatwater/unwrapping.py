"""Whole periods added to a field of evenly spaced echoes, so that neighbours agree and the body lies nearest zero."""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.fatwater.costs import JOINING_TRUST


def unwrapped(field_hz: FloatArray, table: IntArray, trusts: FloatArray, period_hz: float) -> FloatArray:
    """Whole periods added: along trusted blocks first, then to everything around them.

    The largest connected part of trusted blocks has its median nearest zero, and the others theirs nearest to that: a shim
    keeps a body, its arms and domes within a period.
    """
    if not np.isfinite(period_hz):
        return field_hz
    relative = trusts / trusts.max()
    joins = relative > JOINING_TRUST
    inside = (table >= 0) & joins[:, None] & joins[np.maximum(table, 0)]
    nothing = np.zeros(field_hz.size, bool)
    trusted_hz, part = _grown(field_hz, np.where(inside, table, -1), relative, period_hz, nothing)
    _bring_near(trusted_hz, np.where(joins, part, -1), period_hz)
    result_hz, part = _grown(trusted_hz, table, relative, period_hz, joins)
    _bring_near(result_hz, np.where(part > 0, part, -1), period_hz)  # part 0 has every trusted block
    return result_hz


def _bring_near(field_hz: FloatArray, part: IntArray, period_hz: float) -> None:
    """Move each part, in place: the largest's median nearest zero, the others' nearest to that; -1 is left alone."""
    order = np.argsort(part, kind="stable")
    order = order[part[order] >= 0]
    if not order.size:
        return
    numbers, starts, sizes = np.unique(part[order], return_index=True, return_counts=True)
    medians = np.array([np.median(field_hz[order[first : first + n]]) for first, n in zip(starts, sizes, strict=True)])
    largest = int(sizes.argmax())
    centre = medians[largest] - period_hz * np.round(medians[largest] / period_hz)
    periods = np.zeros(int(numbers[-1]) + 1)
    periods[numbers] = period_hz * np.round((medians - centre) / period_hz)
    chosen = part >= 0
    field_hz[chosen] -= periods[part[chosen]]


def _grown(field: FloatArray, neighbours: IntArray, trusts: FloatArray, period: float, frozen: AnyArray) -> tuple[FloatArray, IntArray]:
    """Fields with whole periods added so that neighbours agree, and the connected part that each node belongs to.

    Grown from trusted nodes outwards, the smallest step first (Prim), each part from its most trusted node; ``frozen`` nodes
    keep their field, and growth starts from all of them.
    """
    found: tuple[FloatArray, IntArray] = _grow(field, neighbours, trusts, np.argsort(-trusts, kind="stable"), period, frozen)
    return found


@numba.njit(cache=True)
def _grow(
    field: AnyArray, neighbours: AnyArray, trusts: AnyArray, order: AnyArray, period: float, frozen: AnyArray
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    n = field.size
    n_buckets = 512
    out = field.copy()
    part = np.full(n, -1, np.int64)
    done = np.zeros(n, np.bool_)
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
                v = queue
                queue += 1
                if not frozen[v]:
                    continue
                u = -1
            if v >= 0 and not done[v]:
                done[v] = True
                part[v] = n_parts
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
    return out, part
