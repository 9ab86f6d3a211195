"""Every case of dirty data: its code, its severity, its line, and what becomes of the value."""

import re
from pathlib import Path

import numpy as np
import pytest

from hqsm.config.records import RecordsParams
from hqsm.errors import InputError
from hqsm.records.data import Records
from hqsm.records.exposure import daily_chelator_mg, exposure_of, transfused_iron_mg
from hqsm.records.intervals import annual_intervals
from hqsm.records.reading import read_records
from hqsm.statistics.effects import chemistry_by_participant
from records.clean_tables import CLEAN, Check, findings_of, line_of

PARAMS = RecordsParams()
TX, RX = "transfusions", "chelation"


def test_clean_records_have_no_finding(checked: Check) -> None:
    records = checked()
    assert records.findings == ()
    assert records.blocked == {}


# (table, row, code, severity, column); the row is line 2
CASES = [
    (TX, "0012,a,2021-03-22,3,mL,58,prbc,,", "ML_OR_UNITS", "warning", "unit"),
    (TX, "0012,a,2021-03-22,600,units,,prbc,,", "UNITS_OR_ML", "warning", "unit"),
    (TX, "0012,a,2021-03-23,600,units,,prbc,,", "AMOUNT_RANGE", "error", "amount"),
    (TX, "0012,a,2021-03-24,21,units,,prbc,,", "AMOUNT_RANGE", "error", "amount"),
    (TX, "0012,a,2021-03-22,600,pints,58,prbc,,", "CHOICE_UNKNOWN", "error", "unit"),
    (TX, "0012,a,2021-03-22,600,mL,UNK,prbc,,", "HCT_MISSING", "warning", "hct_pct"),
    (TX, "0012,a,2021-03-22,600,mL,0.58,prbc,,", "HCT_FRACTION", "error", "hct_pct"),
    (TX, "0012,a,2021-03-22,2000,mL,58,exchange,1500,0.3", "HCT_FRACTION", "error", "removed_hct_pct"),
    (TX, "0012,a,2021-03-22,600,mL,40,prbc,,", "HCT_PRODUCT", "error", "hct_pct"),
    (TX, "0012,a,2021-03-22,600,mL,60,whole,,", "HCT_PRODUCT", "error", "hct_pct"),
    (TX, "0012,a,2021-03-22,2000,mL,58,exchange,,30", "EXCHANGE_REMOVED", "error", "removed_ml"),
    (TX, "0012,a,2021-03-22,2000,mL,58,exchange,1500,", "EXCHANGE_REMOVED", "error", "removed_hct_pct"),
    (TX, "0012,a,2021-03-22,600,mL,58,prbc,200,", "EXCHANGE_REMOVED", "error", "removed_hct_pct"),
    (TX, "0012,a,2021-03-22,600,mL,58,prbc,,30", "EXCHANGE_REMOVED", "error", "removed_ml"),
    (TX, "0012,a,2021-03-22,600,mL,58,exchange,1200,30", "EXCHANGE_NET", "warning", "removed_ml"),
    (TX, "0012,a,2021-03-22,450,mL,,whole,,", "HCT_PRODUCT", "error", "hct_pct"),
    (TX, "0012,a,2021-03-22,sixty,mL,58,prbc,,", "NUMBER_FORMAT", "error", "amount"),
    (TX, "0012,a,2021-03-22,9000,mL,58,prbc,,", "AMOUNT_RANGE", "error", "amount"),
    (TX, "0012,a,22.3.21,600,mL,58,prbc,,", "DATE_FORMAT", "error", "date"),
    (TX, "0012,a,03/04/2021,600,mL,58,prbc,,", "DATE_FORMAT", "error", "date"),
    (TX, "0012,a,13/04/2021,600,mL,58,prbc,,", "DATE_FORMAT", "error", "date"),
    (TX, "0012,a,44256,600,mL,58,prbc,,", "DATE_FORMAT", "error", "date"),
    (TX, "0012,a,2021-13-04,600,mL,58,prbc,,", "DATE_IMPOSSIBLE", "error", "date"),
    (TX, "0012,a,1850-03-22,600,mL,58,prbc,,", "DATE_RANGE", "error", "date"),
    (TX, "0012,a,1 March 2021,600,mL,58,prbc,,", "DATE_FORMAT", "error", "date"),
    (TX, "0012,a,,600,mL,58,prbc,,", "CELL_EMPTY", "error", "date"),
    (TX, "0099,a,2021-03-22,600,mL,58,prbc,,", "ID_UNKNOWN", "error", "participant_id"),
    (TX, "00 12,a,2021-03-22,600,mL,58,prbc,,", "ID_FORMAT", "error", "participant_id"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,1080,mg/kg,day,1,7,prescribed,", "DOSE_IS_MG", "error", "dose_unit"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,21,mg,day,1,7,prescribed,", "DOSE_IS_MG_PER_KG", "error", "dose_unit"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_sprinkle,32,mg/kg,day,1,7,prescribed,", "DOSE_LABEL", "warning", "dose"),
    (RX, "0012,A,2021-01-15,2022-03-31,exjade,30,mg/kg,day,1,7,prescribed,", "PROTOCOL_EXJADE", "warning", "product"),
    (RX, "0012,A,2021-01-15,2022-03-31,deferiprone,4000,mg,day,1,7,prescribed,", "PROTOCOL_CHELATOR", "warning", "product"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,1000,mg,day,1,7,prescribed,", "DOSE_TABLETS", "warning", "dose"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,7200,mg,day,1,7,prescribed,", "DOSE_RANGE", "error", "dose"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,1800,mg,day,1,7,prescribed,", "DOSE_LABEL", "warning", "dose"),
    (RX, "0012,A,2021-01-15,2022-03-31,jadenu_tablet,90,mg,day,1,7,prescribed,", "DOSE_LABEL", "warning", "dose"),
    (RX, "0012,A,2021-06-01,,jadenu_tablet,,,,,,held,", "RX_HOLD_OPEN", "warning", "stop"),
    (RX, "0012,A,2021-08-31,2021-01-15,jadenu_tablet,1080,mg,day,1,7,prescribed,", "RX_STOP_BEFORE_START", "error", "stop"),
    ("adherence", "0012,2021-03-01,2022-03-01,,,,115,pharmacy", "ADHERENCE_RANGE", "error", "adherence_pct"),
    ("adherence", "0012,2021-03-01,2022-03-01,,,,-5,pharmacy", "ADHERENCE_RANGE", "error", "adherence_pct"),
    ("adherence", "0012,2021-03-01,2022-03-01,10,12,360,,pill_count", "ADHERENCE_RANGE", "error", "returned_n"),
    ("adherence", "0012,2021-03-01,2022-03-01,,,,,pill_count", "ADHERENCE_MISSING", "warning", "adherence_pct"),
    ("adherence", "0012,2022-03-01,2021-03-01,,,,95,pharmacy", "ADHERENCE_DATES", "error", "to"),
    ("weights", "0012,2021-03-01,51", "WEIGHT_SAME_DAY", "warning", "weight_kg"),
    ("weights", "0012,2021-09-01,505", "WEIGHT_RANGE", "error", "weight_kg"),
    ("weights", "0012,2022-06-01,62", "WEIGHT_JUMP", "error", "weight_kg"),
    ("weights", "0012,2022-06-01,40", "WEIGHT_JUMP", "error", "weight_kg"),
    ("explant_chemistry", "E1,0013,5000,mg/g,dry,fresh,,n,10,dry", "IRON_RANGE", "warning", "fe_value"),
    ("explant_chemistry", "E1,0013,61,mg/g,dry,fresh,,n,10,dry", "IRON_RANGE", "warning", "fe_value"),
    ("explant_chemistry", "E1,0013,5,ug/g,dry,fresh,,n,10,dry", "IRON_RANGE", "warning", "fe_value"),
    ("explant_chemistry", "E1,0013,5,ppm,dry,fresh,,n,10,dry", "CHOICE_UNKNOWN", "error", "fe_unit"),
    ("explant_chemistry", "E1,0013,5,mg/g,,fresh,,n,10,dry", "CELL_EMPTY", "error", "basis"),
    ("explant_chemistry", "E1,0013,5,mg/g,dry,,,n,10,dry", "CELL_EMPTY", "error", "prep"),
    ("explant_chemistry", "E1,0013,5,mg/g,dry,fresh,,n,0.2,dry", "SPECIMEN_SMALL", "warning", "dry_mass_mg"),
    ("explant_chemistry", "E1,0013,5,mg/g,dry,fresh,,n,10,saline", "SPECIMEN_SALINE", "warning", "transport"),
    ("explant_chemistry", "E1,0013,0.1,mg/g,dry,fresh,0.2,y,10,dry", "BELOW_LOD", "warning", "below_lod"),
    ("explant_chemistry", "E1,0013,UNK,mg/g,dry,fresh,,y,10,dry", "LOD_MISSING", "error", "lod"),
    ("explant_chemistry", "E1,0013,0.2,mg/g,dry,fresh,,y,10,dry", "LOD_MISSING", "error", "lod"),
    ("explant_chemistry", "E1,0013,,mg/g,dry,fresh,0.2,n,10,dry", "CELL_EMPTY", "error", "fe_value"),
    ("explant_chemistry", "E1,0013,2,mg/g,wet,paraffin,,n,10,dry", "BASIS_PREP", "error", "basis"),
    ("explant_histology", "E1,0013,5,metavir,10,", "FIBROSIS_SCALE", "error", "fibrosis_stage"),
    ("explant_histology", "E1,0013,2,metavir,,2", "STEATOSIS_GRADE", "warning", "steatosis_pct"),
]


@pytest.mark.parametrize(("table", "row", "code", "severity", "field"), CASES, ids=[f"{c[2]}-{k}" for k, c in enumerate(CASES)])
def test_each_case_is_found_where_it_is_and_repeats_no_cell_of_a_person(
    checked: Check, table: str, row: str, code: str, severity: str, field: str
) -> None:
    records = checked(**{table: line_of(table, row)})
    found = findings_of(records, code)
    assert [(f.file, f.line, f.field, f.severity) for f in found] == [(f"{table}.csv", 2, field, severity)]
    assert found[0].problem
    assert found[0].remedy
    said = " ".join(f"{f.problem} {f.remedy}" for f in records.findings)
    # numbers that the rules themselves name (limits, tablets, factors) are no cells
    for cell in row.split(",")[1:]:
        if len(cell) > 3 and cell not in {"1080", "2000"} and not re.fullmatch(r"[a-z_/]+", cell):
            assert cell not in said, cell


def test_an_error_stops_the_exposure_of_that_participant_alone(checked: Check) -> None:
    people = CLEAN["participants"] + "0014,WCM,thalassemia,F,2001,n\n"
    visits = CLEAN["visits"] + "0014,01,2021-03-01,annual,50\n0014,02,2022-03-01,annual,51\n"
    weights = CLEAN["weights"] + "0014,2021-09-01,50.5\n"
    bad = line_of(TX, "0012,a,2021-03-22,600,mL,0.58,prbc,,", "0014,b,2021-03-22,600,mL,58,prbc,,")
    drug = CLEAN[RX] + "0014,B,2021-01-15,2022-03-31,jadenu_tablet,720,mg,day,1,7,prescribed,\n"
    records = checked(participants=people, visits=visits, weights=weights, transfusions=bad, chelation=drug)
    assert records.blocked == {"sub-0012": ("HCT_FRACTION",)}
    rows = {i.participant_id: exposure_of(i, records, PARAMS) for i in annual_intervals(records, PARAMS)[0]}
    assert (rows["sub-0012"]["included"], rows["sub-0014"]["included"]) == (0, 1)
    assert "HCT_FRACTION" in rows["sub-0012"]["reason"]


def test_an_error_in_the_chemistry_stops_no_exposure(checked: Check) -> None:
    records = checked(explant_chemistry=line_of("explant_chemistry", "E1,0012,5,mg/g,,fresh,,n,10,dry"))
    assert findings_of(records, "CELL_EMPTY")
    assert records.blocked == {}


def test_every_problem_is_found_in_one_pass(checked: Check) -> None:
    rows = [row for table, row, *_ in CASES if table == TX]
    records = checked(transfusions=line_of(TX, *rows))
    for number, (_, _, code, _, field) in enumerate([case for case in CASES if case[0] == TX]):
        assert any((f.line, f.field) == (number + 2, field) for f in findings_of(records, code)), (number + 2, code)


@pytest.mark.parametrize(("spelling", "unit"), [("ml", "mL"), ("cc", "mL"), ("ML", "mL"), ("U", "units"), ("unit", "units")])
def test_spellings_of_a_unit_are_understood_and_counted(checked: Check, spelling: str, unit: str) -> None:
    amount = "600" if unit == "mL" else "2"
    records = checked(transfusions=line_of(TX, f"0012,a,2021-03-22,{amount},{spelling},58,prbc,,"))
    assert list(records.tables[TX]["unit"]) == [unit]
    assert [f.severity for f in findings_of(records, "CELL_ALIAS")] == ["note"]


def test_a_missing_haematocrit_takes_the_sites_default_and_is_flagged(checked: Check) -> None:
    params = RecordsParams(site_haematocrit_percent={"WCM": 62.0})
    records = checked(params, transfusions=line_of(TX, "0012,a,2021-03-22,600,mL,UNK,prbc,,"))
    row = exposure_of(annual_intervals(records, params)[0][0], records, params)
    assert row["iron_in_mg"] == pytest.approx(600 * 0.62 * 1.08)
    assert (row["n_hct_imputed"], "hct_imputed" in row["flags"]) == (1, True)


def test_an_exchange_counts_given_minus_removed(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22,2000,mL,60,exchange,1800,30"))
    row = exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)
    assert row["iron_in_mg"] == pytest.approx((2000 * 0.60 - 1800 * 0.30) * 1.08)


def test_haemoglobin_of_the_bag_stands_in_for_its_haematocrit() -> None:
    row = {"hct_pct": np.nan, "hb_g_dl": 20.0, "unit": "mL", "amount": 300.0, "removed_ml": np.nan, "site": ""}
    iron, imputed = transfused_iron_mg(row, "WCM", PARAMS)
    assert iron == pytest.approx(300 * 0.20 * 3.47)
    assert not imputed


def test_two_equal_transfusions_on_a_day_are_both_counted_and_asked_about(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22,600,mL,58,prbc,,", "0012,b,2021-03-22,600,mL,58,prbc,,"))
    assert [(f.line, f.severity) for f in findings_of(records, "TX_SAME_DAY")] == [(3, "warning")]
    assert exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)["n_transfusions"] == 2


def test_one_identifier_of_two_transfusions_is_an_error(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22,600,mL,58,prbc,,", "0012,a,2021-04-22,610,mL,58,prbc,,"))
    assert [(f.line, f.severity) for f in findings_of(records, "TX_ID_TWICE")] == [(3, "error")]


def test_four_and_three_units_on_one_day_are_asked_about(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22,4,units,,prbc,,", "0012,b,2021-03-22,3,units,,prbc,,"))
    assert [f.line for f in findings_of(records, "UNITS_OR_ML")] == [3]


RX_A = "0012,A,2021-01-15,{stop},jadenu_tablet,1080,mg,day,1,7,prescribed,"


def chelator_mg(records: object, params: RecordsParams = PARAMS) -> float:
    return float(exposure_of(annual_intervals(records, params)[0][0], records, params)["chelator_mg"])  # type: ignore[arg-type]


def test_the_later_of_two_overlapping_prescriptions_counts(checked: Check) -> None:
    later = "0012,B,2021-09-01,2022-03-31,jadenu_tablet,720,mg,day,1,7,prescribed,"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), later))
    assert [(f.line, f.severity) for f in findings_of(records, "RX_OVERLAP")] == [(3, "warning")]
    assert chelator_mg(records) == pytest.approx(184 * 1080 + 181 * 720)


def test_a_prescription_with_the_component_add_is_taken_on_top(checked: Check) -> None:
    added = "0012,B,2021-09-01,2022-03-31,jadenu_sprinkle,180,mg,day,1,7,prescribed,add"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), added))
    assert not findings_of(records, "RX_OVERLAP")
    assert chelator_mg(records) == pytest.approx(365 * 1080 + 181 * 180)


