"""The study's report: one page, its figures with their data, and the methods text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hqsm.lic import HQSM_CALIBRATIONS, R2STAR_CALIBRATIONS
from hqsm.report.page import OKABE_ITO, number, page, render, svg_bytes, svg_uri
from hqsm.statistics.regression import METHODS, design_matrix

PHYSICS_SLOPE = 1 / 10.6
"""Expected change of LIC per transfused iron [(mg/g)/(mg/kg)]: Angelucci et al., NEJM 2000;343:327."""
_NAMES = {"hqsm": "hQSM", "r2star": "R2*"}
Tables = Mapping[str, pd.DataFrame]


def render_study_report(
    tables: Tables, findings: list[dict[str, Any]], parameters: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, bytes]:
    """Files of the report by name below ``results/report``."""
    figures: dict[str, tuple[str, bytes, pd.DataFrame]] = {}
    for name, maker in (("regression", _regression_figure), ("methods_agreement", _agreement_figure), ("explants", _explant_figure)):
        made = maker(tables)
        if made is not None:
            figures[name] = made
    files: dict[str, bytes] = {}
    for name, (_, svg, data) in figures.items():
        files[f"figures/{name}.svg"] = svg
        files[f"figures/{name}.tsv"] = data.to_csv(sep="\t", index=False, float_format="%.9g", na_rep="n/a").encode()
    files["methods.md"] = methods_text(parameters, versions).encode()
    files["index.html"] = _page(tables, findings, figures, parameters, versions).encode()
    return files


def _added_variable(frame: pd.DataFrame, column: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Iron in and change of LIC, both with intercept and chelator regressed out."""
    design = design_matrix(frame)
    rest = design[:, [0, 2]]

    def residual(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        left: np.ndarray[Any, Any] = y - rest @ np.linalg.lstsq(rest, y, rcond=None)[0]
        return left

    return residual(design[:, 1]), residual(frame[column].to_numpy(float))


def _regression_figure(tables: Tables) -> tuple[str, bytes, pd.DataFrame] | None:
    frame = tables["annual_change"]
    frame = frame[frame["included"] == 1]
    parts = []
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
    drawn = False
    for ax, (method, column) in zip(axes, METHODS.items(), strict=True):
        usable = frame[np.isfinite(frame[column].to_numpy(float))]
        ax.set_title(_NAMES[method])
        ax.set_xlabel("transfused iron, adjusted for chelator [mg/kg/year]")
        if len(usable) < 4:
            ax.text(0.5, 0.5, "too few intervals", transform=ax.transAxes, ha="center")
            continue
        drawn = True
        x, y = _added_variable(usable, column)
        ax.plot(x, y, "o", color=OKABE_ITO[0], ms=4)
        line = np.array([x.min(), x.max()])
        slope = float(x @ y / (x @ x))
        ax.plot(line, slope * line, color=OKABE_ITO[1], label=f"fit {slope:.3f}")
        ax.plot(line, PHYSICS_SLOPE * line, ":", color="k", label=f"physics {PHYSICS_SLOPE:.3f}")
        ax.legend(frameon=False)
        parts.append(pd.DataFrame({"method": method, "iron_in_adjusted_mg_per_kg_per_year": x, "delta_lic_adjusted_mg_g_per_year": y}))
    axes[0].set_ylabel("annual change of LIC, adjusted [mg/g]")
    if not drawn:
        plt.close(figure)
        return None
    return _done(figure, "Annual change of liver iron on transfused iron", parts)


def _agreement_figure(tables: Tables) -> tuple[str, bytes, pd.DataFrame] | None:
    lic = tables["lic"]
    both = lic[["participant_id", "session_id", "specimen", "lic_hqsm_mg_g", "lic_r2star_mg_g"]].dropna()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    if len(both) < 2:
        plt.close(figure)
        return None
    x, y = both["lic_r2star_mg_g"].to_numpy(float), both["lic_hqsm_mg_g"].to_numpy(float)
    top = 1.05 * max(x.max(), y.max())
    axes[0].plot([0, top], [0, top], ":", color="k")
    for kind, marker in (("in_vivo", "o"), ("in_vitro", "s")):
        chosen = (both["specimen"] == kind).to_numpy()
        axes[0].plot(x[chosen], y[chosen], marker, ms=4, label=kind.replace("_", " "))
    axes[0].legend(frameon=False)
    axes[0].set_xlabel("LIC by R2* [mg/g]")
    axes[0].set_ylabel("LIC by hQSM [mg/g]")
    difference = y - x
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    axes[1].plot((x + y) / 2, difference, "o", color=OKABE_ITO[0], ms=4)
    for level, style in ((bias, "-"), (bias - 1.96 * sd, "--"), (bias + 1.96 * sd, "--")):
        axes[1].axhline(level, ls=style, color=OKABE_ITO[1])
    axes[1].set_xlabel("mean of both [mg/g]")
    axes[1].set_ylabel("hQSM minus R2* [mg/g]")
    figure.tight_layout()
    return _done(figure, "Agreement of the two methods (lines: bias and 95 % limits)", [both])


def _explant_figure(tables: Tables) -> tuple[str, bytes, pd.DataFrame] | None:
    frame = tables["explants"]
    usable = frame[np.isfinite(frame["lic_mg_g"].to_numpy(float)) & np.isfinite(frame["lic_chemistry_mg_g"].to_numpy(float))]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
    if usable.empty:
        plt.close(figure)
        return None
    top = 1.05 * float(usable[["lic_mg_g", "lic_chemistry_mg_g"]].to_numpy(float).max())
    for ax, setting in zip(axes, ("in_vivo", "in_vitro"), strict=True):
        ax.plot([0, top], [0, top], ":", color="k")
        for k, method in enumerate(("hqsm", "r2star")):
            part = usable[(usable["setting"] == setting) & (usable["method"] == method)]
            marker = "os"[k]
            ax.plot(part["lic_chemistry_mg_g"], part["lic_mg_g"], marker, color=OKABE_ITO[k], label=_NAMES[method])
        ax.set_title(setting.replace("_", " "))
        ax.set_xlabel("chemical LIC [mg/g dry]")
        ax.legend(frameon=False)
    axes[0].set_ylabel("LIC by MRI [mg/g dry]")
    return _done(figure, "Explanted livers against chemistry", [usable])


def _done(figure: Any, title: str, parts: list[pd.DataFrame]) -> tuple[str, bytes, pd.DataFrame]:
    svg = svg_bytes(figure)
    plt.close(figure)
    return title, svg, pd.concat(parts)


def _readers_section(tables: Tables) -> str:
    """Agreement of the readers and the scans to adjudicate; nothing where at most one read."""
    pairs, summary = tables["readers"], tables["reader_agreement"]
    if pairs.empty:
        return ""
    words = {
        "icc_agreement": "ICC(A,1)",
        "within_scan_sd": "SD within a scan",
        "bias": "bias",
        "lower_limit": "lower limit of agreement",
        "upper_limit": "upper limit of agreement",
        "dice": "Dice",
    }
    rows = [
        (
            r["measure"],
            str(r["comparison"]).replace("_", " "),
            words[r["quantity"]],
            number(r["estimate"], 3),
            f"{number(r['ci_lo'], 3)} to {number(r['ci_hi'], 3)}",
            int(r["n"]),
            r["note"],
        )
        for r in summary[summary["quantity"].isin(list(words))].to_dict(orient="records")
    ]
    body = "<h2>Readers</h2>" + _table(("Measure", "Who", "Quantity", "Estimate", "95 % interval", "Scans", "Note"), rows)
    wanted = pairs[pairs["adjudicate"] == 1]
    if wanted.empty:
        return body + "<p>No scan needs a third reader.</p>"
    listed = [
        (r["participant_id"], r["session_id"], f"{r['reader_a']}, {r['reader_b']}", r["reason"])
        for r in wanted.drop_duplicates(["participant_id", "session_id", "reader_a", "reader_b", "reason"]).to_dict(orient="records")
    ]
    return body + "<h2>Scans for a third reader</h2>" + _table(("Participant", "Session", "Readers", "Why"), listed)


def _page(
    tables: Tables,
    findings: list[dict[str, Any]],
    figures: dict[str, tuple[str, bytes, pd.DataFrame]],
    parameters: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    visits, lic, change = tables["visits"], tables["lic"], tables["annual_change"]
    counts = visits["status"].value_counts()
    body = render("<h1>{{ n }}</h1>", n=parameters["study"]["name"])
    body += render(
        """<div class="big"><div>Participants<b>{{ p }}</b></div><div>Visits found<b>{{ v }}</b>{{ s }}</div>
        <div>Visits with liver iron<b>{{ l }}</b></div><div>Annual intervals<b>{{ i }}</b>{{ x }} left out</div></div>""",
        p=visits["participant_id"].nunique(),
        v=len(visits),
        s=", ".join(f"{n} {name}" for name, n in counts.items()),
        l=len(lic),
        i=int((change["included"] == 1).sum()),
        x=int((change["included"] != 1).sum()),
    )
    regression = tables["regression"]
    primary = regression[regression["analysis"] == "primary"]
    words = {"intercept": "intercept [mg/g/year]", "iron_in": "iron in [(mg/g)/(mg/kg)]", "chelator": "chelator [(mg/g)/(g/kg)]"}
    rows: list[tuple[Any, ...]] = [
        (
            _NAMES[r["method"]],
            words[r["term"]],
            number(r["estimate"], 4),
            f"{number(r['ci_lo'], 4)} to {number(r['ci_hi'], 4)}",
            number(r["p_value"], 4),
            number(r["physics_value"], 4),
            f"{number(r['efficiency'], 3)} ({number(r['efficiency_lo'], 3)} to {number(r['efficiency_hi'], 3)})"
            if r["term"] == "chelator"
            else "",
            number(r["r_squared"], 3),
            r["note"],
        )
        for r in primary.to_dict(orient="records")
    ]
    body += "<h2>Annual change of liver iron</h2>" + _table(
        ("Method", "Term", "Estimate", "95 % interval", "p", "Physics", "Implied efficiency", "R²", "Note"), rows
    )
    body += (
        "<p>Physics: 1/10.6 mg/g per mg/kg of transfused iron, and the chelator's slope if all of its capacity took out iron; "
        "the efficiency is the share of it that the slope implies.</p>"
    )
    for title, svg, _ in figures.values():
        body += render('<h2>{{ t }}</h2><img alt="{{ t }}" src="{{ u }}">', t=title, u=svg_uri(svg))
    comparison = [
        (
            str(r["quantity"]).replace("_", " "),
            number(r["estimate"], 3),
            f"{number(r['ci_lo'], 3)} to {number(r['ci_hi'], 3)}",
            number(r["p_value"], 4),
            r["note"],
        )
        for r in tables["method_comparison"].to_dict(orient="records")
    ]
    body += "<h2>Comparison of the methods (hQSM minus R2*)</h2>" + _table(
        ("Quantity", "Estimate", "95 % interval", "p", "Note"), comparison
    )
    body += _readers_section(tables)
    rows = [
        (
            r["participant_id"],
            r["session_id"],
            r["group"],
            r["acq_date"],
            number(r["field_strength_t"], 2),
            number(r["chi_hqsm_ppm"], 3),
            number(r["lic_hqsm_mg_g"]),
            number(r["r2star_per_s"], 0),
            number(r["lic_r2star_mg_g"]),
            number(r["pdff_percent"], 1),
            r["qc_status"],
        )
        for r in lic.to_dict(orient="records")
    ]
    body += "<h2>Liver iron of every visit</h2>" + _table(
        ("Participant", "Visit", "Group", "Date", "B0 [T]", "χ [ppm]", "LIC hQSM [mg/g]", "R2* [1/s]", "LIC R2* [mg/g]", "Fat [%]", "QC"),
        rows,
    )
    rejected = visits[visits["status"].isin(["rejected", "excluded"])]
    rows = [(r["participant_id"], r["session_id"], r["status"], r["reason"]) for r in rejected.to_dict(orient="records")]
    body += "<h2>Visits that are not in the tables</h2>" + _table(("Participant", "Visit", "Status", "Reason"), rows)
    rows = [
        (
            r["confounder"],
            r["setting"].replace("_", " "),
            _NAMES[r["method"]],
            number(r["effect"], 3),
            f"{number(r['ci_lo'], 3)} to {number(r['ci_hi'], 3)}",
            number(r["p_holm"], 3),
            number(r["equivalence_p"], 3),
            number(r["n"], 0),
            r["note"],
        )
        for r in tables["histology_effects"].to_dict(orient="records")
    ]
    body += "<h2>Effect of histology on the error of LIC</h2>" + _table(
        ("Confounder", "Setting", "Method", "Effect per step [mg/g]", "95 % interval", "p (Holm)", "p (equivalence)", "n", "Note"), rows
    )
    rows = [
        (
            r["quantity"].replace("_", " "),
            number(r["n_pairs"], 0),
            number(r["within_subject_sd"], 3),
            number(r["repeatability_coefficient"], 3),
            r["note"],
        )
        for r in tables["repeatability"].to_dict(orient="records")
    ]
    body += "<h2>Repeatability</h2>" + _table(("Quantity", "Pairs", "Within-subject SD", "Repeatability coefficient", "Note"), rows)
    rows = [(f["file"], f["line"] or "", f["code"], f["severity"], f"{f['problem']} {f['remedy']}") for f in findings[:200]]
    body += "<h2>Findings in the records</h2>" + _table(("File", "Line", "Code", "Severity", "What and what to do"), rows)
    return page(str(parameters["study"]["name"]), body, ", ".join(f"{k} {v}" for k, v in versions.items()))


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "<p>Nothing to show.</p>"
    return render(
        """<div class="wide"><table><tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
        {% for row in rows %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}</table></div>""",
        header=header,
        rows=rows,
    )


def methods_text(parameters: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """A methods section from the parameters that were used."""
    gating, lic, chi = parameters["gating"], parameters["lic"], parameters["susceptibility"]
    r2star = "; ".join(c.source for c in R2STAR_CALIBRATIONS if c.name == lic["r2star_calibration"])
    hqsm = HQSM_CALIBRATIONS[lic["hqsm_calibration"]].source if lic["hqsm_calibration"] in HQSM_CALIBRATIONS else lic["hqsm_calibration"]
    return f"""# Methods

Repetitions whose diaphragm lay within a window of {gating["window_mm"]:g} mm (at most {gating["widest_window_mm"]:g} mm) around
end-expiration were combined as complex images. Water, fat ({parameters["fatwater"]["spectrum"]} spectrum), R2* and field were fitted
to the complex echoes by maximum likelihood after a global, swap-free field initialisation (tree-reweighted message
passing). Susceptibility was estimated by the method "{chi["method"]}" and referenced to {chi["reference"]}.
LIC by R2* used the calibration {lic["r2star_calibration"]} ({r2star}); LIC by hQSM the calibration {lic["hqsm_calibration"]} ({hqsm}).
Annual changes were regressed on transfused iron and chelator dose by ordinary least squares with CR2 cluster-robust
standard errors and Satterthwaite degrees of freedom.

Versions: {", ".join(f"{name} {value}" for name, value in versions.items())}.
"""
