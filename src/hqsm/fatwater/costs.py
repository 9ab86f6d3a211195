"""What a choice among the blocks' fields costs: misfit by what it is worth there, and steps between tissue and tissue.

    sum_b misfit_b(f_b) + sum_{b~c} trust_bc * smoothness / distance_bc * min(|f_b - f_c|, truncation)

over the 6-neighbour graph. With evenly spaced echoes fields are angles there (a whole period changes nothing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import FloatArray, IntArray
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.candidates import IMPOSSIBLE, Candidates

_TYPICAL_STEP_HZ_PER_MM_AT_1T5 = 2.0
_TRUNCATION_HZ_AT_1T5 = 75.0
_LEAST_SHARE = 0.3
_R2STAR_OF_THE_REST_PER_S = 40.0
JOINING_TRUST = 0.05
"""Blocks that fit worse, as a share of the best trust, join no pieces: lung would tie everything together."""
_TRUSTED_MISFIT = 3.0
"""Misfit per degree of freedom at which a block's say is halved: what no field explains knows no field."""


def trust(blocks: Blocks, misfit: FloatArray, n_echoes: int, typical: float | None = None) -> FloatArray:
    """(block,) what a unit of misfit is worth there: 1 where the best field leaves no more than noise, 0 where no field fits.

    Measured against the volume's own typical misfit, because flow, ghosts and the spectrum leave more than noise.
    """
    if typical is None:
        per_freedom = misfit[:, 0] / (blocks.n_voxels * max(n_echoes - 3, 1))
        order = np.argsort(per_freedom)
        heavier = np.cumsum(blocks.energy[order])
        typical = max(1.0, float(per_freedom[order[np.searchsorted(heavier, 0.5 * heavier[-1])]]))
    return worth(misfit[:, 0], blocks.n_voxels, n_echoes, typical)


def worth(lowest_misfit: FloatArray, n_voxels: IntArray, n_echoes: int, typical: float) -> FloatArray:
    """(block,) what a unit of misfit is worth where the best field leaves so much, ``typical`` per degree of freedom being noise."""
    per_freedom = lowest_misfit / (n_voxels * max(n_echoes - 3, 1))
    result: FloatArray = 1 / (typical * (1 + (per_freedom / typical / _TRUSTED_MISFIT) ** 2))
    return result


@dataclass(frozen=True, eq=False, kw_only=True)
class Costs:
    """What a choice among the blocks' fields costs: of each field by itself, and of each step to a neighbour.

    Attributes
    ----------
    field_hz, unary
        (block, minimum) fields; what each costs, very much where there is no such minimum.
    table, weights
        (block, 6) neighbours; price of each Hz of difference to them.
    truncation_hz
        Difference beyond which a step costs no more.
    period_hz
        What fields may differ by without a difference; infinite for uneven echoes.
    """

    field_hz: FloatArray
    unary: FloatArray
    table: IntArray
    weights: FloatArray
    truncation_hz: float
    period_hz: float


def costs_of(
    found: Candidates, trusts: FloatArray, share: FloatArray, table: IntArray, size_mm: FloatArray, smoothness: float, tesla: float
) -> Costs:
    """Misfit by what it is worth, and continuity between tissue and tissue; beside lung and gas fields do step."""
    there = np.maximum(share, _LEAST_SHARE)
    return Costs(
        field_hz=found.field_hz,
        unary=prices(found, trusts),
        table=table,
        weights=edge_weights(table, size_mm, smoothness, tesla) * there[:, None] * there[np.maximum(table, 0)],
        truncation_hz=truncation_hz(tesla),
        period_hz=found.period_hz,
    )


def prices(found: Candidates, trusts: FloatArray) -> FloatArray:
    """(block, minimum) misfit beyond the best one's, by what it is worth."""
    return np.where(found.misfit < IMPOSSIBLE, (found.misfit - found.misfit[:, :1]) * trusts[:, None], IMPOSSIBLE)


def tissue_share(found: Candidates, trusts: FloatArray, blocks: Blocks, echo_times_s: FloatArray) -> FloatArray:
    """(block,) how much of it is tissue, by its brightness at TE = 0 against half of what trusted blocks have.

    What no field fits (lung, which moves) has no decay that one could follow back to there.
    """
    fits = trusts > JOINING_TRUST * trusts.max()
    rate = np.where(fits, found.r2star_per_s[:, 0], np.minimum(found.r2star_per_s[:, 0], _R2STAR_OF_THE_REST_PER_S))
    decay2 = np.exp(-2 * np.outer(rate, echo_times_s)).sum(axis=1)
    bright = np.sqrt(blocks.energy / blocks.n_voxels / decay2)
    filled = blocks.n_voxels / blocks.n_voxels.max()
    typical = float(np.median(bright[fits]))
    share: FloatArray = np.minimum(2 * bright / typical, 1) * filled
    return share


def edge_weights(table: IntArray, size_mm: FloatArray, smoothness: float, field_strength_tesla: float) -> FloatArray:
    """(block, 6) price of each Hz of difference to each neighbour: one over what fields typically change by on the way."""
    price = step_price_per_hz(np.array([*size_mm, *size_mm]), smoothness, field_strength_tesla)
    weights: FloatArray = np.where(table >= 0, price, 0)
    return weights


def step_price_per_hz(distance_mm: FloatArray, smoothness: float, field_strength_tesla: float) -> FloatArray:
    """Price of each Hz by which fields differ that distance apart."""
    return smoothness / (_TYPICAL_STEP_HZ_PER_MM_AT_1T5 * field_strength_tesla / 1.5 * distance_mm)


def truncation_hz(field_strength_tesla: float) -> float:
    """Difference of neighbouring fields beyond which a step costs no more [Hz]."""
    return _TRUNCATION_HZ_AT_1T5 * field_strength_tesla / 1.5
