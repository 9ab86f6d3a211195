"""The records of a study after checking: one typed table each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from hqsm.records.findings import ERROR, Finding
from hqsm.records.schema import EXPOSURE_TABLES, TABLES


@dataclass(frozen=True, eq=False, kw_only=True)
class Records:
    """Everything that the clinical records say, ids with their prefixes.

    Attributes
    ----------
    tables
        One data frame per table of :data:`hqsm.records.schema.TABLES`, with that table's columns and ``line``.
        Text is ``str`` ("" where missing), dates are ISO text ("" where missing or unreadable), numbers float64
        (NaN where missing or refused). A table without a file is empty.
    present
        Names of the tables that had rows.
    findings
        Every problem that was found.
    notes
        What a missing table switches off, one sentence each.
    """

    tables: dict[str, pd.DataFrame]
    present: frozenset[str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def participants(self) -> pd.DataFrame:
        """Participants: participant_id, group, site, sex, birth_year, splenectomy, ..."""
        return self.tables["participants"]

    @property
    def visits(self) -> pd.DataFrame:
        """Visits: participant_id, session_id, visit_date, visit_type, weight_kg, ..."""
        return self.tables["visits"]

    @property
    def blocked(self) -> dict[str, tuple[str, ...]]:
        """Participants whose exposure is stopped by errors, each with the codes of those errors.

        An error of a row stops its participant; an error of a whole table, whose rows cannot be trusted, stops everybody.
        """
        codes: dict[str, set[str]] = {}
        for finding in self.findings:
            if finding.severity == ERROR and finding.table in EXPOSURE_TABLES:
                stopped = set(self.participants["participant_id"]) if finding.about_table else {finding.participant}
                for participant in stopped - {""}:
                    codes.setdefault(participant, set()).add(finding.code)
        return {participant: tuple(sorted(found)) for participant, found in sorted(codes.items())}


def empty_table(table: str) -> pd.DataFrame:
    """A table without rows, with the columns and types of a read one."""
    columns = {rule.name: pd.Series([], dtype="float64" if rule.kind == "number" else "str") for rule in TABLES[table]}
    return pd.DataFrame({**columns, "line": pd.Series([], dtype="int64")})


def empty_records(note: str = "The study has no records.", findings: tuple[Finding, ...] = ()) -> Records:
    """Records of a study that has none that can be used: every table empty."""
    return Records(tables={name: empty_table(name) for name in TABLES}, present=frozenset(), findings=findings, notes=(note,))
