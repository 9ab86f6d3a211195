"""Voxels of dark and bright tissue, at an organ's surface or a vessel's: what their field is off by.

Iron darkens its part of such a voxel within two or three echoes, so that the fit's field and decay are the bright part's, and look well
known. What tells is that no one tissue fits, beside tissue that is darker by far; what the field is off by is a share of what
lies between it and the dark tissue's.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.compiled import njit
from hqsm.fatwater.fit import Fit, fits_poorly
from hqsm.fatwater.tissue import Tissue

_DARKER_PER_S, _TIMES_DARKER = 200.0, 1.5
"""By how much, and how many times, R2* of the darker tissue is more, at least."""
_SHARE_OF_DARK = 0.6
"""Root mean square of the dark tissue's share of a voxel that reads as the bright one; any share alike would make it 0.58."""
_ORDINARY_HZ_PER_MM_AT_1T5 = 2.0
"""What fields change by without a surface."""
_LEAST_SE_HZ = 1.0


def field_errors_of_mixtures(fit: Fit, tissue: Tissue) -> FloatArray:
    """(voxel,) SD [Hz] by which the voxel's mean field may lie from the one that was fitted, 0 where one tissue explains it."""
    off: FloatArray = np.zeros(fit.residual.size)
    which = np.flatnonzero(fits_poorly(fit.residual, tissue.noise_sd, tissue.echo_times_s.size) & np.isfinite(fit.residual))
    ordinary = _ORDINARY_HZ_PER_MM_AT_1T5 * tissue.field_strength_tesla / 1.5
    step_hz2 = _steps(which, tissue.places[which], tissue.index, fit.nonlinear, fit.errors[:, 0].copy(), tissue.voxel_size_mm, ordinary)
    off[which] = _SHARE_OF_DARK * np.sqrt(step_hz2)
    return off


@njit()
def _steps(
    which: AnyArray, places: AnyArray, index: AnyArray, nonlinear: AnyArray, se: AnyArray, size_mm: AnyArray, ordinary: float
) -> AnyArray:  # pragma: no cover - compiled
    """(n,) squared distance [Hz2] of the field of each of the voxels ``which`` from the mean of those around that are much darker.

    Less what noise, and a slope of ``ordinary`` [Hz/mm], make of it. ``places`` (n,) are their numbers in the raster.
    """
    nx, ny, nz = index.shape
    step2 = np.zeros(which.size)
    for i in range(which.size):
        v = which[i]
        x, y, z = places[i] // (ny * nz), (places[i] // nz) % ny, places[i] % nz
        darker = max(nonlinear[v, 1] + _DARKER_PER_S, nonlinear[v, 1] * _TIMES_DARKER)
        total, away, to_x, to_y, to_z = 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(max(x - 1, 0), min(x + 2, nx)):
            for k in range(max(y - 1, 0), min(y + 2, ny)):
                for m in range(max(z - 1, 0), min(z + 2, nz)):
                    u = index[j, k, m]
                    if u >= 0 and nonlinear[u, 1] > darker and np.isfinite(se[u]):
                        weight = 1 / max(se[u], _LEAST_SE_HZ) ** 2
                        total += weight
                        away += weight * (nonlinear[u, 0] - nonlinear[v, 0])
                        to_x += weight * (j - x) * size_mm[0]
                        to_y += weight * (k - y) * size_mm[1]
                        to_z += weight * (m - z) * size_mm[2]
        if total > 0:
            slope2 = (ordinary / total) ** 2 * (to_x**2 + to_y**2 + to_z**2)
            step2[i] = max((away / total) ** 2 - 1 / total - se[v] ** 2 - slope2, 0.0)
    return step2