def test_two_prescriptions_of_one_start_are_an_error_unless_one_is_added(checked: Check) -> None:
    second = "0012,B,2021-01-15,2022-03-31,jadenu_tablet,720,mg,day,1,7,prescribed,"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), second))
    assert [(f.line, f.severity) for f in findings_of(records, "RX_SAME_START")] == [(3, "error")]
    assert not findings_of(checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), second + "add")), "RX_SAME_START")


@pytest.mark.parametrize(("restart", "warned"), [("2021-09-04", False), ("2021-09-05", True)])
def test_a_gap_of_more_than_three_days_is_a_warning_and_counts_nothing(checked: Check, restart: str, warned: bool) -> None:
    later = f"0012,B,{restart},2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2021-08-31"), later))
    assert bool(findings_of(records, "RX_GAP")) is warned
    assert chelator_mg(records) == pytest.approx((365 - (int(restart[-2:]) - 1)) * 1080)


def test_a_hold_subtracts_its_days(checked: Check) -> None:
    hold = "0012,H,2021-12-20,2022-01-02,jadenu_tablet,0,mg,day,1,7,held,"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), hold))
    assert chelator_mg(records) == pytest.approx((365 - 14) * 1080)


def test_an_open_prescription_lasts_to_the_data_cut(checked: Check) -> None:
    text = line_of(RX, RX_A.format(stop=""))
    assert chelator_mg(checked(chelation=text)) == pytest.approx(365 * 1080)
    early = RecordsParams(data_cut_date="2021-06-30")
    assert chelator_mg(checked(early, chelation=text), early) == pytest.approx(122 * 1080)


