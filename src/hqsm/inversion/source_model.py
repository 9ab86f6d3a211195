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

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hqsm import fourier
from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.data import TotalField
from hqsm.dipole import DipoleOperator

_LEAST_SD_PPM = 0.02
"""Nodes that nowhere move the susceptibility by this much are no columns of the preconditioner."""
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
    """

    share: FloatArray
    level_sd_ppm: float
    goes_on: bool = False


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


class _Nodes:
    """Interpolation between nodes times a standard deviation, and its transpose."""

    def __init__(self, sd_ppm: FloatArray, voxel_size_mm: FloatArray, spacing_mm: float) -> None:
        self.sd_ppm = sd_ppm
        self.hats = [_hats(n, float(d), spacing_mm) for n, d in zip(sd_ppm.shape, voxel_size_mm, strict=True)]
        self.shape = tuple(hat.shape[1] for hat in self.hats)
        self.size = int(np.prod(self.shape))

    def add_to(self, chi_ppm: FloatArray, nodes: FloatArray) -> None:
        hx, hy, hz = self.hats
        cx, cy, cz = self.shape
        along_x = (hx @ nodes.reshape(cx, cy * cz)).reshape(-1, cy, cz)
        along_xy = np.matmul(hy, along_x)
        whole = (along_xy.reshape(-1, cz) @ hz.T).reshape(chi_ppm.shape)
        whole *= self.sd_ppm
        chi_ppm += whole

    def transposed(self, chi_ppm: FloatArray) -> FloatArray:
        hx, hy, hz = self.hats
        _, cy, cz = self.shape
        along_z = ((self.sd_ppm * chi_ppm).reshape(-1, chi_ppm.shape[2]) @ hz).reshape(chi_ppm.shape[0], chi_ppm.shape[1], cz)
        along_yz = np.matmul(hy.T, along_z)
        nodes: FloatArray = (hx.T @ along_yz.reshape(-1, cy * cz)).ravel()
        return nodes


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
        self.organs = [
            np.float32(organ.level_sd_ppm) * (self._extended(organ.share) if organ.goes_on else self._padded(organ.share))
            for organ in prior.organs
        ]
        self.nodes = [_Nodes(self._padded(part.sd_ppm), voxel_mm, part.spacing_mm) for part in prior.smooth if part.sd_ppm.any()]
        if unknown.any():
            outside_sd = np.where(unknown, np.float32(prior.beyond.smooth_sd_ppm), np.float32(0))
            self.nodes.append(_Nodes(outside_sd, voxel_mm, prior.beyond.spacing_mm))
        self.harmonics = [np.float32(prior.beyond.harmonic_sd_ppm) * h for h in solid_harmonics(n, voxel_mm)]
        self.n_voxels = int(np.prod(self.shape))
        self.n_unknowns = self.n_voxels + len(self.organs) + sum(nodes.size for nodes in self.nodes) + len(self.harmonics)
        self.set_noise(total.mask, noise_ppm)
        measured = np.zeros(self.shape, np.float32)
        measured[self.inside] = np.where(total.mask, total.field_ppm, 0)
        self.unexplained_ppm = measured - self.dipole(self.mean_ppm - self.mean_ppm[0, 0, 0])

    def set_noise(self, mask: Mask, noise_ppm: FloatArray) -> None:
        """Voxels with data, and their standard error [ppm]."""
        self.weight2 = np.zeros(self.shape, np.float32)
        self.weight2[self.inside] = np.where(mask, 1 / np.where(mask, noise_ppm, 1) ** 2, 0)

    def susceptibility_ppm(self, unknowns: FloatArray) -> FloatArray:
        """Susceptibility [ppm] of the images' voxels (x, y, z)."""
        return np.ascontiguousarray((self.mean_ppm + self._deviation(unknowns))[self.inside])

    def residual_ppm(self, unknowns: FloatArray) -> FloatArray:
        """Measured minus modelled field [ppm] on the images' grid."""
        return (self.unexplained_ppm - self._field(unknowns))[self.inside]

    def right_hand_side(self) -> FloatArray:
        """A' w^2 (f - D m)."""
        return self._adjoint(self.weight2 * self.unexplained_ppm)

    def normal(self, unknowns: FloatArray) -> FloatArray:
        """(A' w^2 A + 1) applied."""
        return self._adjoint(self.weight2 * self._field(unknowns)) + unknowns

    def functional(self, weights: FloatArray) -> FloatArray:
        """The sum over the images' voxels of ``weights`` times susceptibility, as a vector over the unknowns."""
        return np.concatenate([*self._deviation_adjoint(self._padded(weights)), np.zeros(len(self.harmonics), np.float32)])

    def _field(self, unknowns: FloatArray) -> FloatArray:
        field = self.dipole(self._deviation(unknowns))
        for c, harmonic in zip(unknowns[-len(self.harmonics) :], self.harmonics, strict=True):
            field[self.inside] += c * harmonic
        return field

    def _adjoint(self, field: FloatArray) -> FloatArray:
        inside = field[self.inside]
        harmonic_parts = np.array([np.vdot(h, inside) for h in self.harmonics], np.float32)
        return np.concatenate([*self._deviation_adjoint(self.dipole(field)), harmonic_parts])

    def _deviation(self, unknowns: FloatArray) -> FloatArray:
        chi: FloatArray = self.sd_ppm * unknowns[: self.n_voxels].reshape(self.shape)
        k = self.n_voxels
        for column in self.organs:
            chi += unknowns[k] * column
            k += 1
        for nodes in self.nodes:
            nodes.add_to(chi, unknowns[k : k + nodes.size])
            k += nodes.size
        return chi

    def _deviation_adjoint(self, chi: FloatArray) -> list[FloatArray]:
        parts: list[AnyArray] = [(self.sd_ppm * chi).ravel(), np.array([np.vdot(column, chi) for column in self.organs], np.float32)]
        return parts + [nodes.transposed(chi) for nodes in self.nodes]

    def _padded(self, volume: FloatArray) -> FloatArray:
        return np.pad(volume.astype(np.float32), self._margins)

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


