"""The fields that many small sources make at a few data: transforms in plane, and for each wave in plane a matrix between slices.

A transform of the whole volume for each source would cost two to three times as much, and would hold what no datum asks for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hqsm import fourier
from hqsm.arrays import Box, ComplexArray, FloatArray
from hqsm.inversion.voxel_means import voxel_mean_kernel


class Source(NamedTuple):
    """Susceptibility [ppm] that is ``part`` (x, y, z) in ``box`` and zero elsewhere, of one unknown.

    Attributes
    ----------
    place
        Which unknown.
    """

    place: int
    box: Box
    part: FloatArray


class SliceFields:
    """Fields of sources on one periodic grid; arguments as of :func:`hqsm.dipole.dipole_kernel`.

    Attributes
    ----------
    target
        Where in plane the fields are asked for.
    """

    def __init__(self, shape: fourier.Shape, voxel_size_mm: FloatArray, b0_direction: FloatArray, target: Box) -> None:
        x, y, z = shape
        self.shape, self.target = shape, target
        along_first = [2, 0, 1]
        spectrum = voxel_mean_kernel((z, x, y), voxel_size_mm[along_first], b0_direction[along_first])
        to_slices = np.exp(2j * np.pi * np.outer(np.arange(z), np.arange(z)) / z) / z
        self._between_slices = np.ascontiguousarray((to_slices @ spectrum.reshape(z, -1)).T.astype(np.complex64))
        self._to_x, self._to_y = _waves(x), _waves(y)[: y // 2 + 1]
        # of the real transform's waves all but the first and the last stand for two
        twice = np.where(np.arange(y // 2 + 1) % (y // 2), np.float32(2), np.float32(1))
        self._from_x = np.ascontiguousarray(self._to_x[:, target[0]].T.conj()) / x
        self._from_y = np.ascontiguousarray(self._to_y[:, target[1]].T.conj() * twice) / y

    def to(self, slices: FloatArray) -> ComplexArray:
        """(waves, z, joined) the matrices from slices to means over some, (z, joined)."""
        n = self.shape[2]
        matrices = np.empty((slices.shape[1], len(self._between_slices), n), np.complex64)
        for matrix, weights in zip(matrices, slices.T, strict=True):
            matrix[:] = sum(weights[z] * self._between_slices[:, (z - np.arange(n)) % n] for z in np.flatnonzero(weights))
        return matrices.transpose(1, 2, 0)

    def of(self, sources: list[Source], matrices: ComplexArray) -> FloatArray:
        """(x, y, sources, joined) their fields [ppm] at ``target``; all of them lie in the same slices."""
        z = sources[0].box[2]
        x, y = len(self._to_x), len(self._to_y)
        waves = np.empty((x, y, len(sources), z.stop - z.start), np.complex64)
        for k, (_, box, part) in enumerate(sources):
            along_y = self._to_y[:, box[1]] @ part
            waves[:, :, k] = (self._to_x[:, box[0]] @ along_y.reshape(len(part), -1)).reshape(x, y, -1)
        field = waves.reshape(x * y, len(sources), -1) @ matrices[:, z]
        field = (self._from_x @ field.reshape(x, -1)).reshape(len(self._from_x), y, -1)
        return (self._from_y @ field).real.reshape(len(self._from_x), len(self._from_y), len(sources), -1)


def _waves(n: int) -> ComplexArray:
    """(n, n) what each voxel adds to each wave of a transform."""
    at = np.arange(n)
    return np.asarray(np.exp(-2j * np.pi * (np.outer(at, at) % n) / n), np.complex64)
