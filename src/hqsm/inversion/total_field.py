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

from dataclasses import dataclass

import numpy as np

from hqsm import fourier
from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.data import Solution, TotalField
from hqsm.dipole import DipoleOperator
from hqsm.solvers import conjugate_gradient


@dataclass(frozen=True, eq=False, kw_only=True)
class SourcePrior:
    """What is expected of the sources, on the images' grid (x, y, z).

    Attributes
    ----------
    mean_ppm, sd_ppm
        Expected susceptibility of a voxel and its standard deviation.
    organs
        Shape (x, y, z, float 0..1) and standard deviation of the common level [ppm] of each organ.
    """

    mean_ppm: FloatArray
    sd_ppm: FloatArray
    organs: tuple[tuple[FloatArray, float], ...]


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
    organs = [(np.pad(m.astype(np.float32), margins), s) for m, s in prior.organs]
    weight = np.zeros(shape, np.float32)
    weight[inside] = np.where(total.mask, 1 / np.where(total.mask, noise_ppm, 1), 0)
    dipole = DipoleOperator(shape, total.grid.voxel_size_mm, total.grid.b0_direction)
    shims = _harmonics(n)
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
        inverse_diagonal=1 / _diagonal(dipole, weight, sd, organs, shims, shim_sd_ppm, inside),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    chi = (mean + source(np.asarray(solution.x)))[inside]
    return np.ascontiguousarray(chi), solution


def _diagonal(
    dipole: DipoleOperator,
    weight: FloatArray,
    sd: FloatArray,
    organs: list[tuple[FloatArray, float]],
    shims: list[FloatArray],
    shim_sd_ppm: float,
    inside: tuple[slice, ...],
) -> FloatArray:
    """Diagonal of A' w^2 A + I: exact for organs and shims, for voxels with the data weights of their surroundings.

    A voxel's own column is its dipole field; the sum over voxels i of (w_i d_ij)^2 is a convolution of w^2 with d^2.
    """
    impulse = np.zeros(dipole.shape, np.float32)
    impulse[0, 0, 0] = 1
    unit_field2 = dipole(impulse) ** 2
    spectrum = fourier.forward(unit_field2) * fourier.forward(weight**2)
    voxels = 1 + sd**2 * np.maximum(fourier.inverse(spectrum, dipole.shape), 0)
    w2 = weight[inside] ** 2
    rest = [1 + level_sd**2 * np.sum((weight * dipole(mask)) ** 2, dtype=np.float64) for mask, level_sd in organs]
    rest += [1 + shim_sd_ppm**2 * np.sum(w2 * polynomial**2, dtype=np.float64) for polynomial in shims]
    return np.concatenate([voxels.ravel(), np.array(rest, np.float32)])


def _harmonics(shape: tuple[int, ...]) -> list[FloatArray]:
    """Polynomials up to second order over the images, in normalised coordinates -1..1 along each axis."""
    u, v, w = np.meshgrid(*(np.linspace(-1, 1, k, dtype=np.float32) for k in shape), indexing="ij")
    return [np.ones_like(u), u, v, w, u * v, u * w, v * w, u**2 - v**2, 2 * w**2 - u**2 - v**2]


def organ(mask: Mask, level_sd_ppm: float) -> tuple[FloatArray, float]:
    """An organ with a common level of its own."""
    return mask.astype(np.float32), level_sd_ppm
