"""Simulate the study's design and say how wide its confidence intervals will be.

Prints, for the slopes of iron and chelator by each method and for the differences of R2 and RMSE between the methods,
the width of the interval, how often it holds the truth and how often it excludes zero; --out writes the same as TSV.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--participants", type=int, default=42, help="thalassaemia participants (default 42)")
    parser.add_argument("--visits", type=int, default=3, help="annual visits of each (default 3: two intervals)")
    parser.add_argument("--missing", type=float, default=0.1, help="share of visits that are lost (default 0.1)")
    parser.add_argument("--sd-hqsm", type=float, default=0.36, help="within-subject SD of LIC by hQSM, mg/g (default 0.36: RC 1.0)")
    parser.add_argument("--sd-r2star", type=float, default=0.50, help="the same by R2* (default 0.50: RC 1.4 at 1.5 T)")
    parser.add_argument("--repeatability", type=Path, help="repeatability.tsv of the workflow, whose SDs are used instead")
    parser.add_argument("--efficiency", type=float, default=0.25, help="efficiency of the chelator (default 0.25)")
    parser.add_argument("--simulations", type=int, default=500, help="studies to simulate (default 500)")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws in each (default 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config", type=Path, help="config.yaml whose block `statistics` is used")
    parser.add_argument("--out", type=Path, help="folder for power.tsv and its dictionary")


def run(options: argparse.Namespace) -> int:
    """Simulate, print, write."""
    from hqsm.errors import InputError
    from hqsm.statistics.power import Design, power_rows
    from hqsm.study_config import read_config
    from hqsm.tables import write_rows

    sd = {"hqsm": options.sd_hqsm, "r2star": options.sd_r2star}
    if options.repeatability:
        sd = _measured_sd(options.repeatability)
    if not (options.participants >= 4 and options.visits >= 2 and 0 <= options.missing < 1 and options.simulations >= 2):
        raise InputError(
            "The design has too few participants, visits or simulations.",
            remedy="Give at least 4 participants, 2 visits, 2 simulations and a share of missing visits below 1.",
            code="POWER_DESIGN",
        )
    design = Design(
        participants=options.participants,
        visits=options.visits,
        missing_share=options.missing,
        scan_sd_mg_g=sd,
        efficiency=options.efficiency,
    )
    params = read_config(options.config).statistics
    rows = power_rows(design, params, simulations=options.simulations, draws=options.draws, seed=options.seed)
    lines = [
        f"{design.participants} participants, {design.visits} visits, {100 * design.missing_share:g} % of visits lost: "
        f"{rows[0]['n_intervals']:.0f} intervals; SD of a scan "
        + ", ".join(f"{name} {value:.2f} mg/g" for name, value in design.scan_sd_mg_g.items()),
        f"{'method':<20}{'quantity':<26}{'truth':>10}{'mean':>10}{'CI width':>10}{'coverage':>10}{'power':>8}",
    ]
    for row in rows:
        truth = f"{row['truth']:.4f}" if row["truth"] == row["truth"] else "-"
        lines.append(
            f"{row['method']:<20}{row['quantity']:<26}{truth:>10}{row['mean_estimate']:>10.4f}{row['ci_width']:>10.4f}"
            f"{row['coverage']:>10.3f}{row['power']:>8.3f}"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    if options.out:
        write_rows(options.out / "power.tsv", "power", rows)
        sys.stdout.write(f"written: {options.out / 'power.tsv'}\n")
    return 0


def _measured_sd(path: Path) -> dict[str, float]:
    from hqsm.errors import InputError
    from hqsm.statistics.repeatability import scan_sd_mg_g
    from hqsm.tables import read_frame

    found = scan_sd_mg_g(read_frame(path, "repeatability").to_dict(orient="records"), fewest_pairs=1)
    if not all(found.get(name, 0) > 0 for name in ("hqsm", "r2star")):
        raise InputError(f"{path.name} has no repeat scans of both methods.", remedy="Give --sd-hqsm and --sd-r2star.", code="POWER_DESIGN")
    return {name: found[name] for name in ("hqsm", "r2star")}
