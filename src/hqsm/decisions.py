"""Edge: manual decisions about visits: who decided what, when and why."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from hqsm.errors import InputError

DECISIONS = ("exclude", "include", "accept")
_COLUMNS = ("participant_id", "session_id", "decision", "who", "when", "why")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One line of decisions.csv; identifiers carry their prefixes."""

    participant_id: str
    session_id: str
    decision: str
    who: str
    when: str
    why: str


def read_decisions(path: Path) -> dict[tuple[str, str], Decision]:
    """Decisions by (participant_id, session_id); the last line about a visit counts. No file, no decisions."""
    if not path.is_file():
        return {}
    decisions = {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path.name} has no column {', '.join(missing)}.",
                remedy=f"Its header is: {','.join(_COLUMNS)}.",
                code="DECISIONS_COLUMNS",
            )
        for line, row in enumerate(reader, start=2):
            values = {name: (row.get(name) or "").strip() for name in _COLUMNS}
            if values["decision"] not in DECISIONS:
                raise InputError(
                    f"{path.name} line {line}: the decision is not one of {', '.join(DECISIONS)}.",
                    remedy="Correct the line.",
                    code="DECISIONS_VALUE",
                )
            for name in ("who", "when", "why"):
                if not values[name]:
                    raise InputError(
                        f"{path.name} line {line}: {name} is empty.",
                        remedy="Every decision says who made it, when and why.",
                        code="DECISIONS_EMPTY",
                    )
            values["participant_id"] = "sub-" + values["participant_id"].removeprefix("sub-")
            values["session_id"] = "ses-" + values["session_id"].removeprefix("ses-")
            decision = Decision(**values)
            decisions[decision.participant_id, decision.session_id] = decision
    return decisions
