"""Noise level of complex images from the images themselves."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import ComplexArray

_MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817


def noise_sd_from_background(signal: ComplexArray) -> float:
    """Noise SD of the real part from the last echo: high-pass along x and y, median absolute value.

    ``signal`` is (x, y, z, echo). The second differences (1, -2, 1)/sqrt(6) along two axes keep the variance of white
    noise and suppress everything that is linear along either; the median ignores the edges that remain.
    """
    last = signal[..., -1]
    along_x = (last[:-2] - 2 * last[1:-1] + last[2:]) / np.sqrt(6)
    difference = (along_x[:, :-2] - 2 * along_x[:, 1:-1] + along_x[:, 2:]) / np.sqrt(6)
    values = np.concatenate([difference.real.ravel(), difference.imag.ravel()])
    values = values[values != 0]
    return float(np.median(np.abs(values)) / _MEDIAN_OF_ABSOLUTE_NORMAL) if values.size else float("nan")
