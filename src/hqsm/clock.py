"""The clock of a scan, which headers and logs give as the time of day."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.units import DAY_S


def past_midnight_s(times_of_day_s: FloatArray) -> FloatArray:
    """Times of day [s] of one scan on a clock that goes on at midnight; NaN stays.

    A scan does not take half a day: where its times lie further apart, the early ones are the next morning's.
    """
    known = times_of_day_s[np.isfinite(times_of_day_s)]
    if not known.size or np.ptp(known) < DAY_S / 2:
        return times_of_day_s
    return np.where(times_of_day_s < DAY_S / 2, times_of_day_s + DAY_S, times_of_day_s)
