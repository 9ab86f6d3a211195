"""Two images that are taken for parts of one, but were made elsewhere or at another time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SAME_TIME_S = 0.5
"""Parts of one image are reconstructed from one acquisition; their times differ by rounding only."""
TWO_RUNS_S = 10.0
"""Two runs of a multi-echo sequence begin further apart."""
_WORDS = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber")
_NUMBERS = {"MagneticFieldStrength": 1e-2, "ImagingFrequency": 1e-4}
"""How far two statements of one scan may differ, relatively: a nominal strength is rounded, a frequency is adjusted once a scan."""


def scanner_differences(one: Callable[[str], Any], other: Callable[[str], Any]) -> list[str]:
    """Attributes, by their DICOM keywords, in which two headers name different scanners; one that either lacks says nothing."""
    found = []
    for name in (*_WORDS, *_NUMBERS):
        a, b = (str(get(name) or "").strip().casefold() for get in (one, other))
        if not a or not b or a == b:
            continue
        tolerance = _NUMBERS.get(name)
        try:
            close = tolerance is not None and bool(np.isclose(float(a), float(b), rtol=tolerance, atol=0))
        except ValueError:
            close = False
        if not close:
            found.append(name)
    return found
