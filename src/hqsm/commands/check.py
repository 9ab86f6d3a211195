"""Check a study's input before anything runs: `hqsm check records STUDY`.

records  reads every clinical table, prints what is wrong in each line and what to do, and writes the same to
         STUDY/results/records/findings.csv and findings.html. Exit status 1 when there are errors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hqsm.records.data import Records
    from hqsm.records.findings import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", choices=("records",), help="what to check")
    parser.add_argument("study", type=Path, help="study folder")
    parser.add_argument("--out", type=Path, help="folder for findings.csv and findings.html (default: STUDY/results/records)")
    parser.add_argument("--show-values", action="store_true", help="show how an ambiguous date could be read (a date of a person)")


def run(options: argparse.Namespace) -> int:
    """Read, print, write; 1 if there are errors."""
    from dataclasses import replace

    from hqsm.records.findings import ERROR, findings_frame, sort_findings
    from hqsm.records.reading import read_records
    from hqsm.report.findings_page import render_findings
    from hqsm.study_config import study_config

    config = study_config(options.study)
    params = config.records
    if options.show_values:
        params = replace(params, show_values=True)
    records = read_records(options.study / "records", params)
    findings = sort_findings([*records.findings, *_folders_against_records(options.study, records)])
    out = options.out or options.study / "results" / "records"
    out.mkdir(parents=True, exist_ok=True)
    findings_frame(findings).to_csv(out / "findings.csv", index=False, lineterminator="\n")
    (out / "findings.html").write_text(
        render_findings(config.study.name, findings, records.notes, tuple(records.blocked)), encoding="utf-8"
    )
    lines = [finding.sentence() for finding in findings] + list(records.notes)
    errors = sum(finding.severity == ERROR for finding in findings)
    lines.append(f"{errors} errors, {len(findings) - errors} warnings and notes.")
    if records.blocked:
        lines.append(f"No exposure until corrected: {', '.join(records.blocked)}.")
    lines.append(f"written: {out / 'findings.csv'}, {out / 'findings.html'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if errors else 0


def _folders_against_records(study: Path, records: Records) -> list[Finding]:
    """Scans without a row in visits.csv, and rows without a scan."""
    from hqsm.records.findings import WARNING, Finding
    from hqsm.study import find_folders

    scanned = {folder[:2] for folder in find_folders(study)[0]}
    lines = {(row["participant_id"], row["session_id"]): row for row in records.visits.to_dict(orient="records")}
    found = []
    for participant, session in sorted(scanned - lines.keys()):
        problem, remedy = f"The scan folder {session} has no row among the visits.", "Add the visit, or correct the folder's name."
        found.append((0, participant, "SCAN_WITHOUT_VISIT", problem, remedy))
    for (participant, session), row in lines.items():
        if scanned and participant and session and (participant, session) not in scanned:
            problem, remedy = "There is no scan folder of this visit under dicom/ or bids/.", "Nothing to do if it was not scanned (yet)."
            found.append((int(row["line"]), participant, "VISIT_WITHOUT_SCAN", problem, remedy))
    return [
        Finding(
            file=records.files.get("visits", "visits.csv"),
            line=line,
            participant=participant,
            field="session_id",
            code=code,
            severity=WARNING,
            problem=problem,
            remedy=remedy,
            table="visits",
        )
        for line, participant, code, problem, remedy in found
    ]
