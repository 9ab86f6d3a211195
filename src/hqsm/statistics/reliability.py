"""Reliability: intraclass correlations with F-based intervals, repeatability, smallest change that can be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.statistics.agreement import Estimate


@dataclass(frozen=True, kw_only=True)
class Icc:
    """One intraclass correlation: its value, the F of its test, and its confidence interval."""

    value: float
    f: float
    df: tuple[float, float]
    p_value: float
    ci_lo: float
    ci_hi: float


def intraclass_correlations(ratings: FloatArray, level: float = 0.95) -> dict[str, Icc]:
    """The six forms of Shrout and Fleiss, Psychol Bull 1979;86:420, with the intervals of McGraw and Wong 1996.

    Parameters
    ----------
    ratings
        (target, rater), complete, at least two of each.

    Returns
    -------
    dict
        ``1`` one-way, ``A,1`` two-way absolute agreement (their ICC(2,1)), ``C,1`` consistency (ICC(3,1)), and the
        means of all raters ``1,k``, ``A,k``, ``C,k``. NaN where nothing varies.
    """
    n, k = ratings.shape
    if n < 2 or k < 2:
        raise ValueError(f"{n} targets and {k} raters: at least two of each are needed")
    grand = ratings.mean()
    rows, columns = ratings.mean(axis=1), ratings.mean(axis=0)
    total = float(((ratings - grand) ** 2).sum())
    ss_rows, ss_columns = float(k * ((rows - grand) ** 2).sum()), float(n * ((columns - grand) ** 2).sum())
    ss_error = float(((ratings - rows[:, None] - columns[None, :] + grand) ** 2).sum())
    msr, msc = ss_rows / (n - 1), ss_columns / (k - 1)
    msw, mse = (total - ss_rows) / (n * (k - 1)), ss_error / ((n - 1) * (k - 1))
    # rounding of identical ratings would otherwise stand in for an error
    tiny = 1e-14 * total
    msw, mse, msc = (0.0 if ms < tiny else ms for ms in (msw, mse, msc))
    alpha = 1 - level
    df1, df2, df3 = float(n - 1), float(n * (k - 1)), float((n - 1) * (k - 1))

    def bounds(f: float, df: float) -> tuple[float, float]:
        return f / stats.f.ppf(1 - alpha / 2, df1, df), f * stats.f.ppf(1 - alpha / 2, df, df1)

    def ratio(above: float, below: float) -> float:
        return above / below if below > 0 else (float("inf") if above > 0 else float("nan"))

    def single(low: float, high: float) -> tuple[float, float]:
        lo, hi = (1.0 if f == float("inf") else (f - 1) / (f + k - 1) for f in (low, high))
        return lo, hi

    def mean(low: float, high: float) -> tuple[float, float]:
        return 1 - ratio(1, low), 1 - ratio(1, high)

    f1, f3 = ratio(msr, msw), ratio(msr, mse)
    one, consistency = bounds(f1, df2), bounds(f3, df3)
    agreement = ratio(msr - mse, msr + (k - 1) * mse + k * (msc - mse) / n)
    agreement_mean = ratio(msr - mse, msr + (msc - mse) / n)
    lo, hi = _agreement_bounds(msr, msc, mse, agreement, n, k, alpha)

    def made(value: float, f: float, df: float, interval: tuple[float, float]) -> Icc:
        p = float(stats.f.sf(f, df1, df))
        return Icc(value=value, f=f, df=(df1, df), p_value=p, ci_lo=float(interval[0]), ci_hi=float(interval[1]))

    def stepped_up(r: float) -> float:  # Spearman-Brown
        return float(k * r / (1 + (k - 1) * r))

    return {
        "1": made(ratio(msr - msw, msr + (k - 1) * msw), f1, df2, single(*one)),
        "A,1": made(agreement, f3, df3, (lo, hi)),
        "C,1": made(ratio(msr - mse, msr + (k - 1) * mse), f3, df3, single(*consistency)),
        "1,k": made(ratio(msr - msw, msr), f1, df2, mean(*one)),
        "A,k": made(agreement_mean, f3, df3, (stepped_up(lo), stepped_up(hi))),
        "C,k": made(ratio(msr - mse, msr), f3, df3, mean(*consistency)),
    }


def _agreement_bounds(msr: float, msc: float, mse: float, icc: float, n: int, k: int, alpha: float) -> tuple[float, float]:
    """Interval of the absolute agreement with Satterthwaite's df (McGraw and Wong, Psychol Methods 1996;1:30)."""
    if mse == 0 and msc == 0:
        return icc, icc
    if mse == 0:
        return float("nan"), float("nan")
    fj = msc / mse
    above = (k - 1) * (n - 1) * (k * icc * fj + n * (1 + (k - 1) * icc) - k * icc) ** 2
    below = (n - 1) * k**2 * icc**2 * fj**2 + (n * (1 + (k - 1) * icc) - k * icc) ** 2
    v = above / below
    upper_f, lower_f = stats.f.ppf(1 - alpha / 2, n - 1, v), stats.f.ppf(1 - alpha / 2, v, n - 1)
    lo = n * (msr - upper_f * mse) / (upper_f * (k * msc + (k * n - k - n) * mse) + n * msr)
    hi = n * (lower_f * msr - mse) / (k * msc + (k * n - k - n) * mse + n * lower_f * msr)
    return float(lo), float(hi)


@dataclass(frozen=True, kw_only=True)
class Repeatability:
    """Scatter of repeat measurements of one unchanged subject, in the unit of the measurement."""

    n_subjects: int
    n_measurements: int
    within_subject_sd: Estimate
    within_subject_cv: float
    """Root mean square of each subject's SD over its mean; NaN where a mean is not positive."""
    icc: Icc | None
    """One-way ICC, where every subject has the same number of measurements."""
    mean_difference: float
    """Mean of (last minus first)."""

    @property
    def repeatability_coefficient(self) -> float:
        """1.96 sqrt(2) wSD = 2.77 wSD: two measurements differ by less in 95 % (Bland and Altman, BMJ 1996;313:744)."""
        return 1.96 * float(np.sqrt(2)) * self.within_subject_sd.value


def repeatability(values: FloatArray, subjects: AnyArray, level: float = 0.95) -> Repeatability:
    """Within-subject SD from the one-way analysis of variance, its interval by chi squared.

    Parameters
    ----------
    values
        (measurement,) in order of time within each subject.
    subjects
        (measurement,) label; subjects with one measurement are left out.
    """
    labels, counts = np.unique(subjects, return_counts=True)
    groups = [values[subjects == label] for label in labels[counts > 1]]
    if not groups:
        raise ValueError("no subject was measured twice")
    df = sum(g.size - 1 for g in groups)
    wsd = float(np.sqrt(sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / df))
    lo, hi = (wsd * float(np.sqrt(df / stats.chi2.ppf(q, df))) for q in (0.5 + level / 2, 0.5 - level / 2))
    positive = all(g.mean() > 0 for g in groups)
    cv = float(np.sqrt(np.mean([g.var(ddof=1) / g.mean() ** 2 for g in groups]))) if positive else float("nan")
    same = len({g.size for g in groups}) == 1 and len(groups) > 1
    return Repeatability(
        n_subjects=len(groups),
        n_measurements=df + len(groups),
        within_subject_sd=Estimate(value=wsd, std_error=wsd / float(np.sqrt(2 * df)), ci_lo=lo, ci_hi=hi),
        within_subject_cv=cv,
        icc=intraclass_correlations(np.stack(groups), level)["1"] if same else None,
        mean_difference=float(np.mean([g[-1] - g[0] for g in groups])),
    )
