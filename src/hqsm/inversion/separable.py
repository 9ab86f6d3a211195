"""Volumes made from small tables by one matrix per axis: interpolation between nodes, and the fields of shim and far body."""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from hqsm.array_library import Operator
from hqsm.arrays import FloatArray

_DEGREE = 3
Polynomial = dict[tuple[int, int, int], float]
_SOLID_HARMONICS: tuple[Polynomial, ...] = (
    {(0, 0, 0): 1},
    {(1, 0, 0): 1},
    {(0, 1, 0): 1},
    {(0, 0, 1): 1},
    {(1, 1, 0): 1},
    {(1, 0, 1): 1},
    {(0, 1, 1): 1},
    {(2, 0, 0): 1, (0, 2, 0): -1},
    {(0, 0, 2): 2, (2, 0, 0): -1, (0, 2, 0): -1},
    {(0, 0, 3): 2, (2, 0, 1): -3, (0, 2, 1): -3},
    {(1, 0, 2): 4, (3, 0, 0): -1, (1, 2, 0): -1},
    {(0, 1, 2): 4, (2, 1, 0): -1, (0, 3, 0): -1},
    {(2, 0, 1): 1, (0, 2, 1): -1},
    {(1, 1, 1): 1},
    {(3, 0, 0): 1, (1, 2, 0): -3},
    {(2, 1, 0): 3, (0, 3, 0): -1},
)
"""Coefficients of u^i v^j w^k by their exponents."""


class Separable(Operator):
    """A volume from a table (i, j, k) by one matrix per axis, (x, i), (y, j) and (z, k), and the transpose; float32."""

    def __init__(self, matrices: tuple[FloatArray, FloatArray, FloatArray]) -> None:
        self.matrices = matrices
        self.shape = tuple(matrix.shape[1] for matrix in matrices)
        self.size = int(np.prod(self.shape))

    def volume(self, table: FloatArray) -> FloatArray:
        """(x, y, z) of a table, which may be flat."""
        mx, my, mz = self.matrices
        cx, cy, cz = self.shape
        reshape = array_namespace(table).reshape
        along_x = reshape(mx @ reshape(table, (cx, cy * cz)), (-1, cy, cz))
        along_xy = my @ along_x
        volume: FloatArray = reshape(reshape(along_xy, (-1, cz)) @ mz.T, (mx.shape[0], my.shape[0], mz.shape[0]))
        return volume

    def transposed(self, volume: FloatArray) -> FloatArray:
        """The flat table of a volume (x, y, z)."""
        mx, my, mz = self.matrices
        _, cy, cz = self.shape
        reshape = array_namespace(volume).reshape
        along_z = reshape(reshape(volume, (-1, mz.shape[0])) @ mz, (mx.shape[0], my.shape[0], cz))
        along_yz = my.T @ along_z
        table: FloatArray = reshape(mx.T @ reshape(along_yz, (-1, cy * cz)), (-1,))
        return table


class SolidHarmonics(Operator):
    """The sixteen solid harmonics up to third order around the images' centre, about 1 at their ends, each times ``sd_ppm``.

    A shim makes those up to second order; the body that goes on far beyond the modelled volume makes the third as well.
    Distances are in mm over one common length: with a length per axis they would not obey Laplace's equation and could
    pass for the field of a susceptibility that is spread over the body.
    """

    size = len(_SOLID_HARMONICS)

    def __init__(self, shape: tuple[int, ...], voxel_size_mm: FloatArray, sd_ppm: float = 1.0) -> None:
        half_mm = float((np.array(shape) * np.asarray(voxel_size_mm)).max()) / 2
        ux, uy, uz = (
            (((np.arange(n) - (n - 1) / 2) * float(d) / half_mm)[:, None] ** np.arange(_DEGREE + 1)).astype(np.float32)
            for n, d in zip(shape, voxel_size_mm, strict=True)
        )
        self._powers = Separable((ux, uy, uz))
        coefficients = np.zeros((self.size, *self._powers.shape), np.float32)
        for table, polynomial in zip(coefficients, _SOLID_HARMONICS, strict=True):
            for exponents, factor in polynomial.items():
                table[exponents] = sd_ppm * factor
        self._coefficients = coefficients.reshape(self.size, -1)

    def field(self, amounts: FloatArray) -> FloatArray:
        """(x, y, z) of so much of each."""
        return self._powers.volume(amounts @ self._coefficients)

    def transposed(self, field: FloatArray) -> FloatArray:
        """(size,) sum over the voxels of each times ``field``."""
        sums: FloatArray = self._coefficients @ self._powers.transposed(field)
        return sums

    def each(self, means: tuple[FloatArray, ...] | None = None) -> list[FloatArray]:
        """Every one of them (x, y, z), or its means over larger voxels by one matrix per axis, (larger, n)."""
        matrices = self._powers.matrices if means is None else tuple(m @ p for m, p in zip(means, self._powers.matrices, strict=True))
        powers = Separable((matrices[0], matrices[1], matrices[2]))
        return [powers.volume(table) for table in self._coefficients]