def test_what_was_dispensed_is_not_a_second_prescription(checked: Check) -> None:
    pharmacy = "0012,P,2021-02-01,2021-12-31,jadenu_tablet,900,mg,day,1,7,dispensed,"
    records = checked(chelation=line_of(RX, RX_A.format(stop="2022-03-31"), pharmacy))
    assert not findings_of(records, "RX_OVERLAP")
    assert chelator_mg(records) == pytest.approx(365 * 1080)


def test_five_days_a_week_and_twice_a_day_are_counted() -> None:
    from datetime import date, timedelta

    days = [date(2021, 3, 1) + timedelta(days=k) for k in range(7)]
    row = {"start": "2021-01-01", "stop": "", "status": "", "product": "jadenu_tablet", "dose": 360.0, "dose_unit": "mg"}
    row |= {"per": "dose", "times_per_day": 2.0, "days_per_week": 5.0, "component": ""}
    assert daily_chelator_mg(days, [row], np.full(7, 50.0), PARAMS, days[-1]).sum() == pytest.approx(5 * 720)


def test_without_adherence_full_adherence_is_assumed_and_flagged(checked: Check) -> None:
    records = checked(adherence=None)
    row = exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)
    assert "adherence_assumed" in row["flags"]
    assert row["chelator_adherence_g_per_kg_per_year"] == row["chelator_g_per_kg_per_year"]
    assert any("adherence" in note for note in records.notes)


