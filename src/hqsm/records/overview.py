"""What the report shows of the records: who takes part, and what each received over time."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np

from hqsm.config.records import RecordsParams
from hqsm.records.data import Records
from hqsm.records.exposure import ParticipantRecords, age_years

Row = dict[str, Any]


def demographics(records: Records) -> list[Row]:
    """One row per study group, of numbers over its participants; nothing that names one of them.

    Ages [years] are those at the first visit, from the middle of the year of birth.
    """
    first: dict[str, str] = {}
    for visit in records.visits.to_dict(orient="records"):
        if visit["visit_date"]:
            who = visit["participant_id"]
            first[who] = min(first.get(who, visit["visit_date"]), visit["visit_date"])
    rows = []
    people = records.participants
    for group in sorted(set(people["group"]) - {""}):
        part = people[people["group"] == group]
        ages = [
            age_years(date.fromisoformat(first[who]), born)
            for who, born in zip(part["participant_id"], part["birth_year"], strict=True)
            if who in first and np.isfinite(born)
        ]
        rows.append(
            {
                "group": group,
                "n": len(part),
                "female": int((part["sex"] == "F").sum()),
                "male": int((part["sex"] == "M").sum()),
                "age_median_years": float(np.median(ages)) if ages else np.nan,
                "age_youngest_years": min(ages, default=np.nan),
                "age_oldest_years": max(ages, default=np.nan),
                "splenectomised": int((part["splenectomy"] == "y").sum()),
                "withdrawn": int((part["withdrawn_date"] != "").sum()),
            }
        )
    return rows


def timeline(records: Records, params: RecordsParams) -> list[Row]:
    """Every transfusion, and every span of an unchanged chelator dose, between a participant's first and last visit.

    Rows with ``kind`` ``transfusion`` have their net iron [mg] as ``value``; with ``kind`` ``chelator`` the prescribed
    dose [mg Jadenu-equivalent a day], 0 where it was held or none was prescribed; ``start`` and ``end`` are included.
    """
    rows: list[Row] = []
    for participant in sorted(set(records.visits["participant_id"]) - {""}):
        own = ParticipantRecords(participant, records, params)
        visits = sorted(date.fromisoformat(str(row["visit_date"])) for row in own.rows_of("visits") if row["visit_date"])
        if not visits:
            continue
        days = [visits[0] + timedelta(days=k) for k in range((visits[-1] - visits[0]).days + 1)]
        for when, iron_mg, _ in sorted(own.transfusions()):
            if days[0] <= when <= days[-1]:
                rows.append(_row(participant, "transfusion", when, when, iron_mg))
        if own.prescriptions:
            dose = np.nan_to_num(own.prescribed_mg(days))
            edges = [0, *(np.flatnonzero(np.abs(np.diff(dose)) > 1) + 1), len(days)]
            for first, last in zip(edges[:-1], edges[1:], strict=True):
                rows.append(_row(participant, "chelator", days[first], days[last - 1], float(dose[first])))
    return rows


def _row(participant: str, kind: str, start: date, end: date, value: float) -> Row:
    return {"participant_id": participant, "kind": kind, "start": start.isoformat(), "end": end.isoformat(), "value": value}
