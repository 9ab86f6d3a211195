"""The cohort's tables of visits: what every stage of every visit said, joined with the records' groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hqsm.codes import meaning

NOTES = frozenset(
    {
        "MASK_AUTOMATIC",
        "GATING_SINGLE_REPETITION",
        "GATING_OUTLIERS",
        "GATING_DRIFT",
        "BIPOLAR_CORRECTED",
        "FIRST_ECHO_PHASE",
        "SIGN_NOT_CHECKED",
        "WATER_SHIFT_ESTIMATED",
        "CHI_MASK_UNCONFIRMED",
        "MODEL_CHANGED",
    }
)
"""Codes that say how a value was made without casting doubt on it: they do not turn a visit into a warning."""

Row = dict[str, Any]


LEAST_OF_EXPECTED_VOLUME, MOST_OF_EXPECTED_VOLUME = 0.35, 3.0
"""A slab may cut the liver, and iron enlarges it; beyond these shares of what body size predicts the mask is not believed."""


def expected_liver_volume_ml(weight_kg: float, age_years: float) -> float:
    """Liver volume that a body predicts [mL]; NaN where neither weight nor age is known.

    Urata et al., Hepatology 1995;21:1317: 706.2 mL per m^2 of body surface + 2.4, with the surface from the weight alone
    (Costeff, Arch Dis Child 1966;41:681). Without a weight a child's is taken from the age (2 (age + 4) kg up to five
    years, 3 age + 7 kg up to twelve, as in Advanced Paediatric Life Support), anyone older's as 60 kg.
    """
    if not weight_kg > 0:
        if not age_years >= 0:
            return float("nan")
        weight_kg = 2 * (age_years + 4) if age_years < 6 else min(3 * age_years + 7, 60.0)
    surface_m2 = (4 * weight_kg + 7) / (weight_kg + 90)
    return 706.2 * surface_m2 + 2.4


def volume_doubt(volume_ml: float, weight_kg: float, age_years: float, covered_share: float = 1.0) -> str:
    """The code of a liver whose volume its body makes implausible; empty where it is plausible or nothing is known.

    ``covered_share`` is what the images hold of it at least: a thin slab shows a part.
    """
    share = volume_ml / expected_liver_volume_ml(weight_kg, age_years)
    return "LIVER_VOLUME" if share < LEAST_OF_EXPECTED_VOLUME * covered_share or share > MOST_OF_EXPECTED_VOLUME else ""


_OF_LIVER = (
    *("chi_liver_ppm", "chi_hqsm_ppm", "lic_hqsm_mg_g", "lic_hqsm_lo", "lic_hqsm_hi"),
    *("r2star_per_s", "lic_r2star_mg_g", "lic_r2star_lo", "lic_r2star_hi", "pdff_percent"),
)


def volume_refused(visit: Mapping[str, Any]) -> bool:
    """Whether an automatic liver has a volume that this body cannot have: no number is made of it until somebody says so.

    ``visit`` is its row of visits.tsv; a decision that accepts the warning lets the numbers through.
    """
    return {"LIVER_VOLUME", "MASK_NEEDS_READER"} <= set(str(visit["codes"]).split()) and visit["status"] != "ok"


def _flagged(doubts: Sequence[str], of_page: Collection[str]) -> str:
    """The reason of a warning: codes that the visit's page explains, and the others, which the cohort showed, with their meaning."""
    shown = [code for code in doubts if code in of_page]
    words = [f"Flagged: {', '.join(shown)}; the QC page explains each."] if shown else []
    return " ".join([*words, *(f"{code}: {meaning(code)}" for code in doubts if code not in of_page)])


