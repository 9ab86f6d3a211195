"""Visits against the protocol of the study and against the visit before."""

from typing import Any

import pytest

from hqsm.cohort import visit_row
from hqsm.config.protocol import ExpectedProtocol, ProtocolParams
from hqsm.config.study import load_config
from hqsm.errors import ConfigError
from hqsm.protocol import changes_by_visit, deviations, expected_protocol


def facts(**other: Any) -> dict[str, Any]:
    return {
        "manufacturer": "SIEMENS",
        "model": "Aera",
        "software": "syngo MR E11",
        "field_strength_tesla": 1.494,
        "echo_times_s": [0.0012, 0.0028, 0.0044],
        "repetition_time_s": 0.0145,
        "flip_angle_degrees": 5.0,
        "shape": [160, 128, 32],
        "voxel_size_mm": [2.0, 2.0, 5.0],
        "readout": {"polarity": "unipolar"},
        "gating": {"n_repetitions": 8},
        "acquisition_date": "2021-03-01",
        **other,
    }


PROTOCOL = ExpectedProtocol(
    manufacturer="siemens",
    field_strength_tesla=1.5,
    echo_times_ms=(1.2, 2.8, 4.4),
    repetition_time_ms=14.5,
    flip_angle_degrees=5,
    matrix=(160, 128),
    voxel_size_mm=(2, 2, 5),
    readout="unipolar",
    least_repetitions=6,
)


def found(wanted: ExpectedProtocol = PROTOCOL, **other: Any) -> list[str]:
    return deviations(facts(**other), wanted, echo_time_tolerance_s=5e-5)


def test_a_visit_of_the_protocol_has_no_deviation() -> None:
    assert found() == []
    assert found(echo_times_s=[0.00122, 0.00279, 0.00444], field_strength_tesla=1.5, repetition_time_s=0.0146) == []


def test_nothing_is_compared_that_the_protocol_does_not_name() -> None:
    assert deviations({}, ExpectedProtocol(), echo_time_tolerance_s=5e-5) == []


@pytest.mark.parametrize(
    ("other", "phrase"),
    [
        ({"manufacturer": "GE MEDICAL SYSTEMS"}, "manufacturer GE MEDICAL SYSTEMS instead of siemens"),
        ({"field_strength_tesla": 2.89}, "field strength 2.89 instead of 1.5 T"),
        ({"echo_times_s": [0.0012, 0.0028, 0.0046]}, "echo times 1.2, 2.8, 4.6 instead of 1.2, 2.8, 4.4 ms"),
        ({"echo_times_s": [0.0012, 0.0028]}, "echo times 1.2, 2.8 instead of 1.2, 2.8, 4.4 ms"),
        ({"repetition_time_s": 0.02}, "repetition time 20 instead of 14.5 ms"),
        ({"repetition_time_s": None}, "repetition time unknown instead of 14.5 ms"),
        ({"flip_angle_degrees": 8.0}, "flip angle 8 instead of 5 degrees"),
        ({"shape": [256, 256, 32]}, "matrix 256 x 256 instead of 160 x 128"),
        ({"voxel_size_mm": [2.0, 2.0, 6.0]}, "voxels of 2 x 2 x 6 instead of 2 x 2 x 5 mm"),
        ({"readout": {"polarity": "bipolar"}}, "bipolar readout instead of unipolar"),
        ({"gating": {"n_repetitions": 1}}, "1 repetitions instead of at least 6"),
    ],
)
def test_each_deviation_is_named_with_both_values(other: dict[str, Any], phrase: str) -> None:
    assert found(**other) == [phrase]


def test_the_first_site_that_claims_a_visit_gives_its_protocol() -> None:
    params = ProtocolParams(
        expected=ExpectedProtocol(flip_angle_degrees=5),
        sites={
            "explants": ExpectedProtocol(sessions="explant", flip_angle_degrees=20),
            "north": ExpectedProtocol(participants="N", flip_angle_degrees=3),
        },
    )
    assert [expected_protocol(params, p, s).flip_angle_degrees for p, s in (("N01", "01"), ("S01", "01"), ("N01", "explant"))] == [3, 5, 20]


