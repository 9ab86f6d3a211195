from datetime import date
from pathlib import Path

import pytest

from hqsm.config.records import RecordsParams
from hqsm.records.exposure import exposure_of
from hqsm.records.intervals import Interval, annual_intervals
from hqsm.records.reading import read_records

PARTICIPANTS = (
    "participant_id,site,group,sex,birth_year,enrol_date,splenectomy,withdrawn_date,exclusion_code\n"
    "0012,WCM,thalassemia,F,1990,2021-01-01,n,,\n"
)
VISITS = "participant_id,session_id,visit_date,visit_type,weight_kg\n0012,01,2021-03-01,annual,50.00\n0012,02,2022-03-01,annual,53.65\n"
TRANSFUSIONS = """participant_id,tx_id,date,amount,unit,hct_pct,product
0012,a,2021-03-01,600,mL,58,prbc
0012,b,2021-03-22,2,units,,prbc
0012,c,2021-04-12,610,mL,UNK,prbc
0012,d,2022-03-01,600,mL,58,prbc
"""
CHELATION = """participant_id,rx_id,start,stop,product,dose,dose_unit,per,times_per_day,days_per_week,status,reason
0012,A,2021-01-15,2021-08-31,jadenu_tablet,1080,mg,day,1,7,prescribed,
0012,B,2021-09-01,2022-03-31,exjade,30,mg/kg,day,1,7,prescribed,
0012,H,2021-12-20,2022-01-02,exjade,30,mg/kg,day,1,7,held,
"""


@pytest.fixture
def records_dir(tmp_path: Path) -> Path:
    for name, text in (
        ("participants", PARTICIPANTS),
        ("visits", VISITS),
        ("transfusions", TRANSFUSIONS),
        ("chelation", CHELATION),
    ):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def interval() -> Interval:
    return Interval(participant_id="sub-0012", start_session="ses-01", end_session="ses-02", start=date(2021, 3, 1), end=date(2022, 3, 1))


def test_the_worked_example_of_transfused_iron(records_dir: Path, interval: Interval) -> None:
    row = exposure_of(interval, read_records(records_dir, RecordsParams()), RecordsParams())
    assert row["iron_in_mg"] == pytest.approx(1171.12, rel=1e-9)
    assert row["mean_weight_kg"] == pytest.approx(51.82, rel=1e-9)
    assert row["iron_in_mg_per_kg_per_year"] == pytest.approx(22.61525, rel=1e-6)
    assert "hct_imputed" in row["flags"]


def test_the_worked_example_of_chelator(records_dir: Path, interval: Interval) -> None:
    row = exposure_of(interval, read_records(records_dir, RecordsParams()), RecordsParams())
    assert row["chelator_mg"] == pytest.approx(383_601.27, rel=1e-6)
    assert row["chelator_g_per_kg_per_year"] == pytest.approx(7.415476, rel=1e-6)
    assert "adherence_assumed" in row["flags"]


def test_adherence_scales_the_dose(records_dir: Path, interval: Interval) -> None:
    text = "participant_id,from,to,dispensed_n,returned_n,strength_mg,adherence_pct,method\n0012,2021-03-01,2022-02-28,,,,90,pill_count\n"
    (records_dir / "adherence.csv").write_text(text, encoding="utf-8")
    params = RecordsParams(use_adherence=True)
    row = exposure_of(interval, read_records(records_dir, params), params)
    assert row["chelator_mg"] == pytest.approx(345_241.143, rel=1e-6)


def test_the_transfusion_of_the_scan_day_belongs_to_the_interval_it_starts(records_dir: Path, interval: Interval) -> None:
    after = RecordsParams(scan_day="after")
    row = exposure_of(interval, read_records(records_dir, after), after)
    assert row["iron_in_mg"] == pytest.approx(400 + 395.28 + 375.84, rel=1e-9)


def test_ids_stay_text_and_the_interval_is_found(records_dir: Path) -> None:
    intervals, unused = annual_intervals(read_records(records_dir, RecordsParams()), RecordsParams())
    assert [(i.participant_id, i.start_session, i.end_session) for i in intervals] == [("sub-0012", "ses-01", "ses-02")]
    assert unused == []


def test_a_visit_that_makes_no_interval_is_listed_with_its_reason(records_dir: Path) -> None:
    (records_dir / "visits.csv").write_text(VISITS + "0012,03,2022-06-01,annual,54\n", encoding="utf-8")
    _, unused = annual_intervals(read_records(records_dir, RecordsParams()), RecordsParams())
    assert [row["session_id"] for row in unused] == ["ses-03"]
    assert "365" in unused[0]["reason"]


def test_age_and_spleen_come_along_for_the_sensitivity_analyses(records_dir: Path, interval: Interval) -> None:
    row = exposure_of(interval, read_records(records_dir, RecordsParams()), RecordsParams())
    # born in the middle of 1990 as far as we know; 2021-03-01 is day 60
    assert row["age_years"] == pytest.approx(2021 + 60 / 365.25 - 1990.5)
    assert row["splenectomy"] == 0
