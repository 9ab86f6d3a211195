"""The page of findings that a coordinator works through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hqsm.records.findings import ERROR, NOTE, WARNING, Finding
from hqsm.report.page import Cell, cards, page, render, table

_WORDS = {ERROR: "to correct", WARNING: "to look at", NOTE: "for information"}


def render_findings(name: str, findings: Sequence[Finding], notes: Iterable[str], blocked: Sequence[str]) -> str:
    """A self-contained page: counts, then one table for each file, errors first in each."""
    counts = {severity: sum(f.severity == severity for f in findings) for severity in _WORDS}
    body = render("<h1>Clinical records of {{ n }}</h1>", n=name)
    body += cards(*((f"{severity}s, {words}", str(counts[severity]), "") for severity, words in _WORDS.items()))
    if blocked:
        body += render("<p>Exposure is not computed until their errors are corrected: {{ p }}.</p>", p=", ".join(blocked))
    if not findings:
        body += "<p>Nothing was found.</p>"
    rank = {severity: k for k, severity in enumerate(_WORDS)}
    for file in dict.fromkeys(f.file for f in findings):
        rows = sorted((f for f in findings if f.file == file), key=lambda f: (rank[f.severity], f.line, f.field))
        shown = [
            (f.line or "", Cell(text=f.participant, css="id"), f.field, Cell(text=f.severity, css=f.severity), f.problem, f.remedy, f.code)
            for f in rows
        ]
        header = ("Line", "Participant", "Column", "Severity", "What is wrong", "What to do", "Code")
        body += render("<h2>{{ file }}</h2>", file=file) + table(header, shown, sorts=True)
    for note in notes:
        body += render("<p>{{ t }}</p>", t=note)
    return page(f"Records of {name}", body, "Lines are counted as in a text editor: the header is line 1.")
