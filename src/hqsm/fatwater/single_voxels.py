"""Voxels that their block's field does not fit, beside gas or fat: decided one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray
from hqsm.compiled import njit
from hqsm.fatwater.blocks import Blocks, singles
from hqsm.fatwater.candidates import IMPOSSIBLE, candidates
from hqsm.fatwater.costs import edge_weights, prices, step_price_per_hz, truncation_hz, trust
from hqsm.fatwater.fit import fits_poorly
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.message_passing import N_SWEEPS, choice_by_messages
from hqsm.fatwater.nodes import around, neighbours_at
from hqsm.fatwater.pdff import pdff_percent
from hqsm.fatwater.period import fold, folded
from hqsm.fatwater.tissue import Tissue

DOUBTFUL_ERRORS = 5.0
LEAST_SNR_ALONE = 5.0
_DOUBTFUL_MARGIN, _ALL_FAT_PERCENT = 10.0, 90.0
DOUBTFUL_HZ_AT_1T5 = 50.0
"""Distance from the mean field of the 3 x 3 x 3 voxels around that calls for a second look."""
LEAST_BRIGHT = 0.3
_N_TURNS = 4
VOXEL_SMOOTHNESS = 0.3
"""Weight of continuity between voxels: beside gas fields do jump by what a swap is worth."""


def doubtful_voxels(
    tissue: Tissue,
    field_hz: FloatArray,
    se_hz: FloatArray,
    residual: FloatArray,
    linear: ComplexArray,
    swap_margin: FloatArray,
    blocks: Blocks,
) -> IntArray:
    """Numbers of the voxels whose fit is poor, whose field stands out, or which are all fat in a block that was hardly decided.

    Beside gas a block's voxels need not share one minimum.
    """
    fitted = np.isfinite(residual)
    mean = around(np.where(fitted, field_hz, 0) + 1j * fitted, tissue.index)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart_hz = np.abs(field_hz - mean.real / mean.imag)
    limit_hz = np.maximum(DOUBTFUL_HZ_AT_1T5 * tissue.field_strength_tesla / 1.5, DOUBTFUL_ERRORS * se_hz)
    barely = np.flatnonzero(swap_margin < _DOUBTFUL_MARGIN)
    swapped = np.zeros(residual.size, bool)
    swapped[barely] = pdff_percent(linear[barely, 0], linear[barely, 1]) > _ALL_FAT_PERCENT
    alone = fits_poorly(residual, tissue.noise_sd, tissue.echo_times_s.size) | ~(apart_hz < limit_hz) | swapped
    bright = tissue.powers[1] > (LEAST_SNR_ALONE * tissue.noise_sd) ** 2
    return np.flatnonzero(alone & bright & ~blocks.dark[blocks.of_voxel])


def settle_voxels(start: InitialField, doubtful: IntArray, tissue: Tissue, smoothness: float) -> InitialField:
    """The first field with the ``doubtful`` voxels decided one by one, by their own fields and their neighbours'."""
    tesla, size_mm = tissue.field_strength_tesla, tissue.voxel_size_mm
    single = singles(tissue.signal[doubtful], tissue.echo_times_s, tissue.noise_sd, size_mm)
    found = candidates(single, tissue.echo_times_s, tissue.fat, tesla, with_fat=True, one_phase=True)
    trusts = trust(single, found.misfit, tissue.echo_times_s.size, typical=start.typical_misfit)
    table = neighbours_at(tissue.places[doubtful], tissue.index)
    brightness = np.sqrt(tissue.powers[1])
    # a neighbour much darker (lung) has no say
    table[brightness[table] < LEAST_BRIGHT * brightness[doubtful][:, None]] = -1
    weights = edge_weights(table, size_mm, VOXEL_SMOOTHNESS * smoothness, tesla)
    limit_hz, period_hz = truncation_hz(tesla), found.period_hz
    # a voxel that no field fits tells of none: its block's, which its neighbours and the body's shape had a say in, stands
    from_block_hz = np.abs(folded(found.field_hz - start.field_hz[doubtful][:, None], period_hz))
    price = step_price_per_hz(size_mm.min(), VOXEL_SMOOTHNESS * smoothness, tesla) * np.minimum(from_block_hz, limit_hz)
    unary = np.where(found.misfit < IMPOSSIBLE, prices(found, trusts) + price, IMPOSSIBLE).astype(np.float32)
    counts = (unary < IMPOSSIBLE).sum(axis=1)
    field_hz, r2star = start.field_hz.copy(), start.r2star_per_s.copy()
    number = np.full(field_hz.size, -1)
    number[doubtful] = np.arange(doubtful.size)
    fields = found.field_hz.astype(np.float32)
    neighbours = _joined(field_hz, doubtful, number, fields, counts, unary, table, weights, brightness, limit_hz, period_hz)
    chosen = choice_by_messages(fields, unary, counts, neighbours, weights.astype(np.float32), limit_hz, period_hz, N_SWEEPS)
    rows = np.arange(doubtful.size)
    r2star[doubtful] = found.r2star_per_s[rows, chosen]
    # of a field's periodic copies the one nearest to the block's, then to the neighbours'
    field_hz[doubtful] += np.where(counts > 0, folded(found.field_hz[rows, chosen] - field_hz[doubtful], period_hz), 0)
    if np.isfinite(period_hz):
        _bring_near(field_hz, doubtful, table, period_hz)
    return replace(start, field_hz=field_hz, r2star_per_s=r2star)


@njit()
def _joined(
    field: AnyArray,
    which: AnyArray,
    number: AnyArray,
    fields: AnyArray,
    counts: AnyArray,
    unary: AnyArray,
    table: AnyArray,
    weights: AnyArray,
    brightness: AnyArray,
    truncation: float,
    period: float,
) -> AnyArray:  # pragma: no cover - compiled
    """(voxel, 6) which other voxel of ``which`` each neighbour is; steps to those that keep their field go into ``unary``, in place."""
    neighbours = np.full(table.shape, -1, np.int32)
    for i in range(which.size):
        v = which[i]
        for d in range(6):
            u = table[i, d]
            if u < 0:
                continue
            if number[u] >= 0:
                if brightness[v] >= LEAST_BRIGHT * brightness[u]:
                    neighbours[i, d] = number[u]
                continue
            for a in range(counts[i]):
                unary[i, a] += weights[i, d] * min(abs(fold(field[u] - fields[i, a], period)), truncation)
    return neighbours


@njit()
def _bring_near(field: AnyArray, which: AnyArray, table: AnyArray, period: float) -> None:  # pragma: no cover - compiled
    """Whole periods added to the voxels ``which``, in place, so that they lie nearest to their neighbours; forth and back."""
    # a neighbour that has not been looked at has no say
    settled = np.ones(field.size, np.bool_)
    settled[which] = False
    for sweep in range(_N_TURNS):
        for step in range(which.size):
            i = step if sweep % 2 == 0 else which.size - 1 - step
            v = which[i]
            base, nearest = field[v], np.inf
            middle, count = 0.0, 0
            for d in range(6):
                u = table[i, d]
                if u >= 0 and settled[u]:
                    middle += np.round((field[u] - base) / period)
                    count += 1
            settled[v] = count > 0 or sweep > 0
            if count == 0:
                continue
            middle = np.round(middle / count)
            for k in range(-1, 2):
                away = 0.0
                for d in range(6):
                    u = table[i, d]
                    if u >= 0 and settled[u]:
                        away += abs(field[u] - base - (middle + k) * period)
                if away < nearest:
                    nearest = away
                    field[v] = base + (middle + k) * period