def test_changes_are_those_since_the_participants_visit_before_by_date() -> None:
    visits = [
        ("1", "b", facts(acquisition_date="2022-01-01", software="syngo MR XA30")),
        ("1", "a", facts(acquisition_date="2021-01-01")),
        ("1", "c", facts(acquisition_date="2023-01-01", software="syngo MR XA30", flip_angle_degrees=8.0, field_strength_tesla=2.9)),
        ("1", "d", {"failed": True}),
        ("2", "a", facts(model="Vida")),
    ]
    changed = changes_by_visit(visits, echo_time_tolerance_s=5e-5)
    assert changed == {
        ("1", "b"): (["software syngo MR E11 to syngo MR XA30"], [], []),
        ("1", "c"): (["field strength 1.49 to 2.9 T"], ["flip angle 5 to 8 degrees"], []),
    }


def test_another_model_in_a_fifth_of_the_liver_is_a_change_and_no_warning() -> None:
    lean = {"model_water_fat": 0.95, "model_fat_constrained": 0.05, "model_no_fat": 0.0, "not_converged": 0.0}
    dark = {"model_water_fat": 0.3, "model_fat_constrained": 0.2, "model_no_fat": 0.5, "not_converged": 0.9}
    visits = [
        ("1", "a", facts(acquisition_date="2021-01-01", liver_fit=lean)),
        ("1", "b", facts(acquisition_date="2022-01-01", liver_fit=dark)),
        ("1", "c", facts(acquisition_date="2023-01-01", liver_fit={})),
        ("1", "d", facts(acquisition_date="2024-01-01", liver_fit={**dark, "model_fat_constrained": 0.35})),
    ]
    changed = changes_by_visit(visits, echo_time_tolerance_s=5e-5)
    words = ["water and fat independent in 95 to 30 % of the liver", "fat given up in 0 to 50 % of the liver"]
    assert changed == {("1", "b"): ([], [], words), ("1", "c"): ([], [], []), ("1", "d"): ([], [], [])}
    row = visit_row("sub-1", "ses-b", {"gated_echoes": {"codes": []}}, {"model_changes": words}, None)
    assert (row["status"], row["codes"]) == ("ok", "MODEL_CHANGED")
    assert row["changes_since_last_visit"] == "; ".join(words)


def test_a_deviation_or_a_change_is_a_warning_with_its_words_in_the_table() -> None:
    record = {
        "protocol_deviations": ["flip angle 8 instead of 5 degrees"],
        "scanner_changes": ["scanner Aera to Vida"],
        "protocol_changes": [],
    }
    row = visit_row("sub-1", "ses-1", {"gated_echoes": {"codes": [], "readout": {"polarity": "bipolar"}}}, record, None)
    assert row["status"] == "warning"
    assert row["codes"] == "PROTOCOL_DEVIATION SCANNER_CHANGED"
    assert row["protocol_deviations"] == "flip angle 8 instead of 5 degrees"
    assert row["changes_since_last_visit"] == "scanner Aera to Vida"
    assert row["readout"] == "bipolar"
    assert visit_row("sub-1", "ses-1", {"gated_echoes": {"codes": ["BIPOLAR_CORRECTED"]}}, {}, None)["status"] == "ok"


def test_the_protocol_of_a_study_is_a_block_of_its_configuration() -> None:
    config = load_config({"protocol": {"sites": {"north": {"participants": "N", "echo_times_ms": [1.2, 2.8], "matrix": [160, 128]}}}})
    assert config.protocol.sites["north"].echo_times_ms == (1.2, 2.8)
    with pytest.raises(ConfigError, match="echo_time"):
        load_config({"protocol": {"expected": {"echo_time": [1.2]}}})
