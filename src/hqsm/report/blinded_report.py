"""The blinded edition of the report: enrolment, completeness and quality, and nothing from which liver iron follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hqsm.codes import meaning
from hqsm.report.figures.base import participants_of
from hqsm.report.page import Cell, cards, navigation, page, render, table
from hqsm.report.qc_index import render_qc_index


def render_blinded_report(visits: pd.DataFrame, findings: Sequence[Mapping[str, Any]], name: str, versions: Mapping[str, str]) -> str:
    """One page from the visits' states and the records' findings; it is given no liver iron, no iron and no dose."""
    body = navigation({"QC of every visit": "../qc/index.html", "Methods text": "methods.md"})
    body += render("<h1>{{ n }}: blinded edition</h1>", n=name)
    body += """<p>Images and records are kept apart until both are locked (<code>hqsm lock imaging</code>,
        <code>hqsm lock records</code>) and the study is unblinded. No table, figure or page joins them yet.</p>"""
    body += cards(("Participants", str(participants_of(visits).nunique()), ""), ("Visits found", str(len(visits)), ""))

    def section(title: str, header: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> str:
        return render("<h2>{{ t }}</h2>", t=title) + table(header, rows)

    body += section("State of the visits", ("State", "Visits"), sorted(Counter(visits["status"]).items()))
    per_person = Counter(Counter(participants_of(visits)).values())
    body += section("Completeness", ("Visits of a participant", "Participants"), sorted(per_person.items()))
    codes = Counter(code for text in visits["codes"] for code in str(text).split())
    body += section("Quality codes", ("Code", "Visits", "Meaning"), [(code, n, meaning(code)) for code, n in sorted(codes.items())])
    left = visits[visits["status"].isin(["rejected", "excluded"])]
    rows_left = [
        (*(Cell(text=r[name], css="id") for name in ("participant_id", "session_id")), Cell(text=r["status"], css=r["status"]), r["reason"])
        for r in left.to_dict(orient="records")
    ]
    body += section("Visits that are left out", ("Participant", "Visit", "Status", "Reason"), rows_left)
    body += section("Manual decisions", ("Participant", "Visit", "Status", "Decision"), decision_rows(visits))
    found = Counter((str(f["file"]), str(f["code"]), str(f["severity"])) for f in findings)
    rows_found = [(*key, n) for key, n in sorted(found.items())]
    body += section("Findings in the records", ("File", "Code", "Severity", "Findings"), rows_found)
    return page(f"{name} (blinded)", body, ", ".join(f"{k} {v}" for k, v in versions.items()))


_SHOWN_IN_INDEX = ("participant_id", "session_id", "scanner", "body_snr")


def render_blinded_index(visits: pd.DataFrame, lic: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]) -> str:
    """The index of QC pages without what tells the liver iron of two visits side by side, which is a change.

    That is LIC, everything else of lic.tsv, the pictures of R2*, the fit's residual (a share of the signal, which iron takes away), and
    the codes of a warning: some say that there is much iron. The page of a visit keeps them all.
    """
    reasons = visits["reason"].where(visits["status"] != "warning", "The visit's page says why.")
    return render_qc_index(
        visits.assign(reason=reasons), lic.iloc[:0], [{name: summary.get(name) for name in _SHOWN_IN_INDEX} for summary in summaries]
    )


def decision_rows(visits: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Participant, visit, status and the manual decision about it, for every visit with one."""
    decided = visits[visits["decision"].fillna("").astype(bool)]
    return [(r["participant_id"], r["session_id"], r["status"], r["decision"]) for r in decided.to_dict(orient="records")]


def stamped(files: Mapping[str, bytes], stamp: str) -> dict[str, bytes]:
    """The files of a report with a sentence on top of every page and text; unchanged where there is nothing to say."""
    if not stamp:
        return dict(files)
    banner = render('<p class="box" role="alert">{{ s }}</p>', s=stamp).encode()
    made = {}
    for name, content in files.items():
        if name.endswith(".html"):
            content = content.replace(b"<body>", b"<body>" + banner, 1)
        elif name.endswith(".md"):
            content = f"**{stamp}**\n\n".encode() + content
        made[name] = content
    return made
