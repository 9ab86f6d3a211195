"""Projection onto dipole fields (Liu et al., NMR Biomed 2011;24:1129).

The field outside sources can make is projected out: min_chi |w (f - D chi_outside)|^2 over sources outside the mask.
It also removes that part of an inside source's field which outside sources could have made; a liver that touches lung
and skin loses most of its field so. Kept for comparison; not the default.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.arrays import FloatArray
from hqsm.data import LocalField, Solution, TotalField
from hqsm.dipole import DipoleOperator
from hqsm.solvers import conjugate_gradient


def remove_background(total: TotalField, *, padding_voxels: int, tolerance: float, max_iterations: int) -> tuple[LocalField, Solution]:
    """The local field [ppm] inside ``total.mask`` and how the projection converged."""
    n = total.field_ppm.shape
    shape = fourier.fast_shape((n[0] + padding_voxels, n[1] + padding_voxels, n[2] + padding_voxels))
    inside = tuple(slice(0, k) for k in n)
    outside = np.ones(shape, np.float32)
    outside[inside][total.mask] = 0
    weight = np.zeros(shape, np.float32)
    weight[inside] = total.weight
    field = np.zeros(shape, np.float32)
    field[inside] = np.where(total.mask, total.field_ppm, 0)
    dipole = DipoleOperator(shape, total.grid.voxel_size_mm, total.grid.b0_direction)

    def normal(chi: FloatArray) -> FloatArray:
        return outside * dipole(weight**2 * dipole(outside * chi))

    solution = conjugate_gradient(normal, outside * dipole(weight**2 * field), tolerance=tolerance, max_iterations=max_iterations)
    local = np.where(total.mask, total.field_ppm - dipole(outside * solution.x)[inside], 0).astype(np.float32)
    return LocalField(field_ppm=local, weight=total.weight, mask=total.mask, grid=total.grid), solution
