r"""Total-field inversion with a prior that knows what may be strong, and where.

All sources are estimated at once from the total field, as in preconditioned total-field inversion (Liu et al., MRM
2017;78:303), read as a Gaussian model:

    f = D chi + H c + e,   e ~ N(0, 1/w^2),   chi = m + s * y + sum_r 1_r a_r,   y, a_r/sigma_r ~ N(0, 1)

``m`` and ``s`` are the expected susceptibility of a voxel and its standard deviation: tissue is near zero, air and
lung are strong, iron-loaded tissue (by R2*) may be. ``1_r`` are organs: an organ's level is a single unknown, because
the level of a large organ is a mode of the dipole problem that voxelwise unknowns started from zero do not reach.
``H c`` are the nine harmonic polynomials up to second order that a shim makes. The posterior mean solves

    (A' w^2 A + I) z = A' w^2 (f - D m)

by conjugate gradients; the standard deviations are the preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hqsm import fourier
from hqsm.arrays import AnyArray, FloatArray
from hqsm.data import Solution, TotalField
from hqsm.dipole import DipoleOperator
from hqsm.solvers import conjugate_gradient


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
class SourcePrior:
    """What is expected of the sources, on the images' grid (x, y, z).

    Attributes
    ----------
    mean_ppm, sd_ppm
        Expected susceptibility of a voxel and its standard deviation.
    organs
        Regions with a level of their own.
    """

    mean_ppm: FloatArray
    sd_ppm: FloatArray
    organs: tuple[Organ, ...]


def invert(
    total: TotalField,
    noise_ppm: FloatArray,
    prior: SourcePrior,
    *,
    padding_mm: float,
    end_sd_ppm: float,
    shim_sd_ppm: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[FloatArray, Solution]:
    """Susceptibility [ppm] (x, y, z) on the images' grid.

    Parameters
    ----------
    total
        Total field; voxels outside ``total.mask`` carry no data but may carry sources.
    noise_ppm
        (x, y, z) standard error of the field [ppm]; used inside ``total.mask``.
    prior
        Expected sources.
    padding_mm
        How far beyond the images sources are modelled: tissue and air go on there as at the border.
    end_sd_ppm
        Standard deviation of sources beyond the images, where anatomy is unknown.
    shim_sd_ppm
        Standard deviation of each shim polynomial over the images.
    tolerance, max_iterations
        Of the conjugate gradients.
    """
    n = total.field_ppm.shape
    pad = [int(np.ceil(padding_mm / d)) for d in total.grid.voxel_size_mm]
    shape = fourier.fast_shape((n[0] + 2 * pad[0], n[1] + 2 * pad[1], n[2] + 2 * pad[2]))
    before = [(s - k) // 2 for s, k in zip(shape, n, strict=True)]
    margins = [(b, s - k - b) for b, s, k in zip(before, shape, n, strict=True)]
    inside = tuple(slice(b, b + k) for b, k in zip(before, n, strict=True))
    mean = np.pad(prior.mean_ppm.astype(np.float32), margins, mode="edge")
    sd = np.pad(prior.sd_ppm.astype(np.float32), margins, mode="edge")
    beyond = np.ones(shape, bool)
    beyond[inside] = False
    # air goes on as air; tissue beyond the slab's ends is of unknown kind
    sd[beyond] = np.where(mean[beyond] > 8, sd[beyond], np.maximum(sd[beyond], end_sd_ppm))
    organs = [
        (np.pad(organ.share.astype(np.float32), margins, mode="edge" if organ.goes_on else "constant"), organ.level_sd_ppm)
        for organ in prior.organs
    ]
    weight = np.zeros(shape, np.float32)
    weight[inside] = np.where(total.mask, 1 / np.where(total.mask, noise_ppm, 1), 0)
    dipole = DipoleOperator(shape, total.grid.voxel_size_mm, total.grid.b0_direction)
    shims = shim_fields(n, total.grid.voxel_size_mm)
    n_voxels = int(np.prod(shape))
    n_organs = len(organs)

    def source(z: FloatArray) -> FloatArray:
        chi = sd * z[:n_voxels].reshape(shape)
        for (shape_of, level_sd), a in zip(organs, z[n_voxels : n_voxels + n_organs], strict=True):
            chi += (np.float32(level_sd) * a) * shape_of
        return chi

    def model(z: FloatArray) -> FloatArray:
        field = dipole(source(z))
        for c, polynomial in zip(z[n_voxels + n_organs :], shims, strict=True):
            field[inside] += (np.float32(shim_sd_ppm) * c) * polynomial
        return field

    def adjoint(field: FloatArray) -> FloatArray:
        chi = dipole(field)
        parts: list[AnyArray] = [(sd * chi).ravel()]
        organ_parts = [level_sd * np.sum(shape_of * chi, dtype=np.float64) for shape_of, level_sd in organs]
        shim_parts = [shim_sd_ppm * np.sum(p * field[inside], dtype=np.float64) for p in shims]
        parts.append(np.array(organ_parts + shim_parts, np.float32))
        return np.concatenate(parts)

    def normal(z: FloatArray) -> FloatArray:
        return adjoint(weight**2 * model(z)) + z

    measured = np.zeros(shape, np.float32)
    measured[inside] = np.where(total.mask, total.field_ppm, 0)
    rest = measured - dipole(mean - mean[0, 0, 0])
    solution = conjugate_gradient(
        normal,
        adjoint(weight**2 * rest),
        precondition=_preconditioner(dipole, weight, sd, organs, shims, shim_sd_ppm, inside),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    chi = (mean + source(np.asarray(solution.x)))[inside]
    return np.ascontiguousarray(chi), solution


def _preconditioner(
    dipole: DipoleOperator,
    weight: FloatArray,
    sd: FloatArray,
    organs: list[tuple[FloatArray, float]],
    shims: list[FloatArray],
    shim_sd_ppm: float,
    inside: tuple[slice, ...],
) -> Callable[[FloatArray], FloatArray]:
    """Approximate inverse of the normal operator: its diagonal for voxels, its exact block for organs and shims.

    A voxel's own column is its dipole field; the sum over voxels i of (w_i d_ij)^2 is a convolution of w^2 with d^2. The fields
    of organs and shims resemble each other, so that their diagonal alone would leave them for the last iterations.
    """
    impulse = np.zeros(dipole.shape, np.float32)
    impulse[0, 0, 0] = 1
    unit_field2 = dipole(impulse) ** 2
    spectrum = fourier.forward(unit_field2) * fourier.forward(weight**2)
    inverse_diagonal = 1 / (1 + sd**2 * np.maximum(fourier.inverse(spectrum, dipole.shape), 0)).ravel()
    w = weight[inside]
    columns = [np.float32(level_sd) * w * dipole(share)[inside] for share, level_sd in organs]
    columns += [np.float32(shim_sd_ppm) * w * shim for shim in shims]
    flat = np.array([column.ravel() for column in columns])
    inverse_block = np.linalg.inv((flat @ flat.T).astype(np.float64) + np.eye(len(columns)))

    def apply(residual: FloatArray) -> FloatArray:
        n = inverse_diagonal.size
        return np.concatenate([inverse_diagonal * residual[:n], (inverse_block @ residual[n:]).astype(np.float32)])

    return apply


def shim_fields(shape: tuple[int, ...], voxel_size_mm: FloatArray) -> list[FloatArray]:
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
