"""Truncated k-space division (Shmueli et al., MRM 2009;62:1510): chi = FT^-1[ FT(f) / D ], |D| held above a threshold.

Where the kernel is small it is replaced by +-threshold; that lowers every susceptibility and leaves streaks. Kept for
comparison.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.config.susceptibility import TkdParams
from hqsm.data import LocalField, Solution
from hqsm.dipole import dipole_kernel


def invert(local: LocalField, params: TkdParams, *, padding_mm: float) -> Solution:
    """Susceptibility [ppm] (x, y, z) inside ``local.mask``, 0 outside."""
    padded = fourier.PaddedShape.around(local.grid.shape, local.grid.voxel_size_mm, padding_mm)
    kernel = dipole_kernel(padded.outer, local.grid.voxel_size_mm, local.grid.b0_direction)
    held = np.copysign(np.maximum(np.abs(kernel), np.float32(params.threshold)), kernel)
    spectrum = fourier.forward(padded.pad(local.field_ppm)) / held
    spectrum[0, 0, 0] = 0
    chi = padded.crop(fourier.inverse(spectrum, padded.outer))
    return Solution.closed_form(np.where(local.mask, chi, 0))
