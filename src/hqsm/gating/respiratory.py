"""A bellows waveform becomes the displacement of each repetition, if its clock and the images allow it.

A bellows measures the girth of the belly in arbitrary units: its size in mm and its sign come from the images where they
show the motion, else from an assumed excursion, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.config.gating import GatingParams
from hqsm.data import RespiratoryLog

_FEWEST_TO_CALIBRATE = 4
_SMALLEST_MOTION_MM = 1.5
"""SD of the image-derived displacement below which there is no motion to calibrate with."""
_AGREEMENT = 0.5
"""Share of the image-derived displacement's variance that a bellows on the right clock explains at least."""
_LARGEST_LAG_S = 10.0
_CLOCK_TOLERANCE_S = 5.0
"""Recording unit and scanner are synchronised daily; logs of healthy systems differ by 1 to 2 s."""
_CHANCE_AGREEMENT = 0.85
_FEWEST_FOR_CLOCK = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class BellowsDisplacement:
    """What a respiratory log says.

    ``displacement_mm`` (repetition,) is None where the log does not fit the images' clock; ``codes`` and ``notes`` say why.
    """

    displacement_mm: FloatArray | None
    codes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def displacement_from_bellows(
    log: RespiratoryLog, repetition_times_of_day_s: FloatArray, images_mm: FloatArray, params: GatingParams
) -> BellowsDisplacement:
    """Displacement of each repetition [mm], positive towards the head, from a waveform on the scanner's clock.

    Parameters
    ----------
    log
        The waveform.
    repetition_times_of_day_s
        (repetition,) AcquisitionTime of each repetition.
    images_mm
        (repetition,) image-derived displacement for scale, sign and a check of the clock; NaN where unknown.
    params
        Averaging window and assumed excursion.
    """
    times_s = log.on_its_clock_s(repetition_times_of_day_s)
    values = _at(log, times_s, params.bellows_window_s)
    known = np.isfinite(values)
    notes: list[str] = []
    codes: list[str] = []
    if np.isfinite(log.clock_offset_s):
        notes.append(f"The recording unit's clock differs from the scanner's by {log.clock_offset_s:+.2f} s.")
        if abs(log.clock_offset_s) > _CLOCK_TOLERANCE_S:
            codes.append("GATING_PHYSIO_CLOCK")
    if not known.any():
        begin, end = log.times_of_day_s[[0, -1]]
        notes.append(
            f"The respiratory log runs from {begin:.1f} to {end:.1f} s, the repetitions from {np.nanmin(times_s):.1f} to "
            f"{np.nanmax(times_s):.1f} s of the day: another scan's log, or a clock that is off. It is not used."
            if np.isfinite(times_s).any()
            else "The images carry no acquisition time, so that the respiratory log cannot be matched. It is not used."
        )
        return BellowsDisplacement(displacement_mm=None, codes=("GATING_PHYSIO_CLOCK",), notes=tuple(notes))
    both = known & np.isfinite(images_mm)
    moves = both.sum() >= _FEWEST_TO_CALIBRATE and images_mm[both].std() > _SMALLEST_MOTION_MM and values[both].std() > 0
    if moves and _explained(values[both], images_mm[both]) >= _AGREEMENT:
        slope, intercept = np.polyfit(values[both], images_mm[both], 1)
        notes.append(f"Scale of the bellows signal from the images: {slope:+.4g} mm per unit.")
        return BellowsDisplacement(displacement_mm=slope * values + intercept, codes=tuple(codes), notes=tuple(notes))
    if both.sum() >= _FEWEST_FOR_CLOCK and moves:
        lags_s = np.arange(-_LARGEST_LAG_S, _LARGEST_LAG_S + 0.05, 0.1)
        explained = [_explained_at(log, times_s + lag, images_mm, params.bellows_window_s) for lag in lags_s]
        best = int(np.argmax(explained))
        if explained[best] >= _CHANCE_AGREEMENT:
            notes.append(f"The log fits the images only when moved by {lags_s[best]:+.1f} s: the clocks differ. It is not used.")
            return BellowsDisplacement(displacement_mm=None, codes=("GATING_PHYSIO_CLOCK",), notes=tuple(notes))
    low, high = np.nanpercentile(log.values, [5, 95])
    if not high > low:
        notes.append("The respiratory log is flat. It is not used.")
        return BellowsDisplacement(displacement_mm=None, codes=("GATING_PHYSIO_FLAT",), notes=tuple(notes))
    codes.append("GATING_BELLOWS_SCALE_ASSUMED")
    notes.append(f"The bellows' 5th to 95th percentile is taken for {params.bellows_excursion_mm:g} mm; the images cannot say.")
    # the belt is stretched in inspiration, when the diaphragm is low
    return BellowsDisplacement(
        displacement_mm=-(values - low) / (high - low) * params.bellows_excursion_mm, codes=tuple(codes), notes=tuple(notes)
    )


def _at(log: RespiratoryLog, times_s: FloatArray, window_s: float) -> FloatArray:
    """(repetition,) mean of the waveform from each time on; NaN where the log does not cover it."""
    out = np.full(times_s.size, np.nan)
    for r, start_s in enumerate(times_s):
        if np.isfinite(start_s) and log.times_of_day_s[0] <= start_s <= log.times_of_day_s[-1]:
            first, last = np.searchsorted(log.times_of_day_s, [start_s, start_s + window_s])
            part = log.values[first : max(last, first + 1)]
            if np.isfinite(part).any():
                out[r] = np.nanmean(part)
    return out


def _explained(values: FloatArray, images_mm: FloatArray) -> float:
    if values.std() == 0 or images_mm.std() == 0:
        return 0.0
    return float(np.corrcoef(values, images_mm)[0, 1] ** 2)


def _explained_at(log: RespiratoryLog, times_s: FloatArray, images_mm: FloatArray, window_s: float) -> float:
    values = _at(log, times_s, window_s)
    both = np.isfinite(values) & np.isfinite(images_mm)
    return _explained(values[both], images_mm[both]) if both.sum() >= _FEWEST_FOR_CLOCK else 0.0
