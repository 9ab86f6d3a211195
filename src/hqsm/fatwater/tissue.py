"""What is fitted: the voxels that hold signal, taken out of their volume."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Tissue:
    """The voxels that hold signal, and what was known of their scan.

    Attributes
    ----------
    signal
        (voxel, echo) complex64, contiguous [scanner units].
    index
        (x, y, z) number of each voxel in raster order, -1 where there is no signal.
    echo_times_s
        (echo,) [s].
    fat
        (echo,) signal of unit fat against water on resonance.
    noise_sd
        SD of the noise of the real part [scanner units].
    voxel_size_mm, b0_direction
        (3,) [mm]; (3,) unit vector of B0 along the voxel axes.
    field_strength_tesla
        [T].
    """

    signal: ComplexArray
    index: IntArray
    echo_times_s: FloatArray
    fat: ComplexArray
    noise_sd: float
    voxel_size_mm: FloatArray
    b0_direction: FloatArray
    field_strength_tesla: float


@numba.njit(cache=True, parallel=True)
def powers(signal: AnyArray) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """(voxel,) squared signal of all echoes together, and of the brightest."""
    energy, brightest = np.empty(signal.shape[0], np.float32), np.empty(signal.shape[0], np.float32)
    for v in numba.prange(signal.shape[0]):
        total = most = np.float32(0)
        for e in range(signal.shape[1]):
            here = signal[v, e].real * signal[v, e].real + signal[v, e].imag * signal[v, e].imag
            total += here
            most = max(most, here)
        energy[v], brightest[v] = total, most
    return energy, brightest