def test_a_pill_count_gives_the_adherence(checked: Check) -> None:
    # 366 days x 3 tablets of 360 mg were prescribed; 1098 dispensed, 109.8 of them returned: nine tenths
    text = line_of("adherence", "0012,2021-03-01,2022-03-01,1098,109.8,360,,pill_count")
    row = exposure_of(annual_intervals(checked(adherence=text), PARAMS)[0][0], checked(adherence=text), PARAMS)
    assert row["adherence"] == pytest.approx(0.9)
    assert row["chelator_adherence_g_per_kg_per_year"] == pytest.approx(0.9 * row["chelator_g_per_kg_per_year"])
    assert row["flags"] == ""


def test_a_pill_count_beyond_the_prescription_is_not_believed(checked: Check) -> None:
    text = line_of("adherence", "0012,2021-03-01,2022-03-01,1500,0,360,,pill_count")
    row = exposure_of(annual_intervals(checked(adherence=text), PARAMS)[0][0], checked(adherence=text), PARAMS)
    assert "adherence_implausible" in row["flags"]
    assert row["adherence"] == 1


def test_days_far_from_every_weight_are_said(checked: Check) -> None:
    records = checked(weights=None)
    found = findings_of(records, "WEIGHT_DISTANT")
    assert [(f.line, f.severity) for f in found] == [(3, "warning")]
    # of the 365 days, those 181 to 184 days after the first visit are more than 180 days from both
    assert found[0].problem.startswith("4 days")
    assert "weight_distant" in exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)["flags"]


