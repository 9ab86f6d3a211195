r"""Preconditioned total-field inversion (Liu et al., MRM 2017;78:303).

All sources, in the body and around it, are estimated at once from the total field:

    min_chi |M grad chi|_1 + lambda |w (D chi - f)|^2,   chi = P y,   conjugate gradients on y

P is large where sources may be strong: outside the body, and in a zone around liver and iron that is rather too large than too
small. Without it the solver puts an iron-loaded liver outside the body, and what of a liver the zone lacks it looks for in the
rest. The iterations end long before the minimum, so that P shapes the result.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.arrays import FloatArray, Mask
from hqsm.config.susceptibility import TfiParams
from hqsm.data import Solution, TotalField, WaterFat
from hqsm.dipole import DipoleOperator
from hqsm.inversion.edges import diffusivity, divergence, gradient, gradient_mask
from hqsm.liver.geometry import dilated
from hqsm.liver_share import mean_of_known, r2star_or_limit, without_fat
from hqsm.solvers import conjugate_gradient


def strong_zone(maps: WaterFat, liver: Mask, params: TfiParams) -> Mask:
    """Where in the body a source may be strong (x, y, z): the liver's mask, whatever decays fast, and what lies near either.

    R2* is a mean over neighbours, as that of one voxel is noisy; of what could not be fitted it is what the echoes can measure at most.
    """
    r2star = r2star_or_limit(maps, without_fat(maps))
    known = np.isfinite(r2star)
    fast = mean_of_known(np.where(known, r2star, 0), known) > params.strong_r2star_per_s * maps.field_strength_tesla / 1.5
    return dilated(liver | fast, maps.grid, params.zone_margin_mm)


def invert(total: TotalField, magnitude: FloatArray, strong: Mask, params: TfiParams, *, padding_mm: float) -> Solution:
    """Susceptibility [ppm] (x, y, z) of the whole image; iterations are the outer ones.

    Parameters
    ----------
    total
        Total field [ppm] of the whole body, fat included.
    magnitude
        (x, y, z) image whose edges the map may have, any unit.
    strong
        (x, y, z) where in the body a source may be strong (:func:`strong_zone`).
    params, padding_mm
        Settings; how far sources are modelled beyond the images.
    """
    grid = total.grid
    padded = fourier.PaddedShape.around(grid.shape, grid.voxel_size_mm, padding_mm)
    dipole = DipoleOperator(padded.outer, grid.voxel_size_mm, grid.b0_direction)
    smooth_here = gradient_mask(padded.pad(magnitude * total.mask), padded.pad(total.mask) > 0, grid.voxel_size_mm, params.edge_share)
    variance = np.where(padded.pad(total.mask & ~strong) > 0, 1, params.preconditioner**2).astype(np.float32)
    data = np.float32(2 * params.data_weight) * padded.pad(total.weight / np.mean(total.weight[total.mask])) ** 2
    field = padded.pad(np.where(total.mask, total.field_ppm, 0))
    chi = np.zeros(padded.outer, np.float32)
    step, iteration = np.inf, 0
    while step > params.tolerance and iteration < params.max_iterations:
        conducts = diffusivity(chi, smooth_here, grid.voxel_size_mm, params.least_gradient_ppm_per_mm)

        def normal(x: FloatArray, conducts: FloatArray = conducts) -> FloatArray:
            applied: FloatArray = divergence(conducts * gradient(x, grid.voxel_size_mm), grid.voxel_size_mm) + dipole(data * dipole(x))
            return applied

        change = conjugate_gradient(
            normal,
            dipole(data * field) - normal(chi),
            precondition=lambda residual: variance * residual,
            tolerance=params.inner_tolerance,
            max_iterations=params.max_inner_iterations,
        ).x
        chi = chi + change
        inside = padded.crop(change)[total.mask], padded.crop(chi)[total.mask]
        step = float(np.linalg.norm(inside[0]) / max(float(np.linalg.norm(inside[1])), 1e-30))
        iteration += 1
    return Solution(x=padded.crop(chi), n_iterations=iteration, relative_residual=step, converged=step <= params.tolerance)
