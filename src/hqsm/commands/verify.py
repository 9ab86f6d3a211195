"""Check that a study's outputs are those of its last run and that its audit trail is whole: `hqsm verify STUDY`.

Names the first broken link of the chain, every output that was changed, removed or added since, every broken lock. Exit status 1 when
anything is wrong. With --trace sub-P/ses-S it shows how that visit's row came about, down to its DICOM and code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--trace", metavar="VISIT", help="a visit as sub-P/ses-S: from its row to its DICOM")


def run(options: argparse.Namespace) -> int:
    """Check everything, say what is wrong."""
    from hqsm.blinding import blind_state, broken_lock
    from hqsm.config.study import as_plain
    from hqsm.provenance import audit_head, broken_audit, edited_outputs, last_record
    from hqsm.study_config import study_config

    record = last_record(options.study)
    if record is None:
        sys.stdout.write("The workflow has not run here.\n")
        return 1
    if options.trace:
        return _trace(options.study, options.trace, record[1])
    wrong = [text for text in (broken_audit(options.study), broken_lock(options.study)) if text]
    wrong += edited_outputs(options.study, record[1])
    config = study_config(options.study)
    stamp = blind_state(options.study, blinding=config.blinding, statistics=as_plain(config.statistics)).stamp()
    wrong += [stamp] if stamp else []
    if wrong:
        sys.stdout.write("\n".join(["Not as it was made:", *(f"  {text}" for text in wrong)]) + "\n")
        return 1
    sys.stdout.write(
        f"{len(record[1]['outputs_sha256'])} outputs are those of {record[0].name}; the audit trail is whole.\n"
        f"last line of the trail: {audit_head(options.study)}\n"
    )
    return 0


def _trace(study: Path, visit: str, record: dict[str, object]) -> int:
    """Print the way from a visit's row to its images and code."""
    import json

    from hqsm.errors import InputError
    from hqsm.provenance import sha256_of

    name = visit.replace("/", "_")
    folder = study / "results" / "work" / name
    if "/" in name or ".." in name or not folder.is_dir():
        raise InputError("There is no such visit in results/.", remedy="Write it as sub-P/ses-S.", code="TRACE_VISIT")
    lines = [f"{visit}  in {', '.join(table for table in ('visits.tsv', 'lic.tsv') if (study / 'results/tables' / table).is_file())}"]
    for stage in ("liver_iron", "susceptibility", "regions", "water_fat", "gated_echoes"):
        facts = json.loads((folder / f"{stage}.json").read_text(encoding="utf-8"))
        state = f"rejected: {facts['reason']}" if facts["failed"] else "ok"
        digests = record["code_digests"]
        code = digests.get(stage, "") if isinstance(digests, dict) else ""
        lines.append(f"  {stage:<15} code {code}  {state}")
    manifest = folder / "dicom_manifest.tsv"
    if manifest.is_file() and manifest.stat().st_size:
        n = len(manifest.read_text(encoding="utf-8").splitlines()) - 1
        kept = record["dicom"].get(name) if isinstance(record["dicom"], dict) else None
        agrees = "as in the run's record" if kept == sha256_of(manifest) else "NOT as in the run's record"
        lines.append(f"  DICOM           {n} images by hashed UID in results/work/{name}/dicom_manifest.tsv ({agrees})")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
