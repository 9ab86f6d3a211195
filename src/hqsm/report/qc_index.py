"""The list of all QC pages."""

from __future__ import annotations

import pandas as pd

from hqsm.report.page import number, page, render


def render_qc_index(visits: pd.DataFrame, lic: pd.DataFrame, pages: frozenset[str]) -> str:
    """One row per visit with a link to its page; ``pages`` are the names of the pages that exist."""
    values = {(r["participant_id"], r["session_id"]): r for r in lic.to_dict(orient="records")}
    rows = []
    for visit in visits.to_dict(orient="records"):
        iron = values.get((visit["participant_id"], visit["session_id"]), {})
        name = f"{visit['participant_id']}_{visit['session_id']}.html"
        rows.append(
            {
                **visit,
                "page": name if name in pages else "",
                "hqsm": number(iron.get("lic_hqsm_mg_g")),
                "r2star": number(iron.get("lic_r2star_mg_g")),
            }
        )
    body = render(
        """<h1>QC of every visit</h1><div class="wide"><table><tr><th>Participant</th><th>Visit</th><th>Status</th>
        <th>LIC hQSM [mg/g]</th><th>LIC R2* [mg/g]</th><th>Reason</th></tr>
        {% for r in rows %}<tr><td>{{ r.participant_id }}</td>
        <td>{% if r.page %}<a href="{{ r.page }}">{{ r.session_id }}</a>{% else %}{{ r.session_id }}{% endif %}</td>
        <td class="{{ r.status }}">{{ r.status }}</td><td class="n">{{ r.hqsm }}</td><td class="n">{{ r.r2star }}</td>
        <td>{{ r.reason }}</td></tr>{% endfor %}</table></div>""",
        rows=rows,
    )
    return page("QC of every visit", body, "")
