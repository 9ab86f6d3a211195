"""The report says what the tables say."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hqsm.config.study import as_plain, load_config
from hqsm.report.blinded_report import render_blinded_index, render_blinded_report
from hqsm.report.figures import added_variable, flow, repeatability
from hqsm.report.figures.base import ReportData
from hqsm.report.interval_table import FLAGS
from hqsm.report.methods import methods_text
from hqsm.report.page import Cell, number, page, table
from hqsm.report.qc_index import outliers, render_qc_index
from hqsm.report.study_report import render_study_report
from hqsm.statistics.regression import METHODS, design_matrix, regression_rows
from hqsm.table_contract import TABLES
from hqsm.workflow_support import TABLE_NAMES


def frame_of(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[c.name for c in TABLES[name]])
    for column in TABLES[name]:
        if column.kind == "text":
            words = ["" if value is None or value != value else str(value) for value in frame[column.name]]
            frame[column.name] = pd.Series(words, dtype="str")
        else:
            frame[column.name] = pd.to_numeric(frame[column.name]).astype("float64")
    return frame


@pytest.fixture(scope="module")
def data() -> ReportData:
    rng = np.random.default_rng(3)
    config = load_config({"statistics": {"bootstrap_draws": 200}})
    visits, lic, change, timeline = [], [], [], []
    for p in range(8):
        for s in range(3):
            ids = {"participant_id": f"sub-{p:02d}", "session_id": f"ses-{s}"}
            bad = p == 7 and s == 2
            date = f"202{s}-03-{p + 1:02d}"
            status = {
                "status": "rejected" if bad else "ok",
                "codes": "DICOM_MISSING" if bad else "",
                "reason": "images are missing" if bad else "",
                "decision": "",
            }
            visits.append({**ids, **status, "group": "thalassemia", "acq_date": date})
            if not bad:
                value = 5 + p + s + rng.normal()
                interval = {f"lic_{m}_{e}": value + d for m in METHODS for e, d in (("mg_g", 0.0), ("lo", -1.0), ("hi", 1.0))}
                lic.append({**ids, **interval, "group": "thalassemia", "specimen": "in_vivo", "acq_date": date, "qc_status": "ok"})
            timeline.append({"participant_id": ids["participant_id"], "kind": "transfusion", "start": date, "end": date, "value": 200.0})
        for s in range(2):
            iron, dose = rng.uniform(60, 160), rng.uniform(3, 9)
            left_out = p == 7 and s == 1
            change.append(
                {
                    "participant_id": f"sub-{p:02d}",
                    "start_session": f"ses-{s}",
                    "end_session": f"ses-{s + 1}",
                    "days": 365,
                    "iron_in_mg_per_kg_per_year": iron,
                    "chelator_g_per_kg_per_year": dose,
                    "delta_lic_hqsm_mg_g_per_year": np.nan if left_out else iron / 10.6 - 1.6 * dose + rng.normal(0, 0.3),
                    "delta_lic_r2star_mg_g_per_year": np.nan if left_out else iron / 10.6 - 1.6 * dose + rng.normal(0, 0.9),
                    "included": int(not left_out),
                    "reason": "no liver iron of ses-2 (see visits.tsv)" if left_out else "",
                }
            )
    tables = {name: frame_of(name, []) for name in TABLE_NAMES}
    tables |= {"visits": frame_of("visits", visits), "lic": frame_of("lic", lic), "annual_change": frame_of("annual_change", change)}
    tables["regression"] = frame_of("regression", regression_rows(tables["annual_change"], config.statistics))
    finding = {"file": "weights.csv", "line": 3, "participant": "sub-01", "field": "weight_kg", "code": "WEIGHT_JUMP", "severity": "error"}
    findings = [{**finding, "problem": "<b>bold</b> problem.", "remedy": "Check it."}]
    return ReportData(tables=tables, findings=findings, timeline=timeline, parameters=as_plain(config), versions={"hqsm": "0"})


def test_every_count_of_the_flow_is_a_query_of_a_table(data: ReportData) -> None:
    counts = flow.flow_counts(data).set_index("box")["count"]
    visits, lic, change = data.tables["visits"], data.tables["lic"], data.tables["annual_change"]
    assert counts["visits_found"] == len(visits) == 24
    assert counts["visits_rejected"] == (visits["status"] == "rejected").sum() == 1
    assert counts["visits_measured"] == len(lic) == 23
    out = counts["visits_rejected"] + counts["visits_excluded"] + counts["visits_without_liver"]
    assert counts["visits_found"] == counts["visits_measured"] + out
    assert counts["intervals_used"] == (change["included"] == 1).sum() == 15
    assert counts["intervals"] == counts["intervals_used"] + counts["intervals_left_out"]
    groups = flow.flow_counts(data)
    assert groups[groups["box"] == "group_visits"]["count"].sum() == counts["visits_measured"]


def test_a_visit_that_is_measured_but_excluded_leaves_the_flow(data: ReportData) -> None:
    lic, visits = data.tables["lic"].copy(), data.tables["visits"].copy()
    for frame, column in ((lic, "qc_status"), (visits, "status")):
        frame.loc[(frame["participant_id"] == "sub-00") & (frame["session_id"] == "ses-0"), column] = "excluded"
    other = ReportData(tables={**data.tables, "lic": lic, "visits": visits}, parameters=data.parameters)
    counts = flow.flow_counts(other).set_index("box")["count"]
    assert counts["visits_measured"] == 22
    assert counts["visits_excluded"] == 1
    assert counts["visits_found"] == counts["visits_measured"] + counts["visits_rejected"] + counts["visits_excluded"]
    assert "Visits with liver iron</span><b>22</b>" in render_study_report(other)["index.html"].decode()


def test_one_of_a_kind_is_singular() -> None:
    assert [flow.counted(n, "visit") for n in (0, 1, 2)] == ["0 visits", "1 visit", "2 visits"]


def test_the_slope_of_an_added_variable_plot_is_the_coefficient(data: ReportData) -> None:
    frame = data.included_intervals()
    for method, outcome in METHODS.items():
        for term, name in ((1, "iron_in"), (2, "chelator")):
            x, y = added_variable.adjusted(design_matrix(frame), frame[outcome].to_numpy(float), term)
            table_ = data.tables["regression"]
            wanted = table_[(table_["analysis"] == "primary") & (table_["method"] == method) & (table_["term"] == name)]["estimate"].iloc[0]
            assert x @ y / (x @ x) == pytest.approx(wanted, rel=1e-9)


def test_the_report_is_one_file_with_its_figures_and_their_data(data: ReportData) -> None:
    files = render_study_report(data)
    html = files["index.html"].decode()
    names = {name.split("/")[1].split(".")[0] for name in files if name.startswith("figures/")}
    assert {"flow", "trajectories", "regression", "sensitivity", "methods_agreement"} <= names
    for name in names:
        assert {f"figures/{name}.{kind}" for kind in ("svg", "pdf", "tsv")} <= set(files)
    assert files["figures/flow.pdf"].startswith(b"%PDF")
    outside = [
        u for u in re.findall(r"(?:src|href)=[\"']([^\"']+)", html) if not u.startswith(("data:", "#", "figures/", "../qc/", "methods.md"))
    ]
    assert outside == []
    assert "default-src 'none'" in html
    assert "&lt;b&gt;bold" in html
    assert "<b>bold" not in html
    assert render_study_report(data) == files  # equal content, equal bytes
    primary = data.tables["regression"].query("analysis == 'primary' and method == 'hqsm' and term == 'iron_in'").iloc[0]
    assert number(10 * primary["estimate"]) in html


@pytest.mark.parametrize(("lo", "hi", "better"), [(-0.1, 0.2, False), (0.05, 0.2, True), (-0.2, -0.05, True)])
def test_the_result_in_words_carries_its_caveats(data: ReportData, lo: float, hi: float, better: bool) -> None:
    row = {"analysis": "primary", "quantity": "delta_r_squared", "estimate": (lo + hi) / 2, "ci_lo": lo, "ci_hi": hi, "note": "few of them"}
    regression = data.tables["regression"].assign(note="rough")
    tables = {**data.tables, "regression": regression, "method_comparison": frame_of("method_comparison", [row])}
    html = render_study_report(replace(data, tables=tables))["index.html"].decode()
    said = html[: html.index("<h2")]
    assert ("neither method is shown to be better" in said) != better
    assert said.count("Note: rough.") == said.count("Note: few of them.") == 1


def test_every_flag_of_an_interval_stands_in_the_report_in_words(data: ReportData) -> None:
    of_exposure, of_change = (next(c.meaning for c in TABLES[name] if c.name == "flags") for name in ("exposure", "annual_change"))
    known = {word for text in (of_exposure, of_change) for word in re.findall(r"[a-z]+_[a-z_]+", text)}
    assert known == set(FLAGS)
    change = data.tables["annual_change"].copy()
    change.loc[0, "flags"] = " ".join(FLAGS)
    html = render_study_report(replace(data, tables={**data.tables, "annual_change": change}))["index.html"].decode()
    part = html[html.index("Every annual interval") : html.index('id="methods"')]
    assert "; ".join(FLAGS.values()) in part
    assert "no: no liver iron of ses-2" in part
    assert part.count("<tr>") == 17  # its header and 16 intervals
    assert number(change["delta_lic_r2star_mg_g_per_year"].iloc[3]) in part


def test_repeatability_and_equivalence_say_what_they_rest_on(data: ReportData) -> None:
    scans = {"within_subject_sd": 0.1, "within_subject_sd_lo": 0.05, "within_subject_sd_hi": 0.4, "repeatability_coefficient": 0.277}
    repeat = frame_of("repeatability", [{"comparison": "repeat", "quantity": "lic_hqsm_mg_g", "n_pairs": 2, **scans}])
    parameters = {**data.parameters, "statistics": {**data.parameters["statistics"], "equivalence_margin_mg_g": 0.75}}
    other = replace(data, tables={**data.tables, "repeatability": repeat}, parameters=parameters)
    html = render_study_report(other)["index.html"].decode()
    assert "0.277 (0.139 to 1.108)" in html
    assert "±0.75 mg/g" in html
    assert "iron in / 10.6 minus 1.35 times the chelator" in html


def test_a_study_without_anything_still_has_a_report(data: ReportData) -> None:
    empty = ReportData(tables={name: frame_of(name, []) for name in TABLE_NAMES}, parameters=data.parameters)
    html = render_study_report(empty)["index.html"].decode()
    assert "too few annual intervals" in html


def test_the_methods_text_follows_the_parameters(data: ReportData) -> None:
    changed = as_plain(load_config({"gating": {"window_mm": 4.0}, "statistics": {"bootstrap_draws": 1234}}))
    text = methods_text(changed, {"hqsm": "1.2.3"})
    assert "window of 4 mm" in text
    assert "1,234 draws" in text
    assert "hqsm 1.2.3" in text
    scan = {"gating_source": "images", "mask_source": "automatic", "reference_tissue": "muscle", "field_strength_t": 1.5}
    plain = methods_text(data.parameters, {}, [scan, scan])
    assert "window of 4 mm" not in plain
    assert "-0.16 + 0.02603 x R2* [1/s] at 1.5 T" in plain
    assert "3 T" not in plain  # no scan of this study was made there
    others = {"fatwater": {"field_initialisation": "in-phase", "r2star_estimator": "arlo"}, "records": {"use_adherence": True}}
    text = methods_text(as_plain(load_config({**others, "statistics": {"confidence_level": 0.9}})), {})
    for words in ("in-phase echoes", "without fat (arlo)", "the taken dose", "intervals are of 90 %"):
        assert words in text


def test_the_methods_text_says_what_was_not_done_in_every_scan(data: ReportData) -> None:
    usual = {"gating_source": "images", "mask_source": "reader", "reference_tissue": "muscle", "field_strength_t": 3.0}
    held = {**usual, "gating_source": "prospective-or-breath-hold", "mask_source": "automatic"}
    text = methods_text(data.parameters, {}, [usual, usual, held, {**held, "reference_tissue": "none"}, {**usual, "gating_source": "none"}])
    assert "In 2 of 5 scans one repetition was acquired" in text
    assert "In 1 of 5 scans no respiratory position was known, and all repetitions were combined." in text
    assert "Scans by who outlined the liver: readers 3, the program 2." in text
    assert "Scans by what the susceptibility is relative to: muscle 4, nothing, for no tissue was found, 1." in text
    assert "cans " not in methods_text(data.parameters, {}, [])
    assert "in phase" not in text
    text = methods_text(data.parameters, {}, [{**usual, "codes": "MASK_AUTOMATIC IN_PHASE_NOT_POSSIBLE"}, {**usual, "codes": ""}])
    assert "In 1 of 2 scans no echoes were in phase, and the initialisation was a global, swap-free" in text
    tables = {**data.tables, "lic": data.tables["lic"].assign(gating_source="prospective-or-breath-hold")}
    files = render_study_report(ReportData(tables=tables, parameters=data.parameters))
    assert "In 23 of 23 scans one repetition" in files["methods.md"].decode()


def test_the_level_of_the_intervals_is_the_configured_one(data: ReportData) -> None:
    parameters = {**data.parameters, "statistics": {**data.parameters["statistics"], "confidence_level": 0.9}}
    html = render_study_report(ReportData(tables=data.tables, parameters=parameters))["index.html"].decode()
    assert "90 % interval" in html
    assert "95 % interval" not in re.sub(r"LIC with its 95 % interval|the 95 % interval of LIC", "", html)


def test_outliers_are_marked_from_five_values_on() -> None:
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 3.0, np.nan])
    assert outliers(values).tolist() == [False] * 5 + [True, False]
    assert not outliers(values[:4]).any()
    # where most are equal their MAD is 0: no reason to mark every other one
    assert outliers(np.array([0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.4])).tolist() == [False] * 7
    assert outliers(np.array([0.6] * 9 + [0.5, 0.1])).tolist() == [False] * 10 + [True]
    assert not outliers(np.full(6, 0.6)).any()


def test_a_visit_without_a_liver_has_no_volume_that_others_are_measured_against(data: ReportData) -> None:
    visits, lic = data.tables["visits"], data.tables["lic"].copy()
    lic["liver_volume_ml"] = [0.0] * 3 + [1400.0 + 10 * k for k in range(len(lic) - 3)]
    html = render_qc_index(visits, lic, [])
    assert 'outlier"' not in html
    assert html.count("1400") == 1


def test_the_index_marks_an_outlier_and_links_only_to_pages_that_exist(data: ReportData) -> None:
    visits, lic = data.tables["visits"], data.tables["lic"]
    summaries = [
        {
            "participant_id": r["participant_id"],
            "session_id": r["session_id"],
            "scanner": "X",
            "fit_residual": 0.01 + 0.0001 * k,
            "body_snr": 40.0,
        }
        for k, r in enumerate(lic.to_dict(orient="records"))
    ]
    summaries[4]["fit_residual"] = 0.2
    html = render_qc_index(visits, lic, summaries)
    assert html.count('class="n outlier"') == 1
    assert "sub-07_ses-1.html" in html
    assert "sub-07_ses-2.html" not in html
    assert html.count("<tr>") == 1 + len(visits)


def test_the_index_of_a_sealed_study_tells_no_liver_iron(data: ReportData) -> None:
    visits, lic = data.tables["visits"].copy(), data.tables["lic"].assign(lic_r2star_mg_g=77.7)
    dark = visits.index[visits["status"] == "ok"][0]
    flagged = {"status": "warning", "codes": "R2STAR_CENSORED", "reason": "Flagged: R2STAR_CENSORED; the QC page explains each."}
    visits.loc[dark, list(flagged)] = list(flagged.values())
    shown = {
        "scanner": "Maker X",
        "body_snr": 41.0,
        "thumbnail": "data:image/png;base64,UjIqIG9mIGEgbGl2ZXI=",
        "fit_residual": 0.0123,
        "liver_snr": 8642.0,
    }
    summaries = [{**{k: r[k] for k in ("participant_id", "session_id")}, **shown} for r in lic.to_dict(orient="records")]
    iron = ("77.7", "R2STAR_CENSORED", "UjIqIG9mIGEgbGl2ZXI=", "0.012", "8642")
    assert all(word in render_qc_index(visits, lic, summaries) for word in iron[:-1])
    sealed = render_blinded_index(visits, lic, summaries)
    assert not [word for word in iron if word in sealed]
    assert all(word in sealed for word in ("Maker X", "41", "images are missing", "sub-07_ses-1.html"))


def test_a_folder_that_is_no_visit_is_counted_as_found_and_as_nobodys(data: ReportData) -> None:
    stray = {"participant_id": "(no. 1 in dicom by name)", "session_id": "", "status": "rejected", "codes": "FOLDER_NAME"}
    visits = pd.concat([data.tables["visits"], frame_of("visits", [stray])], ignore_index=True)
    counts = flow.flow_counts(replace(data, tables={**data.tables, "visits": visits})).set_index("box")["count"]
    assert counts["participants"] == 8
    page_ = render_blinded_report(visits, [], "study", {})
    assert re.search(r"Participants</span><b>8</b>", page_)
    assert re.search(r"Visits found</span><b>25</b>", page_)
    assert "../qc/index.html" in page_


def test_a_column_that_no_visit_fills_is_left_out_of_the_index(data: ReportData) -> None:
    visits, lic = data.tables["visits"], data.tables["lic"]
    summaries = [{**{k: r[k] for k in ("participant_id", "session_id")}, "body_snr": 41.0} for r in lic.to_dict(orient="records")]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", render_blinded_index(visits, lic, summaries))
    assert heads == ["Participant", "Visit", "Status", "Date", "Scanner", "Signal to noise, body", "Reason"]


def test_tables_escape_and_align() -> None:
    html = table(("a", "b"), [(Cell(text="<script>"), "\u22121.0"), ("x", "2")])
    assert "&lt;script&gt;" in html
    assert html.count('<td class="n ') == 2
    assert "<script>alert" not in page("t", table(("a",), [("<script>alert(1)</script>",)]), "")


def test_repeats_are_drawn_with_the_scan_that_they_repeat() -> None:
    def scan(session: str, value: float, tesla: float) -> dict[str, Any]:
        values = {"lic_hqsm_mg_g": value, "lic_r2star_mg_g": value}
        return {"participant_id": "sub-1", "session_id": session, "qc_status": "ok", "field_strength_t": tesla, **values}

    lic = [scan("ses-1", 5.0, 1.5), scan("ses-2", 5.5, 1.5), scan("ses-3", 6.0, 3.0)]
    visits = [
        {"participant_id": "sub-1", "session_id": f"ses-{k}", "visit_type": kind, "acq_date": f"2021-03-0{k}", "convention": "ge"}
        for k, kind in ((1, "control"), (2, "repeat"), (3, "repeat"))
    ]
    tables = {"visits": frame_of("visits", visits), "lic": frame_of("lic", lic)}
    pairs = repeatability.repeat_pairs(ReportData(tables=tables))
    assert list(pairs["comparison"]) == ["repeat", "cross_field"]
    assert list(pairs["lic_hqsm_again_mg_g"] - pairs["lic_hqsm_first_mg_g"]) == [0.5, 1.0]
    drawn = repeatability.draw(ReportData(tables=tables))
    assert drawn is not None
    assert b"another field strength" in drawn.svg
    assert repeatability.draw(ReportData(tables={**tables, "lic": frame_of("lic", lic[:1])})) is None


def test_visits_of_no_interval_are_told_by_reason_and_all_else_one_by_one(data: ReportData) -> None:
    left_out = [{"what": "visit", "participant_id": "sub-07", "item": "ses-2", "code": "DICOM_MISSING", "reason": "images are missing"}]
    why = "the group healthy has no annual intervals"
    left_out += [{"what": "visit of no interval", "participant_id": f"sub-2{k}", "item": "ses-01", "reason": why} for k in range(4)]
    left_out += [{"what": "visit of no interval", "participant_id": "sub-09", "item": "ses-05", "reason": "no other visit"}]
    tables = {**data.tables, "exclusions": frame_of("exclusions", left_out)}
    html = render_study_report(ReportData(tables=tables, parameters=data.parameters))["index.html"].decode()
    section = html.split('id="exclusions"')[1].split("<h2")[0]
    assert section.count("<tr>") == 1 + 3
    assert section.count(why) == 1
    for words in ("images are missing", "4 participants", "4 visits", "ses-05"):
        assert words in section
