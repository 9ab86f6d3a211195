"""File a hospital's DICOM export into a study, de-identified: `hqsm intake SOURCE STUDY --keys FOLDER`.

SOURCE is a folder (an export, a CD) or a zip of any nesting. Images become dicom/sub-<P>/ses-<S>/ with blind labels, blind
UIDs and dates that are shifted by a whole number of days per person; only what the allow-list names is kept.
The secret and the crosswalk stay in FOLDER (mode 700, outside of the study and of any repository), where labels may be edited
before an intake is repeated. Repeating an intake changes nothing; a larger export adds what is new.
Exit status 1 when an image contradicts one that is filed already.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", type=Path, help="the export: a folder or a zip")
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--keys", type=Path, help="folder of the secret and the crosswalk (or the environment's HQSM_KEYS)")
    parser.add_argument("--site", default="", help="short name of the hospital, where two hospitals may use the same patient numbers")


def run(options: argparse.Namespace) -> int:
    """Take in, write the report into the folder of keys, print its summary."""
    from hqsm.errors import InputError
    from hqsm.intake.filing import take_in, write_report
    from hqsm.intake.keys import open_keys
    from hqsm.study_config import study_config

    place = options.keys or os.environ.get("HQSM_KEYS")
    if not place:
        raise InputError("No folder of keys was named.", remedy="Add --keys FOLDER, or set HQSM_KEYS.", code="KEYS_PLACE")
    keys = open_keys(Path(place), options.study)
    report = take_in(options.source, options.study, keys, study_config(options.study).intake, options.site)
    write_report(report, keys)
    sys.stdout.write("\n".join(report.lines()) + "\nnames of the source and every outcome: reports/ in the folder of keys\n")
    return 1 if report.n_contradictions else 0
