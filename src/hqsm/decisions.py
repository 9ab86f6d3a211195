"""Edge: manual decisions about visits: who decided what, when and why."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from hqsm.errors import InputError
from hqsm.table_cells import separator_of

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
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8.", remedy="Save it as CSV UTF-8.", code="DECISIONS_ENCODING") from None
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator_of(header))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path.name} has no column {', '.join(missing)}.",
            remedy=f"Its header is: {','.join(_COLUMNS)}.",
            code="DECISIONS_COLUMNS",
        )
    decisions = {}
    for row in reader:
        values = {name: (row.get(name) or "").strip() for name in _COLUMNS}
        if not any(values.values()):
            continue
        if values["decision"] not in DECISIONS:
            raise InputError(
                f"{path.name} line {reader.line_num}: the decision is not one of {', '.join(DECISIONS)}.",
                remedy="Correct the line.",
                code="DECISIONS_VALUE",
            )
        for name in ("participant_id", "session_id", "who", "when", "why"):
            if not values[name]:
                raise InputError(
                    f"{path.name} line {reader.line_num}: {name} is empty.",
                    remedy="Every decision says about which visit it is, who made it, when and why.",
                    code="DECISIONS_EMPTY",
                )
        values["participant_id"] = "sub-" + values["participant_id"].removeprefix("sub-")
        values["session_id"] = "ses-" + values["session_id"].removeprefix("ses-")
        decision = Decision(**values)
        decisions[decision.participant_id, decision.session_id] = decision
    return decisions