def test_a_growing_child_is_no_weight_jump(checked: Check) -> None:
    visits = line_of("visits", "0012,01,2021-03-01,annual,12", "0012,02,2022-03-01,annual,14.3", "0013,01,2021-05-01,pretransplant,70")
    assert not findings_of(checked(visits=visits, weights="participant_id,date,weight_kg\n0012,2021-09-01,13.1\n"), "WEIGHT_JUMP")


def test_both_readings_of_a_date_are_shown_only_when_asked_for(checked: Check) -> None:
    text = line_of(TX, "0012,a,03/04/2021,600,mL,58,prbc,,")
    assert "2021" not in findings_of(checked(transfusions=text), "DATE_FORMAT")[0].problem
    shown = findings_of(checked(RecordsParams(show_values=True), transfusions=text), "DATE_FORMAT")[0].problem
    assert "2021-04-03 or 2021-03-04" in shown


def test_a_time_and_its_zone_leave_the_local_day(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22T23:30:00-05:00,600,mL,58,prbc,,"))
    assert list(records.tables[TX]["date"]) == ["2021-03-22"]


def test_spaces_marks_semicolons_commas_and_words_for_missing_are_read_and_said(checked: Check) -> None:
    text = "\ufeffparticipant_id;tx_id;date;amount;unit;hct_pct\n 0012;a;2021-03-22;600,5;mL;\xa058\n0012;b;2021-04-22;600;mL;n/a\n"
    records = checked(transfusions=text.encode("utf-8"))
    table = records.tables[TX]
    assert list(table["participant_id"]) == ["sub-0012", "sub-0012"]
    assert (table["amount"][0], table["hct_pct"][0]) == (600.5, 58)
    assert np.isnan(table["hct_pct"][1])
    for code in ("CELL_SPACES", "CELL_DECIMAL_COMMA", "CELL_MISSING_CODE"):
        assert [f.severity for f in findings_of(records, code)] == ["warning"], code


def test_a_comma_that_could_separate_thousands_is_not_guessed(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, '0012,a,2021-03-22,"1,200",mL,58,prbc,,'))
    assert [(f.line, f.severity) for f in findings_of(records, "NUMBER_AMBIGUOUS")] == [(2, "error")]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_read(checked: Check, encoding: str) -> None:
    text = line_of("explant_chemistry", "E1,0013,90,µmol/g,dry,fresh,,n,10,dry").encode(encoding)
    assert list(checked(explant_chemistry=text).tables["explant_chemistry"]["fe_unit"]) == ["umol/g"]


def test_a_line_is_counted_as_in_an_editor_after_a_cell_with_a_line_break(checked: Check) -> None:
    header = CLEAN[RX].split("\n", 1)[0] + ",reason\n"
    row = '0012,A,2021-01-15,2021-08-31,jadenu_tablet,1080,mg,day,1,7,prescribed,,"rash\nand fever"\n'
    bad = "0012,B,2021-09-01,2022-03-31,jadenu_tablet,1000,mg,day,1,7,prescribed,,\n"
    assert [f.line for f in findings_of(checked(chelation=header + row + bad), "DOSE_TABLETS")] == [4]


def test_a_misspelt_column_is_recognised(checked: Check) -> None:
    records = checked(transfusions=CLEAN[TX].replace("hct_pct", "hct_pc", 1))
    assert "Did you mean hct_pct?" in findings_of(records, "COLUMN_UNKNOWN")[0].remedy


@pytest.mark.parametrize("table", ["participants", "visits"])
def test_without_a_mandatory_table_there_is_one_sentence(checked: Check, tmp_path: Path, table: str) -> None:
    with pytest.raises(InputError, match=f"records/{table}.csv does not exist"):
        checked(**{table: None})
    (tmp_path / f"{table}.csv").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is empty"):
        read_records(tmp_path, PARAMS)


def test_a_missing_table_switches_off_what_needs_it_and_says_so(checked: Check) -> None:
    records = checked(chelation=None)
    row = exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)
    assert (row["included"], row["reason"]) == (0, "no table of chelation")
    assert any("chelation.csv" in note for note in records.notes)


def _first_exposure(records: Records) -> dict[str, object]:
    return exposure_of(annual_intervals(records, PARAMS)[0][0], records, PARAMS)


@pytest.mark.parametrize(
    ("table", "text", "code"),
    [
        (RX, CLEAN[RX].replace(",product,", ",drug,", 1), "COLUMN_MISSING"),
        (TX, CLEAN[TX].replace(",amount,", ",volume,", 1), "COLUMN_MISSING"),
        (TX, CLEAN[TX].replace(",product,", ",amount,", 1), "COLUMN_TWICE"),
        (RX, CLEAN[RX].replace("jadenu_tablet", '"jadenu_tablet', 1), "FILE_CSV"),
    ],
)
def test_a_table_whose_columns_or_rows_are_lost_counts_for_nobody(checked: Check, table: str, text: str, code: str) -> None:
    records = checked(**{table: text})
    assert code in records.blocked["sub-0012"]
    row = _first_exposure(records)
    assert row["included"] == 0
    assert code in str(row["reason"]) or "no table" in str(row["reason"])


