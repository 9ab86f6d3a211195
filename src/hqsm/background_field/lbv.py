"""Laplacian boundary value method (Zhou et al., NMR Biomed 2014;27:312).

The field of sources outside the body is harmonic inside it, and at the body's surface it is taken for the whole field:
Laplace's equation with the measured field as boundary value. A source near the surface has a field there of its own, which is
then lost inside too; a liver that touches lung and skin loses much so. Kept for comparison.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray
from hqsm.config.susceptibility import LbvParams
from hqsm.data import LocalField, Solution, TotalField
from hqsm.solvers import conjugate_gradient


def remove_background(total: TotalField, params: LbvParams) -> tuple[LocalField, Solution]:
    """The local field [ppm] inside the mask without its outermost voxels, and how the iteration converged.

    ``x`` is the background field [ppm] (x, y, z), 0 outside ``total.mask``.
    """
    # outside the images nothing is known: their border is boundary too
    inner = ndimage.binary_erosion(total.mask, ndimage.generate_binary_structure(3, 1))
    boundary = total.mask & ~inner
    couplings = (1 / total.grid.voxel_size_mm**2).astype(np.float32)
    diagonal = np.float32(2 * couplings.sum())

    def minus_laplacian(field: FloatArray) -> FloatArray:
        laplacian: FloatArray = np.where(inner, diagonal * field - neighbours(field, couplings), 0)
        return laplacian

    solution = conjugate_gradient(
        minus_laplacian,
        np.where(inner, neighbours(np.where(boundary, total.field_ppm, 0), couplings), 0),
        tolerance=params.tolerance,
        max_iterations=params.max_iterations,
    )
    background = np.where(boundary, total.field_ppm, solution.x)
    local = LocalField(
        field_ppm=np.where(inner, total.field_ppm - background, 0).astype(np.float32),
        weight=np.where(inner, total.weight, 0),
        mask=np.asarray(inner),
        grid=total.grid,
    )
    return local, Solution(
        x=np.where(total.mask, background, 0),
        n_iterations=solution.n_iterations,
        relative_residual=solution.relative_residual,
        converged=solution.converged,
    )


def neighbours(field: FloatArray, couplings: FloatArray) -> FloatArray:
    """Sum of the six neighbours (x, y, z), each times its axis' coupling; 0 beyond the images."""
    total = np.zeros_like(field)
    for axis, coupling in enumerate(couplings):
        along, sums = np.moveaxis(field, axis, 0), np.moveaxis(total, axis, 0)
        sums[1:] += coupling * along[:-1]
        sums[:-1] += coupling * along[1:]
    return total
