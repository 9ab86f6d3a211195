r"""A Gaussian model of all sources of the field: in the images, at their surfaces, and beyond the slab.

    f = D chi + H c + e,    chi = m + s y + sum_r 1_r a_r + sum_c s_c (U b_c),    y, a_r/sd_r, b_c, c/sd ~ N(0, 1)

``m`` and ``s`` are the expected susceptibility of a voxel and the standard deviation that it has by itself. ``1_r`` are
organs, whose level is one unknown. ``U`` interpolates between nodes some centimetres apart: neighbours that are wrong
together (a surface that lies a millimetre off, a lung that is denser at its back, anatomy beyond the slab) would be
beyond belief for independent voxels, and the field would be explained by something else, the liver among it. ``H`` are
the solid harmonics of shim and far body.

The standard deviations make this the preconditioner of Liu et al., MRM 2017;78:303, with correlated sources added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import linalg, ndimage

from hqsm import fourier
from hqsm.arrays import Box, FloatArray, IntArray, Mask, box_around
from hqsm.data import TotalField
from hqsm.dipole import DipoleOperator
from hqsm.inversion.separable import Separable, SolidHarmonics

_LEAST_SD_PPM = 0.01
"""Nodes that nowhere move the susceptibility by this much are no columns of the preconditioner."""
_PART = 4096
"""Voxels whose weighted fields are held at a time."""
_SIZES_MM, _PRODUCTS = (6.0, 7.5, 9.0, 11.0), 5e10
"""Its voxels are as small as so many products in the normal equations allow: 9 to 11 mm in an abdomen, 6 mm in an explant, which by
regions read a quarter too low on 11 mm."""
_GRADING = 0.4
"""Thickness of the slabs whose data are joined, over their distance from the slab's end."""
_FEW = 0.1
"""Changed data, over unknowns, up to which a dense inverse is changed and not made anew."""
_STEEP = 0.7
"""Least cosine between slice normal and B0 for a slab whose body goes on beyond its ends."""
SURELY_AIR_PPM = 8.5


@dataclass(frozen=True, eq=False, kw_only=True)
class Organ:
    """A region whose level is one unknown.

    Attributes
    ----------
    share
        (x, y, z) 0..1.
    level_sd_ppm
        Standard deviation of the level around the expected susceptibility.
    goes_on
        Whether it continues beyond the slab's ends as it is there, as the lungs do.
    half_length_mm
        An organ that the slab's ends cut goes on there as an ellipsoid of this half length would (0: it ends with the images).
    may_hold_lesions
        Whether neighbours deep in it are believed where they are far from its level together.
    """

    share: FloatArray
    level_sd_ppm: float
    goes_on: bool = False
    half_length_mm: float = 0.0
    may_hold_lesions: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Smooth:
    """Deviations that neighbours share.

    Attributes
    ----------
    sd_ppm
        (x, y, z) their standard deviation; 0 where there are none.
    spacing_mm
        Distance of the nodes between which they are interpolated.
    """

    sd_ppm: FloatArray
    spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """What lies beyond the images, where tissue and air go on as at their border, along B0.

    Attributes
    ----------
    padding_mm
        How far sources are modelled.
    sd_ppm, smooth_sd_ppm, spacing_mm
        Deviations there: of single voxels, shared ones, and the distance of their nodes.
    harmonic_sd_ppm
        Standard deviation of each solid harmonic over the images.
    """

    padding_mm: float = 60.0
    sd_ppm: float = 0.3
    smooth_sd_ppm: float = 5.0
    spacing_mm: float = 30.0
    harmonic_sd_ppm: float = 2.0


@dataclass(frozen=True, eq=False, kw_only=True)
class SourcePrior:
    """What is expected of the sources, on the images' grid (x, y, z).

    Attributes
    ----------
    mean_ppm, sd_ppm
        Expected susceptibility of a voxel and the standard deviation that it has by itself.
    organs
        Regions with a level of their own.
    smooth
        Deviations that neighbours share.
    """

    mean_ppm: FloatArray
    sd_ppm: FloatArray
    organs: tuple[Organ, ...] = ()
    smooth: tuple[Smooth, ...] = ()
    beyond: Beyond = Beyond()


