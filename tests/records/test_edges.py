"""Where a rule of the records begins and ends: the last day, the last number, the cell that is empty."""

from typing import Any

import numpy as np
import pytest

from hqsm.config.records import RecordsParams
from hqsm.records.data import Records
from hqsm.records.exposure import exposure_of
from hqsm.records.intervals import annual_intervals
from hqsm.records.overview import timeline
from records.clean_tables import CLEAN, Check, findings_of, line_of

PARAMS = RecordsParams()
TX, RX = "transfusions", "chelation"


def exposed(records: Records, params: RecordsParams = PARAMS) -> dict[str, Any]:
    """Exposure of the first annual interval."""
    return exposure_of(annual_intervals(records, params)[0][0], records, params)


@pytest.mark.parametrize(("days", "distant"), [(92, False), (91, True)])
def test_a_day_is_distant_from_every_weight_beyond_the_limit_and_not_at_it(checked: Check, days: int, distant: bool) -> None:
    params = RecordsParams(max_days_from_weight=days)  # 184 days from the first weight to the second
    records = checked(params)
    assert ("weight_distant" in exposed(records, params)["flags"]) == distant
    assert bool(findings_of(records, "WEIGHT_DISTANT")) == distant


def test_of_two_accounts_of_adherence_the_last_line_counts_on_common_days(checked: Check) -> None:
    text = line_of("adherence", "0012,2021-03-01,2022-03-01,,,,95,pharmacy", "0012,2022-01-01,2022-02-28,,,,40,self")
    assert exposed(checked(adherence=text))["adherence"] == pytest.approx((306 * 0.95 + 59 * 0.40) / 365)


def test_what_was_dispensed_covers_no_day_that_nothing_was_prescribed_for(checked: Check) -> None:
    rows = [
        "0012,A,2021-01-15,2021-08-31,jadenu_tablet,1080,mg,day,1,7,prescribed,",
        "0012,B,2021-09-01,,jadenu_tablet,1080,mg,day,1,7,dispensed,",
    ]
    assert "chelator_gap" in exposed(checked(chelation=line_of(RX, *rows)))["flags"]


def test_a_visit_without_a_weight_takes_those_around_it(checked: Check) -> None:
    visits = line_of("visits", "0012,01,2021-03-01,annual,50", "0012,02,2022-03-01,annual,", "0013,01,2021-05-01,pretransplant,70")
    row = exposed(checked(visits=visits))
    assert row["included"] == 1
    # from 50 to 50.5 kg over 184 days, and held for the 181 that follow
    assert row["mean_weight_kg"] == pytest.approx((184 * 50 + 0.5 * (184 * 183 / 2) / 184 + 181 * 50.5) / 365)


def test_without_any_weight_an_interval_is_left_out_and_says_so(checked: Check) -> None:
    visits = line_of("visits", "0012,01,2021-03-01,annual,", "0012,02,2022-03-01,annual,", "0013,01,2021-05-01,pretransplant,70")
    row = exposed(checked(visits=visits, weights=None))
    assert (row["included"], row["reason"]) == (0, "no weight in the records")


def test_a_spleen_that_nobody_knows_of_is_neither_there_nor_gone(checked: Check) -> None:
    people = CLEAN["participants"].replace("F,1990,n", "F,1990,unknown")
    assert np.isnan(exposed(checked(participants=people))["splenectomy"])


def test_a_transfusion_elsewhere_takes_the_haematocrit_of_that_place(checked: Check) -> None:
    text = "participant_id,tx_id,date,amount,unit,site\n0012,a,2021-03-22,600,mL,CUMC\n"
    row = exposed(checked(transfusions=text), RecordsParams(site_haematocrit_percent={"CUMC": 70.0, "WCM": 55.0}))
    assert row["iron_in_mg"] == pytest.approx(600 * 0.70 * 1.08)


def test_a_transfusion_without_its_amount_counts_as_none(checked: Check) -> None:
    row = exposed(checked(transfusions=line_of(TX, "0012,a,2021-03-22,600,mL,58,prbc,,", "0012,b,2021-04-12,,mL,58,prbc,,")))
    assert row["iron_in_mg"] == pytest.approx(600 * 0.58 * 1.08)
    assert row["included"] == 0


