import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hqsm.cohort import unusable_row
from hqsm.config.base import block
from hqsm.config.dicom import DicomParams
from hqsm.config.explant import scan_setting
from hqsm.config.gating import GatingParams
from hqsm.config.study import StudyConfig, as_plain, load_config
from hqsm.decisions import read_decisions
from hqsm.dicom.reader import read_visit
from hqsm.errors import ConfigError, InputError
from hqsm.study import discover
from hqsm.study_config import read_config

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_configuration_is_valid() -> None:
    load_config(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))


def test_a_misspelt_key_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"gating\.windw_mm is not known\. Did you mean window_mm"):
        load_config({"gating": {"windw_mm": 5}})


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"gating": {"window_mm": -1}, "lic": {"hqsm_calibration": "magic"}})
    assert "gating.window_mm is -1" in str(caught.value)
    assert "lic.hqsm_calibration is 'magic'" in str(caught.value)


def test_two_keys_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"gating: window_mm \(9\) is wider than widest_window_mm \(8\)\. Correct one"):
        load_config({"gating": {"window_mm": 9}})
    assert load_config({"gating": {"window_mm": 9, "widest_window_mm": 9}}).gating.window_mm == 9


def test_a_window_in_metres_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gating\.window_mm is 0\.005"):
        load_config({"gating": {"window_mm": 0.005}})


def test_a_magnitude_has_at_least_one_coil() -> None:
    assert load_config({"fatwater": {"coils_in_magnitude": 8}}).fatwater.coils_in_magnitude == 8
    with pytest.raises(ConfigError, match=r"fatwater\.coils_in_magnitude is 0"):
        load_config({"fatwater": {"coils_in_magnitude": 0}})


def test_where_the_yaml_breaks_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("gating:\n window_mm: 5\n  widest: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML in UTF-8 from line 3 on"):
        read_config(tmp_path / "config.yaml")


def test_code_in_the_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="__use_yte__"):
        load_config({"__use_yte__": True})


def test_a_block_survives_the_way_through_plain_values() -> None:
    params = load_config({"gating": {"window_mm": 6.5}})
    assert block(GatingParams, as_plain(params)["gating"]) == params.gating
    assert as_plain(StudyConfig())["gating"]["window_mm"] == 5.0


def test_the_session_label_tells_an_explant_and_its_temperature() -> None:
    explant = StudyConfig().explant
    assert scan_setting(explant, "explant") == ("in_vitro", 20.0)
    assert scan_setting(explant, "01") == ("in_vivo", 37.0)


def study_with(tmp_path: Path, *visits: str) -> Path:
    for visit in visits:
        folder = tmp_path / "dicom" / visit
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"1234")
    return tmp_path


def test_a_folder_with_a_bad_name_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    index, _ = discover(study_with(tmp_path, "sub-01/ses-1", "sub-01/ses-a b", "patient"))
    assert [(v.participant, v.session) for v in index.visits] == [("01", "1")]
    assert {name for name, _ in index.unusable} == {"sub-01/(no. 2 in sub-01 by name)", "(no. 1 in dicom by name)"}


def closed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make files and folders of these names such that this user may not open them, whoever runs the test."""

    def denied(of: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(path).name in names:
                raise PermissionError(13, "Permission denied", str(path))
            return of(path, *arguments, **options)

        return refuse

    for module, name in ((builtins, "open"), (os, "scandir"), (Path, "iterdir"), (Path, "open")):
        monkeypatch.setattr(module, name, denied(getattr(module, name)))


def test_what_may_not_be_opened_stops_its_visit_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_with(tmp_path, "sub-01/ses-1", "sub-02/ses-1", "sub-03/ses-1")
    (study / "dicom/sub-01/ses-1/mine").write_bytes(b"1234")
    (study / "records").mkdir()
    (study / "records/visits.csv").write_text("x", encoding="utf-8")
    with monkeypatch.context() as during:
        closed(during, "mine", "sub-03")
        before, cache = discover(study)
        assert [(v.participant, v.n_files) for v in before.visits] == [("01", 2), ("02", 1)]
        assert before.unusable == (("sub-03", "The folder cannot be opened; give the right to read it."),)
        with pytest.raises(InputError, match=r"No DICOM image among 2 files\. 1 file is damaged, empty or closed to you\."):
            read_visit(study / "dicom/sub-01/ses-1", DicomParams())
        closed(during, "ses-1")
        with pytest.raises(InputError, match=r"A folder of the visit cannot be opened"):
            read_visit(study / "dicom/sub-02/ses-1", DicomParams())
    after, _ = discover(study, cache)  # once it may be read, it is read
    assert [v.content == w.content for v, w in zip(before.visits, after.visits, strict=False)] == [False, True]
    closed(monkeypatch, "visits.csv")
    with pytest.raises(InputError, match=r"records/visits\.csv cannot be opened"):
        discover(study)


def test_touching_a_file_changes_nothing_and_changing_it_does(tmp_path: Path) -> None:
    study = study_with(tmp_path, "sub-01/ses-1")
    before, cache = discover(study)
    (study / "dicom/sub-01/ses-1/a").touch()
    touched, _ = discover(study, cache)
    assert touched.visits[0].content == before.visits[0].content
    (study / "dicom/sub-01/ses-1/a").write_bytes(b"5678")
    changed, _ = discover(study, cache)
    assert changed.visits[0].content != before.visits[0].content


def test_a_decision_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("participant_id,session_id,decision,who,when,why\n0012,01,exclude,AB,2026-01-01,\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: why is empty"):
        read_decisions(path)
    path.write_text("participant_id,session_id,decision,who,when,why\n0012,01,exclude,AB,2026-01-01,motion\n", encoding="utf-8")
    assert read_decisions(path)["sub-0012", "ses-01"].decision == "exclude"


def test_decisions_of_a_spreadsheet_are_read_and_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    text = "participant_id;session_id;decision;who;when;why\n0012;01;exclude;M\u00fc;2026-01-01;motion\n;;;;;\n"
    path.write_bytes(text.encode("utf-8-sig"))
    assert [(*key, found.why) for key, found in read_decisions(path).items()] == [("sub-0012", "ses-01", "motion")]
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(InputError, match="Save it as CSV UTF-8"):
        read_decisions(path)
    path.write_text("participant_id,session_id,decision,who,when,why\n,01,exclude,AB,2026-01-01,motion\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: participant_id is empty"):
        read_decisions(path)


def test_a_visit_below_dicom_and_bids_is_one_visit_and_a_row_of_its_own(tmp_path: Path) -> None:
    for source in ("dicom", "bids"):
        (tmp_path / source / "sub-1" / "ses-1").mkdir(parents=True)
    index, _ = discover(tmp_path)
    assert [visit.folder for visit in index.visits] == ["dicom/sub-1/ses-1"]
    ((name, why),) = index.unusable
    row = unusable_row(name, why)
    assert (row["participant_id"], row["session_id"]) == ("sub-1", "(bids of ses-1)")
