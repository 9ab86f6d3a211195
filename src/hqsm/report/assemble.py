"""Edge: gathers what the stages of a visit wrote into what its page shows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.archive import load_noun
from hqsm.bids import read_echoes
from hqsm.data import Regions, Susceptibility, WaterFat
from hqsm.provenance import versions
from hqsm.report.visit_page import VisitPage
from hqsm.stage import read_status

Facts = dict[str, Any]


def assemble_visit_page(paths: Any, participant_id: str, session_id: str, stages: Facts) -> tuple[VisitPage, Facts, dict[str, Facts]]:
    """The page's content, the summary for the index, and the statuses of the stages.

    ``paths`` names the stages' files: ``echoes``, ``fit_status`` ... are status files, the others results; an empty
    result is the placeholder of a stage that failed.
    """
    statuses = {
        "gated_echoes": read_status(paths.echoes),
        "water_fat": read_status(paths.fit_status),
        "regions": read_status(paths.regions_status),
        "susceptibility": read_status(paths.susceptibility_status),
        "liver_iron": read_status(paths.liver_iron),
    }
    failed = next((facts for facts in statuses.values() if facts["failed"]), None)
    codes = tuple(dict.fromkeys(code for facts in statuses.values() for code in facts.get("codes", [])))
    ok = {name: not facts["failed"] for name, facts in statuses.items()}
    echoes_facts = statuses["gated_echoes"]
    gating_rows: tuple[dict[str, str], ...] = ()
    magnitude = None
    if ok["gated_echoes"]:
        with Path(paths.gating).open(encoding="utf-8", newline="") as handle:
            gating_rows = tuple(csv.DictReader(handle, delimiter="\t"))
        magnitude = np.abs(read_echoes(Path(paths.bids_folder)).signal[..., 0])
    visit = VisitPage(
        participant_id=participant_id,
        session_id=session_id,
        failed=failed,
        codes=codes if failed is None else (*codes, failed["code"]),
        magnitude=magnitude,
        fit=load_noun(Path(paths.fit), WaterFat) if ok["water_fat"] else None,
        regions=load_noun(Path(paths.regions), Regions) if ok["regions"] else None,
        chi=load_noun(Path(paths.susceptibility), Susceptibility) if ok["susceptibility"] else None,
        gating_rows=gating_rows,
        gating=echoes_facts.get("gating", {}),
        acquisition={k: v for k, v in echoes_facts.items() if k not in {"failed", "stage", "codes", "gating", "placeholders"}},
        iron=statuses["liver_iron"].get("row", {}),
        parameters=stages,
        versions=versions(),
    )
    summary = {
        "participant_id": participant_id,
        "session_id": session_id,
        "status": "rejected" if failed else "ok",
        "reason": failed["reason"] if failed else "",
    }
    return visit, summary, statuses
