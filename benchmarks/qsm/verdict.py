"""Whether a target is met, or missed by how much."""

from __future__ import annotations

import numpy as np


def verdict(value: float, lowest: float, highest: float, unit: str = "", digits: int = 3) -> str:
    """``met``, or ``MISSED by`` what ``value`` lies below ``lowest`` or above ``highest``."""
    if not np.isfinite(value):
        return "not measured"
    short = max(lowest - value, value - highest)
    return "met" if short <= 0 else f"MISSED by {short:.{digits}f}{unit and ' ' + unit}"


def verdict_of_share(inside: int, n: int, lowest: float, highest: float) -> str:
    """The same of a share that is counted: a share of few is told apart from one within the limits only beyond two standard errors."""
    share = inside / n
    nearest = float(np.clip(share, lowest, highest))
    if abs(share - nearest) <= 2 * np.sqrt(nearest * (1 - nearest) / n):
        return "met" if share == nearest else f"met within what {n} tell"
    return verdict(100 * share, 100 * lowest, 100 * highest, "%", 0)
