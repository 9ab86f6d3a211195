"""Small simulated scans that the tests of the reader share."""

import numpy as np

from conftest import make_grid
from hqsm.data import RepeatedMultiEcho


def scan() -> RepeatedMultiEcho:
    """A small oblique scan whose voxels all differ, so that any turn or swap shows."""
    grid = make_grid("oblique", (10, 8, 6))
    t = np.array([1.2, 2.8, 4.4]) * 1e-3
    i, j, k = np.indices(grid.shape)
    field = 40 + 2.0 * i - 1.5 * j + 3 * k
    receive = 0.63 * i + 0.08 * j  # as in any body, phases fill a turn
    signal = (50 + 3 * i + 2 * j + 5 * k)[..., None] * np.exp(1j * (2 * np.pi * field[..., None] * t + receive[..., None]))
    both = np.stack([signal, 0.9 * signal * np.exp(0.5j)], axis=-1).astype(np.complex64)
    return RepeatedMultiEcho(
        signal=both, echo_times_s=t, field_strength_tesla=1.5, grid=grid, repetition_times_of_day_s=np.array([36000.0, 36012.0])
    )
