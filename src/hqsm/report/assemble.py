"""Edge: gathers what the stages of a visit wrote into what its page shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.archive import load_noun
from hqsm.bids import read_echoes
from hqsm.config.protocol import ProtocolParams
from hqsm.data import Regions, Susceptibility, WaterFat
from hqsm.protocol import deviations, expected_protocol
from hqsm.provenance import versions
from hqsm.report.visit_page import VisitPage, thumbnail
from hqsm.stage import read_status
from hqsm.units import milliseconds_to_s

Facts = dict[str, Any]


def assemble_visit_page(
    paths: Any, participant_id: str, session_id: str, stages: Facts, *, viewer: bool, protocol: ProtocolParams | None = None
) -> tuple[VisitPage, Facts]:
    """The page's content and the summary for the index.

    ``paths`` names the stages' files: ``echoes``, ``fit_status`` ... are status files, the others results; an empty
    result is the placeholder of a stage that failed. ``viewer`` says whether the visit gets an interactive viewer;
    ``protocol`` is what the acquisition is compared with.
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
        gating_rows = tuple(echoes_facts["gating"]["repetitions"])
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
        acquisition=_acquisition(echoes_facts, protocol or ProtocolParams(), participant_id, session_id),
        iron=statuses["liver_iron"].get("row", {}),
        parameters=stages,
        versions=versions(),
    )
    if visit.fit is not None and viewer:
        visit = replace(visit, viewer=f"{participant_id}_{session_id}_viewer.html")
    return visit, _summary(visit)


def _acquisition(facts: Facts, protocol: ProtocolParams, participant_id: str, session_id: str) -> Facts:
    """Facts of the acquisition that the page shows, with what differs from the protocol."""
    unshown = {"failed", "stage", "codes", "gating", "placeholders", "echo_times_s"}
    shown = {name: value for name, value in facts.items() if name not in unshown}
    readout = facts.get("readout")
    if readout:
        shown["readout"] = str(readout["polarity"]).replace("-", " ")
        if readout["polarity"] == "bipolar":
            slopes = ", ".join(f"{slope:+.2f}" for slope in readout["slope_rad_per_axis"])
            shown["readout"] += (
                f"; odd/even phase of {readout['rms_rad']:.2f} rad RMS removed ({readout['constant_rad']:+.2f} rad, "
                f"{slopes} rad across x, y, z, and {readout['bend_rms_rad']:.2f} rad RMS that bends); "
                f"unexplained signal {100 * readout['unexplained_before']:.1f} % before, "
                f"{100 * readout['unexplained_after']:.1f} % after"
            )
    if not facts.get("failed"):
        wanted = expected_protocol(protocol, participant_id.removeprefix("sub-"), session_id.removeprefix("ses-"))
        tolerance_s = milliseconds_to_s(protocol.echo_time_tolerance_ms)
        shown["protocol_deviations"] = deviations(facts, wanted, echo_time_tolerance_s=tolerance_s)
    return shown


def body_snr(visit: VisitPage) -> float:
    """Median first echo of the body outside of the liver over the noise; NaN where either is missing.

    Iron darkens a liver, so that the liver's own ratio tells of its iron: nothing that a coil or a protocol did, and nothing that
    an index of a blinded study may set side by side.
    """
    noise = visit.acquisition.get("noise_sd")
    if visit.magnitude is None or visit.regions is None or not noise:
        return float("nan")
    outside = visit.magnitude[visit.regions.body & ~visit.regions.liver_whole]
    return float(np.median(outside)) / float(noise) if outside.size else float("nan")


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
        "body_snr": body_snr(visit),
        "viewer": visit.viewer,
    }
