"""The same box in larger voxels: means over them, sums into them, and linear interpolation back."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.data import VoxelGrid


class CoarseGrid:
    """Voxels of at least ``edge_mm`` along each axis that fill the box of a finer grid.

    Their edges need not be a multiple of the finer ones: what a finer voxel gives is shared by overlap.

    Attributes
    ----------
    grid
        The larger voxels.
    is_same
        Whether nothing was to be enlarged.
    """

    def __init__(self, fine: VoxelGrid, edge_mm: float) -> None:
        counts = [max(2, min(n, round(n * float(d) / max(edge_mm, float(d))))) for n, d in zip(fine.shape, fine.voxel_size_mm, strict=True)]
        self.fine = fine
        self.grid = fine.resampled((counts[0], counts[1], counts[2])) if tuple(counts) != fine.shape else fine
        self._overlaps = [_overlap(n, count) for n, count in zip(fine.shape, counts, strict=True)]
        self.is_same = self.grid is fine

    def mean(self, volume: AnyArray) -> FloatArray:
        """Mean of the finer voxels in each larger one, float32."""
        return self._applied([o / o.sum(axis=1, keepdims=True) for o in self._overlaps], volume)

    def sum(self, volume: AnyArray) -> FloatArray:
        """Sum of the finer voxels in each larger one, float32."""
        return self._applied([o / o.sum(axis=0, keepdims=True) for o in self._overlaps], volume)

    def interpolated(self, volume: AnyArray) -> FloatArray:
        """A volume of the larger voxels on the finer ones, linear between their centres."""
        return self._applied([_linear(*o.shape) for o in self._overlaps], volume)

    def nearest(self, volume: AnyArray) -> AnyArray:
        """The larger voxel's value on every finer one whose centre it holds."""
        for axis, o in enumerate(self._overlaps):
            volume = np.take(volume, np.argmax(o, axis=0), axis=axis)
        return volume

    def _applied(self, matrices: list[FloatArray], volume: AnyArray) -> FloatArray:
        out: FloatArray = volume.astype(np.float32, copy=False)
        if self.is_same:
            return out
        for axis, matrix in enumerate(matrices):
            out = np.moveaxis(np.tensordot(matrix.astype(np.float32), out, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(out)


def _overlap(n: int, count: int) -> FloatArray:
    """(count, n) length that each of ``n`` equal intervals shares with each of ``count`` that cover the same line."""
    step = n / count
    low, high = np.arange(count)[:, None] * step, (np.arange(count)[:, None] + 1) * step
    first = np.arange(n)[None, :]
    shared: FloatArray = np.clip(np.minimum(high, first + 1) - np.maximum(low, first), 0, None)
    return shared


def _linear(count: int, n: int) -> FloatArray:
    """(n, count) weights of linear interpolation from ``count`` centres to ``n``; constant beyond the outermost."""
    position = np.clip((np.arange(n) + 0.5) * count / n - 0.5, 0, count - 1)[:, None]
    weights: FloatArray = np.clip(1 - np.abs(position - np.arange(count)[None, :]), 0, 1)
    return weights
