r"""Morphology-enabled dipole inversion (Liu et al., MRM 2012;69:467) with model error reduction (MERIT; Liu et al., 2013).

    min_chi |M grad chi|_1 + lambda |w (exp(i s D chi) - exp(i s f))|^2,   s in radians per ppm

M is 0 at the edges of the magnitude image, so that the map may step where the anatomy does; w is the inverse standard
error with mean 1 in the mask. Gauss-Newton with lagged diffusivity, conjugate gradients inside; between steps, voxels whose
residual is beyond ``merit_sd`` standard deviations lose weight. The map lives on a zero-padded grid: without padding the
periodic convolution costs a tenth of the susceptibility of a large organ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hqsm import fourier
from hqsm.arrays import FloatArray
from hqsm.config.susceptibility import MediParams
from hqsm.data import LocalField, Solution
from hqsm.dipole import DipoleOperator
from hqsm.inversion.edges import diffusivity, divergence, gradient, gradient_mask
from hqsm.solvers import conjugate_gradient

_LEAST_GRADIENT_RADIANS_PER_MM = 1e-3
"""As in the toolbox."""


def invert(local: LocalField, magnitude: FloatArray, params: MediParams, *, padding_mm: float) -> Solution:
    """Susceptibility [ppm] (x, y, z) inside ``local.mask``, 0 outside; iterations are the outer ones.

    Parameters
    ----------
    local
        Local field [ppm] and its weights.
    magnitude
        (x, y, z) image whose edges the map may have, any unit.
    params, padding_mm
        Settings; how far the map extends beyond the images.
    """
    grid = local.grid
    padded = fourier.PaddedShape.around(grid.shape, grid.voxel_size_mm, padding_mm)
    dipole = DipoleOperator(padded.outer, grid.voxel_size_mm, grid.b0_direction)
    smooth_here = gradient_mask(padded.pad(magnitude * local.mask), padded.pad(local.mask) > 0, grid.voxel_size_mm, params.edge_share)
    phase = padded.pad(local.field_ppm) * np.float32(params.radians_per_ppm)
    weight = padded.pad(local.weight / np.mean(local.weight[local.mask]))
    chi = np.zeros(padded.outer, np.float32)  # radians, as `phase`
    step = np.inf
    iteration = 0
    while step > params.tolerance and iteration < params.max_iterations:
        predicted = dipole(chi)
        if iteration:
            weight = _without_outliers(weight, predicted, phase, params.merit_sd)
        normal, gradient = _linearised(chi, predicted - phase, weight, smooth_here, dipole, grid.voxel_size_mm, params.data_weight)
        change = conjugate_gradient(normal, -gradient, tolerance=params.inner_tolerance, max_iterations=params.max_inner_iterations).x
        chi = chi + change
        step = float(np.linalg.norm(change) / max(float(np.linalg.norm(chi)), 1e-30))
        iteration += 1
    chi_ppm = padded.crop(chi) / np.float32(params.radians_per_ppm)
    return Solution(x=np.where(local.mask, chi_ppm, 0), n_iterations=iteration, relative_residual=step, converged=step <= params.tolerance)


def _linearised(
    chi: FloatArray,
    misfit: FloatArray,
    weight: FloatArray,
    smooth_here: FloatArray,
    dipole: DipoleOperator,
    voxel_size_mm: FloatArray,
    data_weight: float,
) -> tuple[Callable[[FloatArray], FloatArray], FloatArray]:
    """The Gauss-Newton operator around ``chi``, and the cost's gradient there.

    The derivative of w^2 |exp(ia) - exp(ib)|^2 is 2 w^2 sin(a - b); its Gauss-Newton curvature is 2 w^2 because |exp(ia)| = 1.
    """
    conducts = diffusivity(chi, smooth_here, voxel_size_mm, _LEAST_GRADIENT_RADIANS_PER_MM)
    data = np.float32(2 * data_weight) * weight**2

    def normal(x: FloatArray) -> FloatArray:
        applied: FloatArray = divergence(conducts * gradient(x, voxel_size_mm), voxel_size_mm) + dipole(data * dipole(x))
        return applied

    slope = divergence(conducts * gradient(chi, voxel_size_mm), voxel_size_mm) + dipole(data * np.sin(misfit))
    return normal, slope


def _without_outliers(weight: FloatArray, predicted: FloatArray, phase: FloatArray, limit_sd: float) -> FloatArray:
    """MERIT: the noise of a voxel whose residual is ``r`` > 1 times the limit is taken as r^2 times as large."""
    seen = weight > 0
    residual = weight[seen] * (np.exp(1j * predicted[seen]) - np.exp(1j * phase[seen]))
    size = np.abs(residual - residual.mean())
    inflated = np.zeros_like(weight)
    inflated[seen] = weight[seen] / np.maximum(size / (limit_sd * size.std()), 1) ** 2
    return np.asarray(inflated / inflated[seen].mean(), np.float32)
