"""Write a simulated study: raw DICOM and records in a study folder, the truth beside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder to write; the truth goes to STUDY-truth, which no rule reads")
    parser.add_argument("--participants", type=int, default=12, help="participants: about half with thalassaemia (default 12)")
    parser.add_argument("--visits", type=int, default=3, help="annual visits of a thalassaemia participant (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same bytes (default 1)")
    parser.add_argument("--size", choices=("demo", "tiny"), default="demo", help="matrix size of the scans")


def run(options: argparse.Namespace) -> int:
    """Simulate; prints where the study and its truth are."""
    from hqsm.phantom.cohort import simulate_study

    truth = simulate_study(options.study, participants=options.participants, visits=options.visits, seed=options.seed, size=options.size)
    sys.stdout.write(f"study: {options.study}\ntruth: {truth}\n")
    return 0
