"""The double blind: the arms are apart, the locks hold, the report says nothing before it may."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hqsm.blinding import IMAGING, arm_digests, blind_state, latest_lock, lock, table_digest, unblind
from hqsm.cli import main
from hqsm.code_digest import module_closure
from hqsm.config.statistics import StatisticsParams
from hqsm.config.study import as_plain
from hqsm.errors import BlindingError
from hqsm.phantom.clinical import simulate_participants, write_records
from hqsm.provenance import write_run_record
from hqsm.report.blinded_report import stamped
from hqsm.run_state import STAGES
from hqsm.stage import write_json
from hqsm.tables import read_frame, write_rows
from hqsm.workflow_folder import REPOSITORY

JOIN = frozenset({"annual_change", "regression", "explants", "exclusions", "study_report", "all"})
"""The rules that may see images and records; `visit_tables` joins the records' groups only where nothing is blinded."""


PLAN = as_plain(StatisticsParams())


def tiny_study(folder: Path, *, blinding: bool = True) -> Path:
    for visit in ("sub-0101/ses-01", "sub-0101/ses-02"):
        (folder / "dicom" / visit).mkdir(parents=True)
        (folder / "dicom" / visit / "a").write_bytes(b"x")
    _, records = simulate_participants(2, 2, ("siemens",), seed=1)
    write_records(folder / "records", records)
    if blinding:
        (folder / "config.yaml").write_text("blinding: true\n", encoding="utf-8")
    return folder


def rule_graph(study: Path) -> dict[str, set[str]]:
    """Each rule with its direct ancestors, as snakemake resolves them for this study."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study), "--rulegraph"]
    dot = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    graph: dict[str, set[str]] = {name: set() for name in names.values()}
    for above, below in re.findall(r"(\d+) -> (\d+)", dot):
        graph[names[below]].add(names[above])
    return graph


def ancestors(graph: dict[str, set[str]], rule: str) -> set[str]:
    found: set[str] = set()
    waiting = [rule]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def rule_texts() -> dict[str, str]:
    """The text of every rule."""
    texts = {}
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", path.read_text(encoding="utf-8"), re.M | re.S):
            texts[name] = text
    return texts


def script_imports(text: str) -> set[str]:
    """Every module of the package that a rule's script reaches."""
    found = re.search(r'"\.\./scripts/(\w+\.py)"', text)
    if not found:
        return set()
    tree = ast.parse((REPOSITORY / "workflow" / "scripts" / found[1]).read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("hqsm.")}
    return set().union(*(module_closure(module) for module in modules))


def opens_records(text: str, *, sealed: bool) -> bool:
    """Whether a rule has records among its parameters, inputs or code."""
    if sealed:
        text = re.sub(r"\[\] if STUDY\.sealed else STUDY\.record_files\([^)]*\)", "[]", text)
    named = "record_files" in text or '"records/' in text or "work/records" in text.split("output:")[0]
    return named or (not sealed and "hqsm.records.reading" in script_imports(text))


def opens_images(text: str) -> bool:
    """Whether a rule has images among its parameters, inputs or code."""
    named = any(word in text for word in ("visit_content", "mask_content", '"dicom/', "BIDS", "{MAPS}"))
    return named or bool(
        script_imports(text) & {"hqsm.dicom.reader", "hqsm.nifti", "hqsm.masks", "hqsm.bids"} and "results/bids" not in text
    )


@pytest.mark.parametrize("blinding", [True, False])
def test_no_imaging_rule_has_a_record_and_no_records_rule_an_image_among_its_ancestors(tmp_path: Path, blinding: bool) -> None:
    graph, texts = rule_graph(tiny_study(tmp_path, blinding=blinding)), rule_texts()
    rules = set(graph) - JOIN
    record_sources = {rule for rule in graph if rule in texts and opens_records(texts[rule], sealed=blinding)}
    image_sources = {rule for rule in graph if rule in texts and opens_images(texts[rule])}
    assert {"gated_echoes", "regions", "water_fat"} <= image_sources  # the walk knows an image when it sees one
    assert {"exposure", "explants"} <= record_sources
    both = {
        rule for rule in rules if (ancestors(graph, rule) | {rule}) & record_sources and (ancestors(graph, rule) | {rule}) & image_sources
    }
    assert both == (set() if blinding else {"visit_tables", "readers"})
    assert not ancestors(graph, "exposure")
    for rule in ("gated_echoes", "water_fat", "regions", "susceptibility", "liver_iron", "visit_page"):
        assert not (ancestors(graph, rule) | {rule}) & record_sources, rule


def test_every_rule_after_the_join_is_sealed_or_gives_the_blinded_edition() -> None:
    texts = rule_texts()
    for rule in ("annual_change", "regression", "explants"):
        assert "sealed=STUDY.sealed" in texts[rule], rule
    assert 'blinding=STAGES["blinding"]' in texts["study_report"]


