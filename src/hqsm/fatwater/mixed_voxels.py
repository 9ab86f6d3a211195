"""Voxels of dark and bright tissue, at an organ's surface or a vessel's: what their field, R2* and fat fraction are off by.

Iron darkens its part of such a voxel within two or three echoes, so that the fit's field and decay are the bright part's, and look well
known. What tells is that no one tissue fits, beside tissue that is darker by far; what field and decay are off by is a share of what
lies between them and the dark tissue's. Two fields that beat look like fat, or like less than none, by as much as one tissue leaves
unexplained.
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
_LEAST_SE = 1.0
"""Hz, and 1/s."""


def errors_of_mixtures(fit: Fit, tissue: Tissue) -> FloatArray:
    """(voxel, 3) SD by which field [Hz], R2* [1/s] and PDFF [points] of a voxel's mean may be off from the fit, 0 where one tissue fits."""
    off: FloatArray = np.zeros((fit.residual.size, 3))
    which = np.flatnonzero(fits_poorly(fit.residual, tissue.noise_sd, tissue.echo_times_s.size) & np.isfinite(fit.residual))
    ordinary = np.array([_ORDINARY_HZ_PER_MM_AT_1T5 * tissue.field_strength_tesla / 1.5, 0.0])
    step2 = _steps(which, tissue.places[which], tissue.index, fit.nonlinear, fit.errors[:, :2].copy(), tissue.voxel_size_mm, ordinary)
    off[which, :2] = _SHARE_OF_DARK * np.sqrt(np.maximum(step2, 0))
    mixed = which[np.isfinite(step2[:, 0])]
    off[mixed, 2] = 100 * np.sqrt(fit.residual[mixed] / tissue.powers[0][mixed])
    return off


@njit()
def _steps(
    which: AnyArray, places: AnyArray, index: AnyArray, nonlinear: AnyArray, se: AnyArray, size_mm: AnyArray, ordinary: AnyArray
) -> AnyArray:  # pragma: no cover - compiled
    """(n, 2) squared distance of field [Hz2] and R2* [1/s2] of the voxels ``which`` from the means of those around that are much darker.

    Less what noise, and slopes of ``ordinary`` [Hz/mm, 1/s/mm], make of it, minus infinity where none is; ``se`` (voxel, 2) and
    ``nonlinear`` are of field and R2*, ``places`` (n,) the voxels' numbers in the raster.
    """
    nx, ny, nz = index.shape
    step2 = np.full((which.size, 2), -np.inf)
    for i in range(which.size):
        v = which[i]
        x, y, z = places[i] // (ny * nz), (places[i] // nz) % ny, places[i] % nz
        darker = max(nonlinear[v, 1] + _DARKER_PER_S, nonlinear[v, 1] * _TIMES_DARKER)
        for q in range(2):
            total, away, to_x, to_y, to_z = 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(max(x - 1, 0), min(x + 2, nx)):
                for k in range(max(y - 1, 0), min(y + 2, ny)):
                    for m in range(max(z - 1, 0), min(z + 2, nz)):
                        u = index[j, k, m]
                        if u >= 0 and nonlinear[u, 1] > darker and np.isfinite(se[u, q]):
                            weight = 1 / max(se[u, q], _LEAST_SE) ** 2
                            total += weight
                            away += weight * (nonlinear[u, q] - nonlinear[v, q])
                            to_x += weight * (j - x) * size_mm[0]
                            to_y += weight * (k - y) * size_mm[1]
                            to_z += weight * (m - z) * size_mm[2]
            if total > 0:
                slope2 = (ordinary[q] / total) ** 2 * (to_x**2 + to_y**2 + to_z**2)
                step2[i, q] = (away / total) ** 2 - 1 / total - se[v, q] ** 2 - slope2
    return step2
