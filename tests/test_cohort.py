"""Rows of the cohort's tables: what makes a visit doubtful."""

import math

import pytest

from hqsm.cohort import exclusion_rows, expected_liver_volume_ml, lic_row, liver_region_rows, visit_row, volume_doubt
from hqsm.cohort_tables import same_images

NAN = float("nan")


def test_the_expected_volume_is_uratas_formula() -> None:
    # 70 kg: 287 / 160 = 1.79375 m^2
    assert expected_liver_volume_ml(70, NAN) == pytest.approx(706.2 * 287 / 160 + 2.4)
    assert math.isnan(expected_liver_volume_ml(NAN, NAN))
    # without a weight the age decides, and grows up to an adult's
    volumes = [expected_liver_volume_ml(NAN, age) for age in (2, 5, 8, 12, 20, 50)]
    assert volumes == sorted(volumes)
    assert volumes[-1] == expected_liver_volume_ml(60, NAN)


@pytest.mark.parametrize(
    ("volume_ml", "weight_kg", "age_years", "doubted"),
    [(1300, 60, 30, False), (300, 60, 30, True), (300, 12, 2, False), (3000, 12, 2, True), (3000, NAN, 2, True), (3000, NAN, NAN, False)],
)
def test_a_volume_is_judged_by_the_body(volume_ml: float, weight_kg: float, age_years: float, doubted: bool) -> None:
    assert bool(volume_doubt(volume_ml, weight_kg, age_years)) == doubted


def test_a_thin_slab_shows_a_part_of_the_liver() -> None:
    assert volume_doubt(300, 60, 30)
    assert not volume_doubt(300, 60, 30, covered_share=0.4)
    regions = {"mask_source": "automatic", "liver_covered_share": 0.4}
    statuses = {"liver_iron": {"row": {"liver_volume_ml": 300.0}}, "regions": regions}
    assert visit_row("sub-1", "ses-1", statuses, {"weight_kg": 60.0, "age_years": 30.0}, None)["codes"] == ""


def test_an_implausible_volume_turns_a_visit_into_a_warning_that_a_decision_can_accept() -> None:
    statuses = {"gated_echoes": {"codes": []}, "liver_iron": {"codes": ["MASK_AUTOMATIC"], "row": {"liver_volume_ml": 3000.0}}}
    child, adult = {"weight_kg": 12.0, "age_years": 2.0}, {"weight_kg": 90.0, "age_years": 40.0}
    row = visit_row("sub-1", "ses-1", statuses, child, None)
    assert row["status"] == "warning"
    assert "LIVER_VOLUME" in row["codes"]
    assert visit_row("sub-1", "ses-1", statuses, adult, None)["status"] == "ok"
    decision = {"decision": "accept", "who": "A", "when": "2021-01-01", "why": "large liver"}
    assert visit_row("sub-1", "ses-1", statuses, child, decision)["status"] == "ok"


@pytest.mark.parametrize(("volume_ml", "doubted"), [(0.0, True), (None, False), (1300.0, False)])
def test_a_liver_of_no_volume_is_no_unknown_volume(volume_ml: float | None, doubted: bool) -> None:
    why = {"no_liver_because": "nothing is dark"} if volume_ml == 0 else {}
    statuses = {"liver_iron": {"row": {"liver_volume_ml": volume_ml}}, "regions": {"mask_source": "automatic", **why}}
    row = visit_row("sub-1", "ses-1", statuses, {"weight_kg": 60.0, "age_years": 30.0}, None)
    assert ("LIVER_VOLUME" in row["codes"]) == doubted
    assert ("No automatic liver: nothing is dark." in row["reason"]) == doubted


def test_a_folder_that_was_filed_twice_is_a_warning_that_names_the_other() -> None:
    digests = {("1", "1"): "aa", ("1", "2"): "bb", ("2", "1"): "aa", ("3", "1"): "", ("3", "2"): ""}
    twins = same_images({visit: {"failed": False, "images_sha256": digest} for visit, digest in digests.items()})
    assert {visit: others for visit, others in twins.items() if others} == {("1", "1"): ["sub-2/ses-1"], ("2", "1"): ["sub-1/ses-1"]}
    row = visit_row("sub-1", "ses-1", {"gated_echoes": {"codes": []}}, {"same_images": twins["1", "1"]}, None)
    assert (row["status"], row["codes"]) == ("warning", "VISIT_SAME_IMAGES")
    assert row["reason"].startswith("VISIT_SAME_IMAGES: Another visit has the same images")
    assert "Same images: sub-2/ses-1." in row["reason"]


