"""Two methods that measure the same quantity: Bland-Altman, Deming, Passing-Bablok, concordance.

``x`` is the reference method, ``y`` the new one; both (specimen,), same unit, without missing values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from hqsm.arrays import FloatArray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error (NaN where the method has none) and confidence interval."""

    value: float
    std_error: float
    ci_lo: float
    ci_hi: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """y = intercept + slope * x, estimated where both are measured with error."""

    slope: Estimate
    intercept: Estimate
    covariance: float = float("nan")
    """Of the errors of slope and intercept; NaN where the method has no standard errors."""


@dataclass(frozen=True, kw_only=True)
class BlandAltman:
    """Differences y - x: their mean, SD and limits of agreement, in the unit of x and y."""

    n: int
    bias: Estimate
    sd: float
    lower_limit: Estimate
    upper_limit: Estimate


def bland_altman(x: FloatArray, y: FloatArray, level: float = 0.95, multiple: float = 1.96) -> BlandAltman:
    """Bland and Altman, Lancet 1986;1:307, with their approximate interval of a limit: SE = sqrt(3 SD^2 / n).

    ``multiple`` is the number of SDs from the bias to a limit (their paper prints 2).
    """
    difference = y - x
    n = difference.size
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    t = float(stats.t.ppf(0.5 + level / 2, n - 1))

    def around(value: float, error: float) -> Estimate:
        return Estimate(value=value, std_error=error, ci_lo=value - t * error, ci_hi=value + t * error)

    limit_error = float(np.sqrt(3 * sd**2 / n))
    return BlandAltman(
        n=n,
        bias=around(bias, sd / np.sqrt(n)),
        sd=sd,
        lower_limit=around(bias - multiple * sd, limit_error),
        upper_limit=around(bias + multiple * sd, limit_error),
    )


def deming_line(x: FloatArray, y: FloatArray, error_ratio: float = 1.0) -> tuple[float, float]:
    """Slope and intercept of Deming's regression.

    ``error_ratio`` is the variance of the error of y over that of x, lambda (Fuller, Measurement Error Models 1987,
    section 1.3): slope = (s_yy - lambda s_xx + sqrt((s_yy - lambda s_xx)^2 + 4 lambda s_xy^2)) / (2 s_xy).
    Large lambda tends to the regression of y on x.
    """
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy, sxy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    if sxy == 0:
        return float("nan"), float("nan")
    part = syy - error_ratio * sxx
    slope = (part + np.sqrt(part**2 + 4 * error_ratio * sxy**2)) / (2 * sxy)
    return float(slope), float(y.mean() - slope * x.mean())


def deming(x: FloatArray, y: FloatArray, error_ratio: float = 1.0, level: float = 0.95) -> Line:
    """Deming's line with jackknife standard errors and t intervals, n - 2 df (Linnet, Stat Med 1990;9:1463)."""
    n = x.size
    full = np.array(deming_line(x, y, error_ratio))
    keep = ~np.eye(n, dtype=bool)
    left_out = np.array([deming_line(x[k], y[k], error_ratio) for k in keep])
    pseudo = n * full - (n - 1) * left_out
    errors = pseudo.std(axis=0, ddof=1) / np.sqrt(n)
    half = stats.t.ppf(0.5 + level / 2, n - 2) * errors
    slope, intercept = (
        Estimate(value=float(v), std_error=float(e), ci_lo=float(v - h), ci_hi=float(v + h))
        for v, e, h in zip(full, errors, half, strict=True)
    )
    return Line(slope=slope, intercept=intercept, covariance=float(np.cov(pseudo, rowvar=False)[0, 1] / n))


def passing_bablok(x: FloatArray, y: FloatArray, level: float = 0.95) -> Line:
    """Passing and Bablok's regression for a positive relation (J Clin Chem Clin Biochem 1983;21:709).

    The slopes of all pairs, those of -1 and of identical points left out; the median is shifted by the number of slopes
    below -1. Values are positive quantities (concentrations), not differences.

    Raises
    ------
    ValueError
        If fewer than three slopes are left.
    """
    n = x.size
    i, j = np.triu_indices(n, 1)
    dx, dy = x[j] - x[i], y[j] - y[i]
    distinct = (dx != 0) | (dy != 0)
    dx, dy = dx[distinct], dy[distinct]
    with np.errstate(divide="ignore"):
        # a vertical pair has an infinite slope with the sign of its rise
        slopes = np.where(dx == 0, np.sign(dy) * np.inf, dy / np.where(dx == 0, 1, dx))
    slopes = np.sort(slopes[slopes != -1])
    if slopes.size < 3:
        raise ValueError("too few distinct pairs for Passing and Bablok's regression")
    offset = int((slopes < -1).sum())
    count = slopes.size
    middle = (count + 1) / 2 + offset
    slope = float((slopes[_rank(np.floor(middle), count)] + slopes[_rank(np.ceil(middle), count)]) / 2)
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = np.rint((count - half) / 2)
    lo, hi = (float(slopes[_rank(rank + offset, count)]) for rank in (first, count - first + 1))
    nan = float("nan")
    intercept, upper, lower = (float(np.median(y - b * x)) for b in (slope, lo, hi))
    return Line(
        slope=Estimate(value=slope, std_error=nan, ci_lo=lo, ci_hi=hi),
        intercept=Estimate(value=intercept, std_error=nan, ci_lo=lower, ci_hi=upper),
    )


def _rank(position: float, count: int) -> int:
    """Index of an order statistic given by its rank from one, kept within the sample."""
    return int(np.clip(position, 1, count)) - 1


def concordance(x: FloatArray, y: FloatArray, level: float = 0.95) -> Estimate:
    """Lin's concordance correlation coefficient with its interval by Fisher's z.

    Lin, Biometrics 1989;45:255, standard error as corrected in Biometrics 2000;56:324 (moments over n).
    """
    n = x.size
    sx, sy = float(x.std()), float(y.std())
    shift = float(y.mean() - x.mean())
    if sx == 0 or sy == 0:
        nan = float("nan")
        return Estimate(value=0.0 if shift or sx != sy else nan, std_error=nan, ci_lo=nan, ci_hi=nan)
    r = float(np.corrcoef(x, y)[0, 1])
    ccc = 2 * r * sx * sy / (sx**2 + sy**2 + shift**2)
    if abs(ccc) >= 1 - 1e-12 or r == 0:
        return Estimate(value=ccc, std_error=0.0, ci_lo=ccc, ci_hi=ccc)
    u2 = shift**2 / (sx * sy)
    variance = (
        (1 - r**2) * ccc**2 / ((1 - ccc**2) * r**2)
        + 2 * ccc**3 * (1 - ccc) * u2 / (r * (1 - ccc**2) ** 2)
        - ccc**4 * u2**2 / (2 * r**2 * (1 - ccc**2) ** 2)
    ) / (n - 2)
    error = float(np.sqrt(variance))
    half = stats.norm.ppf(0.5 + level / 2) * error
    z = np.arctanh(ccc)
    return Estimate(value=ccc, std_error=error * (1 - ccc**2), ci_lo=float(np.tanh(z - half)), ci_hi=float(np.tanh(z + half)))


def error_variance_ratio(y_sd: FloatArray, x_sd: FloatArray) -> float:
    """Deming's lambda from replicates: mean variance of y over mean variance of x; NaN where either is unknown."""
    known = np.isfinite(y_sd) & np.isfinite(x_sd)
    if not known.any() or not (x_sd[known] > 0).any():
        return float("nan")
    return float(np.mean(y_sd[known] ** 2) / np.mean(x_sd[known] ** 2))
