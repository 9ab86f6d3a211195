"""Voxels whose field is not the one that their neighbours' fields lead to: swapped ones, and pieces a whole turn off.

Beside gas the field changes by as much from one voxel to the next as lies between water and fat, but it changes evenly: outside
of its sources it is harmonic. There a step says little, and where the line through the next two voxels arrives says much. Voxels that
stand off those lines are decided once more, by their own misfit and the lines, those first that have most of them. Which field is
right of one that stands far off them in the end nobody can tell: that is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit
from hqsm.fatwater.blocks import singles
from hqsm.fatwater.candidates import IMPOSSIBLE, Candidates, candidates
from hqsm.fatwater.costs import prices, step_price_per_hz, truncation_hz, trust
from hqsm.fatwater.fit import POOR, Fit
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.lower_order import AWAY_HZ_AT_1T5
from hqsm.fatwater.period import period_hz
from hqsm.fatwater.single_voxels import DOUBTFUL_ERRORS, DOUBTFUL_HZ_AT_1T5, LEAST_BRIGHT, LEAST_SNR_ALONE, VOXEL_SMOOTHNESS
from hqsm.fatwater.tissue import Tissue

_MOST_LEADS = 2
"""Voxels with so many lines are decided before those with fewer."""
_LEAST_GAIN = 3.0
"""Log-likelihood by which another field must be the better one: no wrong move gained more than 2.9, most right ones more than 7."""
_ONE_IN = 29
_LARGEST_PIECE = 2000
"""Voxels; what is larger, or half of what is sure, is what pieces are compared with."""


class Known(NamedTuple):
    """What voxels know; a named tuple because compiled code takes no dataclass.

    Attributes
    ----------
    field_hz, sure
        (voxel,) field, and whether others may be led by it.
    brightness
        (voxel,) of the brightest echo.
    numbers, places
        (x, y, z) number of each voxel, -1 where there is none; (voxel,) its place in the raster.
    price_per_hz, truncation_hz
        (3,) of the distance from a line along each axis, and the distance from which on it costs no more.
    """

    field_hz: AnyArray
    sure: AnyArray
    brightness: AnyArray
    numbers: AnyArray
    places: AnyArray
    price_per_hz: AnyArray
    truncation_hz: float


def lead_back(start: InitialField, fit: Fit, tissue: Tissue, smoothness: float) -> tuple[InitialField, IntArray]:
    """The first field with what was astray led back, and the numbers of those voxels, which are to be fitted again.

    A free fit that moved far from its block's field and arrived where its neighbours lead is where it belongs: it begins there.
    """
    scale = tissue.field_strength_tesla / 1.5
    limit_hz = DOUBTFUL_HZ_AT_1T5 * scale
    asked, known = _who_knows(start, fit, tissue, smoothness, limit_hz)
    if not asked[::_ONE_IN].any():
        return start, np.zeros(0, np.int64)
    field_hz, sure = known.field_hz, known.sure  # both change in place below
    beside = _beside_steps(known, asked, limit_hz / 2)
    turned = _turn_pieces(known, beside, period_hz(tissue.echo_times_s))
    with np.errstate(invalid="ignore"):
        away = sure & (np.abs(field_hz - start.field_hz) > AWAY_HZ_AT_1T5 * scale)
    near = np.flatnonzero(beside | away)
    off_hz = _off_the_lines(known, near)
    which = near[off_hz > limit_hz]
    arrived = np.zeros(sure.size, bool)
    arrived[near] = away[near] & (off_hz < limit_hz)
    found, unary, counts = _fields_of(which, tissue, start.typical_misfit)
    sure[which] = False
    taken = _decide(which, found.field_hz, unary, counts, found.period_hz, known)
    begin_hz, r2star = start.field_hz.copy(), start.r2star_per_s.copy()
    moved = taken >= 0
    r2star[which[moved]] = found.r2star_per_s[moved, taken[moved]]
    arrived[which[taken != _UNDECIDED]] = True
    arrived |= turned
    begin_hz[arrived] = field_hz[arrived]
    turned[which[moved]] = True
    return replace(start, field_hz=begin_hz, r2star_per_s=r2star), np.flatnonzero(turned)


def far_off_hz(start: InitialField, fit: Fit, tissue: Tissue, smoothness: float) -> FloatArray:
    """(voxel,) how far off the middle one of its lines each lies [Hz], where it knows its field and that is far; 0 elsewhere.

    By a third of what lies between water and fat: it may be on the other's field, or a whole turn off.
    """
    far_hz = truncation_hz(tissue.field_strength_tesla)
    asked, known = _who_knows(start, fit, tissue, smoothness, far_hz)
    which = np.flatnonzero(_beside_steps(known, asked, far_hz / 2))
    off: FloatArray = np.zeros(asked.size)
    off[which] = _off_the_lines(known, which)
    return np.where(off > far_hz, off, 0)


def _who_knows(start: InitialField, fit: Fit, tissue: Tissue, smoothness: float, limit_hz: float) -> tuple[Mask, Known]:
    """(voxel,) whether each knows its field well enough to be asked whether it is off by ``limit_hz``, and what they know."""
    tesla = tissue.field_strength_tesla
    brightness = np.sqrt(tissue.powers[1])
    with np.errstate(invalid="ignore"):
        asked = (DOUBTFUL_ERRORS * fit.errors[:, 0] < limit_hz) & (brightness > LEAST_SNR_ALONE * tissue.noise_sd)
    asked &= ~start.blocks.dark[start.blocks.of_voxel]
    if asked[::_ONE_IN].any():
        asked &= brightness > LEAST_BRIGHT * np.median(brightness[::_ONE_IN][asked[::_ONE_IN]])
    freedom = max(tissue.echo_times_s.size - 3, 1)
    sure = asked & (fit.residual < POOR * start.typical_misfit * 2 * tissue.noise_sd**2 * freedom)
    price_per_hz = step_price_per_hz(tissue.voxel_size_mm, VOXEL_SMOOTHNESS * smoothness, tesla)
    field_hz = fit.nonlinear[:, 0].copy()
    return asked, Known(field_hz, sure, brightness, tissue.index, tissue.places, price_per_hz, truncation_hz(tesla))


def _fields_of(which: IntArray, tissue: Tissue, typical_misfit: float) -> tuple[Candidates, FloatArray, IntArray]:
    """The voxels' own fields, what each costs by itself, and how many there are: none where no field fits."""
    alone = singles(tissue.signal[which], tissue.echo_times_s, tissue.noise_sd, tissue.voxel_size_mm)
    n_echoes = tissue.echo_times_s.size
    found = candidates(alone, tissue.echo_times_s, tissue.fat, tissue.field_strength_tesla, with_fat=True, one_phase=True)
    unary = prices(found, trust(alone, found.misfit, n_echoes, typical=typical_misfit))
    fits: Mask = found.misfit[:, 0] < POOR * typical_misfit * max(n_echoes - 3, 1)
    return found, unary, np.where(fits, (unary < IMPOSSIBLE).sum(axis=1), 0)


