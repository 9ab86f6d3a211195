"""The frame of every page, and how a figure gets into it."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib as mpl
from jinja2 import Environment

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "hqsm", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;max-width:1160px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.6rem 0 .4rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;font-size:.86rem}th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #e3e3e3}
td.n{text-align:right;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}img{max-width:100%;height:auto}
.ok{color:#00664b}.warning{color:#8a5a00}.rejected,.excluded{color:#a12a00;font-weight:600}
.big{display:flex;flex-wrap:wrap;gap:1rem}.big div{border:1px solid #ddd;border-radius:6px;padding:.5rem .9rem}
.big b{display:block;font-size:1.3rem}footer{margin-top:2rem;color:#666;font-size:.8rem}
</style></head><body>{{ body }}<footer>{{ footer }}</footer></body></html>
"""
ENVIRONMENT = Environment(autoescape=True)


def page(title: str, body: str, footer: str) -> str:
    """A whole page; ``body`` is markup that has been escaped already."""
    from markupsafe import Markup

    return ENVIRONMENT.from_string(_FRAME).render(title=title, body=Markup(body), footer=footer)


def render(template: str, **values: Any) -> str:
    """A fragment of markup; every value is escaped."""
    return ENVIRONMENT.from_string(template).render(**values)


def svg_bytes(figure: Any) -> bytes:
    """A figure as SVG without a date, so that equal content gives equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()


def png_uri(figure: Any, dpi: int = 80) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_uri(content: bytes) -> str:
    """SVG content as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def number(value: Any, digits: int = 2) -> str:
    """A number for people; an en dash where there is none."""
    try:
        number_ = float(value)
    except (TypeError, ValueError):
        return "–"
    return "–" if number_ != number_ else f"{number_:.{digits}f}"
