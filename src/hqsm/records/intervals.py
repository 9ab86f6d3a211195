"""Annual intervals of a participant, chosen from the visits' dates alone, without looking at any LIC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

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
    groups = dict(zip(records.participants["participant_id"], records.participants["group"], strict=True))
    intervals: list[Interval] = []
    unused: list[dict[str, str]] = []
    for participant, rows in records.visits.groupby("participant_id", sort=True):
        name = str(participant)
        usable = []
        for row in rows.sort_values("visit_date").to_dict(orient="records"):
            reason = ""
            if groups.get(name, "") not in params.annual_groups:
                reason = f"the group {groups.get(name) or 'unknown'} has no annual intervals"
            elif row["visit_type"] and row["visit_type"] not in params.annual_visit_types:
                reason = f"a visit of type {row['visit_type']} makes no annual interval"
            elif not row["visit_date"]:
                reason = "the visit has no valid date"
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
