"""The blinded edition of the report: enrolment, completeness and quality, and nothing from which liver iron follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hqsm.codes import meaning
from hqsm.report.page import page, render

_TABLE = """<h2>{{ title }}</h2><div class="wide"><table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}</table></div>"""


def render_blinded_report(visits: pd.DataFrame, findings: Sequence[Mapping[str, Any]], name: str, versions: Mapping[str, str]) -> str:
    """One page from the visits' states and the records' findings; it is given no liver iron, no iron and no dose."""
    body = render("<h1>{{ n }}: blinded edition</h1>", n=name)
    body += render(
        """<p>Images and records are kept apart until both are locked (<code>hqsm lock imaging</code>, <code>hqsm lock records</code>)
        and the study is unblinded. No table, figure or page joins them yet.</p>
        <div class="big"><div>Participants<b>{{ p }}</b></div><div>Visits found<b>{{ v }}</b></div></div>""",
        p=visits["participant_id"].nunique(),
        v=len(visits),
    )
    states = Counter(visits["status"])
    body += render(_TABLE, title="State of the visits", header=("State", "Visits"), rows=sorted(states.items()))
    per_person = Counter(Counter(visits["participant_id"]).values())
    rows = [(n, k) for n, k in sorted(per_person.items())]
    body += render(_TABLE, title="Completeness", header=("Visits of a participant", "Participants"), rows=rows)
    codes = Counter(code for text in visits["codes"] for code in str(text).split())
    rows_of_codes = [(code, n, meaning(code)) for code, n in sorted(codes.items())]
    body += render(_TABLE, title="Quality codes", header=("Code", "Visits", "Meaning"), rows=rows_of_codes)
    left = visits[visits["status"].isin(["rejected", "excluded"])]
    rows_left = [(r["participant_id"], r["session_id"], r["status"], r["reason"]) for r in left.to_dict(orient="records")]
    body += render(_TABLE, title="Visits that are left out", header=("Participant", "Visit", "Status", "Reason"), rows=rows_left)
    found = Counter((str(f["file"]), str(f["code"]), str(f["severity"])) for f in findings)
    rows_found = [(*key, n) for key, n in sorted(found.items())]
    body += render(_TABLE, title="Findings in the records", header=("File", "Code", "Severity", "Findings"), rows=rows_found)
    return page(f"{name} (blinded)", body, ", ".join(f"{k} {v}" for k, v in versions.items()))


def stamped(files: Mapping[str, bytes], stamp: str) -> dict[str, bytes]:
    """The files of a report with a sentence on top of every page and text; unchanged where there is nothing to say."""
    if not stamp:
        return dict(files)
    banner = render('<p class="rejected" role="alert">{{ s }}</p>', s=stamp).encode()
    made = {}
    for name, content in files.items():
        if name.endswith(".html"):
            content = content.replace(b"<body>", b"<body>" + banner, 1)
        elif name.endswith(".md"):
            content = f"**{stamp}**\n\n".encode() + content
        made[name] = content
    return made
