"""What is wrong with the records, said so that a coordinator can correct it.

A finding never repeats a cell's content. Its line is the line of the file as a person counts it in a text editor
(the header is line 1); line 0 means the file as a whole. Codes are stable; ``docs/records.md`` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

ERROR = "error"
WARNING = "warning"
NOTE = "note"

FINDING_COLUMNS = ("file", "line", "participant", "field", "code", "severity", "problem", "remedy")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem in one place.

    Attributes
    ----------
    file, line
        File name, and line as a person counts it (the first line is 1); 0 for the file as a whole.
    participant
        Study identifier with its prefix ``sub-``; empty where it is not known.
    field
        Column; empty where the problem is the row's or the file's.
    code
        Stable code in capitals.
    severity
        ``error`` (stops what depends on it for this participant), ``warning`` or ``note``.
    problem, remedy
        What is wrong, what to do; one plain sentence each.
    """

    file: str
    line: int
    participant: str
    field: str
    code: str
    severity: str
    problem: str
    remedy: str
    table: str = ""
    """Table of the records that the file, or this part of it, stands for."""

    @property
    def about_table(self) -> bool:
        """Whether it is about a table as a whole, not about one of its rows."""
        return self.line == 0

    def as_row(self) -> dict[str, Any]:
        """The finding as a plain dictionary with the keys of :data:`FINDING_COLUMNS`."""
        values = asdict(self)
        return {name: values[name] for name in FINDING_COLUMNS}

    def sentence(self) -> str:
        """The finding as one line of text."""
        where = f"{self.file} line {self.line}" if self.line else self.file
        who = f" {self.participant}" if self.participant else ""
        column = f" {self.field}" if self.field else ""
        return f"{where}{who}{column} [{self.severity} {self.code}] {self.problem} {self.remedy}".strip()


def findings_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table with the columns of :data:`FINDING_COLUMNS`."""
    return pd.DataFrame([finding.as_row() for finding in findings], columns=list(FINDING_COLUMNS))


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings in the order in which a person corrects them: file, line, column, code."""
    return tuple(sorted(set(findings), key=lambda f: (f.file, f.line, f.field, f.code, f.participant, f.problem)))
