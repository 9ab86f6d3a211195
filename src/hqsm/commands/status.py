"""Say how far each visit of a study is: `hqsm status STUDY`.

A line per visit: done, rejected (with stage, reason and log), excluded (by whom), unfinished, pending, missing (the records know
of it, there are no images). Only files are looked at, nothing runs. Whether files changed since is what `snakemake -n` tells.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--only", metavar="STATE", help="only visits in this state, for example rejected")


def run(options: argparse.Namespace) -> int:
    """Print the table and its summary."""
    from hqsm.errors import InputError
    from hqsm.study_status import summary, visit_states

    if not (options.study / "dicom").is_dir() and not (options.study / "bids").is_dir():
        raise InputError(f"{options.study} has no dicom/ and no bids/.", remedy="Name a study folder.", code="STUDY_NONE")
    states = visit_states(options.study)
    shown = [state for state in states if options.only in {None, state.state}]
    width = max((len(state.participant_id) for state in shown), default=0)
    session = max((len(state.session_id) for state in shown), default=0)
    before = ""
    for state in shown:
        name = "" if state.participant_id == before else state.participant_id
        before = state.participant_id
        sys.stdout.write(f"{name:<{width}}  {state.session_id:<{session}}  {state.state:<10}  {state.detail}".rstrip() + "\n")
    sys.stdout.write(summary(states) + "\n")
    return 0
