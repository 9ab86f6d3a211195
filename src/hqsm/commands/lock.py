"""Freeze an arm of a blinded study by hash: `hqsm lock imaging STUDY --who AB`, `hqsm lock records STUDY --who AB`.

imaging  visits.tsv and lic.tsv, without the columns that come from the records
records  exposure.tsv, every file of records/ and the analysis plan: the block statistics of the configuration
A lock is a file in STUDY/locks; locking again keeps the old one. Exit status 4 when the lock is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("arm", choices=("imaging", "records"), help="what to freeze")
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--who", required=True, help="initials of the person who locks")


def run(options: argparse.Namespace) -> int:
    """Lock, note it in the audit trail, say what is frozen."""
    import json

    from hqsm.blinding import lock
    from hqsm.config.study import as_plain
    from hqsm.errors import BlindingError
    from hqsm.provenance import append_audit, edited_outputs, last_record, sha256_of, sha256_of_text, versions
    from hqsm.study_config import study_config

    config = study_config(options.study)
    if not config.blinding:
        raise BlindingError(
            "The study is not blinded.", remedy="Write blinding: true into its config.yaml, run the workflow, lock then.", code="LOCK_OPEN"
        )
    record = last_record(options.study)
    if record is None or not record[1].get("succeeded"):
        raise BlindingError("The last run of the workflow did not finish.", remedy="Run it to its end.", code="LOCK_UNFINISHED")
    edited = edited_outputs(options.study, record[1], prefix="results/tables/")
    if edited:
        raise BlindingError(f"{edited[0]} is not what the last run wrote.", remedy="Run the workflow again.", code="LOCK_EDITED")
    facts = {
        "config_sha256": sha256_of_text(json.dumps(as_plain(config), sort_keys=True)),
        "run": record[0].name,
        "versions": versions(),
        "code_digests": record[1]["code_digests"],
    }
    path = lock(options.study, options.arm, options.who, facts, statistics=as_plain(config.statistics))
    append_audit(options.study, "lock", {"arm": options.arm, "who": options.who, "lock": path.name, "lock_sha256": sha256_of(path)})
    frozen = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    sys.stdout.write(f"locked {options.arm}: {len(frozen)} items ({', '.join(sorted(frozen))}), written: locks/{path.name}\n")
    return 0
