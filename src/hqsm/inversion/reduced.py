"""The model's few unknowns, organs, nodes and harmonics, on larger voxels: a dense problem that preconditions the whole one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, groupby, pairwise

import numpy as np
from array_api_compat import array_namespace
from scipy import linalg

from hqsm import fourier
from hqsm.array_library import Operator
from hqsm.arrays import FloatArray, IntArray, Mask, box_around
from hqsm.inversion.slice_fields import SliceFields, Source
from hqsm.inversion.source_model import SourceModel
from hqsm.inversion.voxel_means import VoxelMeanDipole

_LEAST_SD_PPM = 0.01
"""Nodes that nowhere move the susceptibility by this much are no columns of the preconditioner."""
_LEAST_ENERGY = 1.0
"""Nodes of which the data say no more than the prior does are no columns either: a fifth of them in an abdomen."""
_SURELY_LITTLE = 0.5
"""Share of that energy below which a node is none by what some of the data say of all."""
_PART, _ROWS, _AT_ONCE = 4096, 256, 64
"""Data whose weighted fields are held at a time, rows of their products, and sources whose fields are made together."""
_SIZES_MM, _PRODUCTS = (6.0, 7.5, 9.0, 11.0), 5e10
"""Its voxels are as small as so many products in the normal equations allow: 9 to 11 mm in an abdomen, 6 mm in an explant, which by
regions read a quarter too low on 11 mm."""
_GRADING = 0.4
"""Thickness of the slabs whose data are joined, over their distance from the slab's end."""
_FEW = 0.1
"""Changed data, over unknowns, up to which a dense inverse is changed and not made anew."""


def block_mean(volume: FloatArray, factors: tuple[int, ...]) -> FloatArray:
    """Mean (x, y, z) over blocks of ``factors`` voxels, which divide the volume's shape."""
    for axis, factor in enumerate(factors):
        along = (slice(None),) * axis
        total = volume[(*along, slice(0, None, factor))].copy()
        for k in range(1, factor):
            total += volume[(*along, slice(k, None, factor))]
        volume = total
    volume /= np.float32(np.prod(factors))
    return volume


