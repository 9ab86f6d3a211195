"""Let a blinded study's images and records meet: `hqsm unblind STUDY --who AB`.

Refused (exit status 4) unless both arms are locked and nothing changed since. The next run of the workflow makes the tables
after the join and the full report. Whatever changes later is stamped in every report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--who", required=True, help="initials of the person who unblinds")


def run(options: argparse.Namespace) -> int:
    """Unblind and note it in the audit trail."""
    from hqsm.blinding import unblind
    from hqsm.config.study import as_plain
    from hqsm.errors import BlindingError
    from hqsm.provenance import append_audit, sha256_of
    from hqsm.study_config import study_config

    config = study_config(options.study)
    if not config.blinding:
        raise BlindingError("The study is not blinded.", remedy="There is nothing to unblind.", code="LOCK_OPEN")
    path = unblind(options.study, options.who, statistics=as_plain(config.statistics))
    append_audit(options.study, "unblind", {"who": options.who, "unblinded_sha256": sha256_of(path)})
    sys.stdout.write("unblinded; run the workflow to make the joined tables and the report\n")
    return 0
