"""By how much a voxel's field may depart from that of a neighbour with more or less iron."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.bounds import LocalDecay

_FIELD_OF_IRON_HZ_S = 0.05
"""Step of the field at an edge [Hz] for each 1/s of R2* that it steps by: 2.5 ppm for 1,000 1/s at 1.5 T, a third of it."""
_FIELD_INSIDE_IRON_HZ_S = 0.01
"""What of that step a plane through the neighbours does not foresee, in the darker tissue itself."""


def field_steps_hz(decay: LocalDecay, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
    """(voxel,) by how much a darker neighbour's field may depart from this one's, and this one's from a brighter neighbour's.

    Iron makes a field as it makes a decay. Bright tissue knows its field well, and would otherwise say, alone, what the field of
    the iron-loaded voxels beside it is.
    """
    there = blocks.index >= 0
    mean = np.bincount(blocks.of_voxel, decay.r2star_per_s) / blocks.n_voxels
    rate = np.zeros(blocks.index.shape, np.float32)
    rate[there] = mean
    darkest = _of_27(np.maximum, rate)[there]
    rate[~there] = np.inf
    brightest = _of_27(np.minimum, rate)[there]
    darker, brighter = _FIELD_OF_IRON_HZ_S * (darkest - mean), _FIELD_INSIDE_IRON_HZ_S * (mean - brightest)
    return darker[blocks.of_voxel], brighter[blocks.of_voxel]


def _of_27(larger: np.ufunc, values: FloatArray) -> FloatArray:
    """The largest (or smallest) of the 3 x 3 x 3 values around each."""
    for axis in range(3):
        before = np.moveaxis(values, axis, 0)
        values = values.copy()
        after = np.moveaxis(values, axis, 0)
        larger(after[1:], before[:-1], out=after[1:])
        larger(after[:-1], before[1:], out=after[:-1])
    return values
