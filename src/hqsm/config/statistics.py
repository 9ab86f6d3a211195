"""Parameters of the analyses; the pre-specified choices of the study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters

SensitivityAnalysis = Literal[
    "first_interval", "random_intercept", "measured_haematocrit", "adherence_corrected", "baseline_lic", "age", "splenectomy", "interaction"
]


@parameters
class StatisticsParams:
    """Everything that an analysis needs to be told beforehand."""

    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of every confidence interval."""
    bootstrap_draws: Annotated[int, Field(ge=200, le=1_000_000)] = 10_000
    """Draws of the participant-cluster bootstrap."""
    bootstrap_seed: Annotated[int, Field(ge=0)] = 20191122
    """Seed of the bootstrap; fixed, so that a table is the same every time."""
    body_iron_per_lic_mg_per_kg: Annotated[float, Field(gt=5, lt=20)] = 10.6
    """Body iron [mg/kg] per LIC [mg/g dry] (Angelucci et al., NEJM 2000;343:327); expected iron slope is 1 over it."""
    chelator_capacity_mg_per_g: Annotated[float, Field(gt=0)] = 74.79
    """Iron that 1 g of deferasirox can bind [mg/g]: 55.845 / (2 x 373.36)."""
    net_balance_chelator_slope: Annotated[float, Field(gt=0, lt=7.06)] = 1.35
    """LIC removed per g/kg of chelator in the predicted net balance [mg/g per g/kg]: an efficiency of 19 %."""
    sensitivity_analyses: tuple[SensitivityAnalysis, ...] = (
        "first_interval",
        "random_intercept",
        "measured_haematocrit",
        "adherence_corrected",
        "baseline_lic",
        "age",
        "splenectomy",
        "interaction",
    )
    """Analyses beside the primary one, in the order of the tables; the interaction is shown, not tested for."""
    max_condition_number: Annotated[float, Field(gt=10)] = 1e6
    """Condition number of the standardised design beyond which its terms cannot be told apart."""
    few_subjects: Annotated[int, Field(ge=2)] = 10
    """Below this number of participants a bootstrap interval carries a warning."""
    equivalence_margin_mg_g: Annotated[float, Field(gt=0)] = 1.0
    """Largest effect of one step of a histology score on the LIC error that still counts as none [mg/g]."""
    deming_error_ratio: Annotated[float, Field(ge=0)] = 1.0
    """Variance of the error of MRI over that of chemistry; replaced by the replicates' ratio where both have them."""
    calibration_intercept: Literal["fitted", "healthy"] = "fitted"
    """Intercept of `hqsm calibrate explants`: of the fitted line, or so that healthy livers have their assumed LIC."""
    healthy_lic_mg_g: Annotated[float, Field(ge=0, le=1.8)] = 1.0
    """LIC that healthy livers are taken to have where the intercept comes from them [mg/g] (normal is below 1.8)."""
    acq_date_tolerance_days: Annotated[int, Field(ge=0)] = 7
    """Largest disagreement of an interval's length between records and image headers that passes unflagged [days]."""
