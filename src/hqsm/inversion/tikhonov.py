"""Closed-form Tikhonov inversion: chi = FT^-1[ D FT(f) / (D^2 + regularisation^2) ] (Bilgic et al., MRM 2014;72:1444).

Kept for comparison; its regularisation lowers every susceptibility.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.arrays import FloatArray
from hqsm.data import LocalField
from hqsm.dipole import dipole_kernel


def invert(local: LocalField, *, regularisation: float, padding_voxels: int) -> FloatArray:
    """Susceptibility [ppm] (x, y, z) inside ``local.mask``, 0 outside."""
    n = local.field_ppm.shape
    shape = fourier.fast_shape((n[0] + padding_voxels, n[1] + padding_voxels, n[2] + padding_voxels))
    inside = tuple(slice(0, k) for k in n)
    field = np.zeros(shape, np.float32)
    field[inside] = local.field_ppm
    kernel = dipole_kernel(shape, local.grid.voxel_size_mm, local.grid.b0_direction)
    chi = fourier.inverse(fourier.forward(field) * (kernel / (kernel**2 + np.float32(regularisation**2))), shape)
    return np.where(local.mask, chi[inside], 0).astype(np.float32)