@njit(inline="always")
def _next(x: int, y: int, z: int, d: int, n: int, numbers: AnyArray) -> int:  # pragma: no cover - compiled
    """The ``n``-th voxel from a place, -1 where there is none: down the axes x, y and z, then up."""
    nx, ny, nz = numbers.shape
    step = -n if d < 3 else n
    axis = d % 3
    i, j, k = x + step * (axis == 0), y + step * (axis == 1), z + step * (axis == 2)
    return int(numbers[i, j, k]) if 0 <= i < nx and 0 <= j < ny and 0 <= k < nz else -1


@njit()
def _leads(v: int, known: Known, leads: AnyArray) -> int:  # pragma: no cover - compiled
    """Fill (6,) where the lines through the next two voxels arrive [Hz], NaN where they are not sure or much darker; how many do."""
    field, sure, brightness, numbers, places, _, _ = known  # once: each use of a member of a tuple counts references
    _, ny, nz = numbers.shape
    x, y, z = places[v] // (ny * nz), (places[v] // nz) % ny, places[v] % nz
    count, least = 0, LEAST_BRIGHT * brightness[v]
    for d in range(6):
        u, w = _next(x, y, z, d, 1, numbers), _next(x, y, z, d, 2, numbers)
        leads[d] = np.nan
        if u >= 0 and w >= 0 and sure[u] and sure[w] and brightness[u] >= least and brightness[w] >= least:
            leads[d] = 2 * field[u] - field[w]
            count += 1
    return count


@njit()
def _from_lines(there: float, leads: AnyArray, known: Known) -> float:  # pragma: no cover - compiled
    """What it costs to lie there."""
    price_per_hz, truncation = known.price_per_hz, known.truncation_hz
    cost = 0.0
    for d in range(6):
        if not np.isnan(leads[d]):
            cost += price_per_hz[d % 3] * min(abs(there - leads[d]), truncation)
    return cost


@njit()
def _beside_steps(known: Known, asked: AnyArray, least_hz: float) -> AnyArray:  # pragma: no cover - compiled
    """(voxel,) ``asked`` ones on either side of a step of ``least_hz``, and those behind, which its line leads to.

    Off a line by twice that no other can be.
    """
    numbers, field = known.numbers, known.field_hz
    nx, ny, nz = numbers.shape
    beside = np.zeros(field.size, np.bool_)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                v = numbers[x, y, z]
                if v < 0 or not asked[v]:
                    continue
                for axis in range(3):
                    u = _next(x, y, z, axis + 3, 1, numbers)
                    if u >= 0 and asked[u] and abs(field[u] - field[v]) > least_hz:
                        beside[v] = beside[u] = True
                        before, behind = _next(x, y, z, axis, 1, numbers), _next(x, y, z, axis + 3, 2, numbers)
                        if before >= 0:
                            beside[before] = asked[before]
                        if behind >= 0:
                            beside[behind] = asked[behind]
    return beside


