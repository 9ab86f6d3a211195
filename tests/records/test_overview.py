"""What the report shows of the records equals what the exposure counts."""

import numpy as np
import pytest

from hqsm.config.records import RecordsParams
from hqsm.records.exposure import exposure_of
from hqsm.records.intervals import annual_intervals
from hqsm.records.overview import demographics, timeline
from records.clean_tables import Check

PARAMS = RecordsParams()


def test_the_timeline_adds_up_to_the_exposure(checked: Check) -> None:
    records = checked()
    intervals, _ = annual_intervals(records, PARAMS)
    rows = timeline(records, PARAMS)
    for interval in intervals:
        row = exposure_of(interval, records, PARAMS)
        own = [r for r in rows if r["participant_id"] == interval.participant_id]
        start, end = interval.start.isoformat(), interval.end.isoformat()
        iron = sum(r["value"] for r in own if r["kind"] == "transfusion" and start <= r["start"] < end)
        assert iron == pytest.approx(row["iron_in_mg"])
        spans = [r for r in own if r["kind"] == "chelator"]
        assert spans
        # the spans cover every day from the first to the last visit, without a gap or an overlap
        for before, after in zip(spans, spans[1:], strict=False):
            assert np.datetime64(after["start"]) - np.datetime64(before["end"]) == np.timedelta64(1, "D")
        total = sum(
            r["value"]
            * (min(np.datetime64(r["end"]), np.datetime64(end) - 1) - max(np.datetime64(r["start"]), np.datetime64(start))).astype(int)
            + r["value"]
            for r in spans
            if r["start"] < end and r["end"] >= start
        )
        assert total == pytest.approx(row["chelator_mg"], rel=2e-3)
    assert intervals


def test_demographics_count_every_participant_once(checked: Check) -> None:
    records = checked()
    rows = demographics(records)
    assert sum(r["n"] for r in rows) == len(records.participants)
    ages = [r["age_median_years"] for r in rows if np.isfinite(r["age_median_years"])]
    assert ages
    for row in rows:
        assert not row["age_youngest_years"] > row["age_oldest_years"]
        assert all(2 < age < 90 for age in ages)
