"""Edge: gathers what the stages of a visit wrote into what its page shows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.archive import load_noun
from hqsm.bids import read_echoes
from hqsm.data import Regions, Susceptibility, WaterFat
from hqsm.provenance import versions
from hqsm.report.visit_page import VisitPage, thumbnail
from hqsm.stage import read_status

Facts = dict[str, Any]


def assemble_visit_page(
    paths: Any, participant_id: str, session_id: str, stages: Facts, *, viewer: bool
) -> tuple[VisitPage, Facts, dict[str, Facts]]:
    """The page's content, the summary for the index, and the statuses of the stages.

    ``paths`` names the stages' files: ``echoes``, ``fit_status`` ... are status files, the others results; an empty
    result is the placeholder of a stage that failed. ``viewer`` says whether the visit gets an interactive viewer.
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
    echoes = None
    if ok["gated_echoes"]:
        with Path(paths.gating).open(encoding="utf-8", newline="") as handle:
            gating_rows = tuple(csv.DictReader(handle, delimiter="\t"))
        echoes = read_echoes(Path(paths.bids_folder))
        magnitude = np.abs(echoes.signal[..., 0])
    regions = load_noun(Path(paths.regions), Regions) if ok["regions"] else None
    liver_signal: tuple[float, ...] = ()
    if echoes is not None and regions is not None and regions.liver.any():
        liver_signal = tuple(float(np.median(np.abs(echoes.signal[..., k][regions.liver]))) for k in range(echoes.signal.shape[-1]))
    visit = VisitPage(
        participant_id=participant_id,
        session_id=session_id,
        failed=failed,
        codes=codes if failed is None else (*codes, failed["code"]),
        magnitude=magnitude,
        fit=load_noun(Path(paths.fit), WaterFat) if ok["water_fat"] else None,
        regions=regions,
        echo_times_s=tuple(echoes_facts.get("echo_times_s", ())),
        liver_signal=liver_signal,
        chi=load_noun(Path(paths.susceptibility), Susceptibility) if ok["susceptibility"] else None,
        gating_rows=gating_rows,
        gating=echoes_facts.get("gating", {}),
        mask={
            name: statuses["regions"].get(name)
            for name in ("mask_source", "readers", "no_liver_because", "references", "excluded_shares")
            if statuses["regions"].get(name)
        },
        acquisition={
            k: v for k, v in echoes_facts.items() if k not in {"failed", "stage", "codes", "gating", "placeholders", "echo_times_s"}
        },
        iron=statuses["liver_iron"].get("row", {}),
        parameters=stages,
        versions=versions(),
    )
    if visit.fit is not None and viewer:
        visit = replace(visit, viewer=f"{participant_id}_{session_id}_viewer.html")
    return visit, _summary(visit), statuses


def _summary(visit: VisitPage) -> Facts:
    """The visit's line in the index of QC pages."""
    residual = float("nan")
    if visit.fit is not None and visit.regions is not None and visit.regions.liver.any():
        residual = float(np.nanmedian(visit.fit.residual[visit.regions.liver]))
    maker = str(visit.acquisition.get("manufacturer") or "").split()
    scanner = " ".join([*maker[:1], str(visit.acquisition.get("model") or "")])
    return {
        "participant_id": visit.participant_id,
        "session_id": visit.session_id,
        "status": "rejected" if visit.failed else "ok",
        "reason": visit.failed["reason"] if visit.failed else "",
        "scanner": scanner.strip(),
        "software": visit.acquisition.get("software", ""),
        "thumbnail": thumbnail(visit),
        "fit_residual": residual,
        "liver_snr": visit.liver_signal[0] / noise if visit.liver_signal and (noise := visit.acquisition.get("noise_sd")) else float("nan"),
        "viewer": visit.viewer,
    }
