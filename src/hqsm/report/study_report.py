"""The study's report: one page, its figures with their data, and the methods text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from hqsm.report.blinded_report import decision_rows
from hqsm.report.figures import FIGURES
from hqsm.report.figures.base import METHOD_NAMES, ReportData, StudyFigure, participants_of
from hqsm.report.figures.forest import ANALYSES
from hqsm.report.interval_table import interval_table
from hqsm.report.limits import limits
from hqsm.report.methods import methods_text
from hqsm.report.page import Cell, cards, interval, navigation, number, p_value, page, picture, render, svg_uri, table
from hqsm.report.repeatability_tables import QUANTITY_NAMES, repeatability_tables

_SECTIONS = {
    "flow": "Participants and visits",
    "change": "Annual change of liver iron",
    "methods": "hQSM and R2* compared",
    "explants": "Explanted livers",
    "visits": "Liver iron of every visit",
    "repeatability": "Repeatability and baseline",
    "readers": "Readers",
    "exclusions": "What was left out",
    "records": "Findings in the records",
    "provenance": "How this was made",
}
_GROUPS = {"thalassemia": "thalassaemia", "transplant": "transplant", "healthy": "healthy control"}
_TERMS = {
    "intercept": "intercept [mg/g/year]",
    "iron_in": "iron in [(mg/g)/(mg/kg)]",
    "chelator": "chelator [(mg/g)/(g/kg)]",
}
_READER_WORDS = {
    "icc_agreement": "ICC(A,1)",
    "within_scan_sd": "SD within a scan",
    "bias": "bias",
    "lower_limit": "lower limit of agreement",
    "upper_limit": "upper limit of agreement",
    "dice": "Dice",
}
_COMPARISONS = {
    "delta_r_squared": "R² of hQSM minus that of R2*",
    "delta_rmse_mg_g_per_year": "RMSE of hQSM minus that of R2* [mg/g/year]",
    "variance_inflation_of_iron_and_chelator": "variance inflation of iron and chelator",
    "pitman_morgan_r": "residual variances differ (Pitman-Morgan r)",
    "correlation_with_net_balance_hqsm": "correlation of hQSM with the net balance",
    "correlation_with_net_balance_r2star": "correlation of R2* with the net balance",
    "delta_correlation_with_net_balance_williams": "difference of these correlations (Williams)",
    "delta_correlation_with_net_balance_steiger": "difference of these correlations (Steiger)",
    "net_balance_j_test_r2star_adds_to_hqsm": "R2* adds to hQSM (J test)",
    "net_balance_j_test_hqsm_adds_to_r2star": "hQSM adds to R2* (J test)",
    "net_balance_cox_test_hqsm_suffices": "hQSM suffices (Cox test)",
    "net_balance_cox_test_r2star_suffices": "R2* suffices (Cox test)",
}


def render_study_report(data: ReportData) -> dict[str, bytes]:
    """Files of the report by name below ``results/report``."""
    figures = [made for draw in FIGURES if (made := draw(data)) is not None]
    files: dict[str, bytes] = {}
    for figure in figures:
        files |= figure.files()
    scans: list[Any] = data.tables["lic"].to_dict(orient="records")
    files["methods.md"] = methods_text(data.parameters, data.versions, scans).encode()
    files["index.html"] = _page(data, figures).encode()
    return files


def _page(data: ReportData, figures: list[StudyFigure]) -> str:
    name = str(data.parameters["study"]["name"])
    body = render("<h1>{{ n }}</h1>", n=name)
    links = {words: f"#{key}" for key, words in _SECTIONS.items()}
    body += navigation({**links, "QC of every visit": "../qc/index.html", "Methods text": "methods.md"})
    body += _headline(data)
    for key, words in _SECTIONS.items():
        body += render('<h2 id="{{ k }}">{{ w }}</h2>', k=key, w=words)
        before, after = _PARTS[key]
        body += before(data)
        for figure in figures:
            if figure.section == key:
                body += render("<h3>{{ t }}</h3>", t=figure.title)
                files = {kind.upper(): f"figures/{figure.name}.{kind}" for kind in ("svg", "pdf", "tsv")}
                body += picture(svg_uri(figure.svg), figure.title, figure.caption, files)
        body += after(data)
    return page(name, body, ", ".join(f"{k} {v}" for k, v in data.versions.items()))


def _nothing(_: ReportData) -> str:
    return ""


def _headline(data: ReportData) -> str:
    visits, lic = data.tables["visits"], data.tables["lic"]
    measured = lic[lic["qc_status"].isin(["ok", "warning"])]
    counts = visits["status"].value_counts()
    used = data.included_intervals()
    people = f"{used['participant_id'].nunique()} participants"
    items = [
        ("Participants", str(participants_of(visits).nunique()), ", ".join(f"{n} {_GROUPS.get(g, g)}" for g, n in _people(visits) if g)),
        ("Visits", str(len(visits)), ", ".join(f"{n} {status}" for status, n in counts.items())),
        ("Visits with liver iron", str(len(measured)), _range(measured)),
        ("Annual intervals", str(len(used)), people),
    ]
    primary = data.tables["regression"]
    primary = primary[primary["analysis"] == "primary"]
    for method, label in METHOD_NAMES.items():
        row = primary[(primary["method"] == method) & (primary["term"] == "iron_in")]
        if len(row) and float(row["r_squared"].iloc[0]) == float(row["r_squared"].iloc[0]):
            items.append((f"R² by {label}", number(row["r_squared"].iloc[0]), f"RMSE {number(row['rmse'].iloc[0])} mg/g/year"))
    return cards(*items) + render("<p>{{ s }}</p>", s=" ".join(_sentences(primary, data.tables["method_comparison"], data.confidence)))


def _people(visits: pd.DataFrame) -> list[tuple[str, int]]:
    found = visits.drop_duplicates("participant_id")["group"].value_counts()
    return [(str(group), int(n)) for group, n in found.items()]


def _range(lic: pd.DataFrame) -> str:
    values = lic["lic_r2star_mg_g"].dropna()
    return f"{number(values.min(), 1)} to {number(values.max(), 1)} mg/g by R2*" if len(values) else ""


def _sentences(primary: pd.DataFrame, comparison: pd.DataFrame, confidence: str) -> list[str]:
    """The result in words a stranger understands."""
    words = []
    for method, label in METHOD_NAMES.items():
        found = {str(row["term"]): row for row in primary[primary["method"] == method].to_dict(orient="records")}
        if "iron_in" not in found or number(found["iron_in"]["estimate"]) == "–":
            continue
        iron, dose = found["iron_in"], found["chelator"]
        words.append(
            f"By {label}, each 10 mg/kg of transfused iron goes with {number(10 * float(iron['estimate']))} mg/g more liver iron a year "
            f"({confidence} interval {interval(10 * iron['ci_lo'], 10 * iron['ci_hi'])}; physics expects {number(10 * float(iron['physics_value']))}), and each g/kg "
            f"of chelator with {number(dose['estimate'])} mg/g ({interval(dose['ci_lo'], dose['ci_hi'])})."
        )
    row = comparison[(comparison["analysis"] == "primary") & (comparison["quantity"] == "delta_r_squared")]
    if len(row) and row["estimate"].iloc[0] == row["estimate"].iloc[0]:
        entry = row.iloc[0]
        text = f"hQSM explains {number(abs(entry['estimate']), 3)} {'more' if entry['estimate'] > 0 else 'less'} of the variance than R2*"
        open_ = "; neither method is shown to be better" if entry["ci_lo"] <= 0 <= entry["ci_hi"] else ""
        words.append(f"{text} ({confidence} interval of the difference {interval(entry['ci_lo'], entry['ci_hi'], 3)}{open_}).")
        words += [f"Note: {note}." for note in dict.fromkeys([*primary["note"], entry["note"]]) if note]
    return words or ["There are too few annual intervals for a regression."]


def _demographics(data: ReportData) -> str:
    rows = [
        (
            _GROUPS.get(str(r["group"]), str(r["group"])),
            r["n"],
            r["female"],
            r["male"],
            f"{number(r['age_median_years'], 0)} ({interval(r['age_youngest_years'], r['age_oldest_years'], 0)})",
            r["splenectomised"],
            r["withdrawn"],
        )
        for r in data.demographics
    ]
    header = ("Group", "Participants", "Female", "Male", "Age at first visit, median (range) [years]", "Splenectomised", "Withdrawn")
    return table(header, rows, empty="The study has no records of its participants.")


def _regression(data: ReportData) -> str:
    primary = data.tables["regression"]
    primary = primary[primary["analysis"] == "primary"]
    rows = [
        (
            METHOD_NAMES[r["method"]],
            _TERMS[r["term"]],
            number(r["estimate"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            p_value(r["p_value"]),
            number(r["df"], 1),
            number(r["physics_value"], 3),
            _efficiency(r),
            r["note"],
        )
        for r in primary.to_dict(orient="records")
    ]
    header = (
        "Method",
        "Term",
        "Estimate",
        f"{data.confidence} interval",
        "p",
        "df",
        "Physics",
        f"Efficiency ({data.confidence} interval)",
        "Note",
    )
    explained = (
        "Physics: 1/10.6 mg/g per mg/kg of transfused iron, and the chelator's slope if all of its capacity took out iron; the "
        "efficiency is the share of it that the slope implies. Standard errors are cluster-robust (CR2)."
    )
    return "<h3>Primary regression</h3>" + table(header, rows) + render("<p class=soft>{{ e }}</p>", e=explained)


def _efficiency(row: Mapping[Any, Any]) -> str:
    shown = number(row["efficiency"])
    return shown if shown == "–" else f"{shown} ({interval(row['efficiency_lo'], row['efficiency_hi'])})"


def _sensitivity(data: ReportData) -> str:
    rows = [
        (
            ANALYSES.get(r["analysis"], r["analysis"].replace("_", " ")),
            METHOD_NAMES[r["method"]],
            _TERMS.get(r["term"], r["term"].replace("_", " ")),
            number(r["estimate"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            p_value(r["p_value"]),
            number(r["n_intervals"], 0),
            number(r["n_subjects"], 0),
            r["note"],
        )
        for r in data.tables["regression"].to_dict(orient="records")
    ]
    header = ("Analysis", "Method", "Term", "Estimate", f"{data.confidence} interval", "p", "Intervals", "Participants", "Note")
    every = "<details><summary>Every coefficient of every analysis</summary>" + table(header, rows, sorts=True) + "</details>"
    return every + interval_table(data)


def _comparison(data: ReportData) -> str:
    rows = [
        (
            r["analysis"].replace("_", " "),
            _COMPARISONS.get(r["quantity"], r["quantity"].replace("_", " ")),
            number(r["estimate"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            p_value(r["p_value"]),
            r["note"],
        )
        for r in data.tables["method_comparison"].to_dict(orient="records")
    ]
    header = ("Analysis", "What", "Estimate", f"{data.confidence} interval", "p", "Note")
    chosen = data.parameters["statistics"]
    explained = (
        "R² and RMSE are those of the primary regression; their intervals come from a bootstrap of participants, those of the differences of "
        f"correlations from Zou's method. The net balance is iron in / {chosen['body_iron_per_lic_mg_per_kg']:g} minus "
        f"{chosen['net_balance_chelator_slope']:g} times the chelator, set beforehand. A small p of a J test says that the other method adds "
        "to the one named, of a Cox test that the one named does not suffice. No p is adjusted for the number of tests."
    )
    return "<h3>Which method follows the iron balance better</h3>" + table(header, rows) + render("<p class=soft>{{ e }}</p>", e=explained)


def _explants(data: ReportData) -> str:
    rows = [
        (
            r["setting"].replace("_", " "),
            {**METHOD_NAMES, "hqsm_minus_r2star": "hQSM minus R2*"}.get(r["method"], r["method"]),
            r["quantity"].replace("_", " "),
            number(r["estimate"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            p_value(r["p_value"]),
            number(r["n"], 0),
            r["note"],
        )
        for r in data.tables["explant_agreement"].to_dict(orient="records")
    ]
    header = ("Setting", "Method", "What", "Estimate", f"{data.confidence} interval", "p", "n", "Note")
    effects = [
        (
            r["confounder"],
            r["setting"].replace("_", " "),
            METHOD_NAMES[r["method"]],
            number(r["effect"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            p_value(r["p_holm"]),
            p_value(r["equivalence_p"]),
            number(r["n"], 0),
            r["note"],
        )
        for r in data.tables["histology_effects"].to_dict(orient="records")
    ]
    names = (
        "Confounder",
        "Setting",
        "Method",
        "Effect per step [mg/g]",
        f"{data.confidence} interval",
        "p (Holm)",
        "p (equivalence)",
        "n",
        "Note",
    )
    explained = (
        "Effect: change of the error (MRI minus chemistry) per stage of fibrosis, grade of necroinflammation, or 10 points of steatosis, "
        "adjusted for chemical LIC. Its p is adjusted for the 12 outcomes (Holm). Equivalence: two one-sided tests against "
        f"±{data.parameters['statistics']['equivalence_margin_mg_g']:g} mg/g, not adjusted; a large p of both says that nothing is known."
    )
    return (
        "<h3>The 12 registered outcomes</h3>"
        + table(names, effects, empty="No explanted liver has chemistry and histology.")
        + render("<p class=soft>{{ e }}</p>", e=explained)
        + "<details><summary>Every measure of agreement with chemistry</summary>"
        + table(header, rows, sorts=True, empty="No explanted liver has chemistry.")
        + "</details>"
    )


def _visits(data: ReportData) -> str:
    rows = []
    for r in data.tables["lic"].to_dict(orient="records"):
        low = f"{number(r['lic_hqsm_lo'], 1)} to {number(r['lic_hqsm_hi'], 1)}" if r["lic_hqsm_lo"] == r["lic_hqsm_lo"] else "–"
        rows.append(
            (
                Cell(text=r["participant_id"], css="id"),
                Cell(text=r["session_id"], link=f"../qc/{r['participant_id']}_{r['session_id']}.html", css="id"),
                _GROUPS.get(r["group"], r["group"]) or "–",
                Cell(text=r["acq_date"] or "–", css="id"),
                number(r["field_strength_t"], 1),
                number(r["chi_hqsm_ppm"], 2),
                number(r["lic_hqsm_mg_g"], 1),
                low,
                number(r["r2star_per_s"], 0),
                number(r["lic_r2star_mg_g"], 1),
                interval(r["lic_r2star_lo"], r["lic_r2star_hi"], 1),
                number(r["pdff_percent"], 1),
                r["mask_source"] or "–",
                Cell(text=r["qc_status"], css=r["qc_status"]),
            )
        )
    header = (
        *("Participant", "Visit", "Group", "Date", "B0 [T]", "χ [ppm]", "LIC hQSM [mg/g]", "95 %"),
        *("R2* [1/s]", "LIC R2* [mg/g]", "95 %", "Fat [%]", "Mask", "QC"),
    )
    explained = (
        "LIC per gram of dry tissue. The intervals (95 %) hold the error of the measurement and of the calibration's slope; the latter is common to all "
        "visits, so that changes of one participant are surer than the intervals of two visits suggest."
    )
    known = limits(str(data.parameters["susceptibility"]["method"]))
    return table(header, rows, sorts=True) + render("<p class=soft>{{ e }}</p>", e=explained) + known


def _readers(data: ReportData) -> str:
    """Agreement of the readers, and the scans that a third one has to decide."""
    pairs, summary = data.tables["readers"], data.tables["reader_agreement"]
    if pairs.empty:
        return render("<p class=soft>{{ e }}</p>", e="No visit has masks of two readers; values are from one reader or the automatic mask.")
    rows = [
        (
            QUANTITY_NAMES.get(r["measure"], r["measure"]),
            str(r["comparison"]).replace("_", " "),
            _READER_WORDS[r["quantity"]],
            number(r["estimate"], 3),
            interval(r["ci_lo"], r["ci_hi"], 3),
            number(r["n"], 0),
            r["note"],
        )
        for r in summary[summary["quantity"].isin(list(_READER_WORDS))].to_dict(orient="records")
    ]
    wanted = pairs[pairs["adjudicate"] == 1].drop_duplicates(["participant_id", "session_id", "reader_a", "reader_b", "reason"])
    listed = [
        (Cell(text=r["participant_id"], css="id"), Cell(text=r["session_id"], css="id"), f"{r['reader_a']}, {r['reader_b']}", r["reason"])
        for r in wanted.to_dict(orient="records")
    ]
    return (
        table(("Measure", "Who", "Quantity", "Estimate", f"{data.confidence} interval", "Scans", "Note"), rows)
        + "<h3>Scans for a third reader</h3>"
        + table(("Participant", "Visit", "Readers", "Why"), listed, empty="No scan needs a third reader.")
    )


def _exclusions(data: ReportData) -> str:
    found = data.tables["exclusions"]
    no_interval = found["what"] == "visit of no interval"
    rows: list[tuple[Any, ...]] = [
        (r["what"], Cell(text=r["participant_id"], css="id"), Cell(text=str(r["item"]), css="id"), r["code"] or "–", r["reason"])
        for r in found[~no_interval].to_dict(orient="records")
    ]
    for reason, alike in found[no_interval].groupby("reason"):  # most are of groups that have no intervals: a line for each reason
        people, one = alike["participant_id"].unique(), len(alike) == 1
        who = people[0] if len(people) == 1 else f"{len(people)} participants"
        rows.append(
            (f"visit{'' if one else 's'} of no interval", who, alike["item"].iloc[0] if one else f"{len(alike)} visits", "–", reason)
        )
    body = table(("What", "Participant", "Which", "Code", "Reason"), rows, sorts=True, empty="Nothing was left out.")
    decided = table(("Participant", "Visit", "Status", "Decision"), decision_rows(data.tables["visits"]), empty="None (decisions.csv).")
    return body + "<h3>Manual decisions</h3>" + decided


def _findings(data: ReportData) -> str:
    rows = [
        (
            f["file"],
            f["line"] or "",
            f["participant"],
            f["field"],
            Cell(text=f["severity"], css=f["severity"]),
            f["code"],
            f"{f['problem']} {f['remedy']}",
        )
        for f in data.findings[:500]
    ]
    more = len(data.findings) - len(rows)
    body = table(("File", "Line", "Participant", "Field", "Severity", "Code", "What, and what to do"), rows, sorts=True, empty="None.")
    return body + (render("<p>{{ n }} more: run <code>hqsm check records STUDY</code>.</p>", n=more) if more > 0 else "")


def _provenance(data: ReportData) -> str:
    blocks = ""
    for stage, parameters in data.parameters.items():
        values = parameters if isinstance(parameters, Mapping) else {stage: parameters}
        rows = [(str(k).replace("_", " "), str(v)) for k, v in values.items()]
        blocks += render("<h3>{{ s }}</h3>", s=stage) + table(("Parameter", "Value"), rows)
    versions = table(("Software", "Version"), list(data.versions.items()))
    digests = sorted(set(data.tables["lic"]["reconstruction_digest"]) - {""})
    text = render(
        "<p>Susceptibility maps were made by the reconstruction {{ d }}; results/provenance/ has every run's record, and each "
        "map's sidecar its sources and parameters.</p>",
        d=", ".join(digests) or "(none)",
    )
    return text + versions + f"<details><summary>All parameters</summary>{blocks}</details>"


_Part = Callable[[ReportData], str]
_PARTS: dict[str, tuple[_Part, _Part]] = {
    "flow": (_nothing, _demographics),
    "change": (_regression, _sensitivity),
    "methods": (_nothing, _comparison),
    "explants": (_nothing, _explants),
    "visits": (_visits, _nothing),
    "repeatability": (repeatability_tables, _nothing),
    "readers": (_readers, _nothing),
    "exclusions": (_exclusions, _nothing),
    "records": (_findings, _nothing),
    "provenance": (_provenance, _nothing),
}
"""What stands before and after the figures of each section."""
