"""End-expiration, its drift, and the repetitions that lie in the acceptance window around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import FloatArray, Mask
from hqsm.config.gating import GatingParams

_BANDWIDTH_MM = 1.5
"""Gaussian kernel of the density: the spread of quiet end-expiration."""
_EQUAL_MODES = 0.9
"""Modes whose density differs by less than this share are equal: counts of a few repetitions scatter by more."""
_FEWEST_FOR_DRIFT = 10
_LARGEST_DRIFT_MM = 12.0
_DRIFT_GAIN = 1.25
_FEWEST_GAINED = 2.0
"""A drifting level must gather this much more, and this many repetitions more, than a constant one to be believed.

Quiet breathing without drift then yields a false one in about 3 % of scans."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """The acceptance window.

    Attributes
    ----------
    accepted
        (repetition,) inside the window.
    level_mm
        (repetition,) centre of the window at each repetition: end-expiration, drifting where the window follows.
    width_mm
        Full width.
    drift_mm
        Drift of end-expiration from the first to the last repetition; NaN where too few repetitions tell.
    """

    accepted: Mask
    level_mm: FloatArray
    width_mm: float
    drift_mm: float


def end_expiration_mm(displacement_mm: FloatArray) -> float:
    """Where the diaphragm rests: the mode of the displacement [mm], by a Gaussian kernel density on a 0.1 mm raster.

    Of modes of about equal height the one nearest the head counts (expiration is the upper rest position).
    """
    raster, density = _density(displacement_mm)
    inside = density[1:-1]
    peaks = 1 + np.flatnonzero((inside >= density[:-2]) & (inside > density[2:]))
    high = peaks[density[peaks] >= _EQUAL_MODES * density.max()]
    return float(raster[high[-1]])


def _density(displacement_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Raster [mm] over the displacements and the kernel sum on it: how many repetitions lie there."""
    raster = np.arange(displacement_mm.min() - 1, displacement_mm.max() + 1.05, 0.1)
    distance = (raster[:, None] - displacement_mm[None, :]) / _BANDWIDTH_MM
    return raster, np.exp(-0.5 * distance**2).sum(axis=1)


def end_expiration_drift_mm(displacement_mm: FloatArray, times: FloatArray) -> float:
    """Drift of the end-expiratory level from the first to the last repetition [mm].

    The level is the line on which the repetitions lie most densely: the mode, sought along every slope. NaN for fewer
    than 10 repetitions; 0 where no slope gathers them clearly better than a constant level does.

    Parameters
    ----------
    displacement_mm, times
        (repetition,) finite; ``times`` in any unit.
    """
    if displacement_mm.size < _FEWEST_FOR_DRIFT:
        return float("nan")
    share = (times - times.min()) / np.ptp(times) - 0.5
    slopes_mm = np.arange(-_LARGEST_DRIFT_MM, _LARGEST_DRIFT_MM + 0.25, 0.5)
    height = np.array([_density(displacement_mm - slope * share)[1].max() for slope in slopes_mm])
    # of slopes that do equally well the smallest drift counts
    order = np.lexsort((np.abs(slopes_mm), -np.round(height, 6)))
    best = int(order[0])
    constant = height[np.argmin(np.abs(slopes_mm))]
    if height[best] < max(_DRIFT_GAIN * constant, constant + _FEWEST_GAINED):
        return 0.0
    level_mm = end_expiration_mm(displacement_mm - slopes_mm[best] * share)
    near = np.abs(displacement_mm - slopes_mm[best] * share - level_mm) < 2 * _BANDWIDTH_MM
    spread_over_time = np.histogram(share[near], bins=3, range=(-0.5, 0.5))[0].min() > 0
    return float(slopes_mm[best]) if spread_over_time else 0.0


def choose_window(displacement_mm: FloatArray, times: FloatArray, usable: Mask, params: GatingParams) -> Window:
    """The window around end-expiration and the repetitions inside it.

    Its width starts at ``params.window_mm`` and grows in steps of ``params.window_step_mm`` up to
    ``params.widest_window_mm`` until ``params.wanted_efficiency`` of all repetitions are inside. Where the accepted
    repetitions are shifted back later (``params.follow``), the window follows a drift; else it stays where most are.

    Parameters
    ----------
    displacement_mm
        (repetition,) [mm], positive towards the head.
    times
        (repetition,) time or number of each repetition.
    usable
        (repetition,) displacement known and image sound; at least one.
    """
    drift_mm = end_expiration_drift_mm(displacement_mm[usable], times[usable])
    moving_mm = np.zeros_like(displacement_mm)
    if params.follow != "none" and abs(drift_mm) >= params.smallest_drift_mm:
        first, last = times[usable].min(), times[usable].max()
        moving_mm = drift_mm * ((times - first) / (last - first) - 0.5)
    level_mm = end_expiration_mm((displacement_mm - moving_mm)[usable]) + moving_mm
    width_mm = params.window_mm
    while True:
        accepted = usable & (np.abs(displacement_mm - level_mm) <= width_mm / 2)
        enough = accepted.mean() >= params.wanted_efficiency
        if enough or width_mm + params.window_step_mm > params.widest_window_mm + 1e-9:
            return Window(accepted=accepted, level_mm=level_mm, width_mm=width_mm, drift_mm=drift_mm)
        width_mm += params.window_step_mm
