"""What is fitted: the voxels that hold signal, taken out of their volume."""

from __future__ import annotations

from dataclasses import dataclass

from hqsm.arrays import ComplexArray, FloatArray, IntArray


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
