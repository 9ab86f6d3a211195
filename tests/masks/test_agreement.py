"""Pairs of readings and what they say of the readers."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from hqsm.config.liver import LiverParams
from hqsm.config.statistics import StatisticsParams
from hqsm.report.figures.base import ReportData
from hqsm.report.study_report import _readers
from hqsm.statistics.readers import reader_rows, reader_summary_rows
from hqsm.table_contract import TABLES


def _readers_of(tables: dict[str, pd.DataFrame]) -> str:
    return _readers(ReportData(tables=tables, parameters={"statistics": asdict(StatisticsParams())}))


def regions(values: dict[str, list[float]], dices: dict[str, float], quantity: str = "r2star_per_s") -> pd.DataFrame:
    """liver_regions.tsv of one scan for each place of the lists."""
    rows = []
    for scan in range(len(next(iter(values.values())))):
        name = {"participant_id": f"sub-{scan:02d}", "session_id": "ses-01", "region": "liver"}
        rows.append({**name, "reader": "study", "quantity": quantity, "median": 1e6})
        rows += [{**name, "reader": reader, "quantity": quantity, "median": v[scan]} for reader, v in values.items()]
        rows += [{**name, "reader": pair, "quantity": "dice", "median": d} for pair, d in dices.items()]
    return pd.DataFrame(rows)


def test_pairs_are_between_readers_or_within_one() -> None:
    rows = reader_rows(regions({"A": [100.0], "B": [104.0], "A.2": [101.0]}, {"A~B": 0.9, "A~A.2": 0.95}), LiverParams())
    found = {(r["reader_a"], r["reader_b"]): r for r in rows if r["quantity"] == "r2star_per_s"}
    assert set(found) == {("A", "B"), ("A", "A.2")}
    assert found["A", "B"]["kind"] == "between"
    assert found["A", "B"]["difference"] == 4
    assert found["A", "B"]["dice"] == 0.9
    assert found["A", "A.2"]["kind"] == "within"
    assert not any(r["adjudicate"] for r in rows)


@pytest.mark.parametrize(
    ("values", "dice", "quantity", "word"),
    [
        ([100.0, 100.0], 0.6, "r2star_per_s", "Dice"),
        ([90.0, 110.0], 0.9, "r2star_per_s", "R2* differs by 20 %"),
        ([0.5, 0.7], 0.9, "chi_ppm", "0.20 ppm"),
        ([100.0, float("nan")], 0.9, "r2star_per_s", "no value"),
    ],
)
def test_who_has_to_be_adjudicated_and_why(values: list[float], dice: float, quantity: str, word: str) -> None:
    table = regions({"A": values[:1], "B": values[1:]}, {"A~B": dice}, quantity)
    row = next(r for r in reader_rows(table, LiverParams()) if r["quantity"] == quantity)
    assert row["adjudicate"] == 1
    assert word in row["reason"]


def test_masks_that_overlap_by_the_wanted_dice_overlap_enough() -> None:
    rows = reader_rows(regions({"A": [100.0], "B": [100.0]}, {"A~B": LiverParams().adjudicate_below_dice}), LiverParams())
    assert not any(r["adjudicate"] for r in rows)


def test_readers_who_agree_need_nobody() -> None:
    table = regions({"A": [100.0], "B": [109.0]}, {"A~B": 0.71})
    assert not any(r["adjudicate"] for r in reader_rows(table, LiverParams()))


def test_the_summary_has_the_bias_and_the_scatter_that_were_put_in() -> None:
    rng = np.random.default_rng(4)
    truth = rng.uniform(40, 400, 60)
    a, b, again = truth + rng.normal(0, 2, 60), truth + 5 + rng.normal(0, 2, 60), truth + rng.normal(0, 2, 60)
    table = regions({"A": list(a), "B": list(b), "A.2": list(again)}, {"A~B": 0.9, "A~A.2": 0.95})
    pairs = reader_rows(table, LiverParams())
    rows = {(r["measure"], r["comparison"], r["quantity"]): r for r in reader_summary_rows(pairs, StatisticsParams())}
    assert rows["r2star_per_s", "B_minus_A", "bias"]["estimate"] == pytest.approx(np.mean(b - a))
    assert rows["r2star_per_s", "B_minus_A", "bias"]["estimate"] == pytest.approx(5, abs=1.2)
    assert 0.99 < rows["r2star_per_s", "all", "icc_agreement"]["estimate"] < 1
    assert rows["r2star_per_s", "A_again", "within_scan_sd"]["estimate"] == pytest.approx(2, rel=0.25)
    assert rows["mask", "B_minus_A", "dice"]["estimate"] == 0.9
    assert {key for row in rows.values() for key in row} <= {column.name for column in TABLES["reader_agreement"]}
    page = _readers_of({"readers": pd.DataFrame(pairs), "reader_agreement": pd.DataFrame(rows.values())})
    assert "ICC(A,1)" in page
    assert "No scan needs a third reader" in page


def test_one_reader_agrees_with_nobody() -> None:
    pairs = reader_rows(regions({"A": [100.0, 200.0]}, {}), LiverParams())
    assert pairs == []
    assert reader_summary_rows(pairs, StatisticsParams()) == []