@pytest.mark.parametrize("text", ["", CLEAN[RX].split("\n", 1)[0] + "\n"])
def test_a_table_without_rows_counts_as_missing(checked: Check, text: str) -> None:
    records = checked(chelation=text)
    assert [f.severity for f in findings_of(records, "FILE_EMPTY")] == ["warning"]
    assert _first_exposure(records)["reason"] == "no table of chelation"
    assert any("chelation" in note for note in records.notes)


@pytest.mark.parametrize("column", ["fe_unit", "basis", "prep"])
def test_chemistry_without_its_unit_basis_or_preparation_is_no_reference(checked: Check, column: str) -> None:
    records = checked(explant_chemistry=CLEAN["explant_chemistry"].replace(column, "other", 1))
    assert findings_of(records, "COLUMN_MISSING")
    assert records.blocked == {}
    assert chemistry_by_participant(records.tables["explant_chemistry"], PARAMS) == {}
    emptied = line_of("explant_chemistry", "E1,0013,5,mg/g,dry,,,n,10,dry")
    assert chemistry_by_participant(checked(explant_chemistry=emptied).tables["explant_chemistry"], PARAMS) == {}


def test_columns_without_a_name_at_the_end_are_no_error(checked: Check) -> None:
    text = "".join(line + ",,\n" for line in CLEAN[TX].splitlines())
    assert checked(transfusions=text).blocked == {}


def test_an_interval_without_any_transfusion_or_chelator_says_so(checked: Check) -> None:
    before = CLEAN[RX].replace("2021-01-15,2022-03-31", "2020-01-15,2020-03-31")
    row = _first_exposure(checked(chelation=before, transfusions=CLEAN[TX].replace("2021-03-22", "2020-03-22")))
    assert {"no_transfusion", "no_chelator"} <= set(str(row["flags"]).split())
    assert not {"no_transfusion", "no_chelator"} & set(str(_first_exposure(checked())["flags"]).split())


@pytest.mark.parametrize(
    ("row", "weight", "code"),
    [
        # the same dose in a child of 25 kg (43 mg/kg) and in an adult (21 mg/kg); the weight counts that is nearest to the start
        ("0012,A,2021-01-15,2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,", "25", "DOSE_LABEL"),
        ("0012,A,2021-01-15,2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,", "50", ""),
        ("0012,A,2021-01-15,2022-03-31,jadenu_tablet,1440,mg,dose,2,7,prescribed,", "50", "DOSE_LABEL"),
        ("0012,A,2021-01-15,2022-03-31,exjade,1750,mg,day,1,7,prescribed,", "50", ""),
        ("0012,A,2021-01-15,2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,", "", ""),
    ],
)
def test_a_dose_in_mg_is_held_against_the_weight_nearest_to_its_start(checked: Check, row: str, weight: str, code: str) -> None:
    visits = line_of("visits", f"0012,01,2021-03-01,annual,{weight}", "0012,02,2022-03-01,annual,")
    records = checked(chelation=line_of(RX, row), visits=visits, weights=None)
    assert {f.code for f in records.findings} & {"DOSE_LABEL", "DOSE_RANGE", "DOSE_IS_MG"} == ({code} if code else set())


def test_a_hold_of_another_chelator_takes_nothing_from_the_studys(checked: Check) -> None:
    hold = "0012,B,2021-06-01,2021-06-30,deferoxamine,2000,mg,day,1,5,held,\n"
    with_it = _first_exposure(checked(chelation=CLEAN[RX] + hold))
    assert with_it["chelator_mg"] == _first_exposure(checked())["chelator_mg"] == 365 * 1080
    own = _first_exposure(checked(chelation=CLEAN[RX] + hold.replace("deferoxamine", "jadenu_tablet")))
    assert own["chelator_mg"] == 335 * 1080


@pytest.mark.parametrize(
    ("start", "stop", "further", "flag"),
    [
        ("2021-01-15", "2021-06-30", "", True),  # nothing known of the months to the next visit
        ("2021-03-05", "", "", True),  # four days after the visit
        ("2021-03-04", "", "", False),  # three
        ("2021-01-15", "2021-06-30", "0012,H,2021-07-01,2022-03-01,jadenu_tablet,,,,,,held,\n", False),  # explained by a hold
        ("2021-01-15", "2021-06-30", "0012,B,2021-07-01,,deferoxamine,2000,mg,day,1,5,prescribed,\n", True),
    ],
)
def test_days_of_an_interval_without_a_prescription_are_flagged(checked: Check, start: str, stop: str, further: str, flag: bool) -> None:
    row = f"0012,A,{start},{stop},jadenu_tablet,1080,mg,day,1,7,prescribed,"
    found = _first_exposure(checked(chelation=line_of(RX, row) + further))
    assert ("chelator_gap" in str(found["flags"]).split()) == flag