def visit_row(
    participant_id: str,
    session_id: str,
    statuses: Mapping[str, Mapping[str, Any]],
    record: Mapping[str, Any],
    decision: Mapping[str, str] | None,
) -> Row:
    """One row of visits.tsv.

    Parameters
    ----------
    participant_id, session_id
        With prefixes.
    statuses
        Status of each stage by name; a failed stage carries ``code`` and ``reason``.
    record
        ``group`` and ``visit_type`` of this visit from the clinical records, empty text where they are silent; ``weight_kg``
        and ``age_years`` on its day, NaN where unknown or for an explant; ``protocol_deviations``, ``scanner_changes``,
        ``protocol_changes`` and ``model_changes`` are lists of phrases, ``same_images`` one of other visits;
        ``not_in_records``: there are records, and they have no such visit.
    decision
        The manual decision about this visit, if any: ``decision``, ``who``, ``when``, ``why``.
    """
    echoes = statuses.get("gated_echoes", {})
    failed = next((facts for facts in statuses.values() if facts.get("failed")), None)
    codes = list(dict.fromkeys(code for facts in statuses.values() for code in facts.get("codes", [])))
    of_page = frozenset(codes)
    volume = statuses.get("liver_iron", {}).get("row", {}).get("liver_volume_ml")
    volume_ml = float("nan") if volume is None else float(volume)
    weight_kg, age_years = float(record.get("weight_kg", "nan")), float(record.get("age_years", "nan"))
    regions = statuses.get("regions", {})
    doubt = volume_doubt(volume_ml, weight_kg, age_years, float(regions.get("liver_covered_share", 1.0)))
    refused = doubt and regions.get("mask_source") == "automatic"
    codes += [code for code in (doubt, "MASK_NEEDS_READER" if refused else "") if code and code not in codes]
    for name, code in (
        ("protocol_deviations", "PROTOCOL_DEVIATION"),
        ("scanner_changes", "SCANNER_CHANGED"),
        ("protocol_changes", "PROTOCOL_CHANGED"),
        ("model_changes", "MODEL_CHANGED"),
        ("same_images", "VISIT_SAME_IMAGES"),
        ("not_in_records", "VISIT_NOT_IN_RECORDS"),
    ):
        codes += [code] if record.get(name) else []
    status, reason, stage = "ok", "", ""
    doubts = [code for code in codes if code not in NOTES]
    if failed is not None:
        status, reason, stage = "rejected", str(failed["reason"]), str(failed["stage"])
        codes.append(str(failed["code"]))
    elif doubts:
        status, reason = "warning", _flagged(doubts, of_page)
        why = regions.get("no_liver_because")
        if refused and not why:
            expected_ml = expected_liver_volume_ml(weight_kg, age_years)
            why = f"it has {volume_ml:.0f} mL, where this body's size lets expect about {expected_ml:.0f} mL"
        if why:
            reason += f" No automatic liver: {why}."
        if record.get("same_images"):
            reason += f" Same images: {', '.join(record['same_images'])}."
    said = f"{decision['who']} on {decision['when']}: {decision['why']}" if decision is not None else ""
    if decision is not None and status != "rejected":
        if decision["decision"] == "exclude":
            status, reason = "excluded", said
        elif decision["decision"] == "accept" and status == "warning":
            status, reason = "ok", f"Warning accepted by {said}"
    gating = echoes.get("gating", {})
    return {
        "participant_id": participant_id,
        "session_id": session_id,
        "status": status,
        "reason": reason,
        "decision": f"{decision['decision']} by {said}" if decision is not None else "",
        "codes": " ".join(codes),
        "stage": stage,
        "group": record.get("group", ""),
        "visit_type": record.get("visit_type", ""),
        "acq_date": echoes.get("acquisition_date", ""),
        "convention": echoes.get("convention", ""),
        "n_files": echoes.get("n_files"),
        "n_echoes": len(echoes["echo_times_s"]) if "echo_times_s" in echoes else None,
        "n_repetitions": gating.get("n_repetitions"),
        "n_accepted": gating.get("n_accepted"),
        "set_aside": "; ".join(echoes.get("set_aside", [])),
        "readout": echoes.get("readout", {}).get("polarity", ""),
        "protocol_deviations": "; ".join(record.get("protocol_deviations", [])),
        "changes_since_last_visit": "; ".join(
            phrase for what in ("scanner_changes", "protocol_changes", "model_changes") for phrase in record.get(what, [])
        ),
    }


