"""Estimate the study's own calibration from susceptibility to LIC, and print the block for its config.yaml.

explants  chemical LIC against susceptibility (Deming); --setting in_vivo or in_vitro
balance   annual change of susceptibility on transfused iron, 10.6 mg/kg per mg/g; intercept from healthy controls

Reads STUDY/results/tables/; run the workflow first. The block names the reconstruction it holds for: a LIC that is made
with it from another reconstruction is flagged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("how", choices=("explants", "balance"), help="what the calibration is estimated from")
    parser.add_argument("study", type=Path, help="study folder whose workflow has run")
    parser.add_argument("--setting", choices=("in_vivo", "in_vitro"), default="in_vivo", help="scans of the explants to use")
    parser.add_argument("--out", type=Path, help="folder for calibration.tsv and its dictionary")


def run(options: argparse.Namespace) -> int:
    """Estimate, print the block, write."""
    from hqsm.statistics.calibration import from_balance, from_explants, with_healthy_intercept
    from hqsm.statistics.repeatability import repeat_sd
    from hqsm.study_config import study_config
    from hqsm.tables import read_frame, write_rows

    params = study_config(options.study).statistics
    folder = options.study / "results" / "tables"
    lic = read_frame(folder / "lic.tsv", "lic")
    if options.how == "explants":
        repeats = read_frame(folder / "repeatability.tsv", "repeatability").to_dict(orient="records")
        sd = repeat_sd(repeats).get("chi_hqsm_ppm", float("nan"))
        found = from_explants(lic, read_frame(folder / "explants.tsv", "explants"), options.setting, sd, params)
        if params.calibration_intercept == "healthy":
            found = with_healthy_intercept(found, lic, params)
    else:
        found = from_balance(lic, read_frame(folder / "annual_change.tsv", "annual_change"), params)
    slope, intercept = found.slope_mg_g_per_ppm, found.intercept_mg_g
    level = f"{100 * params.confidence_level:g} %"
    sys.stdout.write(
        f"# slope {slope.value:.4g} ({level}: {slope.ci_lo:.4g} to {slope.ci_hi:.4g}) mg/g per ppm, "
        f"intercept {intercept.value:.4g} ({intercept.ci_lo:.4g} to {intercept.ci_hi:.4g}) mg/g\n"
        "lic:\n"
        "  hqsm_calibration: own\n"
        f"  own_slope_mg_g_per_ppm: {slope.value:.6g}\n"
        f"  own_intercept_mg_g: {intercept.value:.6g}\n"
        f"  own_slope_relative_sd: {slope.std_error / abs(slope.value):.4g}\n"
        f"  own_centre_ppm: {found.centre[0]:.4g}\n"
        f"  own_centre_sd_mg_g: {found.centre[1]:.4g}\n"
        f"  own_reference_tissue: {found.reference_tissue}\n"
        f"  own_reconstruction_digest: '{found.reconstruction_digest}'\n"
        f"  own_source: {found.source}\n"
    )
    if options.out:
        common = {"n": found.n, "reference_tissue": found.reference_tissue, "reconstruction_digest": found.reconstruction_digest}
        rows = [
            {
                "quantity": name,
                "estimate": e.value,
                "std_error": e.std_error,
                "ci_lo": e.ci_lo,
                "ci_hi": e.ci_hi,
                **common,
                "source": found.source,
            }
            for name, e in (("slope_mg_g_per_ppm", slope), ("intercept_mg_g", intercept))
        ]
        write_rows(options.out / "calibration.tsv", "calibration", rows)
    return 0