class Reduced:
    """Organs, nodes and harmonics alone, on voxels of 6 to 11 mm in plane, as a dense problem.

    It preconditions the whole problem, and by itself it is the estimate by regions. Slices stay as they are, and their data
    are joined the more, the farther they are from the slab's ends: what lies beyond is strong, and its field falls within
    millimetres. On slices of 9 mm the whole problem did not arrive in 2,000 steps, on these it does in 50.

    Attributes
    ----------
    places
        (n,) where its unknowns are in the whole vector, counted from the first organ.
    inverse
        (n, n) posterior covariance of its unknowns.
    """

    def __init__(self, model: SourceModel) -> None:
        self.model = model
        dx_mm, dy_mm, dz_mm = (float(d) for d in model.grid.voxel_size_mm)
        area_mm2 = float((model.weight2 > 0).any(axis=2).sum()) * dx_mm * dy_mm
        for voxel_mm in _SIZES_MM:
            self._factors = (max(1, round(voxel_mm / dx_mm)), max(1, round(voxel_mm / dy_mm)), 1)
            # as thick as they are wide
            self._slices = _joined_slices(model.grid.shape[2], dz_mm, max(self._factors[0] * dx_mm, self._factors[1] * dy_mm))
            n_data = area_mm2 / voxel_mm**2 * self._slices.shape[1]
            if n_data * (model.n_unknowns - model.n_voxels) ** 2 < _PRODUCTS:
                break
        # a block that held data and what lies beyond the images would be neither
        first = [where.start % f for where, f in zip(model.inside, self._factors, strict=True)]
        self._kept = tuple(slice(a, a + (n - a) // f * f) for a, n, f in zip(first, model.shape, self._factors, strict=True))
        small = tuple((kept.stop - kept.start) // f for kept, f in zip(self._kept, self._factors, strict=True))
        self._shape = fourier.fast_shape((small[0], small[1], small[2]))
        self._small = tuple(slice(0, n) for n in small)
        size_mm = model.grid.voxel_size_mm * np.array(self._factors)
        self._dipole = VoxelMeanDipole(self._shape, size_mm, model.grid.b0_direction)
        self._data = self._sums(model.weight2) > 0
        self._weight2 = self._weights(model.weight2)
        in_plane = box_around(np.asarray(self._data.any(axis=2)))
        self._fields_of = SliceFields(self._shape, size_mm, model.grid.b0_direction, in_plane)
        self._harmonic_fields = np.stack([(h[..., model.inside[2]] @ self._slices)[self._data] for h in self._harmonics()])
        self._sources = list(self._all_sources())
        self.inverse = _inverse(self._matrix(choose=True))
        n_few = model.n_unknowns - model.n_voxels
        self.places = np.array([*(source.place for source in self._sources), *range(n_few - model.harmonics.size, n_few)])

    def reweigh(self) -> None:
        """Take the model's weights anew: its sources are the same, and what had no data before has none now."""
        before, self._weight2 = self._weight2, self._weights(self.model.weight2)
        changed = np.flatnonzero(self._weight2 != before)
        if changed.size > _FEW * len(self.places):
            self.inverse = _inverse(self._matrix())
        elif changed.size:
            fields = np.empty((len(self.places), changed.size), np.float32)
            for k, datum in enumerate(changed):
                fields[:, k] = self._transposed(np.asarray(np.arange(before.size) == datum, np.float32))
            _change(self.inverse, fields, (self._weight2 - before)[changed])

    def solve(self) -> FloatArray:
        """Posterior mean of its unknowns from its own data, as the whole vector (voxels at zero)."""
        model = self.model
        unknowns = np.zeros(model.n_unknowns, np.float32)
        weighted = self._weights(model.weight2 * model.unexplained_ppm)
        unknowns[model.n_voxels + self.places] = self.inverse @ self._transposed(weighted)
        return unknowns

    def _weights(self, volume: FloatArray) -> FloatArray:
        """Sums over its data of a volume on the images' grid."""
        return self._sums(volume)[self._data]

    def _sums(self, volume: FloatArray) -> FloatArray:
        blocks = self._mean(self.model.padded(volume))[..., self.model.inside[2]] * np.float32(np.prod(self._factors))
        return np.asarray(blocks @ (self._slices > 0))

    def _matrix(self, *, choose: bool = False) -> FloatArray:
        """(n, n) the normal equations of its unknowns, their upper triangle, in Fortran's order.

        The fields of all unknowns at all data would be the largest array there is: they are made for a part of the slices at
        a time. With ``choose`` nodes that the data hardly tell are left out, most of them by the first part.
        """
        n_slices = self._data.shape[2]
        n_parts = min(max(1, round(self._weight2.size / _PART)), n_slices)
        # each part has slices from near the ends and from the middle
        part_of_slice = np.minimum(np.arange(n_slices), np.arange(n_slices)[::-1]) % n_parts
        fields = self._weighted_fields(np.flatnonzero(part_of_slice == 0))
        if choose:
            energy = np.einsum("ij,ij->i", fields, fields) * (self._weight2.size / max(fields.shape[1], 1))
            fields = fields[self._choose(energy > _SURELY_LITTLE * _LEAST_ENERGY)]
        matrix = np.eye(len(fields), order="F")
        _add_products(matrix, fields)
        del fields
        for part in range(1, n_parts):
            _add_products(matrix, self._weighted_fields(np.flatnonzero(part_of_slice == part)))
        if choose:
            told = np.flatnonzero(self._choose(matrix.diagonal() - 1 > _LEAST_ENERGY))
            matrix = matrix.T[np.ix_(told, told)].T
        return matrix

    def _choose(self, told: Mask) -> Mask:
        """Keep organs and those nodes that are told; which of all unknowns are kept."""
        n = len(self._sources)
        told[: len(self.model.organs)], told[n:] = True, True
        self._sources = list(compress(self._sources, told[:n]))
        return told

    def _weighted_fields(self, slices: IntArray) -> FloatArray:
        """(n, data) field of each unknown at its data in some joined slices, over their standard error."""
        x, y, z = np.nonzero(self._data)
        chosen = np.flatnonzero(np.isin(z, slices))
        at = (x[chosen] - self._fields_of.target[0].start, y[chosen] - self._fields_of.target[1].start)
        means = np.zeros((self._shape[2], slices.size), np.float32)
        means[self.model.inside[2]] = self._slices[:, slices]
        matrices = self._fields_of.to(means)
        n, done = len(self._sources), 0
        fields = np.empty((n + len(self._harmonic_fields), chosen.size), np.float32)
        for alike in _in_the_same_slices(self._sources):
            some = self._fields_of.of(alike, matrices)
            fields[done : done + len(alike)] = some[(*at, slice(None), np.searchsorted(slices, z[chosen]))].T
            done += len(alike)
        fields[n:] = self._harmonic_fields[:, chosen]
        fields *= np.sqrt(self._weight2[chosen])
        return fields

    def _transposed(self, data: FloatArray) -> FloatArray:
        """(n,) sums over its data of each unknown's field times ``data``."""
        spread = np.zeros(self._shape, np.float32)
        volume = np.zeros(self._data.shape, np.float32)
        volume[self._data] = data
        spread[..., self.model.inside[2]] = volume @ self._slices.T
        back = self._dipole(spread)
        of_sources = [np.einsum("ijk,ijk->", source.part, back[source.box]) for source in self._sources]
        return np.array([*of_sources, *(self._harmonic_fields @ data)], np.float32)

    def _all_sources(self) -> Iterator[Source]:
        """What each organ and node adds to the susceptibility; none for a node that hardly does."""
        for place, organ in enumerate(self.model.organs):
            whole = np.zeros(self.model.shape, np.float32)
            whole[organ.box] = organ.values
            volume = self._mean(whole)
            box = box_around(volume != 0)
            yield Source(place, box, volume[box].copy())
        before = len(self.model.organs)
        for nodes in self.model.nodes:
            whole = np.zeros(self.model.shape, np.float32)
            whole[nodes.box] = nodes.sd_ppm
            sd = self._mean(whole)
            hats = [self._block_means(hat, axis) for axis, hat in enumerate(nodes.hats)]
            spans = [[box_around(column > 0)[0] for column in h.T] for h in hats]
            for k, i, j in np.ndindex(nodes.shape[2], *nodes.shape[:2]):
                box = (spans[0][i], spans[1][j], spans[2][k])
                part = sd[box] * np.einsum("i,j,k->ijk", hats[0][box[0], i], hats[1][box[1], j], hats[2][box[2], k])
                if part.max() > _LEAST_SD_PPM:
                    yield Source(before + int(np.ravel_multi_index((i, j, k), nodes.shape)), box, part)
            before += nodes.size

    def _harmonics(self) -> list[FloatArray]:
        """Each solid harmonic, zero beyond the images."""
        means = []
        for axis, where in enumerate(self.model.inside):
            inside = self._block_means(np.eye(self.model.shape[axis], dtype=np.float32)[:, where], axis)
            means.append(np.pad(inside, [(0, self._shape[axis] - len(inside)), (0, 0)]))
        return self.model.harmonics.each(tuple(means))

    def _block_means(self, along: FloatArray, axis: int) -> FloatArray:
        """(n, columns) along an axis of the padded grid as means over its voxels."""
        return np.asarray(along[self._kept[axis]].reshape(-1, self._factors[axis], along.shape[1]).mean(axis=1))

    def _mean(self, volume: FloatArray) -> FloatArray:
        out = np.zeros(self._shape, np.float32)
        out[self._small] = block_mean(volume[self._kept], self._factors)
        return out


def _joined_slices(n: int, slice_mm: float, thickest_mm: float) -> FloatArray:
    """(n, joined) means over slices that stay single at either end and are joined the more, the farther they are from there."""
    first, at = list[int](), 0
    while at < n:
        first.append(at)
        at += max(1, int(min(_GRADING * at, (n - at) * _GRADING / (1 + _GRADING), thickest_mm / slice_mm + 0.01)))
    joined = np.zeros((n, len(first)), np.float32)
    for column, (start, stop) in enumerate(pairwise([*first, n])):
        joined[start:stop, column] = 1 / (stop - start)
    return joined


def _in_the_same_slices(sources: list[Source]) -> Iterator[list[Source]]:
    """The sources in order, some at a time."""
    for _, alike in groupby(sources, key=lambda source: source.box[2]):
        together = list(alike)
        for first in range(0, len(together), _AT_ONCE):
            yield together[first : first + _AT_ONCE]


def _add_products(matrix: FloatArray, fields: FloatArray) -> None:
    """Add F F', F (n, data), to the upper triangle of a matrix in Fortran's order, some rows at a time."""
    for start in range(0, len(fields), _ROWS):
        stop = start + _ROWS
        matrix[:stop, start:stop] += (fields[start:stop] @ fields[:stop].T).T


def _inverse(matrix: FloatArray) -> FloatArray:
    """Inverse of a symmetric positive definite matrix, given its upper triangle (n, n) in Fortran's order, in its place (Cholesky)."""
    factor, failed = linalg.lapack.dpotrf(matrix, lower=False, clean=True, overwrite_a=True)
    if failed:
        raise np.linalg.LinAlgError("the matrix of organs and shared deviations is not positive definite")
    inverse, _ = linalg.lapack.dpotri(factor, lower=False, overwrite_c=True)
    for start in range(0, len(inverse), _ROWS):  # all at once it would be held twice
        inverse[start:, start : start + _ROWS] += np.triu(inverse[start : start + _ROWS, start:], 1).T
    return np.asarray(inverse)


def _change(inverse: FloatArray, fields: FloatArray, weight2: FloatArray) -> None:
    """Make the inverse of M that of M + F diag(w^2) F', F (n, k) with few columns, in its place (Woodbury 1950)."""
    moved = inverse @ fields
    change = np.linalg.solve(np.diag(1 / weight2.astype(np.float64)) + fields.T @ moved, moved.T)
    for start in range(0, len(inverse), _ROWS):
        inverse[start : start + _ROWS] -= moved[start : start + _ROWS] @ change


class Preconditioner(Operator):
    """Approximate inverse of the normal operator: its diagonal for voxels, the reduced problem's inverse for all others.

    A voxel's own column is its dipole field; the sum over voxels i of (w_i d_ij)^2 is a convolution of w^2 with d^2.
    """

    def __init__(self, model: SourceModel, reduced: Reduced) -> None:
        impulse = np.zeros(model.shape, np.float32)
        impulse[0, 0, 0] = 1
        spectrum = fourier.forward(model.dipole(impulse) ** 2) * fourier.forward(model.padded(model.weight2))
        energy = np.maximum(fourier.inverse(spectrum, model.shape), 0)
        self._diagonal = 1 / (1 + model.sd_ppm**2 * energy).ravel()
        self._places = reduced.places
        self._others = np.setdiff1d(np.arange(model.n_unknowns - model.n_voxels), reduced.places)
        self._in_order = np.argsort(np.concatenate([self._places, self._others]))
        self._inverse = reduced.inverse.astype(np.float32)

    def __call__(self, residual: FloatArray) -> FloatArray:
        """Near-inverse of the normal operator applied."""
        xp, n_voxels = array_namespace(residual), self._diagonal.shape[0]
        out: FloatArray = xp.asarray(residual, copy=True)
        out[:n_voxels] *= self._diagonal
        few = residual[n_voxels:]
        solved = self._inverse @ xp.take(few, self._places)
        out[n_voxels:] = xp.take(xp.concat([solved, xp.take(few, self._others)]), self._in_order)
        return out
