"""Edge: the cohort's tables of visits, from the status files of every visit and the records' groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from hqsm.cohort import lic_row, liver_region_rows, unusable_row, visit_row
from hqsm.config.explant import ExplantParams, scan_setting
from hqsm.config.protocol import ProtocolParams
from hqsm.config.records import RecordsParams
from hqsm.decisions import read_decisions
from hqsm.errors import InputError
from hqsm.protocol import changes_by_visit, deviations, expected_protocol
from hqsm.records.data import Records, empty_records
from hqsm.records.exposure import age_years
from hqsm.records.findings import ERROR, Finding
from hqsm.records.reading import read_records
from hqsm.run_state import STAGES
from hqsm.stage import read_status
from hqsm.tables import write_rows
from hqsm.units import milliseconds_to_s


def study_records(params: RecordsParams) -> Records:
    """The study's records; where they cannot be used as a whole they are empty, with the reason as a finding."""
    folder = Path("records")
    if not any(folder.glob("*.csv")):
        return empty_records()
    try:
        return read_records(folder, params)
    except InputError as error:
        whole = Finding(
            file="records",
            line=0,
            participant="",
            field="",
            code=error.code,
            severity=ERROR,
            problem=error.problem,
            remedy=error.remedy,
        )
        return empty_records(str(error), (whole,))


def write_visit_tables(
    found: list[list[str]],
    record_params: RecordsParams,
    explant: ExplantParams,
    *,
    visits: Path,
    lic: Path,
    regions: Path,
    sealed: bool = False,
    blinding: bool = False,
    protocol: ProtocolParams | None = None,
) -> list[str]:
    """Write visits.tsv, lic.tsv and liver_regions.tsv for the visits that were found (participant, session, and files or reason).

    Returns the paths of the empty files that failed stages left in place of their results.

    ``sealed``: the study is blinded, and no record is opened: group and type of the visits stay empty. ``blinding``: it is, or was
    before its unblinding: no visit is judged by the records (a liver's volume by its body's weight, a folder without a row), so that
    opening them moves nothing of the arm of images, which was locked without them.
    """
    records = empty_records() if sealed else study_records(record_params)
    groups = dict(zip(records.participants["participant_id"], records.participants["group"], strict=True))
    kinds = {(r["participant_id"], r["session_id"]): r["visit_type"] for r in records.visits.to_dict(orient="records")}
    decisions = read_decisions(Path("decisions.csv"))
    protocol = protocol or ProtocolParams()
    tolerance_s = milliseconds_to_s(protocol.echo_time_tolerance_ms)
    statuses_of = {(p, s): {stage: read_status(_work_folder(p, s) / f"{stage}.json") for stage in STAGES} for p, s, _ in found if s}
    changed = _changes(statuses_of, explant, tolerance_s)
    twins = same_images({visit: statuses["gated_echoes"] for visit, statuses in statuses_of.items()})
    visit_rows: list[dict[str, Any]] = []
    lic_rows: list[dict[str, Any]] = []
    region_rows: list[dict[str, Any]] = []
    placeholders: list[str] = []
    for participant, session, what in found:
        if not session:
            visit_rows.append(unusable_row(participant, what))
            continue
        name, label = f"sub-{participant}", f"ses-{session}"
        statuses = statuses_of[participant, session]
        placeholders += [path for facts in statuses.values() for path in facts.get("placeholders", [])]
        record: dict[str, Any] = {"group": str(groups.get(name, "")), "visit_type": str(kinds.get((name, label), ""))}
        record["not_in_records"] = bool(kinds) and not blinding and (name, label) not in kinds
        specimen, _ = scan_setting(explant, session)
        if specimen == "in_vivo" and not blinding:
            record |= _body(records, name, label)
        facts = statuses["gated_echoes"]
        if not facts["failed"]:
            wanted = expected_protocol(protocol, participant, session)
            scanner, sequence, models = changed.get((participant, session), ([], [], []))
            record |= {
                "protocol_deviations": deviations(facts, wanted, echo_time_tolerance_s=tolerance_s),
                "scanner_changes": scanner,
                "protocol_changes": sequence,
                "model_changes": models,
                "same_images": twins.get((participant, session), []),
            }
        decision = decisions.get((name, label))
        row = visit_row(name, label, statuses, record, asdict(decision) if decision else None)
        row["n_files"] = int(what)
        visit_rows.append(row)
        if statuses["visit_page"]["failed"]:
            continue  # nobody can look at it
        made = lic_row(row, statuses, specimen)
        if made is not None:
            lic_rows.append(made)
        region_rows += liver_region_rows(row, statuses)
    write_rows(visits, "visits", visit_rows)
    write_rows(lic, "lic", lic_rows)
    write_rows(regions, "liver_regions", region_rows)
    return placeholders


def _work_folder(participant: str, session: str) -> Path:
    return Path(f"results/work/sub-{participant}_ses-{session}")


def _changes(
    statuses_of: Mapping[tuple[str, str], Mapping[str, dict[str, Any]]], explant: ExplantParams, tolerance_s: float
) -> dict[tuple[str, str], tuple[list[str], list[str], list[str]]]:
    """What changed since each participant's visit before; explants, which have a protocol of their own, are left out."""
    visits = [
        (*visit, {**statuses["gated_echoes"], "liver_fit": statuses["liver_iron"].get("details", {}).get("fit", {})})
        for visit, statuses in statuses_of.items()
        if scan_setting(explant, visit[1])[0] == "in_vivo"
    ]
    return changes_by_visit(visits, echo_time_tolerance_s=tolerance_s)


def same_images(echoes: Mapping[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The other visits, as ``sub-P/ses-S``, whose images are the same to the last pixel: one folder was filed twice."""
    visits: dict[str, list[tuple[str, str]]] = {}
    for visit, facts in echoes.items():
        visits.setdefault(facts.get("images_sha256", ""), []).append(visit)
    visits.pop("", None)
    return {own: [f"sub-{p}/ses-{s}" for p, s in alike if (p, s) != own] for alike in visits.values() for own in alike}


def _body(records: Records, participant_id: str, session_id: str) -> dict[str, float]:
    """Weight [kg] and age [years] on the day of a visit; NaN where the records are silent."""
    visits, people = records.visits, records.participants
    visit = visits[(visits["participant_id"] == participant_id) & (visits["session_id"] == session_id)].to_dict(orient="records")
    person = people[people["participant_id"] == participant_id].to_dict(orient="records")
    weight_kg = float(visit[0]["weight_kg"]) if visit else float("nan")
    age = float("nan")
    if visit and person and visit[0]["visit_date"]:
        age = age_years(date.fromisoformat(str(visit[0]["visit_date"])), float(person[0]["birth_year"]))
    return {"weight_kg": weight_kg, "age_years": age}