class _Column:
    """A volume that one unknown moves, in the box where it is not zero."""

    def __init__(self, volume: FloatArray) -> None:
        self.box = box_around(volume != 0)
        self.values = np.ascontiguousarray(volume[self.box])

    def add_to(self, chi_ppm: FloatArray, unknown: np.float32) -> None:
        chi_ppm[self.box] += unknown * self.values

    def transposed(self, chi_ppm: FloatArray) -> float:
        return float(np.einsum("ijk,ijk->", self.values, chi_ppm[self.box]))


class _Nodes:
    """Interpolation between nodes times a standard deviation, and its transpose, in the box where there is any.

    Attributes
    ----------
    hats
        Per axis (n, nodes) the weights of the nodes that the box reaches, along the whole axis.
    """

    def __init__(self, sd_ppm: FloatArray, voxel_size_mm: FloatArray, spacing_mm: float) -> None:
        self.box = box_around(sd_ppm != 0)
        self.sd_ppm = np.ascontiguousarray(sd_ppm[self.box])
        self.hats = []
        for n, d, where in zip(sd_ppm.shape, voxel_size_mm, self.box, strict=True):
            hats = _hats(n, float(d), spacing_mm)
            reached = np.flatnonzero(hats[where].any(axis=0))
            self.hats.append(hats[:, reached[0] : reached[-1] + 1])
        hx, hy, hz = (np.ascontiguousarray(hats[where]) for hats, where in zip(self.hats, self.box, strict=True))
        self._inside = Separable((hx, hy, hz))
        self.shape, self.size = self._inside.shape, self._inside.size

    def add_to(self, chi_ppm: FloatArray, nodes: FloatArray) -> None:
        deviation = self._inside.volume(nodes)
        deviation *= self.sd_ppm
        chi_ppm[self.box] += deviation

    def transposed(self, chi_ppm: FloatArray) -> FloatArray:
        return self._inside.transposed(self.sd_ppm * chi_ppm[self.box])


def _hats(n: int, d_mm: float, spacing_mm: float) -> FloatArray:
    """(n, nodes) weights of linear interpolation for n voxels of d_mm."""
    nodes = max(2, int(np.ceil(n * d_mm / spacing_mm)) + 1)
    position = (np.arange(n) + 0.5) * (nodes - 1) / n
    hats: FloatArray = np.clip(1 - np.abs(position[:, None] - np.arange(nodes)[None, :]), 0, 1).astype(np.float32)
    return hats