@pytest.mark.parametrize(("end", "n"), [("2022-04-30", 1), ("2022-05-01", 0), ("2021-12-31", 1), ("2021-12-30", 0)])
def test_the_window_of_an_annual_interval_includes_its_ends(checked: Check, end: str, n: int) -> None:
    visits = line_of("visits", "0012,01,2021-03-01,annual,50", f"0012,02,{end},annual,51")
    assert len(annual_intervals(checked(visits=visits), PARAMS)[0]) == n


@pytest.mark.parametrize(("withdrawn", "n"), [("2022-03-01", 0), ("2022-03-02", 1)])
def test_a_visit_on_the_day_of_the_withdrawal_is_after_it(checked: Check, withdrawn: str, n: int) -> None:
    people = f"participant_id,group,withdrawn_date\n0012,thalassemia,{withdrawn}\n0013,transplant,\n"
    assert len(annual_intervals(checked(participants=people), PARAMS)[0]) == n


def test_of_two_visits_in_the_window_the_one_nearest_to_a_year_ends_the_interval(checked: Check) -> None:
    rows = [f"0012,{k + 1:02d},{day},annual,50" for k, day in enumerate(("2021-03-01", "2022-01-10", "2022-03-05"))]
    found = annual_intervals(checked(visits=line_of("visits", *rows)), PARAMS)[0]
    assert [(i.end_session, i.days) for i in found] == [("ses-03", 369)]


def test_visits_are_taken_by_their_dates_whatever_their_order_in_the_file(checked: Check) -> None:
    visits = line_of("visits", "0012,02,2022-03-01,annual,51", "0012,01,2021-03-01,annual,50", "0013,01,2021-05-01,pretransplant,70")
    found = annual_intervals(checked(visits=visits), PARAMS)[0]
    assert [(i.start_session, i.end_session) for i in found] == [("ses-01", "ses-02")]


def test_a_fifth_of_the_weight_in_each_year_is_no_jump_over_three(checked: Check) -> None:
    assert not findings_of(checked(weights="participant_id,date,weight_kg\n0012,2025-03-01,78\n"), "WEIGHT_JUMP")


@pytest.mark.parametrize(("stop", "overlaps"), [("2021-08-31", True), ("2021-08-30", False)])
def test_a_prescription_that_stops_on_the_day_of_the_next_overlaps(checked: Check, stop: str, overlaps: bool) -> None:
    one = "0012,A,2021-01-15,{},jadenu_tablet,1080,mg,day,1,7,prescribed,"
    rows = [one.format(stop), "0012,B,2021-08-31,2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,"]
    assert bool(findings_of(checked(chelation=line_of(RX, *rows)), "RX_OVERLAP")) == overlaps


def test_a_short_prescription_inside_a_long_one_makes_no_gap(checked: Check) -> None:
    spans = [("A", "2021-01-15", "2022-03-31"), ("B", "2021-03-01", "2021-03-10"), ("C", "2021-06-01", "2022-03-31")]
    rows = [f"0012,{name},{start},{stop},jadenu_tablet,1080,mg,day,1,7,prescribed," for name, start, stop in spans]
    assert not findings_of(checked(chelation=line_of(RX, *rows)), "RX_GAP")


def test_an_account_of_a_single_day_and_tablets_that_all_came_back_are_possible(checked: Check) -> None:
    text = line_of("adherence", "0012,2021-03-01,2021-03-01,,,,95,pharmacy", "0012,2021-03-02,2022-03-01,90,90,360,,pill_count")
    records = checked(adherence=text)
    assert records.findings == ()
    assert exposed(records)["adherence"] == pytest.approx(0.95 / 365)


def test_net_iron_of_an_exchange_is_that_of_its_red_cells_and_not_of_its_volume(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-22,1000,mL,60,exchange,1200,30"))
    assert not findings_of(records, "EXCHANGE_NET")
    assert exposed(records)["iron_in_mg"] == pytest.approx((600 - 360) * 1.08)


def test_a_prefix_and_a_code_for_missing_are_understood_in_any_case(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "SUB-0012,a,2021-03-22,600,mL,Unk,prbc,,"))
    assert list(records.tables[TX]["participant_id"]) == ["sub-0012"]
    assert [f.code for f in records.findings if f.severity == "error"] == []


def test_the_timeline_begins_with_the_transfusion_of_the_first_visits_day(checked: Check) -> None:
    records = checked(transfusions=line_of(TX, "0012,a,2021-03-01,600,mL,58,prbc,,", "0012,b,2021-02-28,600,mL,58,prbc,,"))
    assert [row["start"] for row in timeline(records, PARAMS) if row["kind"] == "transfusion"] == ["2021-03-01"]
