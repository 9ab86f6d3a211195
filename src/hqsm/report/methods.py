"""The methods section of a paper, from the parameters that were used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from hqsm.config.lic import LicParams
from hqsm.gating.gate import SINGLE
from hqsm.lic import HQSM_CALIBRATIONS, LicCalibration, physical_calibration, r2star_calibration
from hqsm.units import BODY_TEMPERATURE_CELSIUS

_NOT_GATED = {
    SINGLE: "one repetition was acquired, gated on the scanner or in a breath-hold, and used as it is",
    "none": "no respiratory position was known, and all repetitions were combined",
}
_FIRST_FIELDS = {
    "graph": "a global, swap-free field initialisation (tree-reweighted message passing)",
    "in-phase": "a field initialisation from the unwrapped phase of in-phase echoes",
}


def methods_text(parameters: Mapping[str, Any], versions: Mapping[str, str], scans: Collection[Mapping[str, Any]] = ()) -> str:
    """A methods section; ``scans`` are the rows of lic.tsv: what the parameters wanted was not done in each of them."""
    gating, fit, chi = parameters["gating"], parameters["fatwater"], parameters["susceptibility"]
    records, statistics = parameters["records"], parameters["statistics"]
    dose = "taken" if records["use_adherence"] else "prescribed"
    return f"""# Methods

## Images

Repetitions whose diaphragm lay within a window of {gating["window_mm"]:g} mm (at most {gating["widest_window_mm"]:g} mm) around
end-expiration, the mode of the displacement, were combined as complex images weighted by inverse variance, after the
phase and the field drift of each were removed. Water, fat ({fit["spectrum"]} spectrum), R2* and field were fitted
to the complex echoes by maximum likelihood after {_FIRST_FIELDS[fit["field_initialisation"]]}.{_magnitude_r2star(fit)}
Susceptibility was estimated by the method "{chi["method"]}" and referenced to {chi["reference"]}.{_of_the_scans(scans)}

## Liver iron concentration

{_calibrations(parameters["lic"], _field_strengths_tesla(scans))}
Values are per gram of dry tissue; their 95 % intervals hold the uncertainty of the calibration.

## Exposure

Net transfused iron was volume times haematocrit times {records["iron_per_ml_red_cells_mg"]:g} mg/mL of red cells, less what exchanges removed.
Chelator was the {dose} dose in deferasirox film-coated tablet equivalents, integrated day by day with body weight
interpolated between weighings. Intervals of {records["interval_target_days"]} +- {records["interval_window_days"]} days were chosen without sight of liver iron.

## Statistics

Annual changes of LIC were regressed on transfused iron and chelator dose by ordinary least squares with CR2 cluster-robust
standard errors and Satterthwaite degrees of freedom by participant (Pustejovsky and Tipton 2018). Methods were compared
by a bootstrap of participants ({statistics["bootstrap_draws"]:,} draws). Explants were compared with chemistry by Deming's and Passing and Bablok's
regression and by Bland and Altman's limits; the 12 registered outcomes were adjusted by Holm's method and tested for
equivalence with two one-sided tests (margin {statistics["equivalence_margin_mg_g"]:g} mg/g per step). Confidence intervals are of {100 * statistics["confidence_level"]:g} %.

## Software

{", ".join(f"{name} {value}" for name, value in versions.items())}.
"""


def _of_the_scans(scans: Collection[Mapping[str, Any]]) -> str:
    """How many scans were not fitted or gated as wished, whose hand drew the liver, what susceptibility is relative to."""
    if not scans:
        return ""
    sentences = []
    n = sum("IN_PHASE_NOT_POSSIBLE" in str(scan.get("codes", "")).split() for scan in scans)
    if n:
        sentences.append(f"In {n} of {len(scans)} scans no echoes were in phase, and the initialisation was {_FIRST_FIELDS['graph']}.")
    for source, words in _NOT_GATED.items():
        n = sum(scan["gating_source"] == source for scan in scans)
        if n:
            sentences.append(f"In {n} of {len(scans)} scans {words}.")
    for words, column, names in (
        ("by who outlined the liver", "mask_source", {"reader": "readers", "automatic": "the program"}),
        ("by what the susceptibility is relative to", "reference_tissue", {"none": "nothing, for no tissue was found,"}),
    ):
        counts = Counter(scan[column] for scan in scans if scan[column])
        if counts:
            shares = ", ".join(f"{names.get(name, name)} {n}" for name, n in counts.most_common())
            sentences.append(f"Scans {words}: {shares}.")
    return "".join(f"\n{sentence}" for sentence in sentences)


def _field_strengths_tesla(scans: Collection[Mapping[str, Any]]) -> list[float]:
    """Those of the scans; the two usual ones where there is no scan yet."""
    return sorted({tesla for scan in scans if (tesla := float(scan["field_strength_t"])) > 0}) or [1.5, 3.0]


def _magnitude_r2star(fit: Mapping[str, Any]) -> str:
    """What is said of R2* where it is not that of the complex fit."""
    if fit["r2star_estimator"] == "complex":
        return ""
    return f"\nThe R2* that is reported was estimated from the magnitude alone, without fat ({fit['r2star_estimator']})."


def _calibrations(lic: Mapping[str, Any], field_strengths_tesla: Collection[float]) -> str:
    """The lines from R2* and from susceptibility, each with its source."""
    lines = [line for tesla in field_strengths_tesla if (line := r2star_calibration(lic["r2star_calibration"], tesla)) is not None]
    r2star = "; ".join(
        f"{_equation(line, 'R2*', '1/s')} at {line.field_strength_tesla:g} T ({line.source})" for line in dict.fromkeys(lines)
    )
    return f"LIC by R2* [mg/g] was {r2star or 'not calibrated at the field strengths of this study'}.\nLIC by hQSM [mg/g] was {_from_chi(lic)}."


def _from_chi(lic: Mapping[str, Any]) -> str:
    if lic["hqsm_calibration"] == "own":
        return f"{lic['own_intercept_mg_g']:.4g} + {lic['own_slope_mg_g_per_ppm']:.4g} x susceptibility [ppm] ({lic['own_source']})"
    if lic["hqsm_calibration"] in HQSM_CALIBRATIONS:
        line = HQSM_CALIBRATIONS[lic["hqsm_calibration"]]
        return f"{_equation(line, 'susceptibility', 'ppm')} ({line.source})"
    params = LicParams(**lic)
    line = physical_calibration(BODY_TEMPERATURE_CELSIUS, params)
    return (
        f"{_equation(line, 'susceptibility', 'ppm')} in vivo, with Curie's law for the temperature of explants ({line.source}); its slope is\n"
        f"known to {100 * line.slope_sd:g} % and the susceptibility of liver without iron to {params.iron_free_liver_sd_ppm:g} ppm (1 SD)"
    )


def _equation(line: LicCalibration, name: str, unit: str) -> str:
    intercept = f"{line.intercept:.4g} + " if line.intercept else ""
    return f"{intercept}{line.slope:.4g} x {name} [{unit}]"
