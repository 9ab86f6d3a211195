"""Where water resonates in a specimen: one shift for the whole of it, from the echoes themselves.

The distance of water from fat follows the temperature (-0.01 ppm per degree), and what a thermometer in the bath said is not
what the inside of a liver had. Every voxel that holds water and fat knows the distance a little; the squared residuals of
all of them together, as a function of one shift, know it to a few thousandths of a ppm.

Eddy currents turn the first echo, which looks like such a shift (0.2 rad like 0.1 ppm and more): at each shift that is tried the
smooth phase of the first echo is fitted too (`first_echo`). The standard error is made of the slopes s_v at the shift that is
found, of each voxel's squared residual, and of the curvature h of their sum,

    se = sqrt(sum s_v^2) / h,

which holds where most fat is noise (the sandwich of Huber 1967): such voxels have slopes, but no curvature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray, IntArray
from hqsm.fatwater.first_echo import LEAST_ECHOES, phase_step, polynomials, without_phase_of_first
from hqsm.fatwater.free_fit import fit_free
from hqsm.fatwater.tissue import Echoes, Tissue

_LEAST_VOXELS, _MOST_VOXELS = 100, 20000
_LEAST_SNR = 15.0
_REACH_PPM = 0.24
"""Half of what is searched: 24 degrees on either side of the temperature that was given."""
_N_TRIED = 9
_N_ROUNDS = 3
"""Fits at each, the first echo's phase moved after each: with one -0.2 ppm beside 0.4 rad are found 0.05 ppm off."""
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
    """The shift at which the echoes of all voxels fit best, with whatever smooth phase of the first echo.

    ``fat_at`` gives the signal of fat (echo,) for a shift of water [ppm]; ``field_hz`` and ``r2star_per_s`` are a fit's.
    """
    voxels, noise_sd = tissue.signal, tissue.noise_sd
    bright = np.flatnonzero((np.abs(voxels[:, 0]) > _LEAST_SNR * noise_sd) & np.isfinite(field_hz))
    nothing = WaterShift(ppm=0.0, se_ppm=np.inf)
    if bright.size < _LEAST_VOXELS or tissue.echo_times_s.size < LEAST_ECHOES:
        return nothing
    chosen = bright[np.unique(np.linspace(0, bright.size - 1, min(bright.size, _MOST_VOXELS)).astype(np.int64))]
    tried = np.linspace(-_REACH_PPM, _REACH_PPM, _N_TRIED)
    residuals = _residuals(tissue, chosen, [fat_at(ppm) for ppm in tried], field_hz[chosen], r2star_per_s[chosen])
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
    before, here, after = residuals[k - 1 : k + 2, known]
    slopes, bends = 0.5 * (after - before), before - 2 * here + after
    bend = float(bends.sum())
    if bend <= 0:
        return nothing
    steps, step_ppm = -float(slopes.sum()) / bend, float(tried[1] - tried[0])
    se_ppm = float(np.linalg.norm(slopes + steps * bends)) / bend * step_ppm
    return WaterShift(ppm=float(tried[k]) + steps * step_ppm, se_ppm=se_ppm)


def _residuals(
    tissue: Tissue, chosen: IntArray, fats: list[ComplexArray], start_hz: FloatArray, start_r2star_per_s: FloatArray
) -> FloatArray:
    """(fat, voxel) squared residuals of the ``chosen`` voxels with each signal of fat (echo,), a smooth phase of the first echo fitted."""
    signal, t = np.ascontiguousarray(tissue.signal[chosen]), tissue.echo_times_s
    everyone, terms = np.arange(chosen.size), polynomials(tissue, chosen)
    phase: FloatArray = np.zeros(terms.shape[1])
    residuals = np.empty((len(fats), chosen.size))
    for row, fat in zip(residuals, fats, strict=True):
        for _ in range(_N_ROUNDS):
            turned = without_phase_of_first(signal, terms @ phase)
            fit = fit_free(everyone, Echoes(turned, t, fat, tissue.noise_sd), start_hz, start_r2star_per_s, True)
            step, _ = phase_step(turned, fit.nonlinear, fit.linear, t, fat, terms)
            phase = phase + step
        row[:] = fit.residual
    return residuals
