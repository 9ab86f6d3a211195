"""Readers against one another and against themselves: each pair of readings, and what they say of the readers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hqsm.config.liver import LiverParams
from hqsm.config.statistics import StatisticsParams
from hqsm.statistics.method_agreement import reader_agreement_rows

Row = dict[str, Any]
MEASURES = ("r2star_per_s", "chi_ppm", "pdff_percent")
_STUDY = "study"
_REPEAT_MARK = "."


def reader_rows(regions: pd.DataFrame, params: LiverParams) -> list[Row]:
    """Rows of readers.tsv: both values of every pair of readings of a scan, their Dice, and whether to adjudicate.

    ``regions`` is liver_regions.tsv. A pair is ``between`` two readers, or ``within`` one who read the scan twice without
    knowing it. Two readers are adjudicated where their masks overlap too little or their values differ too much; a reader is
    not adjudicated against himself.
    """
    rows: list[Row] = []
    liver = regions[(regions["region"] == "liver") & (regions["reader"] != _STUDY)]
    for (participant, session), visit in liver.groupby(["participant_id", "session_id"], sort=False):
        values = {(r["reader"], r["quantity"]): float(r["median"]) for r in visit.to_dict(orient="records")}
        readers = list(dict.fromkeys(reader for reader, quantity in values if quantity in MEASURES))
        for a, b in combinations(readers, 2):
            within = a.split(_REPEAT_MARK)[0] == b.split(_REPEAT_MARK)[0]
            if not within and (_REPEAT_MARK in a or _REPEAT_MARK in b):
                continue
            dice = values.get((f"{a}~{b}", "dice"), values.get((f"{b}~{a}", "dice"), float("nan")))
            for measure in MEASURES:
                x, y = values.get((a, measure), float("nan")), values.get((b, measure), float("nan"))
                reason = "" if within else _reason(measure, x, y, dice, params)
                rows.append(
                    {
                        "participant_id": participant,
                        "session_id": session,
                        "kind": "within" if within else "between",
                        "reader_a": a,
                        "reader_b": b,
                        "quantity": measure,
                        "value_a": x,
                        "value_b": y,
                        "difference": y - x,
                        "dice": dice,
                        "adjudicate": int(bool(reason)),
                        "reason": reason,
                    }
                )
    return rows


def _reason(measure: str, x: float, y: float, dice: float, params: LiverParams) -> str:
    """Why the pair needs a third reader; empty where it does not."""
    if dice < params.adjudicate_below_dice:
        return f"the masks overlap by a Dice of {dice:.2f} only"
    if not (np.isfinite(x) and np.isfinite(y)):
        return "one reader has no value" if np.isfinite(x) != np.isfinite(y) else ""
    if measure == "r2star_per_s" and abs(y - x) > params.adjudicate_above_r2star_percent / 100 * abs(x + y) / 2:
        return f"R2* differs by {200 * abs(y - x) / abs(x + y):.0f} %"
    if measure == "chi_ppm" and abs(y - x) > params.adjudicate_above_chi_ppm:
        return f"susceptibility differs by {abs(y - x):.2f} ppm"
    return ""


def reader_summary_rows(pairs: list[Row], params: StatisticsParams) -> list[Row]:
    """Rows of reader_agreement.tsv: ICC(A,1) and limits of agreement of all readers, of each with himself, and Dice."""
    frame = pd.DataFrame(pairs)
    rows: list[Row] = []
    if frame.empty:
        return rows
    for measure in MEASURES:
        part = frame[frame["quantity"] == measure]
        between = part[part["kind"] == "between"]
        if len(between):
            readings = _wide(between)
            names = [str(name) for name in readings.columns]
            found = reader_agreement_rows(readings.to_numpy(float), names, params)
            rows += [{"measure": measure, **row} for row in found]
        for reader in dict.fromkeys(part.loc[part["kind"] == "within", "reader_a"]):
            twice = part[(part["kind"] == "within") & (part["reader_a"] == reader)]
            found = reader_agreement_rows(twice[["value_a", "value_b"]].to_numpy(float), [reader, f"{reader}_again"], params)
            rows += [{"measure": measure, **row, "comparison": f"{reader}_again"} for row in found]
    for (a, b), pair in frame[frame["quantity"] == MEASURES[0]].groupby(["reader_a", "reader_b"], sort=False):
        dice = pair["dice"].to_numpy(float)
        dice = dice[np.isfinite(dice)]
        if dice.size:
            note = f"median; lowest {dice.min():.2f}"
            rows.append(
                {
                    "measure": "mask",
                    "comparison": f"{b}_minus_{a}",
                    "quantity": "dice",
                    "estimate": float(np.median(dice)),
                    "n": dice.size,
                    "note": note,
                }
            )
    return rows


def _wide(between: pd.DataFrame) -> pd.DataFrame:
    """(scan, reader) values from the rows of pairs."""
    scans = ["participant_id", "session_id"]
    a = between[[*scans, "reader_a", "value_a"]].set_axis([*scans, "reader", "value"], axis=1)
    b = between[[*scans, "reader_b", "value_b"]].set_axis([*scans, "reader", "value"], axis=1)
    long = pd.concat([a, b]).drop_duplicates([*scans, "reader"])
    return long.pivot(index=scans, columns="reader", values="value")