def block_mean(volume: FloatArray, factors: tuple[int, ...]) -> FloatArray:
    """Mean (x, y, z) over blocks of ``factors`` voxels, which divide the volume's shape."""
    (a, b, c), (x, y, z) = volume.shape, factors
    return np.asarray(volume.reshape(a // x, x, b // y, y, c // z, z).mean(axis=(1, 3, 5)))


class Reduced:
    """Organs, nodes and harmonics alone, on voxels of about 9 mm, as a dense problem.

    It preconditions the whole problem, and by itself it is the estimate by regions.

    Attributes
    ----------
    places
        (n,) where its unknowns are in the whole vector, counted from the first organ.
    inverse
        (n, n) posterior covariance of its unknowns.
    """

    def __init__(self, model: SourceModel, voxel_mm: float = 9.0) -> None:
        self.model = model
        self._factors = tuple(max(1, round(voxel_mm / float(d))) for d in model.grid.voxel_size_mm)
        self._kept = tuple(n // f * f for n, f in zip(model.shape, self._factors, strict=True))
        small = tuple(n // f for n, f in zip(self._kept, self._factors, strict=True))
        self._shape = (small[0] + small[0] % 2, small[1] + small[1] % 2, small[2] + small[2] % 2)
        self._small = tuple(slice(0, n) for n in small)
        size_mm = model.grid.voxel_size_mm * np.array(self._factors)
        self._dipole = DipoleOperator(self._shape, size_mm, model.grid.b0_direction)
        self._data = self._mean(model.weight2) > 0
        fields, self.places = self._columns()
        self._fields = np.array(fields)
        self.reweigh()

    def reweigh(self) -> None:
        """Take the model's weights anew: its sources are the same, and what had no data before has none now."""
        weight2 = self._mean(self.model.weight2)[self._data] * np.float32(np.prod(self._factors))
        matrix = self._fields * np.sqrt(weight2)
        self.inverse = np.linalg.inv((matrix @ matrix.T).astype(np.float64) + np.eye(len(matrix)))

    def solve(self) -> FloatArray:
        """Posterior mean of its unknowns from its own data, as the whole vector (voxels at zero)."""
        model = self.model
        weighted = self._mean(model.weight2 * model.unexplained_ppm)[self._data] * np.float32(np.prod(self._factors))
        unknowns = np.zeros(model.n_unknowns, np.float32)
        unknowns[model.n_voxels + self.places] = self.inverse @ (self._fields @ weighted)
        return unknowns

    def _columns(self) -> tuple[list[FloatArray], IntArray]:
        model = self.model
        columns, places, place = [], [], 0
        for organ in model.organs:
            columns.append(self._field(self._mean(organ)))
            places.append(place)
            place += 1
        for nodes in model.nodes:
            sd = self._mean(nodes.sd_ppm)
            hats = [h[:n].reshape(n // f, f, -1).mean(axis=1) for h, n, f in zip(nodes.hats, self._kept, self._factors, strict=True)]
            for index in np.ndindex(nodes.shape):
                hx, hy, hz = (h[:, i] for h, i in zip(hats, index, strict=True))
                column = np.zeros(self._shape, np.float32)
                where = tuple(slice(int(np.flatnonzero(h)[0]), int(np.flatnonzero(h)[-1]) + 1) for h in (hx, hy, hz))
                column[where] = sd[where] * np.einsum("i,j,k->ijk", hx[where[0]], hy[where[1]], hz[where[2]])
                if column.max() > _LEAST_SD_PPM:
                    columns.append(self._field(column))
                    places.append(place)
                place += 1
        for harmonic in model.harmonics:
            whole = np.zeros(model.shape, np.float32)
            whole[model.inside] = harmonic
            columns.append(self._mean(whole)[self._data])
            places.append(place)
            place += 1
        return columns, np.array(places)

    def _field(self, chi: FloatArray) -> FloatArray:
        return np.asarray(self._dipole(chi)[self._data], np.float32)

    def _mean(self, volume: FloatArray) -> FloatArray:
        a, b, c = self._kept
        out = np.zeros(self._shape, np.float32)
        out[self._small] = block_mean(volume[:a, :b, :c], self._factors)
        return out


class Preconditioner:
    """Approximate inverse of the normal operator: its diagonal for voxels, the reduced problem's inverse for all others.

    A voxel's own column is its dipole field; the sum over voxels i of (w_i d_ij)^2 is a convolution of w^2 with d^2.
    """

    def __init__(self, model: SourceModel, reduced: Reduced) -> None:
        impulse = np.zeros(model.shape, np.float32)
        impulse[0, 0, 0] = 1
        spectrum = fourier.forward(model.dipole(impulse) ** 2) * fourier.forward(model.weight2)
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


def solid_harmonics(shape: tuple[int, ...], voxel_size_mm: FloatArray) -> list[FloatArray]:
    """The sixteen solid harmonics up to third order around the images' centre, about 1 at their ends.

    A shim makes those up to second order; the body that goes on far beyond the modelled volume makes the third as well.
    Distances are in mm over one common length: with a length per axis they would not obey Laplace's equation and could
    pass for the field of a susceptibility that is spread over the body.
    """
    extent_mm = np.array(shape) * np.asarray(voxel_size_mm)
    axes = [
        ((np.arange(n) - (n - 1) / 2) * d / (extent_mm.max() / 2)).astype(np.float32) for n, d in zip(shape, voxel_size_mm, strict=True)
    ]
    u, v, w = np.meshgrid(*axes, indexing="ij")
    second = [u * v, u * w, v * w, u**2 - v**2, 2 * w**2 - u**2 - v**2]
    along = 4 * w**2 - u**2 - v**2
    third = [w * (2 * w**2 - 3 * u**2 - 3 * v**2), u * along, v * along, w * (u**2 - v**2), u * v * w]
    third += [u * (u**2 - 3 * v**2), v * (3 * u**2 - v**2)]
    return [np.ones_like(u), u, v, w, *second, *third]