def test_a_sealed_table_of_visits_opens_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hqsm import cohort_tables
    from hqsm.config.explant import ExplantParams
    from hqsm.config.records import RecordsParams

    def refuse(*_: object) -> None:
        raise AssertionError("a record was opened")

    monkeypatch.setattr(cohort_tables, "study_records", refuse)
    monkeypatch.chdir(tmp_path)
    found = [["(no. 1 in dicom by name)", "", "no visit"]]
    paths = {"visits": tmp_path / "visits.tsv", "lic": tmp_path / "lic.tsv", "regions": tmp_path / "liver_regions.tsv"}
    cohort_tables.write_visit_tables(found, RecordsParams(), ExplantParams(), **paths, sealed=True)
    assert len(read_frame(paths["visits"], "visits")) == 1
    with pytest.raises(AssertionError, match="a record was opened"):
        cohort_tables.write_visit_tables(found, RecordsParams(), ExplantParams(), **paths)


@pytest.mark.parametrize("blinding", [True, False])
def test_opening_the_records_moves_nothing_of_the_arm_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blinding: bool) -> None:
    from hqsm import cohort_tables
    from hqsm.config.explant import ExplantParams
    from hqsm.config.records import RecordsParams

    facts: dict[str, Any] = {stage: {"failed": False, "codes": []} for stage in STAGES}
    gating = {"source": "navigator", "efficiency": 0.6, "n_repetitions": 5, "n_accepted": 3}
    facts["gated_echoes"] |= {"field_strength_tesla": 1.5, "echo_times_s": [0.001], "gating": gating}
    facts["regions"] |= {"mask_source": "automatic"}
    facts["susceptibility"] |= {"reference_name": "muscle", "digest": "x"}
    facts["liver_iron"] |= {"row": {"liver_volume_ml": 200.0, "lic_hqsm_mg_g": 5.0}, "details": {"regions": []}}
    for stage, status in facts.items():
        for session in ("01", "02"):
            write_json(tmp_path / "results" / "work" / f"sub-0101_ses-{session}" / f"{stage}.json", status)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "participants.csv").write_text("participant_id,group,birth_year\n0101,thalassemia,1990\n", encoding="utf-8")
    visit = "participant_id,session_id,visit_date,weight_kg\n0101,01,2021-03-01,70\n"
    (tmp_path / "records" / "visits.csv").write_text(visit, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    digests = []
    for sealed in (True, False):
        paths = {name: tmp_path / "results" / "tables" / f"{name}.tsv" for name in ("visits", "lic", "liver_regions")}
        cohort_tables.write_visit_tables(
            [["0101", "01", "9"], ["0101", "02", "9"]],
            RecordsParams(),
            ExplantParams(),
            visits=paths["visits"],
            lic=paths["lic"],
            regions=paths["liver_regions"],
            sealed=sealed,
            blinding=blinding,
        )
        digests.append(arm_digests(tmp_path, IMAGING, PLAN))
    found = read_frame(paths["visits"], "visits")
    assert found["group"].tolist() == ["thalassemia"] * 2
    assert (digests[0] == digests[1]) == blinding
    # where nothing is blinded, a liver of 200 mL in a body of 70 kg is doubted, and so is a visit without a row
    doubts = ["", ""] if blinding else ["LIVER_VOLUME MASK_NEEDS_READER", "VISIT_NOT_IN_RECORDS"]
    assert found["codes"].tolist() == doubts


def with_tables(study: Path, *, lic: float = 5.0, group: str = "", iron: float = 100.0) -> None:
    tables = study / "results" / "tables"
    ids = {"participant_id": "sub-0101", "session_id": "ses-01"}
    write_rows(tables / "visits.tsv", "visits", [{**ids, "status": "ok", "group": group, "codes": "MASK_AUTOMATIC"}])
    write_rows(tables / "lic.tsv", "lic", [{**ids, "group": group, "lic_hqsm_mg_g": lic}])
    write_rows(tables / "exposure.tsv", "exposure", [{"participant_id": "sub-0101", "iron_in_mg": iron}])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tiny_study(tmp_path / "study")
    with_tables(made)
    monkeypatch.chdir(made)
    write_run_record({}, {"lic": "x"}, succeeded=True, rejected=[])
    return made


def test_unblinding_needs_both_locks(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unblind", str(study), "--who", "AB"]) == 4
    assert main(["lock", "imaging", str(study), "--who", "AB"]) == 0
    assert main(["unblind", str(study), "--who", "AB"]) == 4
    assert "The arm records is not locked" in capsys.readouterr().err
    assert blind_state(study, blinding=True, statistics=PLAN).sealed
    assert main(["lock", "records", str(study), "--who", "CD"]) == 0
    assert main(["unblind", str(study), "--who", "AB"]) == 0
    assert not blind_state(study, blinding=True, statistics=PLAN).sealed
    assert main(["unblind", str(study), "--who", "AB"]) == 4
    assert main(["lock", "records", str(study), "--who", "AB"]) == 4
    assert main(["verify", str(study)]) == 0


@pytest.mark.parametrize("change", ["lic", "exposure", "record"])
def test_unblinding_is_refused_when_anything_changed_after_its_lock(study: Path, change: str) -> None:
    for arm in ("imaging", "records"):
        lock(study, arm, "AB", {}, statistics=PLAN)
    if change == "record":
        path = study / "records" / "transfusions.csv"
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    else:
        with_tables(study, **({"lic": 5.1} if change == "lic" else {"iron": 101.0}))
    with pytest.raises(BlindingError, match="changed after the arm") as caught:
        unblind(study, "AB", statistics=PLAN)
    assert caught.value.code == "UNBLIND_CHANGED"
    lock(study, "records" if change != "lic" else "imaging", "AB", {}, statistics=PLAN)
    unblind(study, "AB", statistics=PLAN)


def test_the_groups_of_the_records_are_not_part_of_the_imaging_lock(study: Path) -> None:
    before = arm_digests(study, "imaging", PLAN)
    with_tables(study, group="thalassemia")
    assert arm_digests(study, "imaging", PLAN) == before
    with_tables(study, lic=5.1)
    assert arm_digests(study, "imaging", PLAN) != before
    assert table_digest("a\tb\n1\t2\n", ("b",)) == table_digest("a\n1\n")


def test_a_change_after_unblinding_is_stamped_and_a_new_lock_does_not_wash_it_off(study: Path) -> None:
    for arm in ("imaging", "records"):
        lock(study, arm, "AB", {}, statistics=PLAN)
    unblind(study, "AB", statistics=PLAN)
    assert blind_state(study, blinding=True, statistics=PLAN).stamp() == ""
    with_tables(study, group="thalassemia", lic=5.0)
    assert blind_state(study, blinding=True, statistics=PLAN).stamp() == ""
    with_tables(study, group="thalassemia", lic=4.9)
    stamp = blind_state(study, blinding=True, statistics=PLAN).stamp()
    assert "lic.tsv (imaging)" in stamp
    assert "CHANGED AFTER UNBLINDING" in stamp
    with pytest.raises(BlindingError):
        lock(study, "imaging", "AB", {}, statistics=PLAN)
    files = stamped({"index.html": b"<html><body>x</body></html>", "methods.md": b"m", "figures/a.svg": b"<svg/>"}, stamp)
    assert files["index.html"].startswith(b'<html><body><p class="box"')
    assert b"CHANGED AFTER UNBLINDING" in files["methods.md"]
    with_tables(study, group="thalassemia", lic=5.0)
    assert blind_state(study, blinding=True, statistics=PLAN).stamp() == ""


def test_the_analysis_plan_is_frozen_with_the_records(study: Path) -> None:
    for arm in ("imaging", "records"):
        lock(study, arm, "AB", {}, statistics=PLAN)
    with pytest.raises(BlindingError, match=r"the block statistics of config\.yaml changed after the arm records was locked"):
        unblind(study, "AB", statistics={**PLAN, "confidence_level": 0.9})
    unblind(study, "AB", statistics=PLAN)
    assert blind_state(study, blinding=True, statistics=PLAN).stamp() == ""
    assert "statistics" in blind_state(study, blinding=True, statistics={**PLAN, "bootstrap_seed": 1}).stamp()


def test_the_commands_freeze_the_plan_of_the_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm in ("imaging", "records"):
        assert main(["lock", arm, str(study), "--who", "AB"]) == 0
    config = study / "config.yaml"
    before = config.read_text(encoding="utf-8")
    config.write_text(before + "statistics:\n  equivalence_margin_mg_g: 3.0\n", encoding="utf-8")
    assert main(["unblind", str(study), "--who", "AB"]) == 4
    assert "the block statistics" in capsys.readouterr().err
    config.write_text(before + "report:\n  viewer: false\n", encoding="utf-8")
    assert main(["unblind", str(study), "--who", "AB"]) == 0
    config.write_text(before + "statistics:\n  equivalence_margin_mg_g: 3.0\n", encoding="utf-8")
    assert main(["verify", str(study)]) == 1
    assert "CHANGED AFTER UNBLINDING: the block statistics" in capsys.readouterr().out


def test_a_table_that_was_edited_by_hand_is_not_locked(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study / "results" / "tables" / "lic.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("\t5\t", "\t6\t"), encoding="utf-8")
    assert main(["lock", "imaging", str(study), "--who", "AB"]) == 4
    assert "lic.tsv (changed) is not what the last run wrote" in capsys.readouterr().err


def test_locking_again_keeps_the_old_lock_and_chains_to_it(study: Path) -> None:
    import hashlib

    first = lock(study, "imaging", "AB", {}, statistics=PLAN)
    second = lock(study, "imaging", "AB", {}, statistics=PLAN)
    assert first != second == latest_lock(study, "imaging")
    facts = json.loads(second.read_text(encoding="utf-8"))
    assert facts["previous_sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()


def test_an_open_study_is_not_locked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tiny_study(tmp_path, blinding=False)
    assert main(["lock", "imaging", str(study), "--who", "AB"]) == 4
    assert "not blinded" in capsys.readouterr().err
