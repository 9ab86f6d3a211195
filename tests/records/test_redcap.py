"""A REDCap flat export gives the same tables as one CSV per table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hqsm.config.study import load_config
from hqsm.errors import InputError
from hqsm.records.data import Records
from hqsm.records.exposure import exposure_of
from hqsm.records.intervals import annual_intervals
from hqsm.records.reading import read_records

HEADER = (
    '"Variable / Field Name","Form Name","Section Header","Field Type","Field Label","Choices, Calculations, OR Slider Labels",'
    '"Field Note","Text Validation Type OR Show Slider Number","Text Validation Min","Text Validation Max",Identifier?,'
    '"Branching Logic (Show field only if...)","Required Field?","Custom Alignment","Question Number (surveys only)",'
    '"Matrix Group Name","Matrix Ranking?"\n'
)


def field(name: str, kind: str = "text", choices: str = "", low: str = "", high: str = "", identifier: str = "") -> str:
    return f'{name},form,,{kind},label,"{choices}",,,{low},{high},{identifier},,,,,,\n'


DICTIONARY = HEADER + "".join(
    [
        field("record_id"),
        field("cohort", "radio", "1, Thalassaemia | 2, Transplant | 3, Healthy, control"),
        field("sex", "dropdown", "1, Female | 2, Male"),
        field("spleen_out", "yesno"),
        field("scan_date"),
        field("weight", low="10", high="150"),
        field("tx_date"),
        field("tx_volume"),
        field("tx_hct"),
        field("rx_start"),
        field("rx_stop"),
        field("rx_dose"),
    ]
)
EXPORT = """\
record_id,redcap_event_name,redcap_repeat_instrument,redcap_repeat_instance,cohort,sex,spleen_out,scan_date,weight,\
tx_date,tx_volume,tx_hct,rx_start,rx_stop,rx_dose,demographics_complete
0012,enrolment_arm_1,,,1,1,0,,,,,,,,,2
0012,year_0_arm_1,,,,,,2021-03-01,50,,,,,,,2
0012,year_1_arm_1,,,,,,2022-03-01,53.65,,,,,,,2
0012,year_0_arm_1,transfusion,1,,,,,,2021-03-01,600,58,,,,2
0012,year_0_arm_1,transfusion,2,,,,,,2021-03-22,610,UNK,,,,1
0012,year_0_arm_1,prescription,1,,,,,,,,,2021-01-15,2022-03-31,1080,2
"""
MAPPING: dict[str, Any] = {
    "tables": {
        "participants": {
            "events": ["enrolment_arm_1"],
            "fields": {"group": "cohort", "sex": "sex", "splenectomy": "spleen_out", "site": "=WCM"},
        },
        "visits": {
            "fields": {"session_id": "redcap_event_name", "visit_date": "scan_date", "weight_kg": "weight", "visit_type": "=annual"},
            "values": {"session_id": {"year_0_arm_1": "01", "year_1_arm_1": "02"}},
        },
        "transfusions": {
            "instrument": "transfusion",
            "fields": {
                "tx_id": "redcap_repeat_instance",
                "date": "tx_date",
                "amount": "tx_volume",
                "unit": "=mL",
                "hct_pct": "tx_hct",
                "product": "=prbc",
            },
        },
        "chelation": {
            "instrument": "prescription",
            "fields": {
                "rx_id": "redcap_repeat_instance",
                "start": "rx_start",
                "stop": "rx_stop",
                "product": "=jadenu_tablet",
                "dose": "rx_dose",
                "dose_unit": "=mg",
                "per": "=day",
            },
        },
    }
}
TABLES = {
    "participants": "participant_id,site,group,sex,splenectomy\n0012,WCM,thalassemia,F,n\n",
    "visits": "participant_id,session_id,visit_date,visit_type,weight_kg\n0012,01,2021-03-01,annual,50\n0012,02,2022-03-01,annual,53.65\n",
    "transfusions": (
        "participant_id,tx_id,date,amount,unit,hct_pct,product\n0012,1,2021-03-01,600,mL,58,prbc\n0012,2,2021-03-22,610,mL,UNK,prbc\n"
    ),
    "chelation": "participant_id,rx_id,start,stop,product,dose,dose_unit,per\n0012,1,2021-01-15,2022-03-31,jadenu_tablet,1080,mg,day\n",
}


def read(folder: Path, mapping: dict[str, Any] | None = None, export: str = EXPORT, dictionary: str = DICTIONARY) -> Records:
    (folder / "redcap.csv").write_text(export, encoding="utf-8-sig")
    (folder / "redcap_dictionary.csv").write_text(dictionary, encoding="utf-8-sig")
    return read_records(folder, load_config({"records": {"redcap": MAPPING if mapping is None else mapping}}).records)


def test_the_export_and_the_tables_give_the_same_records_and_exposure(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, text in TABLES.items():
        (tmp_path / "b" / f"{name}.csv").write_text(text, encoding="utf-8")
    params = load_config({}).records
    one, other = read(tmp_path / "a"), read_records(tmp_path / "b", params)
    for name in TABLES:
        pd.testing.assert_frame_equal(one.tables[name].drop(columns="line"), other.tables[name].drop(columns="line"))
    assert one.present == other.present == set(TABLES)
    rows = [[exposure_of(i, r, params) for i in annual_intervals(r, params)[0]] for r in (one, other)]
    pd.testing.assert_frame_equal(pd.DataFrame(rows[0]), pd.DataFrame(rows[1]))
    assert rows[0][0]["iron_in_mg"] == pytest.approx(375.84 + 395.28)


def test_a_finding_names_the_line_of_the_export(tmp_path: Path) -> None:
    records = read(tmp_path, export=EXPORT.replace("610,UNK", "610,0.58"))
    found = [(f.file, f.line, f.participant, f.field) for f in records.findings if f.code == "HCT_FRACTION"]
    assert found == [("redcap.csv", 6, "sub-0012", "hct_pct")]
    assert records.blocked == {"sub-0012": ("HCT_FRACTION",)}


def test_the_dictionarys_range_is_a_rule(tmp_path: Path) -> None:
    records = read(tmp_path, export=EXPORT.replace("53.65", "165"))
    assert [(f.line, f.field) for f in records.findings if f.code == "REDCAP_RANGE"] == [(4, "weight_kg")]


def test_an_export_with_identifiers_is_refused_by_the_names_of_its_fields(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="identify a person: scan_date") as error:
        read(tmp_path, dictionary=DICTIONARY.replace(field("scan_date"), field("scan_date", identifier="y")))
    assert error.value.code == "REDCAP_IDENTIFIER"
    # a field that is marked but was not exported does no harm
    read(tmp_path, dictionary=DICTIONARY + field("last_name", identifier="y"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"visits": {"fields": {"visit_date": "scandate"}}}, "the export has no field scandate"),
        ({"visits": {"fields": {"visit_dat": "scan_date"}}}, "visits has no column visit_dat"),
        ({"visit": {"fields": {"visit_date": "scan_date"}}}, "there is no table visit"),
    ],
)
def test_a_mapping_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, {"tables": change})


def test_without_mapping_or_dictionary_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no mapping"):
        read(tmp_path, {})
    (tmp_path / "redcap_dictionary.csv").unlink()
    with pytest.raises(InputError, match=r"redcap_dictionary\.csv does not exist"):
        read_records(tmp_path, load_config({"records": {"redcap": MAPPING}}).records)


def test_words_of_a_label_export_are_understood_as_well(tmp_path: Path) -> None:
    records = read(tmp_path, export=EXPORT.replace("enrolment_arm_1,,,1,1,0", "enrolment_arm_1,,,Thalassaemia,Female,No"))
    person = records.participants.iloc[0]
    assert (person["group"], person["sex"], person["splenectomy"]) == ("thalassemia", "F", "n")


def test_a_table_that_is_not_in_the_export_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    text = "specimen_id,participant_id,fe_value,fe_unit,basis,prep\nE1,0012,5,mg/g,dry,fresh\n"
    (tmp_path / "explant_chemistry.csv").write_text(text, encoding="utf-8")
    (tmp_path / "visits.csv").write_text(TABLES["visits"], encoding="utf-8")
    records = read(tmp_path)
    assert len(records.tables["explant_chemistry"]) == 1
    assert [f.file for f in records.findings if f.code == "FILE_TWICE"] == ["visits.csv"]


def test_an_empty_id_is_an_error_and_zeros_stay(tmp_path: Path) -> None:
    records = read(tmp_path, export=EXPORT.replace("0012,year_0_arm_1,transfusion,2", ",year_0_arm_1,transfusion,2"))
    assert [f.line for f in records.findings if f.code == "ID_EMPTY"] == [6]
    assert set(records.tables["visits"]["participant_id"]) == {"sub-0012"}
