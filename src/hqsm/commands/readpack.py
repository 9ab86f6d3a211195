"""Blinded reading: make packs for readers, check what comes back, lock it.

make   STUDY --readers A,B --keys FOLDER --out FOLDER
       one folder per reader under FOLDER: anatomical images under random codes (other codes, order and hidden repeats for
       each reader), an instruction page, no dates. The key goes into the keys folder, which must be private and outside
       the study and any repository. Needs results/bids of a run.
check  PACK
       says what is missing, on the wrong grid, outside the body or too small in a reader's folder. Exit status 1 if anything.
lock   STUDY --packs FOLDER --keys FOLDER
       freezes the returned masks by their hashes (locks/readings.lock.json) and lays them on their scans (rois/). Run again,
       it checks that nothing changed since; exit status 2 if something did.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="write a pack for each reader")
    make.add_argument("study", type=Path, help="study folder with results/bids")
    make.add_argument("--readers", required=True, help="names of the readers, separated by commas")
    make.add_argument("--keys", type=Path, required=True, help="private folder for the key")
    make.add_argument("--out", type=Path, required=True, help="folder for the packs")
    make.add_argument("--repeat-share", type=float, default=0.125, help="share of hidden repeats (default 0.125)")
    check = actions.add_parser("check", help="check a reader's pack")
    check.add_argument("pack", type=Path, help="folder reader-<name>")
    check.add_argument("--smallest-ml", type=float, default=3.0, help="smallest volume of a liver label (default 3)")
    lock = actions.add_parser("lock", help="freeze the readings and give them to the study")
    lock.add_argument("study", type=Path, help="study folder")
    lock.add_argument("--packs", type=Path, required=True, help="folder of the packs")
    lock.add_argument("--keys", type=Path, required=True, help="private folder of the key")
    lock.add_argument("--accept-missing", action="store_true", help="lock although some cases were not read")


def run(options: argparse.Namespace) -> int:
    """Make, check or lock."""
    return {"make": _make, "check": _check, "lock": _lock}[options.action](options)


def _make(options: argparse.Namespace) -> int:
    import secrets

    from hqsm.errors import InputError
    from hqsm.readpack.make import make_packs

    if not 0 <= options.repeat_share <= 0.5:
        raise InputError("The share of repeats is not between 0 and 0.5.", remedy="10 to 15 % are usual.", code="PACK_REPEATS")
    readers = [name.strip() for name in options.readers.split(",") if name.strip()]
    cases = make_packs(options.study, readers, options.keys, options.out, repeat_share=options.repeat_share, source=secrets.SystemRandom())
    for reader in readers:
        mine = [case for case in cases if case.reader == reader]
        repeats = sum(case.reading > 1 for case in mine)
        sys.stdout.write(f"{options.out / f'reader-{reader}'}: {len(mine)} cases, {repeats} of them hidden repeats\n")
    sys.stdout.write("The key is in the keys folder. Do not give it, or the line above, to a reader.\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    from hqsm.readpack.check import check_pack, worklist

    problems = check_pack(options.pack, smallest_ml=options.smallest_ml)
    for problem in problems:
        sys.stdout.write(f"{problem.case or '-':8s} {problem.code:14s} {problem.sentence}\n")
    n = len(worklist(options.pack))
    done = n - len({problem.case for problem in problems if problem.case})
    sys.stdout.write(f"{done} of {n} cases are complete; {len(problems)} problems.\n")
    return 1 if problems else 0


def _lock(options: argparse.Namespace) -> int:
    from hqsm.readpack.lock import LOCK, lock_readings

    lock = lock_readings(options.study, options.packs, options.keys, accept_missing=options.accept_missing)
    n = sum(len(files) for files in lock["masks"].values())
    sys.stdout.write(f"{n} files locked on {lock['locked']}, {len(lock['cases_not_read'])} cases not read: {options.study / LOCK}\n")
    return 0