def test_what_was_measured_goes_before_what_is_assumed() -> None:
    row = {"amount": 600.0, "unit": "mL", "hct_pct": 58.0, "hb_g_dl": 30.0, "site": ""}
    assert transfused_iron_mg(row, "WCM", PARAMS) == (pytest.approx(600 * 0.58 * 1.08), False)
    # a unit without a volume needs no haematocrit
    assert transfused_iron_mg({**row, "unit": "units", "amount": 2.0, "hct_pct": np.nan, "hb_g_dl": np.nan}, "WCM", PARAMS) == (400, False)
    sites = RecordsParams(site_haematocrit_percent={"WCM": 55, "CUMC": 65})
    unknown = {**row, "hct_pct": np.nan, "hb_g_dl": np.nan}
    for site, hct in (("", 0.55), ("CUMC", 0.65)):  # where it was given goes before where the participant belongs
        assert transfused_iron_mg({**unknown, "site": site}, "WCM", sites) == (pytest.approx(600 * hct * 1.08), True)


def test_a_hold_stops_what_is_taken_beside_the_prescription_too(checked: Check) -> None:
    beside = "0012,B,2021-01-15,2022-03-31,jadenu_tablet,360,mg,day,1,7,prescribed,add\n"
    hold = "0012,H,2021-06-01,2021-06-30,jadenu_tablet,,,,,,held,\n"
    assert _first_exposure(checked(chelation=CLEAN[RX] + beside + hold))["chelator_mg"] == 335 * 1440


def test_a_pill_count_of_another_year_says_nothing_of_this_one(checked: Check) -> None:
    rows = ["0012,2021-03-01,2022-03-01,,,,95,pharmacy", "0012,2022-03-02,2022-03-31,900,0,360,,pill_count"]
    assert _first_exposure(checked(adherence=line_of("adherence", *rows)))["flags"] == ""
    own = "0012,2021-03-01,2021-03-31,900,0,360,,pill_count"
    assert "adherence_implausible" in str(_first_exposure(checked(adherence=line_of("adherence", own)))["flags"]).split()


def test_two_accounts_of_adherence_of_the_same_days_are_told(checked: Check) -> None:
    def lines(*rows: str) -> list[int]:
        return [f.line for f in findings_of(checked(adherence=line_of("adherence", *rows)), "ADHERENCE_OVERLAP")]

    assert lines("0012,2021-03-01,2022-03-01,,,,95,pharmacy", "0012,2022-03-01,2022-05-01,,,,40,self") == [3]
    assert lines("0012,2021-03-01,2022-02-28,,,,95,pharmacy", "0012,2022-03-01,2022-05-01,,,,40,self") == []


def test_a_value_below_the_limit_may_be_empty_and_counts_by_its_limit_alone(checked: Check) -> None:
    rows = ["E1,0013,,mg/g,dry,fresh,0.2,y,10,dry", "E1,0013,0.1,mg/g,dry,fresh,0.2,y,10,dry", "E1,0013,0.1,mg/g,dry,fresh,,y,10,dry"]
    records = checked(explant_chemistry=line_of("explant_chemistry", *rows))
    assert [(f.code, f.line) for f in records.findings if f.severity == "error"] == [("LOD_MISSING", 4)]
    found = chemistry_by_participant(records.tables["explant_chemistry"], PARAMS)["sub-0013"]
    assert (found.n_replicates, found.n_below_lod) == (2, 2)
    assert found.mean_mg_g == pytest.approx(0.2 / np.sqrt(2))


def test_the_wet_weight_of_a_paraffin_block_is_no_reference(checked: Check) -> None:
    table = line_of("explant_chemistry", "E1,0013,2,mg/g,wet,paraffin,,n,10,dry", "E1,0013,5,mg/g,dry,paraffin,,n,10,dry")
    found = chemistry_by_participant(checked(explant_chemistry=table).tables["explant_chemistry"], PARAMS)["sub-0013"]
    assert (found.n_replicates, found.mean_mg_g) == (1, pytest.approx(5 / 5.83 * 3.33))


CHEMISTRY = "specimen_id,participant_id,explant_date,block_id,replicate_no,fe_value,fe_unit,basis,prep\n"
HISTOLOGY = "specimen_id,participant_id,block_id,pathologist_code,read_no,fibrosis_stage\n"


