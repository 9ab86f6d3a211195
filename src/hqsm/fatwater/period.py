"""Differences of fields that are angles: with evenly spaced echoes a whole period changes no signal.

``period_hz`` is infinite where echoes are uneven: nothing is folded then.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.compiled import njit


def period_hz(echo_times_s: FloatArray) -> float:
    """What a field may be changed by without changing the signal of evenly spaced echoes; infinite where they are uneven."""
    spacings_s = np.diff(echo_times_s)
    return 1 / float(spacings_s.mean()) if np.allclose(spacings_s, spacings_s.min(), rtol=0.02) else np.inf


def folded(difference_hz: FloatArray, period_hz: float) -> FloatArray:
    """The differences, whole periods taken off: within half a period of nothing."""
    return difference_hz - period_hz * np.round(difference_hz / period_hz) if np.isfinite(period_hz) else difference_hz


@njit(inline="always")
def fold(difference: float, period: float) -> float:  # pragma: no cover - compiled
    """One difference, whole periods taken off."""
    return difference - period * np.round(difference / period) if period < np.inf else difference


@njit(inline="always")
def apart(a: float, b: float, period: float) -> float:  # pragma: no cover - compiled
    """Distance of two fields, both within one period."""
    difference = abs(a - b)
    return min(difference, abs(period - difference))
