"""Noise level of complex images from the images themselves."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, stats

from hqsm.arrays import ComplexArray, FloatArray

_MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817
_WINDOW = 5
"""Voxels along x and y over which a magnitude's mean and mean square are taken."""
_LIKE_NOISE = 0.65, 1.4
"""Variance over mean square of windows of noise alone, of what it is to be; nearly nothing in bright tissue, more at edges."""
_LEAST_OF_NOISE = 0.02
"""Share of such windows from which on they are background, not chance."""


def noise_sd_from_background(signal: ComplexArray, coils: int = 1) -> float:
    """Noise SD of the real part of one coil from the last echo of one volume (x, y, z, echo).

    Structure as fine as the voxels remains in it and makes it 10 to 30 % too large on coarse grids; where there are
    repetitions, :func:`high_pass_sd` of their difference is free of that. Of a magnitude, noise alone scatters by two thirds of
    that SD only, or, of ``coils`` combined by the sum of squares, by 0.7: there its mean square tells (Gudbjartsson & Patz, MRM
    1995;34:910; Constantinides et al., MRM 1997;38:852).
    """
    last = signal[..., -1]
    if not last.imag.any():
        of_background = _background_sd(np.abs(last), coils)
        if np.isfinite(of_background):
            return of_background
    return high_pass_sd(last)


def _background_sd(magnitude: FloatArray, coils: int) -> float:
    """Noise SD of the real part from the parts of a magnitude (x, y, z) that hold noise alone; NaN where there are hardly any."""
    window = (_WINDOW, _WINDOW, 1)
    values = np.asarray(magnitude, dtype=np.float64)
    mean, square = ndimage.uniform_filter(values, window), ndimage.uniform_filter(values**2, window)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (1 - mean**2 / square) / (1 - stats.chi(2 * coils).mean() ** 2 / (2 * coils))
    square = square[(share > _LIKE_NOISE[0]) & (share < _LIKE_NOISE[1])]
    if square.size < _LEAST_OF_NOISE * magnitude.size:
        return float("nan")
    # edges of tissue can look like noise, but not as dark
    dark = square[square < 2 * np.quantile(square, 0.25)]
    return float(np.sqrt(np.median(dark) / (2 * coils)))


def high_pass_sd(volume: ComplexArray) -> float:
    """SD of the real part of white noise in a complex volume (x, y, z): high-pass along x and y, median absolute value.

    The second differences (1, -2, 1)/sqrt(6) along two axes keep the variance of white noise and suppress everything
    that is linear along either; the median ignores the edges that remain. NaN for a volume of zeros.
    """
    along_x = (volume[:-2] - 2 * volume[1:-1] + volume[2:]) / np.sqrt(6)
    difference = (along_x[:, :-2] - 2 * along_x[:, 1:-1] + along_x[:, 2:]) / np.sqrt(6)
    values = np.concatenate([difference.real.ravel(), difference.imag.ravel()])
    values = values[values != 0]
    return float(np.median(np.abs(values)) / _MEDIAN_OF_ABSOLUTE_NORMAL) if values.size else float("nan")
