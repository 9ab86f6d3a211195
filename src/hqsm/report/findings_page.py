"""The page of findings that a coordinator works through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hqsm.records.findings import ERROR, NOTE, WARNING, Finding
from hqsm.report.page import page, render

_WORDS = {ERROR: "to correct", WARNING: "to look at", NOTE: "for information"}


def render_findings(name: str, findings: Sequence[Finding], notes: Iterable[str], blocked: Sequence[str]) -> str:
    """A self-contained page: counts, then one table for each file, errors first in each."""
    counts = {severity: sum(f.severity == severity for f in findings) for severity in _WORDS}
    body = render("<h1>Clinical records of {{ n }}</h1>", n=name)
    body += render(
        '<div class="big">{% for s, w in words.items() %}<div>{{ s }}s, {{ w }}<b>{{ c[s] }}</b></div>{% endfor %}</div>',
        words=_WORDS,
        c=counts,
    )
    if blocked:
        body += render("<p>Exposure is not computed until their errors are corrected: {{ p }}.</p>", p=", ".join(blocked))
    if not findings:
        body += "<p>Nothing was found.</p>"
    rank = {severity: k for k, severity in enumerate(_WORDS)}
    for file in dict.fromkeys(f.file for f in findings):
        rows = sorted((f for f in findings if f.file == file), key=lambda f: (rank[f.severity], f.line, f.field))
        body += render(
            """<h2>{{ file }}</h2><div class="wide"><table>
            <tr><th>Line</th><th>Participant</th><th>Column</th><th></th><th>What is wrong</th><th>What to do</th><th>Code</th></tr>
            {% for f in rows %}<tr><td class="n">{{ f.line or "" }}</td><td>{{ f.participant }}</td><td>{{ f.field }}</td>
            <td class="{{ cls[f.severity] }}">{{ f.severity }}</td><td>{{ f.problem }}</td><td>{{ f.remedy }}</td><td>{{ f.code }}</td></tr>
            {% endfor %}</table></div>""",
            file=file,
            rows=rows,
            cls={ERROR: "rejected", WARNING: "warning", NOTE: "ok"},
        )
    for note in notes:
        body += render("<p>{{ t }}</p>", t=note)
    return page(f"Records of {name}", body, "Lines are counted as in a text editor: the header is line 1.")
