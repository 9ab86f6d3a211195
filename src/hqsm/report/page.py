"""The frame of every page: style, navigation, tables that sort, and how a picture gets into it.

Every page is one file that asks for nothing: the Content-Security-Policy allows its own style, pictures inside it, and
the one script that sorts tables, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

_STYLE = """
:root{--line:#dfe4ea;--ink:#1a2430;--soft:#5b6b7b;--blue:#0072B2}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);max-width:1120px;margin:0 auto;padding:1rem 1rem 3rem}
.broad body{max-width:1560px}
h1{font-size:1.55rem;line-height:1.2;margin:.3rem 0 .6rem}
h2{font-size:1.2rem;margin:2.2rem 0 .5rem;padding-bottom:.2rem;border-bottom:2px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
a{color:var(--blue)}p{max-width:52rem;margin:.4rem 0}.soft,figcaption{color:var(--soft);font-size:.87rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:.4rem 0;border-bottom:1px solid var(--line);font-size:.9rem}
table{border-collapse:collapse;font-size:.86rem;margin:.3rem 0}
th,td{padding:.28rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
thead th{vertical-align:bottom;border-bottom:2px solid var(--line)}
th.sortable{cursor:pointer}th.sortable:after{content:" \\2195";color:#9aa7b4}
th[aria-sort=ascending]:after{content:" \\2191";color:var(--ink)}th[aria-sort=descending]:after{content:" \\2193";color:var(--ink)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}td.id{white-space:nowrap}td.why{min-width:12rem}td img{width:64px}table.sorts :is(th,td){padding:.28rem .4rem}
tbody tr:hover{background:#f6f8fa}.wide{overflow-x:auto}
figure{margin:.8rem 0 1.4rem}figure img{display:block;max-width:100%;height:auto}
.cards{display:flex;flex-wrap:wrap;gap:.6rem;margin:.6rem 0}
.cards div{border:1px solid var(--line);border-radius:8px;padding:.45rem .85rem;min-width:7.5rem}
.cards span{display:block;color:var(--soft);font-size:.82rem}.cards b{display:block;font-size:1.3rem;line-height:1.25}
.tag{display:inline-block;border-radius:4px;padding:0 .4rem;font-size:.8rem;font-weight:600;border:1px solid currentColor}
.ok{color:#00664b}.warning{color:#8a5a00}.rejected,.excluded,.error{color:#a12a00}.note{color:#44586c}
.outlier{background:#fdf0e4;font-weight:600}.box{border-left:4px solid #a12a00;background:#fdf4f1;padding:.5rem .9rem;margin:.7rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.88rem;margin:.3rem 0}dt{color:var(--soft)}dd{margin:0}
details{margin:.6rem 0}summary{cursor:pointer}footer{margin-top:2.5rem;padding-top:.5rem;border-top:1px solid var(--line);color:var(--soft);font-size:.8rem}
@media(max-width:600px){.scroll{overflow-x:auto}.scroll img{max-width:none;width:640px}dl{grid-template-columns:1fr}dt{margin-top:.3rem}}
@page{size:A4;margin:13mm}@page broad{size:A4 landscape}
@media print{nav,th.sortable:after{display:none}details{display:block}.broad body{page:broad}body{font-size:11px;max-width:none;padding:0}
h2,h3{break-after:avoid}figure,tr,.cards,.box{break-inside:avoid}.wide{overflow:visible}figure img{max-height:228mm}
table{font-size:9px}dl,p,.soft,figcaption{font-size:11px}th,td,table.sorts :is(th,td){padding:.15rem .25rem}td.why{min-width:0}
.broad figure img{max-height:150mm}}
"""
_SCRIPT = """document.querySelectorAll('table.sorts thead th').forEach(function(h){h.tabIndex=0;
function go(){var t=h.closest('table'),b=t.tBodies[0],k=Array.prototype.indexOf.call(h.parentNode.children,h),
up=h.getAttribute('aria-sort')!=='ascending',v=function(r){var c=r.cells[k],x=parseFloat(c.dataset.v!==undefined?c.dataset.v:c.textContent);
return isNaN(x)||/[a-z]{3}/i.test(c.textContent)?c.textContent:x};
Array.from(b.rows).sort(function(p,q){var x=v(p),y=v(q);var e=typeof x==='number',f=typeof y==='number';
var d=e&&f?x-y:e?-1:f?1:x.localeCompare(y);return e===f?(up?d:-d):d}).forEach(function(r){b.appendChild(r)});
t.querySelectorAll('th').forEach(function(o){o.removeAttribute('aria-sort')});h.setAttribute('aria-sort',up?'ascending':'descending')}
h.addEventListener('click',go);h.addEventListener('keydown',function(e){if(e.key==='Enter'||e.key===' '){e.preventDefault();go()}})});"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_FRAME = """<!doctype html>
<html lang="en"{% if wide %} class="broad"{% endif %}><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{ hash }}'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title><style>{{ style }}</style></head>
<body>{{ body }}<footer>{{ footer }}</footer><script>{{ script }}</script></body></html>
"""
ENVIRONMENT = Environment(autoescape=True)


def page(title: str, body: str, footer: str, *, wide: bool = False) -> str:
    """A whole page; ``body`` is markup that has been escaped already. ``wide`` gives a large table all of the screen."""
    return ENVIRONMENT.from_string(_FRAME).render(
        title=title, body=Markup(body), footer=footer, style=Markup(_STYLE), script=Markup(_SCRIPT), hash=Markup(_SCRIPT_HASH), wide=wide
    )


def render(template: str, **values: Any) -> str:
    """A fragment of markup; every value is escaped."""
    return ENVIRONMENT.from_string(template).render(**values)


def navigation(links: Mapping[str, str]) -> str:
    """Links by their words."""
    return render("<nav>{% for w, u in links %}<a href='{{ u }}'>{{ w }}</a>{% endfor %}</nav>", links=list(links.items()))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell that is more than text: a link, a picture, a class, or a value to sort by."""

    text: str = ""
    link: str = ""
    image: str = ""
    css: str = ""
    value: float | None = None


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, sorts: bool = False, empty: str = "Nothing to show.") -> str:
    """A table; columns whose cells are all numbers (or an en dash) are set flush right."""
    if not rows:
        return render("<p class=soft>{{ e }}</p>", e=empty)
    cells = [[item if isinstance(item, Cell) else Cell(text=str(item)) for item in row] for row in rows]
    numeric = [
        all(_is_number(row[k].text) for row in cells) and any(row[k].text not in {"", "–"} for row in cells) for k in range(len(header))
    ]
    return render(
        """<div class="wide"><table{% if sorts %} class="sorts"{% endif %}><thead><tr>{% for h in header %}<th class="{% if sorts %}sortable{% endif %}
{%- if numeric[loop.index0] %} n{% endif %}">{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr>{% for c in row %}<td class="{% if numeric[loop.index0] %}n {% endif %}{{ c.css }}"
{%- if c.value is not none %} data-v="{{ c.value }}"{% endif %}>{% if c.link %}<a href="{{ c.link }}">{% endif %}
{%- if c.image %}<img alt="{{ c.text }}" src="{{ c.image }}">{% else %}{{ c.text }}{% endif %}{% if c.link %}</a>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>""",
        header=header,
        rows=cells,
        sorts=sorts,
        numeric=numeric,
    )


def _is_number(text: str) -> bool:
    plain = (
        text.replace("\u2212", "-")
        .replace("–", "")
        .replace("to", "")
        .replace("(", "")
        .replace(")", "")
        .replace("≥", "")
        .replace("<", "")
        .replace(" ", "")
    )
    return not plain.strip("0123456789.+-e%")


def cards(*items: tuple[str, str, str]) -> str:
    """Headline numbers: what, value, and a line below."""
    return render(
        "<div class=cards>{% for what, value, below in items %}<div><span>{{ what }}</span><b>{{ value }}</b><span>{{ below }}</span></div>{% endfor %}</div>",
        items=items,
    )


def picture(uri: str, alt: str, caption: str = "", links: Mapping[str, str] | None = None) -> str:
    """A figure with its caption and where to get it."""
    return render(
        """<figure><div class="scroll"><img alt="{{ alt }}" src="{{ uri }}"></div><figcaption>{{ caption }}
{% for words, url in links %} <a href="{{ url }}">{{ words }}</a>{% endfor %}</figcaption></figure>""",
        alt=alt,
        uri=uri,
        caption=caption,
        links=list((links or {}).items()),
    )


def png_uri(figure: Figure, dpi: int = 80) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def webp_uri(figure: Figure, dpi: int = 80) -> str:
    """A figure of many pixels as a data URI, in half the bytes of :func:`png_uri`; no eye can tell."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 90})
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_uri(content: bytes) -> str:
    """SVG content as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def number(value: Any, digits: int = 2) -> str:
    """A number for people; an en dash where there is none."""
    try:
        number_ = float(value)
    except (TypeError, ValueError):
        return "–"
    return "–" if number_ != number_ else f"{number_:.{digits}f}".replace("-", "\u2212")


def p_value(value: Any) -> str:
    """A p value for people."""
    text = number(value, 3)
    return "<0.001" if text == "0.000" else text


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """Both ends of an interval; an en dash where there is none."""
    ends = number(low, digits), number(high, digits)
    return "–" if "–" in ends else f"{ends[0]} to {ends[1]}"
