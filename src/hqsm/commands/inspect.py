"""Say what a folder of DICOM holds, series by series, and what would be used and why not.

Exit status 0 where the folder makes a visit, 1 where it does not. Nothing that identifies a person is printed unless
--identifiers is given: no name, no number, no date, no file name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="a folder of DICOM, of any nesting")
    parser.add_argument("--identifiers", action="store_true", help="also print whose images these are")
    parser.add_argument("--repetitions", action="store_true", help="take runs of one protocol as repetitions (dicom.repeated_series)")


def run(options: argparse.Namespace) -> int:
    """Print the series of the folder, the acquisition that would be used, and why the rest would not."""
    from hqsm.config.dicom import DicomParams
    from hqsm.dicom.survey import as_text, survey
    from hqsm.errors import InputError

    if not options.folder.is_dir():
        raise InputError(f"There is no folder {options.folder}.", remedy="Name a folder that holds DICOM.", code="FOLDER_MISSING")
    params = DicomParams(repeated_series="repetitions" if options.repetitions else "last")
    found = survey(options.folder, params)
    if options.identifiers:
        sys.stdout.write("".join(f"{line}\n" for line in found.identifiers))
    sys.stdout.write(as_text(found))
    return 1 if found.refusal else 0
