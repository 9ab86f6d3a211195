"""Two correlations that share a variable: which is larger."""

from __future__ import annotations

import numpy as np
from scipy import stats


def williams(r_jk: float, r_jh: float, r_kh: float, n: int) -> tuple[float, float]:
    """Williams' t for r_jk = r_jh (Steiger, Psychol Bull 1980;87:245) and its two-sided p; n - 3 df."""
    determinant = 1 + 2 * r_jk * r_jh * r_kh - r_jk**2 - r_jh**2 - r_kh**2
    mean = (r_jk + r_jh) / 2
    scale = (n - 1) * (1 + r_kh) / (2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - r_kh) ** 3)
    t = (r_jk - r_jh) * np.sqrt(scale)
    return float(t), float(2 * stats.t.sf(abs(t), n - 3))


def steiger(r_jk: float, r_jh: float, r_kh: float, n: int) -> tuple[float, float]:
    """Steiger's z with pooled correlations (Psychol Bull 1980;87:245) and its two-sided p."""
    mean = (r_jk + r_jh) / 2
    covariance = r_kh * (1 - 2 * mean**2) - mean**2 / 2 * (1 - 2 * mean**2 - r_kh**2)
    c = covariance / (1 - mean**2) ** 2
    z = (np.arctanh(r_jk) - np.arctanh(r_jh)) * np.sqrt(n - 3) / np.sqrt(2 - 2 * c)
    return float(z), float(2 * stats.norm.sf(abs(z)))


def zou_interval(r_jk: float, r_jh: float, r_kh: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of r_jk - r_jh (Zou, Psychol Methods 2007;12:399)."""
    half = stats.norm.ppf(0.5 + level / 2) / np.sqrt(n - 3)
    l1, u1 = np.tanh(np.arctanh(r_jk) - half), np.tanh(np.arctanh(r_jk) + half)
    l2, u2 = np.tanh(np.arctanh(r_jh) - half), np.tanh(np.arctanh(r_jh) + half)
    c = ((r_kh - r_jk * r_jh / 2) * (1 - r_jk**2 - r_jh**2 - r_kh**2) + r_kh**3) / ((1 - r_jk**2) * (1 - r_jh**2))
    low = r_jk - r_jh - np.sqrt((r_jk - l1) ** 2 + (u2 - r_jh) ** 2 - 2 * c * (r_jk - l1) * (u2 - r_jh))
    high = r_jk - r_jh + np.sqrt((u1 - r_jk) ** 2 + (r_jh - l2) ** 2 - 2 * c * (u1 - r_jk) * (r_jh - l2))
    return float(low), float(high)
