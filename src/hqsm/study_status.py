"""Edge: how far each visit of a study is, from the files that are there and nothing else."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hqsm.decisions import read_decisions
from hqsm.run_state import STAGES
from hqsm.study import find_folders
from hqsm.table_cells import separator_of


@dataclass(frozen=True, kw_only=True)
class VisitState:
    """One visit: identifiers with their prefixes, its state, and what explains it.

    ``state`` is ``done``; ``rejected`` (a stage refused it: ``detail`` has stage and reason); ``excluded`` (by decision);
    ``unfinished`` (some stages are done); ``pending`` (none is); ``missing`` (the records know of it, there are no images).
    """

    participant_id: str
    session_id: str
    state: str
    detail: str = ""


def visit_states(study: Path) -> list[VisitState]:
    """Every visit that has a folder below ``dicom/`` or ``bids/`` or a line in ``records/visits.csv``, in their order, then folders
    that cannot be visits.

    Names are looked at, no image is opened: whether files changed since the last run is what ``snakemake -n`` tells.
    """
    decisions = read_decisions(study / "decisions.csv")
    folders, unusable = find_folders(study)
    found = {folder[:2] for folder in folders}
    states = []
    for participant, session in sorted(found | _recorded(study / "records" / "visits.csv")):
        decision = decisions.get((participant, session))
        if (participant, session) not in found:
            state, detail = "missing", "in records/visits.csv, but without a folder of images"
        elif decision is not None and decision.decision == "exclude":
            state, detail = "excluded", f"{decision.why} ({decision.who}, {decision.when})"
        else:
            state, detail = _progress(study, f"{participant}_{session}")
        states.append(VisitState(participant_id=participant, session_id=session, state=state, detail=detail))
    return states + [VisitState(participant_id=name, session_id="", state="rejected", detail=reason) for name, reason in unusable]


def summary(states: list[VisitState]) -> str:
    """How many visits are in which state, in one line."""
    counts = Counter(state.state for state in states)
    order = ("done", "rejected", "excluded", "unfinished", "pending", "missing")
    participants = len({state.participant_id for state in states if state.session_id})
    parts = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
    return f"{len(states)} visits of {participants} participants: {parts}" if states else "no visit"


def _recorded(path: Path) -> set[tuple[str, str]]:
    """Visits of the records; none where the file cannot be read, which `hqsm check records` explains."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            header = handle.readline().lower()
            separator = separator_of(header)
            names = [name.strip().strip('"') for name in header.split(separator)]
            rows = list(csv.DictReader(handle, names, delimiter=separator))
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()
    pairs = [((row.get("participant_id") or "").strip(), (row.get("session_id") or "").strip()) for row in rows]
    return {("sub-" + p.removeprefix("sub-"), "ses-" + s.removeprefix("ses-")) for p, s in pairs if p and s}


def _progress(study: Path, visit: str) -> tuple[str, str]:
    done = ""
    for stage in STAGES:
        path = study / "results" / "work" / visit / f"{stage}.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            break
        if facts.get("failed"):
            return "rejected", f"{facts.get('stage', stage)}: {facts.get('reason', '')} (log: logs/{facts.get('stage', stage)}/{visit}.log)"
        done = stage
    if done == STAGES[-1]:
        return "done", ""
    return ("unfinished", f"after {done}") if done else ("pending", "")