@njit()
def _off_the_lines(known: Known, which: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(which,) how far each lies from the middle one of where its neighbours lead [Hz]; NaN where none does."""
    off = np.full(which.size, np.nan)
    leads = np.empty(6)
    for i in range(which.size):
        n = _leads(which[i], known, leads)
        if n > 0:
            _sort(leads)
            off[i] = abs(known.field_hz[which[i]] - 0.5 * (leads[(n - 1) // 2] + leads[n // 2]))
    return off


@njit(inline="always")
def _sort(few: AnyArray) -> None:  # pragma: no cover - compiled
    """In place, what is no number last; of six numbers ten times as fast as the library's."""
    for i in range(1, few.size):
        value, j = few[i], i
        while j > 0 and (few[j - 1] > value or np.isnan(few[j - 1])):
            few[j] = few[j - 1]
            j -= 1
        few[j] = value


_UNDECIDED, _STAYS = -2, -1


@njit()
def _decide(
    which: AnyArray, fields: AnyArray, unary: AnyArray, counts: AnyArray, period: float, known: Known
) -> AnyArray:  # pragma: no cover - compiled
    """Number of the field that each of ``which`` moves to, or that it stays, or is not decided; the known field and who is sure, in place.

    Whoever is decided leads the others: a row of swapped voxels is taken from its ends.
    """
    taken = np.full(which.size, _UNDECIDED)
    leads = np.empty(6)
    n_leads = _MOST_LEADS
    while n_leads > 0:
        some = False
        for i in range(which.size):
            v = which[i]
            if taken[i] != _UNDECIDED or counts[i] == 0 or _leads(v, known, leads) < n_leads:
                continue
            own = known.field_hz[v]
            best_hz, best, lowest, here = own, _STAYS, np.inf, np.inf
            for a in range(counts[i]):
                for turn in range(-1, 2):
                    if turn != 0 and not period < np.inf:
                        continue
                    there = fields[i, a]
                    if period < np.inf:
                        there += period * (np.round((own - there) / period) + turn)
                    cost = float(unary[i, a]) + _from_lines(there, leads, known)
                    if cost < lowest:
                        best_hz, best, lowest = there, a, cost
                    if abs(there - own) < known.truncation_hz:
                        here = min(here, cost)
            # it leads others by the field that it has or gets
            taken[i] = best if lowest < here - _LEAST_GAIN else _STAYS
            if taken[i] != _STAYS:
                known.field_hz[v] = best_hz
            known.sure[v] = some = True
        n_leads -= not some
    return taken


@njit()
def _turn_pieces(known: Known, beside: AnyArray, period: float) -> AnyArray:  # pragma: no cover - compiled
    """(voxel,) whether it is of a piece all of whose steps to others are of more than half a ``period``; those are turned, in place.

    Blocks hide such a step where the field itself changes by half a period from one to the next; voxels are half as large.
    """
    n = known.field_hz.size
    turned = np.zeros(n, np.bool_)
    if not period < np.inf:
        return turned
    field, sure, _, numbers, places, _, _ = known
    _, ny, nz = numbers.shape
    large = np.zeros(n, np.bool_)
    piece = np.zeros(n, np.int32)
    queue = np.empty(min(_LARGEST_PIECE, sure.sum() // 2 + 1), np.int64)
    leads = np.empty(6)
    number = 0
    for seed in range(n):
        steps = False
        if beside[seed] and sure[seed] and not large[seed] and piece[seed] == 0:
            x, y, z = places[seed] // (ny * nz), (places[seed] // nz) % ny, places[seed] % nz
            for d in range(6):
                u = _next(x, y, z, d, 1, numbers)
                steps = steps or (u >= 0 and sure[u] and abs(field[u] - field[seed]) > period / 2)
        if not steps:
            continue
        number += 1
        piece[seed], queue[0] = number, seed
        size, at, open_ended = 1, 0, False
        turns, n_steps = 0.0, 0
        while at < size and not open_ended:
            v = queue[at]
            at += 1
            x, y, z = places[v] // (ny * nz), (places[v] // nz) % ny, places[v] % nz
            asked = False
            for d in range(6):
                u = _next(x, y, z, d, 1, numbers)
                if u < 0 or not sure[u] or piece[u] == number:
                    continue
                if abs(field[u] - field[v]) > period / 2:
                    if not asked:
                        _leads(v, known, leads)
                        asked = True
                    turns += np.round(((field[u] if np.isnan(leads[d]) else leads[d]) - field[v]) / period)
                    n_steps += 1
                elif size == queue.size or large[u]:
                    open_ended = True
                else:
                    piece[u], queue[size] = number, u
                    size += 1
        move = 0.0 if open_ended else period * np.round(turns / n_steps)
        for m in range(size):
            large[queue[m]] = open_ended
            turned[queue[m]] = move != 0
            field[queue[m]] += move
    return turned