def lic_row(visit: Mapping[str, Any], statuses: Mapping[str, Mapping[str, Any]], specimen: str) -> Row | None:
    """One row of lic.tsv, or nothing for a visit that was rejected before its liver was measured."""
    iron = statuses.get("liver_iron", {})
    if iron.get("failed", True) or "row" not in iron:
        return None
    echoes, regions = statuses["gated_echoes"], statuses["regions"]
    gating = echoes["gating"]
    values = {**iron["row"], **dict.fromkeys(_OF_LIVER)} if volume_refused(visit) else iron["row"]
    return {
        "participant_id": visit["participant_id"],
        "session_id": visit["session_id"],
        "group": visit["group"],
        "specimen": specimen,
        "acq_date": visit["acq_date"],
        "field_strength_t": round(echoes["field_strength_tesla"], 4),
        **values,
        "gating_source": gating["source"],
        "gating_efficiency": gating["efficiency"],
        "n_repetitions": gating["n_repetitions"],
        "n_accepted": gating["n_accepted"],
        "gating_window_mm": gating.get("window_mm"),
        "gating_residual_sd_mm": gating.get("residual_sd_mm"),
        "gating_drift_mm": gating.get("drift_mm"),
        "mask_source": regions["mask_source"],
        "reference_tissue": statuses["susceptibility"]["reference_name"],
        "reconstruction_digest": statuses["susceptibility"]["digest"],
        "qc_status": visit["status"],
        "qc_codes": visit["codes"],
    }


def liver_region_rows(visit: Mapping[str, Any], statuses: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows of liver_regions.tsv of one visit: each reader's liver, its parts, the references, what was left out."""
    iron = statuses.get("liver_iron", {})
    if iron.get("failed", True):
        return []
    name = {"participant_id": visit["participant_id"], "session_id": visit["session_id"]}
    rows = iron.get("details", {}).get("regions", [])
    return [{**name, **row} for row in rows if row["region"].startswith("reference-") or not volume_refused(visit)]


def unusable_row(name: str, reason: str) -> Row:
    """A folder under dicom/ that cannot be a visit: a row, so that it is never silently missing."""
    participant, _, session = name.partition("/")
    return {
        "participant_id": participant,
        "session_id": session,
        "status": "rejected",
        "reason": reason,
        "codes": "FOLDER_NAME",
        "stage": "discovery",
    }


def exclusion_rows(
    visits: Iterable[Mapping[str, Any]],
    intervals: Iterable[Mapping[str, Any]],
    unused: Iterable[Mapping[str, Any]],
    findings: Sequence[Mapping[str, Any]],
) -> list[Row]:
    """Everything that was left out of an analysis, one row each: visits, intervals, visits of no interval, records."""
    rows: list[Row] = []
    for visit in visits:
        if visit["status"] in {"rejected", "excluded"}:
            # the last code is the one that rejected it; what excluded it is a decision
            code = str(visit["codes"]).split()[-1] if visit["status"] == "rejected" else ""
            rows.append(_exclusion("visit", visit["participant_id"], visit["session_id"], code, visit["reason"]))
    for interval in intervals:
        if float(interval["included"]) == 0:
            span = f"{interval['start_session']} to {interval['end_session']}"
            rows.append(_exclusion("interval", interval["participant_id"], span, "", interval["reason"]))
    for visit in unused:
        rows.append(_exclusion("visit of no interval", visit["participant_id"], visit["session_id"], "", visit["reason"]))
    for finding in findings:
        if finding["severity"] == "error":
            where = f"{finding['file']} line {finding['line']}" if finding["line"] else str(finding["file"])
            text = f"{finding['problem']} {finding['remedy']}".strip()
            rows.append(_exclusion("record", finding["participant"], where, finding["code"], text))
    return rows


def _exclusion(what: str, participant_id: str, item: str, code: str, reason: str) -> Row:
    return {"what": what, "participant_id": participant_id, "item": item, "code": code, "reason": reason}
