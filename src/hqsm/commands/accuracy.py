"""Compare a simulated study's results with its truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="a study that `hqsm simulate` wrote and the workflow has run")


def run(options: argparse.Namespace) -> int:
    """Print errors and slopes against truth."""
    from hqsm.phantom.accuracy import score
    from hqsm.phantom.cohort import truth_folder

    sys.stdout.write(score(options.study, truth_folder(options.study)).render() + "\n")
    return 0
