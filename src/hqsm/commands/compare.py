"""Estimate the susceptibility of a study's visits by several methods, beside the study's own: `hqsm compare STUDY`.

Takes the field maps, masks and settings of the last run; nothing of the study's results changes. Writes
results/susceptibility_methods/susceptibility_methods.tsv with its dictionary, and a picture of all maps per visit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder whose workflow has run")
    parser.add_argument("--methods", nargs="+", help="as susceptibility.method: total-field, pdf+medi ... (default: all)")
    parser.add_argument("--visits", nargs="+", metavar="sub-P_ses-S", help="only these visits (default: all with maps)")
    parser.add_argument("--out", type=Path, help="folder for the table and the pictures (default: STUDY/results/susceptibility_methods)")


def run(options: argparse.Namespace) -> int:
    """Estimate, print a line per visit and method, write."""
    from typing import get_args

    import numpy as np

    from hqsm.archive import load_noun
    from hqsm.arrays import FloatArray
    from hqsm.config.explant import scan_setting
    from hqsm.config.susceptibility import Method
    from hqsm.data import Regions, WaterFat
    from hqsm.errors import InputError
    from hqsm.method_comparison import compare_methods
    from hqsm.report.map_montage import save_montage
    from hqsm.study_config import study_config
    from hqsm.tables import write_rows

    methods = options.methods or list(get_args(Method))
    if unknown := sorted(set(methods) - set(get_args(Method))):
        known = ", ".join(get_args(Method))
        raise InputError(f"There is no method {', '.join(unknown)}.", remedy=f"Choose among {known}.", code="METHOD_UNKNOWN")
    config = study_config(options.study)
    out = options.out or options.study / "results" / "susceptibility_methods"
    rows = []
    for folder in _visits(options.study, options.visits):
        participant, session = folder.name.split("_", 1)
        maps, regions = load_noun(folder / "water_fat.npz", WaterFat), load_noun(folder / "regions.npz", Regions)
        specimen, _ = scan_setting(config.explant, session.removeprefix("ses-"))
        results = compare_methods(maps, regions, config.susceptibility, methods, specimen=specimen)
        for result in results:
            row = {"participant_id": participant, "session_id": session, **result.row()}
            rows.append(row)
            sys.stdout.write(
                f"{folder.name:<28} {result.method:<18} {result.chi_hqsm_ppm:7.3f} ppm against {result.susceptibility.reference_name:<7}"
                f"{result.cpu_s:6.1f} s  {row['qc_codes']}".rstrip()
                + "\n"
            )
        highest = float(np.nanmax([1.0, *(abs(result.liver.median) for result in results)]))
        pictures: dict[str, FloatArray] = {result.method: result.susceptibility.chi_ppm for result in results}
        save_montage(out / f"{folder.name}.png", pictures, regions.liver_whole, maps.grid, top_ppm=1.3 * highest)
        write_rows(out / "susceptibility_methods.tsv", "susceptibility_methods", rows)
    sys.stdout.write(f"{out}: table and pictures of {len(rows) // max(len(methods), 1)} visits\n")
    return 0


def _visits(study: Path, wanted: list[str] | None) -> list[Path]:
    from hqsm.errors import InputError

    found = {path.parent.name: path.parent for path in sorted((study / "results" / "work").glob("*/regions.npz")) if path.stat().st_size}
    names = sorted(found) if wanted is None else [name.replace("/", "_") for name in wanted]
    missing = [name for name in names if name not in found]
    if missing or not names:
        what = f"has no maps of {', '.join(missing)}" if missing else "has no maps of any visit"
        raise InputError(f"{study} {what}.", remedy="Run the workflow first; `hqsm status` tells how far it is.", code="COMPARE_NO_MAPS")
    return [found[name] for name in names]
