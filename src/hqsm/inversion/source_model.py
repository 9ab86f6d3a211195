r"""A Gaussian model of all sources of the field: in the images, at their surfaces, and beyond the slab.

    f = D chi + H c + e,    chi = m + s y + sum_r 1_r a_r + sum_c s_c (U b_c),    y, a_r/sd_r, b_c, c/sd ~ N(0, 1)

``m`` and ``s`` are the expected susceptibility of a voxel and the standard deviation that it has by itself; deep in organs
that may hold lesions neighbours share part of it (``s K y``, ``K`` of :class:`SharedInPart`). ``1_r`` are
organs, whose level is one unknown. ``U`` interpolates between nodes some centimetres apart: neighbours that are wrong
together (a surface that lies a millimetre off, a lung that is denser at its back, anatomy beyond the slab) would be
beyond belief for independent voxels, and the field would be explained by something else, the liver among it. ``H`` are
the solid harmonics of shim and far body.

The standard deviations make this the preconditioner of Liu et al., MRM 2017;78:303, with correlated sources added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device
from scipy import ndimage

from hqsm import fourier
from hqsm.array_library import Operator, inner_product
from hqsm.arrays import FloatArray, Mask, box_around
from hqsm.data import TotalField
from hqsm.inversion.separable import Separable, SolidHarmonics
from hqsm.inversion.voxel_means import VoxelMeanDipole

_WHOLLY = 0.99
"""Share of an organ from which on a voxel is deep in it."""
_ALONE, _TOGETHER, _TOGETHER_MM, _APART_MM = 0.4, 1.5, 4.0, 12.0
"""Deep in an organ that may hold lesions: what a voxel deviates by alone, with its neighbours, sigma of the mean over them, and of the
mean from which that is counted: what is longer is the organ's level."""
_STEEP = 0.7
"""Least cosine between slice normal and B0 for a slab whose body goes on beyond its ends."""
_LUNG_BESIDE = 0.1
"""Least section of lung over an organ's at an end of the slab for the organ to have its dome there."""
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
        Whether neighbours deep in it share part of their deviations, and are believed where they are far from its level together.
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Dome:
    """An organ under the lungs that the slab cuts: where it recedes beyond an end at which lung is seen, there is lung.

    Attributes
    ----------
    organ, lung
        (x, y, z) shares, 0..1.
    lung_ppm
        Expected susceptibility of lung.
    half_length_mm
        The organ's section falls as that of an ellipsoid of this half length.
    """

    organ: FloatArray
    lung: FloatArray
    lung_ppm: float
    half_length_mm: float


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """What lies beyond the images, where tissue and air go on as at their border, along B0.

    Attributes
    ----------
    padding_mm
        How far sources are modelled.
    sd_ppm, smooth_sd_ppm, spacing_mm
        Deviations there: of single voxels, shared ones, and the distance of their nodes.
    near_sd_ppm, near_mm
        Deviations of single voxels so near the images: a lung whose surface lies there is no wave between nodes 30 mm apart, and
        liver whose field is known would answer for the difference.
    harmonic_sd_ppm
        Standard deviation of each solid harmonic over the images.
    """

    padding_mm: float = 60.0
    sd_ppm: float = 0.3
    smooth_sd_ppm: float = 5.0
    spacing_mm: float = 30.0
    near_sd_ppm: float = 2.5
    near_mm: float = 12.0
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
    dome
        What lies beyond the slab above an organ that it cuts; None where nothing is known of it.
    """

    mean_ppm: FloatArray
    sd_ppm: FloatArray
    organs: tuple[Organ, ...] = ()
    smooth: tuple[Smooth, ...] = ()
    dome: Dome | None = None
    beyond: Beyond = Beyond()


class _Column(Operator):
    """A volume that one unknown moves, in the box where it is not zero."""

    def __init__(self, volume: FloatArray) -> None:
        self.box = box_around(volume != 0)
        self.values = np.ascontiguousarray(volume[self.box])

    def add_to(self, chi_ppm: FloatArray, unknown: FloatArray) -> None:
        chi_ppm[self.box] += unknown * self.values

    def transposed(self, chi_ppm: FloatArray) -> float:
        return inner_product(self.values, chi_ppm[self.box], dtype="float32")


class _Nodes(Operator):
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


class SharedInPart(Operator):
    """K = 1 + d (1.5 (G - F) - 0.6) d, symmetric: deep voxels (d = 1) deviate alone and with their neighbours, through Gaussian means.

    To independent voxels the waves of a lesion, most of its contrast, are as unlikely as noise is. By K they have up to 1.5
    times the standard deviation, short ones 0.4 times: more of a lesion is kept at a smaller error of the map. The wider mean F keeps
    the longest waves out: they would be taken for the organ's level, and it for them.
    """

    def __init__(self, deep: Mask, voxel_size_mm: FloatArray) -> None:
        self.box = box_around(deep)
        self._deep = deep[self.box].astype(np.float32)
        self._near, self._far = (_gaussian_means(self._deep.shape, voxel_size_mm, sigma_mm) for sigma_mm in (_TOGETHER_MM, _APART_MM))

    def added(self, deviations: FloatArray) -> FloatArray:
        """(K - 1) applied to voxels (x, y, z), in the box where it is not zero."""
        within = deviations[self.box]
        deep = self._deep * within
        change = self._near.volume(deep)
        change -= self._far.volume(deep)
        change *= _TOGETHER
        change -= (1 - _ALONE) * within
        change *= self._deep
        return change


def _gaussian_means(shape: tuple[int, ...], voxel_size_mm: FloatArray, sigma_mm: float) -> Separable:
    """Means over neighbours, symmetric: what lies beyond the volume's ends counts as zero."""
    means = []
    for n, d_mm in zip(shape, voxel_size_mm, strict=True):
        at = np.arange(n) * (float(d_mm) / sigma_mm)
        weights = np.exp(-0.5 * (at[:, None] - at[None, :]) ** 2)
        means.append(np.asarray(weights * (float(d_mm) / (sigma_mm * np.sqrt(2 * np.pi))), np.float32))
    return Separable((means[0], means[1], means[2]))


