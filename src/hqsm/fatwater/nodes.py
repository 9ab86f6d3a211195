"""Numbered nodes of a volume (voxels, or blocks of them): their six neighbours, and means over the 27 nodes around.

``index`` (x, y, z) holds the number of each node in raster order, -1 where there is none.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, IntArray, Mask
from hqsm.compiled import njit, prange


def numbered(there: Mask) -> IntArray:
    """(x, y, z) number of each node in raster order, -1 elsewhere."""
    index = np.full(there.shape, -1, np.int64)
    index[there] = np.arange(int(there.sum()))
    return index


def neighbour_table(index: IntArray) -> IntArray:
    """(node, 6) neighbours of each numbered node of ``index`` (x, y, z; -1 = none): -x, -y, -z, +x, +y, +z."""
    return neighbours_at(np.flatnonzero(index >= 0), index)


@njit(parallel=True)
def neighbours_at(places: AnyArray, index: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(place, 6) those neighbours at some places, given by their number in the raster."""
    nx, ny, nz = index.shape
    table = np.full((places.size, 6), -1, np.int32)
    for i in prange(places.size):
        x, y, z = places[i] // (ny * nz), (places[i] // nz) % ny, places[i] % nz
        if x > 0:
            table[i, 0] = index[x - 1, y, z]
        if y > 0:
            table[i, 1] = index[x, y - 1, z]
        if z > 0:
            table[i, 2] = index[x, y, z - 1]
        if x + 1 < nx:
            table[i, 3] = index[x + 1, y, z]
        if y + 1 < ny:
            table[i, 4] = index[x, y + 1, z]
        if z + 1 < nz:
            table[i, 5] = index[x, y, z + 1]
    return table


def around(values: ComplexArray, index: IntArray) -> ComplexArray:
    """(node,) mean over the 3 x 3 x 3 nodes around each, none counting as zero: one block's slope alone is too noisy where iron is."""
    mean: ComplexArray = _around(np.asarray(values, np.complex64), index)
    return mean


@njit(parallel=True)
def _around(values: AnyArray, index: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    nx, ny, nz = index.shape
    mean = np.zeros(values.size, np.complex64)
    planes = np.zeros((nx, ny, nz), np.complex64)
    for x in prange(nx):
        rows = np.zeros((ny, nz + 2), np.complex64)
        for y in range(ny):
            for z in range(nz):
                if index[x, y, z] >= 0:
                    rows[y, z + 1] = values[index[x, y, z]]
        for y in range(ny):
            for m in range(max(y - 1, 0), min(y + 2, ny)):
                for z in range(nz):
                    planes[x, y, z] += rows[m, z] + rows[m, z + 1] + rows[m, z + 2]
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0:
                    total = planes[x, y, z]
                    if x > 0:
                        total += planes[x - 1, y, z]
                    if x + 1 < nx:
                        total += planes[x + 1, y, z]
                    mean[v] = total / np.float32(27)
    return mean