class SourceModel:
    """The model as an operator from its unknowns to the field, on a padded grid.

    The unknowns, all of standard deviation one, are one vector: voxels, organs, nodes, harmonics.
    """

    def __init__(self, total: TotalField, noise_ppm: FloatArray, prior: SourcePrior) -> None:
        self.grid = total.grid
        n, voxel_mm = total.grid.shape, total.grid.voxel_size_mm
        self.shape = fourier.PaddedShape.around(n, voxel_mm, prior.beyond.padding_mm).outer
        before = [(s - k) // 2 for s, k in zip(self.shape, n, strict=True)]
        self._margins = [(b, s - k - b) for b, s, k in zip(before, self.shape, n, strict=True)]
        self.inside = tuple(slice(b, b + k) for b, k in zip(before, n, strict=True))
        self.dipole = DipoleOperator(self.shape, voxel_mm, total.grid.b0_direction)

        self.mean_ppm = self._extended(prior.mean_ppm)
        beyond = np.ones(self.shape, bool)
        beyond[self.inside] = False
        # air goes on as air; tissue beyond the slab's ends is of unknown kind
        unknown = beyond & (self.mean_ppm < SURELY_AIR_PPM)
        self.sd_ppm = self._extended(prior.sd_ppm)
        self.sd_ppm[unknown] = np.maximum(self.sd_ppm[unknown], prior.beyond.sd_ppm)
        self.organs = [_Column(np.float32(organ.level_sd_ppm) * self._whole(organ)) for organ in prior.organs]
        self.nodes = [_Nodes(self.padded(part.sd_ppm), voxel_mm, part.spacing_mm) for part in prior.smooth if part.sd_ppm.any()]
        if unknown.any():
            outside_sd = np.where(unknown, np.float32(prior.beyond.smooth_sd_ppm), np.float32(0))
            self.nodes.append(_Nodes(outside_sd, voxel_mm, prior.beyond.spacing_mm))
        self.harmonics = SolidHarmonics(n, voxel_mm, prior.beyond.harmonic_sd_ppm)
        self.n_voxels = int(np.prod(self.shape))
        self.n_unknowns = self.n_voxels + len(self.organs) + sum(nodes.size for nodes in self.nodes) + self.harmonics.size
        self.set_noise(total.mask, noise_ppm)
        expected = self.dipole.between(self.mean_ppm - self.mean_ppm[0, 0, 0], target=self.inside)
        self.unexplained_ppm = np.where(total.mask, total.field_ppm, 0).astype(np.float32) - expected

    def set_noise(self, mask: Mask, noise_ppm: FloatArray) -> None:
        """Voxels with data, and their standard error [ppm]."""
        self.weight2 = np.where(mask, 1 / np.where(mask, noise_ppm, 1) ** 2, 0).astype(np.float32)

    def susceptibility_ppm(self, unknowns: FloatArray) -> FloatArray:
        """Susceptibility [ppm] of the images' voxels (x, y, z)."""
        return np.ascontiguousarray((self.mean_ppm + self._deviation(unknowns))[self.inside])

    def residual_ppm(self, unknowns: FloatArray) -> FloatArray:
        """Measured minus modelled field [ppm] on the images' grid."""
        return self.unexplained_ppm - self._field(unknowns)

    def right_hand_side(self) -> FloatArray:
        """A' w^2 (f - D m)."""
        return self._adjoint(self.weight2 * self.unexplained_ppm)

    def normal(self, unknowns: FloatArray) -> FloatArray:
        """(A' w^2 A + 1) applied."""
        field = self._field(unknowns)
        field *= self.weight2
        applied = self._adjoint(field)
        applied += unknowns
        return applied

    def functional(self, weights: FloatArray) -> FloatArray:
        """The sum over the images' voxels of ``weights`` times susceptibility, as a vector over the unknowns."""
        out = np.zeros(self.n_unknowns, np.float32)
        self._deviation_adjoint(self.padded(weights), out)
        return out

    def _field(self, unknowns: FloatArray) -> FloatArray:
        field = self.dipole.between(self._deviation(unknowns), target=self.inside)
        return np.add(field, self.harmonics.field(unknowns[-self.harmonics.size :]))

    def _adjoint(self, field: FloatArray) -> FloatArray:
        out = np.empty(self.n_unknowns, np.float32)
        self._deviation_adjoint(self.dipole.between(field, source=self.inside), out)
        out[-self.harmonics.size :] = self.harmonics.transposed(field)
        return out

    def _deviation(self, unknowns: FloatArray) -> FloatArray:
        chi: FloatArray = self.sd_ppm * unknowns[: self.n_voxels].reshape(self.shape)
        k = self.n_voxels
        for column in self.organs:
            column.add_to(chi, unknowns[k])
            k += 1
        for nodes in self.nodes:
            nodes.add_to(chi, unknowns[k : k + nodes.size])
            k += nodes.size
        return chi

    def _deviation_adjoint(self, chi: FloatArray, out: FloatArray) -> None:
        """Into ``out``, all but the harmonics."""
        k = self.n_voxels
        np.multiply(self.sd_ppm, chi, out=out[:k].reshape(self.shape))
        for column in self.organs:
            out[k] = column.transposed(chi)
            k += 1
        for nodes in self.nodes:
            out[k : k + nodes.size] = nodes.transposed(chi)
            k += nodes.size

    def padded(self, volume: FloatArray) -> FloatArray:
        """The images' voxels (x, y, z) in zeros, on the padded grid."""
        return np.pad(volume.astype(np.float32), self._margins)

    def _whole(self, organ: Organ) -> FloatArray:
        """The organ's share, on the padded grid, with what of it lies beyond the images."""
        if organ.goes_on:
            return self._extended(organ.share)
        if organ.half_length_mm == 0:
            return self.padded(organ.share)
        sections = organ.share.sum(axis=(0, 1))
        whole = self._extended(organ.share)
        slices = self.inside[2]
        for end, beyond in ((0, range(slices.start)), (-1, range(slices.stop, self.shape[2]))):
            cut = min(float(sections[end] / max(sections.max(), 1e-6)), 1.0)
            for k in beyond:
                mm = (slices.start - k if end == 0 else k - slices.stop + 1) * float(self.grid.voxel_size_mm[2])
                whole[:, :, k] *= _section_beyond(cut, mm / organ.half_length_mm)
        return whole

    def _extended(self, volume: FloatArray) -> FloatArray:
        """Goes on beyond the images as at their border; beyond the end slices along B0, the axis of the body, not of the slab."""
        out = np.pad(volume.astype(np.float32), self._margins, mode="edge")
        b0, voxel_mm = self.grid.b0_direction, self.grid.voxel_size_mm
        if abs(b0[2]) < _STEEP or np.hypot(b0[0], b0[1]) < 1e-3:
            return out
        for k in (*range(self.inside[2].start), *range(self.inside[2].stop, self.shape[2])):
            end = self.inside[2].start if k < self.inside[2].start else self.inside[2].stop - 1
            along_mm = (k - end) * voxel_mm[2] / b0[2]
            shift = [along_mm * b0[axis] / voxel_mm[axis] for axis in (0, 1)]
            out[:, :, k] = ndimage.shift(out[:, :, end], shift, order=1, mode="nearest")
        return out


def _section_beyond(cut: float, distance: float) -> np.float32:
    """Section of an ellipsoid of half length one so far beyond a section of ``cut`` times its largest, over that section."""
    if cut <= 0:
        return np.float32(0)
    at = np.sqrt(1 - cut) + distance
    return np.float32(max(1 - at**2, 0) / cut)


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
            self._slices = _joined_slices(model.grid.shape[2], dz_mm, voxel_mm)
            n_data = area_mm2 / voxel_mm**2 * self._slices.shape[1]
            if n_data * (model.n_unknowns - model.n_voxels) ** 2 < _PRODUCTS:
                break
        self._factors = (max(1, round(voxel_mm / dx_mm)), max(1, round(voxel_mm / dy_mm)), 1)
        # a block that held data and what lies beyond the images would be neither
        first = [where.start % f for where, f in zip(model.inside, self._factors, strict=True)]
        self._kept = tuple(slice(a, a + (n - a) // f * f) for a, n, f in zip(first, model.shape, self._factors, strict=True))
        small = tuple((kept.stop - kept.start) // f for kept, f in zip(self._kept, self._factors, strict=True))
        self._shape = fourier.fast_shape((small[0], small[1], small[2]))
        self._small = tuple(slice(0, n) for n in small)
        size_mm = model.grid.voxel_size_mm * np.array(self._factors)
        self._dipole = DipoleOperator(self._shape, size_mm, model.grid.b0_direction)
        self._data = self._sums(model.weight2) > 0
        self._fields, self.places = self._columns()
        self._weight2 = self._weights(model.weight2)
        self.inverse = _inverse(self._matrix())

    def reweigh(self) -> None:
        """Take the model's weights anew: its sources are the same, and what had no data before has none now."""
        before, self._weight2 = self._weight2, self._weights(self.model.weight2)
        changed = np.flatnonzero(self._weight2 != before)
        if changed.size > _FEW * len(self._fields):
            self.inverse = _inverse(self._matrix())
        elif changed.size:
            _change(self.inverse, self._fields[:, changed], (self._weight2 - before)[changed])

    def _matrix(self) -> FloatArray:
        """(n, n) the normal equations of its unknowns, their upper triangle, in Fortran's order."""
        weight = np.sqrt(self._weight2)
        matrix = np.eye(len(self._fields), order="F")
        # in parts: the weighted fields as a whole would be the largest array there is
        for part in np.array_split(np.arange(weight.size), max(1, weight.size // _PART)):
            some = slice(part[0], part[-1] + 1) if part.size else slice(0, 0)
            weighted = self._fields[:, some] * weight[some]
            matrix += linalg.blas.ssyrk(1.0, weighted.T, trans=True)
        return matrix

    def solve(self) -> FloatArray:
        """Posterior mean of its unknowns from its own data, as the whole vector (voxels at zero)."""
        model = self.model
        weighted = self._weights(model.weight2 * model.unexplained_ppm)
        unknowns = np.zeros(model.n_unknowns, np.float32)
        unknowns[model.n_voxels + self.places] = self.inverse @ (self._fields @ weighted)
        return unknowns

    def _weights(self, volume: FloatArray) -> FloatArray:
        """Sums over its data of a volume on the images' grid."""
        return self._sums(volume)[self._data]

    def _sums(self, volume: FloatArray) -> FloatArray:
        blocks = self._mean(self.model.padded(volume))[..., self.model.inside[2]] * np.float32(np.prod(self._factors))
        return np.asarray(blocks @ (self._slices > 0))

    def _columns(self) -> tuple[FloatArray, IntArray]:
        model = self.model
        n = model.n_unknowns - model.n_voxels
        fields, places = np.empty((n, int(self._data.sum())), np.float32), list[int]()
        in_plane = box_around(np.asarray(self._data.any(axis=2)))
        with_data = (*in_plane, model.inside[2])
        chosen = np.flatnonzero(self._data[in_plane])
        for place, source in enumerate(self._sources()):
            if source is not None:
                box, part = source
                fields[len(places)] = (self._dipole.between(part, source=box, target=with_data) @ self._slices).ravel()[chosen]
                places.append(place)
        for place, harmonic in enumerate(self._harmonics(), start=n - model.harmonics.size):
            fields[len(places)] = (harmonic[..., model.inside[2]] @ self._slices)[self._data]
            places.append(place)
        return fields[: len(places)], np.array(places)

    def _sources(self) -> Iterator[tuple[Box, FloatArray] | None]:
        """What each organ and node adds to the susceptibility, and where; None for a node that hardly does."""
        for organ in self.model.organs:
            whole = np.zeros(self.model.shape, np.float32)
            whole[organ.box] = organ.values
            volume = self._mean(whole)
            box = box_around(volume != 0)
            yield box, volume[box]
        for nodes in self.model.nodes:
            whole = np.zeros(self.model.shape, np.float32)
            whole[nodes.box] = nodes.sd_ppm
            sd = self._mean(whole)
            hats = [self._block_means(hat, axis) for axis, hat in enumerate(nodes.hats)]
            spans = [[box_around(column > 0)[0] for column in h.T] for h in hats]
            for i, j, k in np.ndindex(nodes.shape):
                where = (spans[0][i], spans[1][j], spans[2][k])
                column = sd[where] * np.einsum("i,j,k->ijk", hats[0][where[0], i], hats[1][where[1], j], hats[2][where[2], k])
                yield (where, column) if column.max() > _LEAST_SD_PPM else None

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
        at += max(1, int(min(_GRADING * at, (n - at) * _GRADING / (1 + _GRADING), thickest_mm / slice_mm)))
    joined = np.zeros((n, len(first)), np.float32)
    for column, (start, stop) in enumerate(pairwise([*first, n])):
        joined[start:stop, column] = 1 / (stop - start)
    return joined


def _inverse(matrix: FloatArray) -> FloatArray:
    """Inverse of a symmetric positive definite matrix, given its upper triangle (n, n) in Fortran's order, in its place (Cholesky)."""
    factor, failed = linalg.lapack.dpotrf(matrix, lower=False, clean=True, overwrite_a=True)
    if failed:
        raise np.linalg.LinAlgError("the matrix of organs and shared deviations is not positive definite")
    inverse, _ = linalg.lapack.dpotri(factor, lower=False, overwrite_c=True)
    inverse += np.triu(inverse, 1).T
    return np.asarray(inverse)


def _change(inverse: FloatArray, fields: FloatArray, weight2: FloatArray) -> None:
    """Make the inverse of M that of M + F diag(w^2) F', F (n, k) with few columns, in its place (Woodbury 1950)."""
    moved = inverse @ fields
    inverse -= moved @ np.linalg.solve(np.diag(1 / weight2.astype(np.float64)) + fields.T @ moved, moved.T)


class Preconditioner:
    """Approximate inverse of the normal operator: its diagonal for voxels, the reduced problem's inverse for all others.

    A voxel's own column is its dipole field; the sum over voxels i of (w_i d_ij)^2 is a convolution of w^2 with d^2.
    """

    def __init__(self, model: SourceModel, reduced: Reduced) -> None:
        impulse = np.zeros(model.shape, np.float32)
        impulse[0, 0, 0] = 1
        spectrum = fourier.forward(model.dipole(impulse) ** 2) * fourier.forward(model.padded(model.weight2))
        energy = np.maximum(fourier.inverse(spectrum, model.shape), 0)
        self._diagonal = 1 / (1 + model.sd_ppm**2 * energy).ravel()
        self._places = model.n_voxels + reduced.places
        self._inverse = reduced.inverse.astype(np.float32)

    def __call__(self, residual: FloatArray) -> FloatArray:
        """Near-inverse of the normal operator applied."""
        out = residual.copy()
        out[: self._diagonal.size] *= self._diagonal
        out[self._places] = self._inverse @ residual[self._places]
        return out
