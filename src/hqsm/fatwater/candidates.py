"""Each block's own few best fields: the lowest minima of its misfit, water, fat and R2* projected out.

The misfit is tried at the fields of a raster (:mod:`hqsm.fatwater.raster`); each minimum is refined along R2*
(:mod:`hqsm.fatwater.refinement`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.blocks import Blocks, energies_of
from hqsm.fatwater.raster import Raster, minima_of_raster, raster_of
from hqsm.fatwater.refinement import PairModel, pair_model, refined

N_MINIMA = 4
IMPOSSIBLE = np.float32(1e6)
_CHUNK = 1024


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Each block's own few best fields.

    Attributes
    ----------
    field_hz, misfit, r2star_per_s
        (block, minimum) fields, best first; misfit, very large where there is no such minimum; R2* that came with it.
    period_hz
        What a field may be changed by without changing the signal; infinite for uneven echoes.
    """

    field_hz: FloatArray
    misfit: FloatArray
    r2star_per_s: FloatArray
    period_hz: float


def candidates(
    blocks: Blocks, echo_times_s: FloatArray, fat: ComplexArray, field_strength_tesla: float, *, with_fat: bool, one_phase: bool = False
) -> Candidates:
    """The lowest minima of every block's misfit over the field; ``one_phase`` where a block's water and fat must share theirs."""
    raster = raster_of(echo_times_s, fat, field_strength_tesla, with_fat=with_fat)
    model = pair_model(echo_times_s, fat if with_fat else np.zeros_like(fat))
    field, misfit, r2star = _minima(blocks.products, raster, model, one_phase and with_fat)
    return Candidates(field_hz=field, misfit=misfit, r2star_per_s=r2star, period_hz=raster.period_hz)


@njit(parallel=True)
def _minima(
    products: AnyArray, raster: Raster, model: PairModel, one_phase: bool
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields [Hz], misfits and R2* [1/s] of each block's lowest minima."""
    n_blocks, n_echoes = products.shape[0], model.echo_times_s.size
    fields = np.zeros((n_blocks, N_MINIMA))
    misfits = np.full((n_blocks, N_MINIMA), IMPOSSIBLE, np.float32)
    decays = np.full((n_blocks, N_MINIMA), 40.0)
    for chunk in prange((n_blocks + _CHUNK - 1) // _CHUNK):
        start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_blocks)
        mine = products[start:end]
        energies = energies_of(mine, n_echoes)
        block, places = minima_of_raster(mine, energies, raster)
        costs = refined(block, places, mine, energies, model, one_phase)
        for i in range(block.size):
            v, slot = start + block[i], N_MINIMA - 1
            misfit = np.float32(costs[i])
            if misfit < misfits[v, slot]:
                while slot > 0 and misfit < misfits[v, slot - 1]:
                    misfits[v, slot], fields[v, slot], decays[v, slot] = misfits[v, slot - 1], fields[v, slot - 1], decays[v, slot - 1]
                    slot -= 1
                misfits[v, slot], fields[v, slot], decays[v, slot] = misfit, places[0, i], np.exp(places[1, i])
    return fields, misfits, decays
