"""The study's own calibration: from susceptibility to LIC, by explants or by the iron balance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.errors import ProcessingError
from hqsm.statistics.agreement import Estimate, deming, error_variance_ratio
from hqsm.statistics.regression import ols_cluster

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """LIC [mg/g dry] = intercept + slope * chi_hqsm [ppm], and what it was made from.

    ``reconstruction_digest`` names code and parameters of the maps it holds for, ``reference_tissue`` their zero.
    """

    slope_mg_g_per_ppm: Estimate
    intercept_mg_g: Estimate
    covariance: float
    """Of the errors of slope and intercept [(mg/g)^2/ppm]."""
    n: int
    reference_tissue: str
    reconstruction_digest: str
    source: str

    @property
    def centre(self) -> tuple[float, float]:
        """Susceptibility [ppm] at which the line's value errs independently of its slope, and that value's standard error [mg/g].

        Elsewhere Var(LIC) = Var(centre) + (chi - centre)^2 Var(slope), as Var(a + b chi) = Var(a) + 2 chi Cov + chi^2 Var(b).
        """
        slope_variance = self.slope_mg_g_per_ppm.std_error**2
        if slope_variance == 0:
            return 0.0, self.intercept_mg_g.std_error
        at_ppm = -self.covariance / slope_variance
        return at_ppm, float(np.sqrt(max(self.intercept_mg_g.std_error**2 - at_ppm**2 * slope_variance, 0.0)))


def one_reconstruction(lic: pd.DataFrame) -> tuple[str, str]:
    """Reference tissue and reconstruction digest that all rows of lic.tsv share.

    Raises
    ------
    ProcessingError
        ``CALIBRATION_MIXED``: the rows were made by several; a calibration holds for one.
    """
    for column, what in (("reference_tissue", "reference tissues"), ("reconstruction_digest", "reconstructions")):
        found = sorted(set(lic[column]))
        if len(found) != 1:
            raise ProcessingError(
                f"The measurements come from {len(found)} {what}: {', '.join(found) or 'none'}.",
                remedy="Run the workflow again, so that all visits have the same, or exclude the others.",
                code="CALIBRATION_MIXED",
            )
    return str(lic["reference_tissue"].iloc[0]), str(lic["reconstruction_digest"].iloc[0])


def from_explants(lic: pd.DataFrame, explants: pd.DataFrame, setting: str, scan_sd_ppm: float, params: StatisticsParams) -> Calibration:
    """Deming's line of chemical LIC on susceptibility.

    Parameters
    ----------
    lic, explants
        Tables lic.tsv and explants.tsv.
    setting
        ``in_vivo`` or ``in_vitro``: calibrations of a living and of a fixed or cold liver are not the same.
    scan_sd_ppm
        Within-subject SD of susceptibility from repeat scans [ppm]; NaN without any. With the SD of the replicates it gives the
        ratio of error variances; else both errors are taken in proportion to their spreads, with the configured ratio.
    """
    part = explants[(explants["setting"] == setting) & (explants["method"] == "hqsm")]
    joined = part.merge(lic, on=["participant_id", "session_id"], suffixes=("", "_visit"))
    joined = joined[np.isfinite(joined[["chi_hqsm_ppm", "lic_chemistry_mg_g"]].to_numpy(float)).all(axis=1)]
    if len(joined) < 5:
        raise ProcessingError(
            f"{len(joined)} specimens with chemistry and susceptibility {setting.replace('_', ' ')} are too few for a line.",
            remedy="Measure at least five.",
            code="CALIBRATION_TOO_FEW",
        )
    tissue, digest = one_reconstruction(joined)
    chi, chemistry = joined["chi_hqsm_ppm"].to_numpy(float), joined["lic_chemistry_mg_g"].to_numpy(float)
    chemistry_sd = joined["lic_chemistry_sd_mg_g"].to_numpy(float) / np.sqrt(np.maximum(joined["n_replicates"].to_numpy(float), 1))
    ratio = error_variance_ratio(chemistry_sd, np.full(len(joined), scan_sd_ppm))
    if not (np.isfinite(ratio) and ratio > 0):
        ratio = float(chemistry.var() / chi.var()) / params.deming_error_ratio
    line = deming(chi, chemistry, ratio, params.confidence_level)
    return Calibration(
        slope_mg_g_per_ppm=line.slope,
        intercept_mg_g=line.intercept,
        covariance=line.covariance,
        n=len(joined),
        reference_tissue=tissue,
        reconstruction_digest=digest,
        source=f"Deming regression on {len(joined)} explants, {setting.replace('_', ' ')}",
    )


def balance_slope(design: FloatArray, chi_change: FloatArray, clusters: AnyArray, params: StatisticsParams) -> Estimate:
    """Slope of LIC on susceptibility [mg/g per ppm] from the iron balance.

    Susceptibility rises by b ppm per mg/kg of transfused iron, LIC by 1/10.6 mg/g (Angelucci 2000): the slope is
    1 / (10.6 b). Its interval is that of b (CR2), turned over.

    Parameters
    ----------
    design
        (interval, term): intercept, iron in [mg/kg/year], chelator [g/kg/year].
    chi_change
        (interval,) annual change of susceptibility [ppm/year].
    """
    fit = ols_cluster(design, chi_change, clusters)
    lo, hi = (float(end[1]) for end in fit.interval(params.confidence_level))
    if lo <= 0:
        raise ProcessingError(
            "The rise of susceptibility with transfused iron is not distinguishable from none, so that it gives no scale.",
            remedy="Calibrate with explants, or with more intervals.",
            code="CALIBRATION_TOO_FEW",
        )
    b, scale = float(fit.coefficients[1]), 1 / params.body_iron_per_lic_mg_per_kg
    error = scale / b**2 * float(fit.standard_errors[1])
    return Estimate(value=scale / b, std_error=error, ci_lo=scale / hi, ci_hi=scale / lo)


def from_balance(lic: pd.DataFrame, annual_change: pd.DataFrame, params: StatisticsParams) -> Calibration:
    """Slope by the iron balance, intercept by the healthy livers (LIC ``healthy_lic_mg_g`` at their mean susceptibility)."""
    usable = lic[lic["qc_status"].isin(["ok", "warning"]) & (lic["specimen"] == "in_vivo")]
    chi = {(r["participant_id"], r["session_id"]): r["chi_hqsm_ppm"] for r in usable.to_dict(orient="records")}
    frame = annual_change[annual_change["included"] == 1]
    ends = [
        [chi.get((row["participant_id"], row[end]), np.nan) for end in ("start_session", "end_session")]
        for row in frame.to_dict(orient="records")
    ]
    values = np.array(ends, float).reshape(-1, 2)
    known = np.isfinite(values).all(axis=1)
    frame, values = frame[known], values[known]
    if len(frame) < 6 or frame["participant_id"].nunique() < 3:
        raise ProcessingError(
            f"{len(frame)} annual intervals with susceptibility are too few for a scale.",
            remedy="Calibrate with explants, or with more intervals.",
            code="CALIBRATION_TOO_FEW",
        )
    rate = 365.25 * (values[:, 1] - values[:, 0]) / frame["days"].to_numpy(float)
    x = np.column_stack([np.ones(len(frame)), frame[["iron_in_mg_per_kg_per_year", "chelator_g_per_kg_per_year"]].to_numpy(float)])
    slope = balance_slope(x, rate, frame["participant_id"].to_numpy(), params)
    healthy = usable[(usable["group"] == "healthy") & np.isfinite(usable["chi_hqsm_ppm"].to_numpy(float))]
    used = usable[usable["participant_id"].isin(set(frame["participant_id"]) | set(healthy["participant_id"]))]
    tissue, digest = one_reconstruction(used)
    intercept, covariance = healthy_intercept(slope, healthy, params)
    return Calibration(
        slope_mg_g_per_ppm=slope,
        intercept_mg_g=intercept,
        covariance=covariance,
        n=len(frame),
        reference_tissue=tissue,
        reconstruction_digest=digest,
        source=f"iron balance of {len(frame)} intervals, {healthy['participant_id'].nunique()} healthy livers",
    )


def with_healthy_intercept(calibration: Calibration, lic: pd.DataFrame, params: StatisticsParams) -> Calibration:
    """The same slope with the intercept of the healthy livers of lic.tsv, of usable visits and the same reconstruction."""
    usable = lic[(lic["group"] == "healthy") & (lic["specimen"] == "in_vivo") & lic["qc_status"].isin(["ok", "warning"])]
    healthy = usable.dropna(subset=["chi_hqsm_ppm"])
    names = ["reference_tissue", "reconstruction_digest"]
    one_reconstruction(pd.concat([healthy[names], pd.DataFrame([{name: getattr(calibration, name) for name in names}])]))
    intercept, covariance = healthy_intercept(calibration.slope_mg_g_per_ppm, healthy, params)
    source = f"{calibration.source}; intercept from healthy livers"
    return replace(calibration, intercept_mg_g=intercept, covariance=covariance, source=source)


def healthy_intercept(slope: Estimate, healthy: pd.DataFrame, params: StatisticsParams) -> tuple[Estimate, float]:
    """Intercept that gives healthy livers their assumed LIC, and the covariance of its error with the slope's.

    Its error is that of slope and mean susceptibility.

    The interval joins those of slope and mean, each with its own degrees of freedom (Zou and Donner, Stat Med 2008;27:1693).
    """
    means = healthy.groupby("participant_id")["chi_hqsm_ppm"].mean().to_numpy(float)
    if means.size < 2:
        raise ProcessingError(
            f"{means.size} healthy livers are too few for the intercept.",
            remedy="Scan healthy controls, or calibrate with explants.",
            code="CALIBRATION_TOO_FEW",
        )
    chi, chi_error = float(means.mean()), float(means.std(ddof=1) / np.sqrt(means.size))
    value = params.healthy_lic_mg_g - slope.value * chi
    error = float(np.hypot(chi * slope.std_error, slope.value * chi_error))
    of_mean = slope.value * float(stats.t.ppf(0.5 + params.confidence_level / 2, means.size - 1)) * chi_error
    # a steeper slope lowers the intercept where healthy livers lie above the reference tissue, and raises it below
    of_slope = sorted((chi * (slope.value - slope.ci_lo), chi * (slope.value - slope.ci_hi)))
    intercept = Estimate(
        value=value,
        std_error=error,
        ci_lo=value - float(np.hypot(of_slope[0], of_mean)),
        ci_hi=value + float(np.hypot(of_slope[1], of_mean)),
    )
    return intercept, -chi * slope.std_error**2
