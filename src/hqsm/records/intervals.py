"""Annual intervals of a participant, chosen from the visits' dates alone, without looking at any LIC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from hqsm.config.records import RecordsParams
from hqsm.records.data import Records


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Two visits of one participant about a year apart; ids carry their prefixes."""

    participant_id: str
    start_session: str
    end_session: str
    start: date
    end: date

    @property
    def days(self) -> int:
        """Days between the two visits."""
        return (self.end - self.start).days


def annual_intervals(records: Records, params: RecordsParams) -> tuple[list[Interval], list[dict[str, str]]]:
    """Non-overlapping annual intervals, and the visits that make none with the reason.

    The rule: from the first visit on, take the visit whose distance is nearest to ``interval_target_days`` within
    ``interval_window_days``; it starts the next interval. Without one, go on from the next visit.
    """
    people = {str(row["participant_id"]): row for row in records.participants.to_dict(orient="records")}
    intervals: list[Interval] = []
    unused: list[dict[str, str]] = []
    for participant, rows in records.visits.groupby("participant_id", sort=True):
        name = str(participant)
        usable = []
        for row in rows.sort_values("visit_date").to_dict(orient="records"):
            reason = _why_unusable({str(key): value for key, value in row.items()}, people.get(name, {}), params)
            if reason:
                unused.append({"participant_id": name, "session_id": str(row["session_id"]), "reason": reason})
            else:
                usable.append((date.fromisoformat(str(row["visit_date"])), str(row["session_id"])))
        taken: set[str] = set()
        k = 0
        while k < len(usable):
            start, session = usable[k]
            near = [
                (abs((when - start).days - params.interval_target_days), j)
                for j, (when, _) in enumerate(usable)
                if j > k and abs((when - start).days - params.interval_target_days) <= params.interval_window_days
            ]
            if near:
                _, j = min(near)
                end, end_session = usable[j]
                intervals.append(Interval(participant_id=name, start_session=session, end_session=end_session, start=start, end=end))
                taken |= {session, end_session}
                k = j
            else:
                k += 1
        for _, session in usable:
            if session not in taken:
                days, window = params.interval_target_days, params.interval_window_days
                reason = f"no other visit {days} +- {window} days away that is not in another interval"
                unused.append({"participant_id": name, "session_id": session, "reason": reason})
    return intervals, unused


def _why_unusable(visit: Mapping[str, Any], person: Mapping[Any, Any], params: RecordsParams) -> str:
    """Why a visit can be no end of an annual interval; empty where it can."""
    group, withdrawn = str(person.get("group", "")), str(person.get("withdrawn_date", ""))
    if group not in params.annual_groups:
        return f"the group {group or 'unknown'} has no annual intervals"
    if person.get("exclusion_code"):
        return "the participant has an exclusion code"
    if visit["visit_type"] and visit["visit_type"] not in params.annual_visit_types:
        return f"a visit of type {visit['visit_type']} makes no annual interval"
    if not visit["visit_date"]:
        return "the visit has no valid date"
    if withdrawn and str(visit["visit_date"]) >= withdrawn:
        return "the visit is not before the participant's withdrawal"
    if visit["scan_ok"] == "n":
        return "the records say that the scan is not usable"
    return ""
