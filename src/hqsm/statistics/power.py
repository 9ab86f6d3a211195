"""What a study of a given size can tell: its design simulated, analysed as the study is, many times over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.comparison import accuracy, cluster_bootstrap
from hqsm.statistics.regression import TERMS, ols_cluster

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A study of annual change and the truth that is put into it.

    Attributes
    ----------
    participants, visits
        Thalassaemia participants, and annual visits of each.
    missing_share
        Share of the visits that are lost (0 to 1).
    scan_sd_mg_g
        Within-subject SD of one LIC measurement by method [mg/g]: the scatter of repeat scans.
    iron_mean_mg_kg, iron_sd_mg_kg
        Transfused iron per year over participants [mg/kg/year], its SD between them; within a participant half of it.
    chelator_mean_g_kg, chelator_sd_g_kg
        Chelator per year [g/kg/year], likewise.
    efficiency, efficiency_sd
        Share of the chelator's capacity that takes out iron, and its SD between participants.
    biology_sd_mg_g
        SD of the true annual change about the iron balance [mg/g/year].
    """

    participants: int = 42
    visits: int = 3
    missing_share: float = 0.1
    scan_sd_mg_g: Mapping[str, float]
    iron_mean_mg_kg: float = 120.0
    iron_sd_mg_kg: float = 26.0
    chelator_mean_g_kg: float = 6.3
    chelator_sd_g_kg: float = 1.6
    efficiency: float = 0.25
    efficiency_sd: float = 0.03
    biology_sd_mg_g: float = 0.5


def simulate_study(design: Design, params: StatisticsParams, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, AnyArray]:
    """One study: design matrix (interval, term), annual change (interval, method) [mg/g/year], participant (interval,).

    Measurement errors belong to visits, so that successive intervals share one with opposite signs. An interval needs
    both of its visits.
    """
    n, k = design.participants, design.visits - 1

    def yearly(mean: float, sd: float) -> FloatArray:
        return np.maximum(rng.normal(mean, sd, (n, 1)) + rng.normal(0, sd / 2, (n, k)), 0)

    iron = yearly(design.iron_mean_mg_kg, design.iron_sd_mg_kg)
    chelator = yearly(design.chelator_mean_g_kg, design.chelator_sd_g_kg)
    efficiency = rng.normal(design.efficiency, design.efficiency_sd, (n, 1))
    net = iron - efficiency * params.chelator_capacity_mg_per_g * chelator
    truth = net / params.body_iron_per_lic_mg_per_kg + rng.normal(0, design.biology_sd_mg_g, (n, k))
    errors = [rng.normal(0, sd, (n, design.visits)) for sd in design.scan_sd_mg_g.values()]
    there = rng.random((n, design.visits)) >= design.missing_share
    usable = there[:, 1:] & there[:, :-1]
    change = np.stack([(truth + np.diff(e, axis=1))[usable] for e in errors], axis=1)
    participant = np.repeat(np.arange(n)[:, None], k, axis=1)[usable]
    return np.stack([np.ones(int(usable.sum())), iron[usable], chelator[usable]], axis=1), change, participant


def power_rows(design: Design, params: StatisticsParams, *, simulations: int, draws: int, seed: int) -> list[Row]:
    """Rows of power.tsv: of each coefficient and of the difference of the methods, what such studies would say.

    ``ci_width`` is the median width of the interval; ``coverage`` how often it contains the truth (of a difference: the mean
    of its estimates); ``power`` how often it excludes zero.
    """
    rng = np.random.default_rng(seed)
    methods = list(design.scan_sd_mg_g)
    slope = design.efficiency * params.chelator_capacity_mg_per_g / params.body_iron_per_lic_mg_per_kg
    truths = {"intercept": 0.0, "iron_in": 1 / params.body_iron_per_lic_mg_per_kg, "chelator": -slope}
    collected: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    intervals = []
    tail = 100 * (1 - params.confidence_level) / 2
    for _ in range(simulations):
        x, y, who = simulate_study(design, params, rng)
        intervals.append(len(x))
        for m, method in enumerate(methods):
            fit = ols_cluster(x, y[:, m], who)
            lo, hi = fit.interval(params.confidence_level)
            for t, term in enumerate(TERMS):
                collected.setdefault((method, term), []).append((fit.coefficients[t], lo[t], hi[t]))
        if len(methods) == 2:
            drawn = cluster_bootstrap(x, y, who, draws, int(rng.integers(2**31)))
            for name, full, sample in zip(("delta_r_squared", "delta_rmse_mg_g_per_year"), accuracy(x, y), drawn, strict=True):
                difference = sample[:, 0] - sample[:, 1]
                lo, hi = np.nanpercentile(difference, [tail, 100 - tail])
                collected.setdefault((f"{methods[0]}_minus_{methods[1]}", name), []).append((full[0] - full[1], lo, hi))
    rows: list[Row] = []
    for (method, quantity), values in collected.items():
        estimate, low, high = np.array(values).T
        truth = truths.get(quantity, float(estimate.mean()))
        rows.append(
            {
                "method": method,
                "quantity": quantity,
                "truth": truths.get(quantity, float("nan")),
                "mean_estimate": float(estimate.mean()),
                "sd_estimate": float(estimate.std(ddof=1)),
                "ci_width": float(np.median(high - low)),
                "coverage": float(np.mean((low <= truth) & (truth <= high))),
                "power": float(np.mean((low > 0) | (high < 0))),
                "n_intervals": float(np.mean(intervals)),
                "n_simulations": simulations,
            }
        )
    return rows