@pytest.mark.parametrize(
    ("table", "rows", "code", "lines"),
    [
        ("explant_chemistry", ["E1,0013,,B1,1,5,mg/g,dry,fresh", "E1,0013,,B1,1,5,mg/g,dry,fresh"], "REPLICATE_TWICE", [3]),
        ("explant_chemistry", ["E1,0013,,B1,1,5,mg/g,dry,fresh", "E1,0013,,B1,2,5,mg/g,dry,fresh"], "REPLICATE_TWICE", []),
        ("explant_chemistry", ["E1,0013,,B1,,5,mg/g,dry,fresh", "E2,0013,,B1,,5,mg/g,dry,fresh"], "REPLICATE_TWICE", []),
        ("explant_chemistry", ["E1,0013,,,,5,mg/g,dry,fresh", "E1,0013,,,,5.1,mg/g,dry,fresh"], "REPLICATE_TWICE", []),
        ("explant_histology", ["E1,0013,B1,P1,1,2", "E1,0013,B1,P1,1,3"], "READING_TWICE", [3]),
        ("explant_histology", ["E1,0013,B1,P1,1,2", "E1,0013,B1,P2,1,3"], "READING_TWICE", []),
        ("explant_chemistry", ["E,0013,2021-06-14,B1,1,5,mg/g,dry,fresh", "E,0013,2021-07-14,B1,2,5,mg/g,dry,fresh"], "EXPLANT_DATES", [3]),
        ("explant_chemistry", ["E1,0013,2021-06-14,B1,1,5,mg/g,dry,fresh", "E1,0013,,B1,2,5,mg/g,dry,fresh"], "EXPLANT_DATES", []),
        ("explant_chemistry", ["E1,0013,,B1,1,5,mg/g,dry,fresh", "E2,0013,,B1,1,9,mg/g,dry,fresh"], "SPECIMENS_SEVERAL", [3]),
        ("explant_chemistry", ["E1,0013,,B1,1,5,mg/g,dry,fresh", "E1,0013,,B1,2,9,mg/g,dry,fresh"], "SPECIMENS_SEVERAL", []),
    ],
)
def test_explants_that_stand_twice_are_told(checked: Check, table: str, rows: list[str], code: str, lines: list[int]) -> None:
    head = CHEMISTRY if table == "explant_chemistry" else HISTOLOGY
    records = checked(**{table: head + "\n".join(rows) + "\n"})
    assert [(f.line, f.severity) for f in findings_of(records, code)] == [(line, "warning") for line in lines]


def test_each_specimen_of_a_liver_counts_once_however_often_it_was_measured(checked: Check) -> None:
    rows = ["E1,0013,,B1,1,4,mg/g,dry,fresh", "E1,0013,,B1,2,6,mg/g,dry,fresh", "E2,0013,,B2,1,11,mg/g,dry,fresh"]
    records = checked(explant_chemistry=CHEMISTRY + "\n".join(rows) + "\n")
    found = chemistry_by_participant(records.tables["explant_chemistry"], PARAMS)["sub-0013"]
    assert (found.n_specimens, found.n_replicates, found.mean_mg_g) == (2, 3, 8.0)
    assert found.sd_mg_g == pytest.approx(np.std([4, 6, 11], ddof=1))


QUARTERLY = ["2021-03-01", "2021-06-01", "2021-09-02", "2021-12-01", "2022-02-20", "2022-06-05", "2023-02-27"]


@pytest.mark.parametrize(("day", "late"), [("2021-03-01", False), ("2021-03-31", False), ("2021-04-01", True), ("2021-02-24", True)])
def test_a_repeat_without_a_scan_shortly_before_is_told(checked: Check, day: str, late: bool) -> None:
    records = checked(visits=CLEAN["visits"] + f"0012,1b,{day},repeat,50\n")
    assert [(f.line, f.field, f.severity) for f in findings_of(records, "VISIT_REPEAT_LATE")] == [(5, "visit_date", "warning")] * late


def test_quarterly_visits_make_the_annual_intervals_nearest_to_a_year(checked: Check) -> None:
    rows = [f"0012,{k + 1:02d},{day},annual,50" for k, day in enumerate(QUARTERLY)]
    intervals, unused = annual_intervals(checked(visits=line_of("visits", *rows)), PARAMS)
    # 356 days to 02-20 beat 461 to 06-05 (outside the window); from there 372 days to the last
    assert [(i.start_session, i.end_session, i.days) for i in intervals] == [("ses-01", "ses-05", 356), ("ses-05", "ses-07", 372)]
    assert [row["session_id"] for row in unused] == ["ses-02", "ses-03", "ses-04", "ses-06"]
    assert all(row["reason"] for row in unused)


@pytest.mark.parametrize(
    ("people", "visit", "reason"),
    [
        ("0012,WCM,thalassemia,2021-06-01,", "0012,02,2022-03-01,annual,y", "withdrawal"),
        ("0012,WCM,thalassemia,,X1", "0012,02,2022-03-01,annual,y", "exclusion code"),
        ("0012,WCM,healthy,,", "0012,02,2022-03-01,annual,y", "group healthy"),
        ("0012,WCM,thalassemia,,", "0012,02,2022-03-01,annual,n", "not usable"),
        ("0012,WCM,thalassemia,,", "0012,02,2022-03-01,control,y", "type control"),
        ("0012,WCM,thalassemia,,", "0012,02,01/03/2022,annual,y", "no valid date"),
        ("0012,WCM,thalassemia,,", "0012,02,2022-06-01,annual,y", "365 +- 60"),
    ],
)
def test_a_visit_that_makes_no_interval_says_why(checked: Check, people: str, visit: str, reason: str) -> None:
    records = checked(
        participants=f"participant_id,site,group,withdrawn_date,exclusion_code\n{people}\n",
        visits=f"participant_id,session_id,visit_date,visit_type,scan_ok\n0012,01,2021-03-01,annual,y\n{visit}\n",
    )
    intervals, unused = annual_intervals(records, PARAMS)
    assert intervals == []
    assert reason in next(row["reason"] for row in unused if row["session_id"] == "ses-02")
