"""Closed-form Tikhonov inversion: chi = FT^-1[ D FT(f) / (D^2 + regularisation^2) ] (Bilgic et al., MRM 2014;72:1444).

Kept for comparison; its regularisation lowers every susceptibility.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.config.susceptibility import TikhonovParams
from hqsm.data import LocalField, Solution
from hqsm.dipole import dipole_kernel


def invert(local: LocalField, params: TikhonovParams, *, padding_mm: float) -> Solution:
    """Susceptibility [ppm] (x, y, z) inside ``local.mask``, 0 outside."""
    padded = fourier.PaddedShape.around(local.grid.shape, local.grid.voxel_size_mm, padding_mm)
    kernel = dipole_kernel(padded.outer, local.grid.voxel_size_mm, local.grid.b0_direction)
    divided = kernel / (kernel**2 + np.float32(params.regularisation**2))
    chi = padded.crop(fourier.inverse(fourier.forward(padded.pad(local.field_ppm)) * divided, padded.outer))
    return Solution.closed_form(np.where(local.mask, chi, 0))