def test_a_visit_that_the_records_do_not_know_is_a_warning() -> None:
    row = visit_row("sub-1", "ses-1", {"gated_echoes": {"codes": []}}, {"not_in_records": True}, None)
    assert (row["status"], row["codes"]) == ("warning", "VISIT_NOT_IN_RECORDS")
    assert "correct the folder's name" in row["reason"]
    assert visit_row("sub-1", "ses-1", {"gated_echoes": {"codes": []}}, {"not_in_records": False}, None)["status"] == "ok"


def test_what_is_left_out_has_the_code_that_left_it_out() -> None:
    common = {"participant_id": "sub-1", "session_id": "ses-1", "reason": "why"}
    visits = [
        {**common, "status": status, "codes": codes}
        for status, codes in (("rejected", "PROTOCOL_DEVIATION DICOM_NONE"), ("excluded", "MASK_AUTOMATIC"), ("ok", "MASK_AUTOMATIC"))
    ]
    assert [row["code"] for row in exclusion_rows(visits, [], [], [])] == ["DICOM_NONE", ""]


def test_a_decision_is_shown_with_who_when_and_why_whatever_it_does() -> None:
    fine: dict[str, dict[str, object]] = {"gated_echoes": {"codes": []}}
    failed = {"gated_echoes": {"failed": True, "stage": "gated_echoes", "code": "X", "reason": "images are missing"}}
    by = {"who": "AB", "when": "2026-01-02", "why": "moved"}
    for decision, statuses, status in (
        ("exclude", fine, "excluded"),
        ("include", fine, "ok"),
        ("accept", fine, "ok"),
        ("include", failed, "rejected"),  # nobody can decide that images exist
    ):
        row = visit_row("sub-1", "ses-1", statuses, {}, {"decision": decision, **by})
        assert row["status"] == status
        assert row["decision"] == f"{decision} by AB on 2026-01-02: moved"
    assert visit_row("sub-1", "ses-1", fine, {}, None)["decision"] == ""


@pytest.mark.parametrize(("source", "decided", "given"), [("automatic", False, False), ("automatic", True, True), ("reader", False, True)])
def test_an_automatic_liver_of_a_volume_that_the_body_cannot_have_gives_no_number(source: str, decided: bool, given: bool) -> None:
    iron = {"failed": False, "codes": [], "row": {"liver_volume_ml": 3000.0, "lic_hqsm_mg_g": 7.0, "lic_r2star_mg_g": 6.0}}
    iron["details"] = {"regions": [{"region": "liver", "median": 6.0}, {"region": "reference-fat", "median": 0.6}]}
    echoes = {"codes": [], "field_strength_tesla": 1.5, "gating": dict.fromkeys(("source", "efficiency", "n_repetitions", "n_accepted"))}
    susceptibility = {"reference_name": "muscle", "digest": ""}
    statuses = {"gated_echoes": echoes, "liver_iron": iron, "regions": {"mask_source": source}, "susceptibility": susceptibility}
    decision = {"decision": "accept", "who": "A", "when": "2021-01-01", "why": "seen"} if decided else None
    visit = visit_row("sub-1", "ses-1", statuses, {"weight_kg": NAN, "age_years": 2.0}, decision)
    assert "LIVER_VOLUME" in visit["codes"]
    if not given:
        assert "MASK_NEEDS_READER" in visit["codes"]
        assert "it has 3000 mL" in visit["reason"]
        assert "about 383 mL" in visit["reason"]
    row = lic_row(visit, statuses, "in_vivo")
    assert row is not None
    assert row["liver_volume_ml"] == 3000.0  # what was drawn stays visible
    assert (row["lic_hqsm_mg_g"], row["lic_r2star_mg_g"]) == ((7.0, 6.0) if given else (None, None))
    assert len(liver_region_rows(visit, statuses)) == (2 if given else 1)
