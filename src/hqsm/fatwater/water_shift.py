"""Where water resonates in a specimen: one shift for the whole of it, from the echoes themselves.

The distance of water from fat follows the temperature (-0.01 ppm per degree), and what a thermometer in the bath said is not
what the inside of a liver had. Every voxel that holds water and fat knows the distance a little; the squared residuals of
all of them together, as a function of one shift, know it to a few thousandths of a ppm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.tissue import Tissue

_MOST_VOXELS = 20000
_LEAST_SNR = 15.0
_REACH_PPM = 0.24
"""Half of what is searched: 24 degrees on either side of the temperature that was given."""
_N_TRIED = 9
_LARGEST_SE_PPM = 0.02
_LEAST_ERRORS = 4.0


@dataclass(frozen=True, kw_only=True)
class WaterShift:
    """Shift of water [ppm] against where the given temperature puts it, with its standard error."""

    ppm: float
    se_ppm: float

    @property
    def helps(self) -> bool:
        """Whether it is known well, and differs from nothing by more than its error."""
        return self.se_ppm < _LARGEST_SE_PPM and abs(self.ppm) > _LEAST_ERRORS * self.se_ppm


def water_shift(tissue: Tissue, fat_at: Callable[[float], ComplexArray], field_hz: FloatArray, r2star_per_s: FloatArray) -> WaterShift:
    """The shift at which the echoes of all voxels fit best.

    ``fat_at`` gives the signal of fat (echo,) for a shift of water [ppm]; ``field_hz`` and ``r2star_per_s`` are a fit's.
    Noise, where more is left than noise, is what the best fit leaves.
    """
    voxels, t, noise_sd = tissue.signal, tissue.echo_times_s, tissue.noise_sd
    bright = np.flatnonzero((np.abs(voxels[:, 0]) > _LEAST_SNR * noise_sd) & np.isfinite(field_hz))
    nothing = WaterShift(ppm=0.0, se_ppm=np.inf)
    if bright.size == 0 or t.size < 4:
        return nothing
    chosen = bright[np.unique(np.linspace(0, bright.size - 1, min(bright.size, _MOST_VOXELS)).astype(np.int64))]

    def left(ppm: float) -> FloatArray:
        return fit_free(chosen, tissue.echoes._replace(fat=fat_at(ppm)), field_hz, r2star_per_s, True).residual

    tried = np.linspace(-_REACH_PPM, _REACH_PPM, _N_TRIED)
    residuals = np.array([left(ppm) for ppm in tried])
    known = np.isfinite(residuals).all(axis=0)
    if not known.any():
        return nothing
    # a swapped voxel or flow must not outweigh the rest
    typical = np.median(residuals[:, known].min(axis=0))
    known &= residuals.min(axis=0) < 10 * typical
    total = residuals[:, known].sum(axis=1)
    k = int(total.argmin())
    if k in (0, tried.size - 1):
        return nothing
    step = tried[1] - tried[0]
    bend = float(total[k - 1] - 2 * total[k] + total[k + 1])
    if bend <= 0:
        return nothing
    ppm = float(tried[k] + 0.5 * step * (total[k - 1] - total[k + 1]) / bend)
    variance = max(noise_sd**2, float(total[k]) / (known.sum() * max(2 * t.size - 6, 1)))
    return WaterShift(ppm=ppm, se_ppm=float(np.sqrt(2 * variance / bend) * step))
