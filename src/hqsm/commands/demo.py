"""Simulate a small study as raw DICOM, run it, compare it with its truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="folder that gets the study and its truth")
    parser.add_argument(
        "--participants", type=int, default=10, help="participants (10: five with thalassaemia, three transplants, two controls)"
    )
    parser.add_argument("--size", choices=("demo", "tiny"), default="demo", help="matrix size of the scans")


def run(options: argparse.Namespace) -> int:
    """Simulate (once), run, compare; the rejected visit of the demo is not a failure."""
    from hqsm.commands.run import run_workflow
    from hqsm.phantom.accuracy import score
    from hqsm.phantom.cohort import simulate_study, truth_folder

    study = options.folder / "study"
    if not (truth_folder(study) / "visits.tsv").is_file():
        sys.stdout.write(f"[1/3] simulating {options.participants} participants as raw DICOM in {study}\n")
        simulate_study(study, participants=options.participants, size=options.size)
    sys.stdout.write("[2/3] running the workflow; one visit is broken on purpose and will be rejected\n")
    sys.stdout.flush()
    status = run_workflow(study, ["--quiet", "host", "reason"])  # everything is new: no job needs a reason
    if status not in {0, 3}:
        return status
    sys.stdout.write("[3/3] comparing with the truth\n\n")
    sys.stdout.write(score(study, truth_folder(study)).render() + "\n\n")
    sys.stdout.write(f"Report: {(study / 'results' / 'report' / 'index.html').resolve()}\n")
    return 0