class SourceModel(Operator):
    """The model as an operator from its unknowns to the field, on a padded grid.

    The unknowns, all of standard deviation one, are one vector: voxels, organs, nodes, harmonics.

    Attributes
    ----------
    deep
        (x, y, z) the images' voxels deep in organs that may hold lesions.
    """

    def __init__(self, total: TotalField, noise_ppm: FloatArray, prior: SourcePrior) -> None:
        self.grid = total.grid
        n, voxel_mm = total.grid.shape, total.grid.voxel_size_mm
        self.shape = fourier.PaddedShape.around(n, voxel_mm, prior.beyond.padding_mm).outer
        before = [(s - k) // 2 for s, k in zip(self.shape, n, strict=True)]
        self._margins = [(b, s - k - b) for b, s, k in zip(before, self.shape, n, strict=True)]
        self.inside = tuple(slice(b, b + k) for b, k in zip(before, n, strict=True))
        self.dipole = VoxelMeanDipole(self.shape, voxel_mm, total.grid.b0_direction)

        self.mean_ppm = self._extended(prior.mean_ppm)
        if prior.dome is not None:
            self.mean_ppm += self._lung_above(prior.dome)
        beyond = np.ones(self.shape, bool)
        beyond[self.inside] = False
        # air goes on as air; tissue beyond the slab's ends is of unknown kind
        unknown = beyond & (self.mean_ppm < SURELY_AIR_PPM)
        self.sd_ppm = self._extended(prior.sd_ppm)
        self.sd_ppm[unknown] = np.maximum(self.sd_ppm[unknown], prior.beyond.sd_ppm)
        near = self._grown(prior.beyond.near_mm)
        self.sd_ppm[near] = np.where(unknown[near], np.maximum(self.sd_ppm[near], prior.beyond.near_sd_ppm), self.sd_ppm[near])
        shares = [organ.share for organ in prior.organs if organ.may_hold_lesions]
        self.deep = np.sum(shares, axis=0) > _WHOLLY if shares else np.zeros(n, bool)
        self._in_part = SharedInPart(self.padded(self.deep) > 0, voxel_mm)
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
        chi = self._deviation(unknowns)
        chi += self.mean_ppm
        return np.ascontiguousarray(chi[self.inside])

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
        return field + self.harmonics.field(unknowns[-self.harmonics.size :])

    def _adjoint(self, field: FloatArray) -> FloatArray:
        out: FloatArray = array_namespace(field).empty(self.n_unknowns, dtype=field.dtype, device=device(field))
        self._deviation_adjoint(self.dipole.between(field, source=self.inside), out)
        out[-self.harmonics.size :] = self.harmonics.transposed(field)
        return out

    def of_voxels_ppm(self, unknowns: FloatArray) -> FloatArray:
        """What the voxels of the padded grid deviate by, organs and nodes apart."""
        voxels, box = array_namespace(unknowns).reshape(unknowns[: self.n_voxels], self.shape), self._in_part.box
        chi: FloatArray = self.sd_ppm * voxels
        chi[box] += self.sd_ppm[box] * self._in_part.added(voxels)
        return chi

    def _deviation(self, unknowns: FloatArray) -> FloatArray:
        chi = self.of_voxels_ppm(unknowns)
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
        of_voxels = array_namespace(out).reshape(out[:k], self.shape)  # a view
        of_voxels[...] = chi
        of_voxels *= self.sd_ppm
        of_voxels[self._in_part.box] += self._in_part.added(of_voxels)
        for column in self.organs:
            out[k] = column.transposed(chi)
            k += 1
        for nodes in self.nodes:
            out[k : k + nodes.size] = nodes.transposed(chi)
            k += nodes.size

    def padded(self, volume: FloatArray) -> FloatArray:
        """The images' voxels (x, y, z) in zeros, on the padded grid."""
        return np.pad(volume.astype(np.float32), self._margins)

    def _grown(self, by_mm: float) -> tuple[slice, ...]:
        """The images' box and what is so near to it on the padded grid."""
        by = [max(1, round(by_mm / float(d))) for d in self.grid.voxel_size_mm]
        return tuple(slice(max(0, where.start - k), where.stop + k) for where, k in zip(self.inside, by, strict=True))

    def _whole(self, organ: Organ) -> FloatArray:
        """The organ's share, on the padded grid, with what of it lies beyond the images."""
        if organ.goes_on:
            return self._extended(organ.share)
        if organ.half_length_mm == 0:
            return self.padded(organ.share)
        return self._extended(organ.share) * self._sections_beyond(organ.share, organ.half_length_mm)

    def _lung_above(self, dome: Dome) -> FloatArray:
        """Susceptibility [ppm] of the lung that takes the organ's place, on the padded grid."""
        receded = 1 - self._sections_beyond(dome.organ, dome.half_length_mm)
        slices = self.inside[2]
        for end, beyond in ((0, slice(0, slices.start)), (-1, slice(slices.stop, None))):
            if dome.lung[..., end].sum() < _LUNG_BESIDE * dome.organ[..., end].sum():
                receded[beyond] = 0
        return np.asarray(np.float32(dome.lung_ppm) * receded * self._extended(dome.organ), np.float32)

    def _sections_beyond(self, share: FloatArray, half_length_mm: float) -> FloatArray:
        """(z,) of the padded grid: section of an organ that goes on as an ellipsoid, over that at the slab's end; 1 inside."""
        sections = share.sum(axis=(0, 1))
        slices = self.inside[2]
        over = np.ones(self.shape[2], np.float32)
        for end, beyond in ((0, range(slices.start)), (-1, range(slices.stop, self.shape[2]))):
            cut = min(float(sections[end] / max(sections.max(), 1e-6)), 1.0)
            for k in beyond:
                mm = (slices.start - k if end == 0 else k - slices.stop + 1) * float(self.grid.voxel_size_mm[2])
                over[k] = _section_beyond(cut, mm / half_length_mm)
        return over

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
