"""Edge: a simulated study's results against its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hqsm.arrays import FloatArray
from hqsm.errors import InputError
from hqsm.tables import read_frame

SLOPE_WITHIN = {"in_vivo": 0.10, "in_vitro": 0.03}
"""Of the susceptibility against truth: what is asked of its slope (1 and so much), by specimen."""
INTERCEPT_WITHIN_PPM = 0.05


def allowed_scatter_ppm(true_ppm: FloatArray) -> float:
    """What livers of the true susceptibility ``true_ppm`` may scatter about their line."""
    return 0.08 + 0.04 * float(np.mean(true_ppm))


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Headline numbers: name, value, target in words, whether it is met (None where there is no target)."""

    lines: tuple[tuple[str, str, str, bool | None], ...]

    def render(self) -> str:
        """A table for the terminal."""
        rows = [
            f"  {name:<52}{value:>16}  {target:<26}{'' if met is None else 'met' if met else 'MISSED'}"
            for name, value, target, met in self.lines
        ]
        return "Accuracy against the simulation's truth\n" + "\n".join(rows)


def score(study: Path, truth: Path) -> Accuracy:
    """Compare ``results/tables`` of a simulated study with the truth beside it.

    Raises
    ------
    InputError
        ``TRUTH_MISSING``: the study was not simulated; ``TABLE_MISSING``: the workflow has not run.
    """
    if not (truth / "visits.tsv").is_file():
        raise InputError(
            f"There is no truth of this study ({truth.name}/visits.tsv).",
            remedy="Name a study that `hqsm simulate` wrote.",
            code="TRUTH_MISSING",
        )
    known = pd.read_csv(truth / "visits.tsv", sep="\t", dtype={"participant_id": str, "session_id": str})
    measured = read_frame(study / "results" / "tables" / "lic.tsv", "lic")
    both = measured.merge(known, on=["participant_id", "session_id"], suffixes=("", "_true"))
    lines: list[tuple[str, str, str, bool | None]] = []

    def worst(name: str, errors: np.ndarray, unit: str, limit: float) -> None:
        errors = errors[np.isfinite(errors)]
        value = float(np.abs(errors).max()) if errors.size else float("nan")
        text = f"{value:.2f} {unit} ({errors.size})"
        lines.append((f"{name}, largest error (visits)", text, f"<= {limit:g} {unit}", bool(value <= limit)))

    in_range = both["r2star_per_s_true"] <= 400
    relative = 100 * (both["r2star_per_s"] / both["r2star_per_s_true"] - 1)
    worst("R2* up to 400 1/s", relative[in_range].to_numpy(float), "%", 5)
    worst("Fat fraction", (both["pdff_percent"] - both["pdff_percent_true"]).to_numpy(float), "points", 2)
    worst("LIC by R2*", (100 * (both["lic_r2star_mg_g"] / both["lic_mg_g"] - 1)).to_numpy(float), "%", 10)
    for specimen, words in (("in_vivo", "in vivo"), ("in_vitro", "in vitro")):
        within = SLOPE_WITHIN[specimen]
        part = both[(both["specimen"] == specimen) & np.isfinite(both["chi_hqsm_ppm"])]
        if len(part) >= 3:
            slope, intercept = np.polyfit(part["chi_liver_ppm_true"], part["chi_hqsm_ppm"], 1)
            scatter = float(np.std(part["chi_hqsm_ppm"] - slope * part["chi_liver_ppm_true"] - intercept))
            lines.append(
                (
                    f"hQSM {words}: slope against truth ({len(part)} visits)",
                    f"{slope:.3f}",
                    f"1.00 +- {within:.2f}",
                    bool(abs(slope - 1) <= within),
                )
            )
            allowed_ppm = allowed_scatter_ppm(part["chi_liver_ppm_true"].to_numpy(float))
            right = bool(abs(intercept) <= INTERCEPT_WITHIN_PPM and scatter <= allowed_ppm)
            asked = f"+- {INTERCEPT_WITHIN_PPM:.2f}, <= {allowed_ppm:.2f} ppm"
            lines.append((f"hQSM {words}: intercept, scatter", f"{intercept:+.2f}, {scatter:.2f} ppm", asked, right))
            over_se = (part["chi_hqsm_ppm"] - part["chi_liver_ppm_true"]) / part["chi_se_ppm"]
            inside, spread = int((over_se.abs() < 1.96).sum()), float(np.sqrt(np.mean(over_se**2)))
            lines.append((f"hQSM {words}: inside the 95 % interval, error/SE", f"{inside} of {len(part)}, {spread:.2f}", "reported", None))
    regression = read_frame(study / "results" / "tables" / "regression.tsv", "regression")
    primary = regression[regression["analysis"] == "primary"]
    for method, name in (("r2star", "R2*"), ("hqsm", "hQSM")):
        estimate = {r["term"]: float(r["estimate"]) for r in primary[primary["method"] == method].to_dict(orient="records")}
        iron, chelator = estimate.get("iron_in", np.nan), estimate.get("chelator", np.nan)
        ok = bool(iron > 0 > chelator)
        lines.append((f"Regression by {name}: iron in, chelator", f"{iron:+.3f}, {chelator:+.2f}", "+, -", ok))
    return Accuracy(lines=tuple(lines))
