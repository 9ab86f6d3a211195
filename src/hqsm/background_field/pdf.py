"""Projection onto dipole fields (Liu et al., NMR Biomed 2011;24:1129).

The field outside sources can make is projected out: min_chi |w (f - D chi_outside)|^2 over sources outside the mask.
It also removes that part of an inside source's field which outside sources could have made; a liver that touches lung
and skin loses most of its field so. Kept for comparison; not the default.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.arrays import FloatArray
from hqsm.config.susceptibility import PdfParams
from hqsm.data import LocalField, Solution, TotalField
from hqsm.dipole import DipoleOperator
from hqsm.solvers import conjugate_gradient


def remove_background(total: TotalField, params: PdfParams, *, padding_mm: float) -> tuple[LocalField, Solution]:
    """The local field [ppm] inside ``total.mask`` and how the projection converged; ``x`` are the sources outside [ppm]."""
    padded = fourier.PaddedShape.around(total.grid.shape, total.grid.voxel_size_mm, padding_mm)
    outside = 1 - padded.pad(total.mask)
    weight = padded.pad(total.weight)
    field = padded.pad(np.where(total.mask, total.field_ppm, 0))
    dipole = DipoleOperator(padded.outer, total.grid.voxel_size_mm, total.grid.b0_direction)

    def normal(chi: FloatArray) -> FloatArray:
        return outside * dipole(weight**2 * dipole(outside * chi))

    solution = conjugate_gradient(
        normal, outside * dipole(weight**2 * field), tolerance=params.tolerance, max_iterations=params.max_iterations
    )
    background = padded.crop(dipole(outside * solution.x))
    local = np.where(total.mask, total.field_ppm - background, 0).astype(np.float32)
    return LocalField(field_ppm=local, weight=total.weight, mask=total.mask, grid=total.grid), solution
