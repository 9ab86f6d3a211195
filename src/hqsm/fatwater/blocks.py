"""Blocks of a few millimetres: neighbouring voxels share their field but not their fat, so their costs add.

A block sums the outer products of its voxels' echoes: the variable-projection cost of the field (Hernando et al., MRM
2008;59:571) with water, fat and one R2* projected out is a trigonometric polynomial of that sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit
from hqsm.fatwater.lanes import evenly
from hqsm.fatwater.nodes import around, neighbour_table, numbered
from hqsm.fatwater.tissue import Tissue

BLOCK_MM = 5.0
EVEN_WITHIN_S = 1e-6
"""Headers round echo times to a microsecond, 0.2 degrees at 500 Hz."""
_MODEL_ERROR = 5e-4
"""Share of the signal's energy that the model itself may miss (spectrum, flow, partial volume)."""
_MODEL_ERROR_OF_VOXEL = 1e-4
_LEAST_LIKE = 14
"""Of 27 blocks: fewer lie at an edge, where what is beyond tells, or fields step."""
_DARK, _FALLING = 8.0, 2.5
"""Squared signal of a block over twice the noise's variance below which an echo is dark; by what the second must be below the first."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Blocks:
    """Voxels gathered to blocks.

    Attributes
    ----------
    of_voxel
        (voxel,) number of each voxel's block.
    index
        (bx, by, bz) number of each block in raster order, -1 where there is none.
    products
        (block, pair) sum over the block's voxels of y_n conj(y_m) over the variance of the voxel's misfit; pairs (n, m) of
        echoes as of :func:`pairs_of`.
    n_voxels
        (block,) how many voxels it has.
    energy
        (block,) their squared signal [scanner units].
    size_mm
        (3,) its edges.
    away_hz
        (voxel,) how far its field lies from its block's, by the field's slope there.
    dark
        (block,) whether it is in the noise from the third echo on and took the mean of the like blocks around.
    """

    of_voxel: IntArray
    index: IntArray
    products: ComplexArray
    n_voxels: IntArray
    energy: FloatArray
    size_mm: FloatArray
    away_hz: FloatArray
    dark: Mask


def pairs_of(n_echoes: int) -> tuple[IntArray, IntArray]:
    """(pair,) numbers n >= m of the two echoes of each pair: (0, 0), (1, 0), (1, 1), (2, 0) ..."""
    n, m = np.tril_indices(n_echoes)
    return n, m


def gather(tissue: Tissue) -> Blocks:
    """Blocks of the tissue's voxels, none longer than 5 mm unless a voxel is."""
    signal, index, echo_times_s, voxel_size_mm = tissue.signal, tissue.index, tissue.echo_times_s, tissue.voxel_size_mm
    edge = np.maximum(np.floor(BLOCK_MM / voxel_size_mm + 1e-6), 1).astype(np.int64)
    where = np.nonzero(index >= 0)
    shape = -(-np.array(index.shape) // edge)
    along = [np.arange(n) // e for n, e in zip(index.shape, edge, strict=True)]
    x, y, z = (numbers[places] for numbers, places in zip(along, where, strict=True))
    flat = (x * shape[1] + y) * shape[2] + z
    present = np.zeros(int(np.prod(shape)), bool)
    present[flat] = True
    number = numbered(present)
    of_voxel = number[flat]
    n_blocks = int(present.sum())
    number = number.reshape(tuple(shape))
    slope = np.zeros((n_blocks, 3), np.float32)
    later = neighbour_table(index)[:, 3:] if (edge > 1).any() else np.zeros((0, 3), np.int64)
    spacing_s = float(np.diff(echo_times_s).min())
    close = np.flatnonzero(np.diff(echo_times_s) < 1.02 * spacing_s)
    for axis in np.flatnonzero(edge > 1):
        turns = _steps(signal, later[:, axis], of_voxel, n_blocks, close)
        slope[:, axis] = np.angle(around(turns, number)) / (2 * np.pi * spacing_s)
    noise, share = 2 * tissue.noise_sd**2, _MODEL_ERROR
    away_hz = np.zeros(of_voxel.size, np.float32)
    for axis in np.flatnonzero(edge > 1):
        from_centre = (np.arange(index.shape[axis]) % edge[axis] - (edge[axis] - 1) / 2).astype(np.float32)
        away_hz += slope[of_voxel, axis] * from_centre[where[axis]]
    products = _sums_of_products(signal, of_voxel, away_hz, echo_times_s, n_blocks, noise, share)
    counts = np.bincount(of_voxel, minlength=n_blocks)
    dark = _lend(products, counts.astype(np.float32), number)
    energy: FloatArray = np.bincount(of_voxel, tissue.powers[0], n_blocks).astype(np.float64)
    return Blocks(
        of_voxel=of_voxel,
        index=number,
        products=products,
        n_voxels=counts,
        energy=energy,
        size_mm=edge * voxel_size_mm,
        away_hz=away_hz,
        dark=dark,
    )


def singles(signal: ComplexArray, echo_times_s: FloatArray, noise_sd: float, voxel_size_mm: FloatArray) -> Blocks:
    """Every voxel a block of its own; without a place (``index`` is empty)."""
    n = signal.shape[0]
    of_voxel = np.arange(n)
    noise, share = 2 * noise_sd**2, _MODEL_ERROR_OF_VOXEL
    products = _sums_of_products(signal, of_voxel, np.zeros(n, np.float32), echo_times_s, n, noise, share)
    return Blocks(
        of_voxel=of_voxel,
        index=np.zeros((0, 0, 0), np.int64),
        products=products,
        n_voxels=np.ones(n, np.int64),
        energy=np.ones(n),
        size_mm=voxel_size_mm,
        away_hz=np.zeros(n, np.float32),
        dark=np.zeros(n, bool),
    )


@njit()
def _steps(signal: AnyArray, later: AnyArray, block: AnyArray, n_blocks: int, close: AnyArray) -> AnyArray:  # pragma: no cover
    """(block,) phasor by which neighbouring voxels of the block turn against each other from one echo to the next."""
    sums = np.zeros(n_blocks, np.complex64)
    for v in range(signal.shape[0]):
        u = later[v]
        if u >= 0:
            total = np.complex64(0)
            power = np.float32(1e-20)
            for n in close:
                here = signal[v, n + 1] * np.conj(signal[v, n])
                there = signal[u, n + 1] * np.conj(signal[u, n])
                total += there * np.conj(here)
                power += there.real**2 + there.imag**2 + here.real**2 + here.imag**2
            sums[block[v]] += total / np.sqrt(power)
    return sums


@njit()
def _sums_of_products(
    signal: AnyArray, block: AnyArray, away_hz: AnyArray, t: AnyArray, n_blocks: int, noise: float, share: float
) -> AnyArray:  # pragma: no cover - compiled
    """Outer products of each voxel's echoes, the field's slope inside the block taken out, over the misfit's variance."""
    n_echoes = signal.shape[1]
    sums = np.zeros((n_blocks, n_echoes * (n_echoes + 1) // 2), np.complex64)
    y = np.empty(n_echoes, np.complex64)
    even = evenly(t, EVEN_WITHIN_S)
    for v in range(signal.shape[0]):
        b = block[v]
        away = away_hz[v]
        turn = np.complex64(np.exp(-2j * np.pi * away * (t[1] - t[0])))
        phasor = np.complex64(1)
        energy = np.float32(0.0)
        for n in range(n_echoes):
            y[n] = signal[v, n] * phasor
            energy += y[n].real ** 2 + y[n].imag ** 2
            if n + 1 < n_echoes:
                phasor = phasor * turn if even else np.complex64(np.exp(-2j * np.pi * away * (t[n + 1] - t[0])))
        weight = np.float32(1.0 / (noise + share * energy))
        into = sums[b]
        pair = 0
        for n in range(n_echoes):
            weighted = y[n] * weight
            for m in range(n + 1):
                into[pair] += weighted * np.conj(y[m])
                pair += 1
    return sums


@njit()
def _lend(products: AnyArray, n_voxels: AnyArray, index: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Blocks that are in the noise from the third echo on get the mean of the like blocks around, in place; which they are.

    Two echoes fit many fields; in so short a time the fields of neighbours hardly differ.
    """
    nx, ny, nz = index.shape
    n_blocks, n_pairs = products.shape
    dark = np.zeros(n_blocks, np.bool_)
    for b in range(n_blocks):
        # of the first three echoes with themselves; noise gives 1 for each voxel
        first, second, third = products[b, 0].real - n_voxels[b], products[b, 2].real - n_voxels[b], products[b, 5].real - n_voxels[b]
        dark[b] = third < _DARK and first > 2 * _DARK and first > _FALLING * second
    lent = np.zeros(n_blocks, np.bool_)
    number = np.cumsum(dark) - 1
    own = products[dark]
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                b = index[x, y, z]
                if b < 0 or not dark[b]:
                    continue
                total = np.float32(0)
                like = 0
                products[b] = 0
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    for j in range(max(y - 1, 0), min(y + 2, ny)):
                        for k in range(max(z - 1, 0), min(z + 2, nz)):
                            c = index[i, j, k]
                            if c >= 0 and dark[c]:
                                total += n_voxels[c]
                                like += 1
                                for pair in range(n_pairs):
                                    products[b, pair] += own[number[c], pair]
                if like < _LEAST_LIKE:
                    products[b] = own[number[b]]
                    continue
                lent[b] = True
                scale = n_voxels[b] / total
                for pair in range(n_pairs):
                    products[b, pair] *= scale
    return lent
