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
from hqsm.fatwater.nodes import around
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


@njit()
def energies_of(products: AnyArray, n_echoes: int) -> AnyArray:  # pragma: no cover - compiled
    """(block,) traces of their products: the squared signal over the variance of the misfit."""
    energies = np.zeros(products.shape[0], np.float32)
    for v in range(products.shape[0]):
        pair = -1
        for n in range(n_echoes):
            pair += n + 1
            energies[v] += products[v, pair].real
    return energies


def gather(tissue: Tissue) -> Blocks:
    """Blocks of the tissue's voxels, none longer than 5 mm unless a voxel is."""
    signal, index, echo_times_s, voxel_size_mm = tissue.signal, tissue.index, tissue.echo_times_s, tissue.voxel_size_mm
    edge = np.maximum(np.floor(BLOCK_MM / voxel_size_mm + 1e-6), 1).astype(np.int64)
    of_voxel, number, n_blocks = _numbered_blocks(index, edge, signal.shape[0])
    spacing_s = float(np.diff(echo_times_s).min())
    close = np.flatnonzero(np.diff(echo_times_s) < 1.02 * spacing_s)
    axes = np.flatnonzero(edge > 1)
    slope = np.zeros((n_blocks, 3), np.float32)
    for axis, turns in zip(axes, _steps(signal, index, of_voxel, n_blocks, close, axes), strict=True):
        slope[:, axis] = np.angle(around(turns, number)) / (2 * np.pi * spacing_s)
    noise, share = 2 * tissue.noise_sd**2, _MODEL_ERROR
    away_hz = _from_centres(index, of_voxel, slope, edge)
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
def _numbered_blocks(index: AnyArray, edge: AnyArray, n_voxels: int) -> tuple[AnyArray, AnyArray, int]:  # pragma: no cover - compiled
    """(voxel,) block of each voxel; (bx, by, bz) numbers of the blocks in raster order, -1 where there is none; how many there are."""
    nx, ny, nz = index.shape
    number = np.full(((nx - 1) // edge[0] + 1, (ny - 1) // edge[1] + 1, (nz - 1) // edge[2] + 1), -1, np.int64)
    for x in range(nx):
        for y in range(ny):
            row = number[x // edge[0], y // edge[1]]
            for z in range(nz):
                if index[x, y, z] >= 0:
                    row[z // edge[2]] = 0
    n_blocks = 0
    flat = number.reshape(-1)
    for b in range(flat.size):
        if flat[b] >= 0:
            flat[b] = n_blocks
            n_blocks += 1
    of_voxel = np.empty(n_voxels, np.int64)
    for x in range(nx):
        for y in range(ny):
            row = number[x // edge[0], y // edge[1]]
            for z in range(nz):
                if index[x, y, z] >= 0:
                    of_voxel[index[x, y, z]] = row[z // edge[2]]
    return of_voxel, number, n_blocks


@njit()
def _from_centres(index: AnyArray, of_voxel: AnyArray, slope: AnyArray, edge: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(voxel,) how far each voxel's field lies from its block's, by the (block, 3) slopes for a voxel's step along each axis."""
    nx, ny, nz = index.shape
    away = np.zeros(of_voxel.size, np.float32)
    for x in range(nx):
        from_x = np.float32(x % edge[0] - (edge[0] - 1) / 2)
        for y in range(ny):
            from_y = np.float32(y % edge[1] - (edge[1] - 1) / 2)
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0:
                    b = of_voxel[v]
                    from_z = np.float32(z % edge[2] - (edge[2] - 1) / 2)
                    away[v] = slope[b, 0] * from_x + slope[b, 1] * from_y + slope[b, 2] * from_z
    return away


@njit()
def _steps(
    signal: AnyArray, index: AnyArray, of_voxel: AnyArray, n_blocks: int, close: AnyArray, axes: AnyArray
) -> AnyArray:  # pragma: no cover - compiled
    """(axis, block) phasor by which neighbouring voxels along each of the ``axes`` turn against each other from one echo to the next."""
    nx, ny, nz = index.shape
    sums = np.zeros((axes.size, n_blocks), np.complex64)
    here = np.empty(close.size, np.complex64)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v < 0:
                    continue
                for i in range(close.size):
                    here[i] = signal[v, close[i] + 1] * np.conj(signal[v, close[i]])
                for a in range(axes.size):
                    i, j, k = x + (axes[a] == 0), y + (axes[a] == 1), z + (axes[a] == 2)
                    u = index[i, j, k] if i < nx and j < ny and k < nz else -1
                    if u < 0:
                        continue
                    total = np.complex64(0)
                    power = np.float32(1e-20)
                    for i in range(close.size):
                        mine, there = here[i], signal[u, close[i] + 1] * np.conj(signal[u, close[i]])
                        total += there * np.conj(mine)
                        power += there.real**2 + there.imag**2 + mine.real**2 + mine.imag**2
                    sums[a, of_voxel[v]] += total / np.sqrt(power)
    return sums


@njit(inline="always")
def _turn(field_hz: float, time_s: float) -> np.complex64:  # pragma: no cover - compiled
    angle = -2 * np.pi * field_hz * time_s
    return np.complex64(complex(np.cos(angle), np.sin(angle)))


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
        turn = _turn(away, t[1] - t[0])
        phasor = np.complex64(1)
        energy = np.float32(0.0)
        for n in range(n_echoes):
            y[n] = signal[v, n] * phasor
            energy += y[n].real ** 2 + y[n].imag ** 2
            if n + 1 < n_echoes:
                phasor = phasor * turn if even else _turn(away, t[n + 1] - t[0])
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
