"""Iron in and chelator of an interval, counted day by day from the records.

Interval convention: [scan 1, scan 2) by default, a scan precedes its day's transfusion (``scan_day``).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.config.records import RecordsParams
from hqsm.records.data import Records
from hqsm.records.intervals import Interval
from hqsm.units import DAYS_PER_YEAR, mg_to_g, percent_to_fraction

Row = dict[str, Any]
_JADENU = {"jadenu_tablet", "jadenu_sprinkle"}


def transfused_iron_mg(row: Row, site: str, params: RecordsParams) -> tuple[float, bool]:
    """Net iron of one transfusion [mg], and whether a haematocrit had to be assumed.

    mL x haematocrit x iron per mL of pure red cells; units by the site's volume or the default iron per unit; what an
    exchange removed is subtracted.
    """
    default_hct = params.site_haematocrit_percent.get(site, params.default_haematocrit_percent)
    known = bool(np.isfinite(row["hct_pct"]))
    hct = percent_to_fraction(row["hct_pct"] if known else default_hct)
    imputed = False
    if str(row["unit"]).lower() == "ml":
        iron = row["amount"] * hct * params.iron_per_ml_red_cells_mg
        imputed = not known
    elif site in params.site_ml_per_unit:
        iron = row["amount"] * params.site_ml_per_unit[site] * hct * params.iron_per_ml_red_cells_mg
        imputed = not known
    else:
        iron = row["amount"] * params.iron_per_unit_mg
    removed = row.get("removed_ml", np.nan)
    if np.isfinite(removed):
        iron -= removed * percent_to_fraction(row["removed_hct_pct"]) * params.iron_per_ml_red_cells_mg
    return float(iron), imputed


def daily_weights_kg(days: list[date], known: list[tuple[date, float]]) -> FloatArray:
    """Weight on each day [kg]: linear between weighings, held beyond the first and last; NaN without any."""
    if not known:
        return np.full(len(days), np.nan)
    known = sorted(known)
    x = [float(d.toordinal()) for d, _ in known]
    return np.interp([d.toordinal() for d in days], x, [w for _, w in known])


def daily_chelator_mg(
    days: list[date], prescriptions: Iterable[Row], weights_kg: FloatArray, params: RecordsParams, data_cut: date
) -> FloatArray:
    """Jadenu-equivalent deferasirox on each day [mg]: the latest prescription that covers the day, nothing when held."""
    dose = np.zeros(len(days))
    held = np.zeros(len(days), bool)
    ordinals = np.array([d.toordinal() for d in days])
    for row in sorted(prescriptions, key=lambda r: str(r["start"])):
        if not row["start"]:
            continue
        first = date.fromisoformat(str(row["start"])).toordinal()
        last = date.fromisoformat(str(row["stop"])).toordinal() if row["stop"] else data_cut.toordinal()
        covered = (ordinals >= first) & (ordinals <= last)
        if row["status"] == "held":
            held |= covered
            continue
        if row["product"] not in _JADENU | {"exjade"}:
            continue
        amount = np.full(len(days), float(row["dose"]))
        if row["dose_unit"] == "mg/kg":
            amount = amount * weights_kg
        if row["per"] == "dose":
            amount *= row["times_per_day"] if np.isfinite(row["times_per_day"]) else 1
        if np.isfinite(row["days_per_week"]):
            amount *= row["days_per_week"] / 7
        if row["product"] == "exjade":
            amount *= params.exjade_to_jadenu
        dose[covered] = amount[covered]
    dose[held] = 0
    return dose


def adherence_factor(days: list[date], rows: Iterable[Row]) -> tuple[float, bool]:
    """Mean adherence over the interval (0..1), and whether any day of it had to be assumed fully adherent."""
    factor = np.ones(len(days))
    known = np.zeros(len(days), bool)
    for row in rows:
        if not (row["from"] and row["to"]) or not np.isfinite(row["adherence_pct"]):
            continue
        first, last = date.fromisoformat(str(row["from"])), date.fromisoformat(str(row["to"]))
        inside = np.array([first <= d <= last for d in days])
        factor[inside] = percent_to_fraction(float(row["adherence_pct"]))
        known |= inside
    return float(factor.mean()) if len(days) else 1.0, not bool(known.all())


def exposure_of(interval: Interval, records: Records, params: RecordsParams) -> Row:
    """One row of exposure.tsv: iron in and chelator between two visits."""
    participant = interval.participant_id
    shift = 0 if params.scan_day == "before" else 1
    days = [interval.start + timedelta(days=k + shift) for k in range(interval.days)]
    site_of = dict(zip(records.participants["participant_id"], records.participants["site"], strict=True))
    site = str(site_of.get(participant, ""))

    def rows_of(table: str) -> list[Row]:
        frame = records.tables[table]
        return [
            {str(key): value for key, value in row.items()}
            for row in frame[frame["participant_id"] == participant].to_dict(orient="records")
        ]

    weighings = [
        (date.fromisoformat(str(row[when])), float(row["weight_kg"]))
        for table, when in (("visits", "visit_date"), ("weights", "date"))
        for row in rows_of(table)
        if row[when] and np.isfinite(row["weight_kg"])
    ]
    weights_kg = daily_weights_kg(days, weighings)
    flags: list[str] = []
    iron_mg = 0.0
    n_transfusions = n_imputed = 0
    inside = set(days)
    for row in rows_of("transfusions"):
        if row["date"] and date.fromisoformat(str(row["date"])) in inside and np.isfinite(row["amount"]):
            iron, imputed = transfused_iron_mg(row, site, params)
            iron_mg += iron
            n_transfusions += 1
            n_imputed += imputed
    if n_imputed:
        flags.append("hct_imputed")
    cut = max((date.fromisoformat(str(d)) for d in records.visits["visit_date"] if d), default=interval.end)
    if params.data_cut_date:
        cut = date.fromisoformat(params.data_cut_date)
    dose_mg = daily_chelator_mg(days, rows_of("chelation"), weights_kg, params, cut)
    adherence, assumed = adherence_factor(days, rows_of("adherence"))
    if assumed:
        flags.append("adherence_assumed")
    if params.use_adherence:
        dose_mg = dose_mg * adherence
    annual = DAYS_PER_YEAR / interval.days
    mean_kg = float(weights_kg.mean())
    chelator_g_per_kg = mg_to_g(float((dose_mg / weights_kg).sum()))
    blocked = records.blocked.get(participant, ())
    missing = [name for name in ("transfusions", "chelation") if name not in records.present]
    reason = ""
    if blocked:
        reason = "errors in the participant's records: " + ", ".join(blocked)
    elif missing:
        reason = "no table of " + " and ".join(missing)
    elif not np.isfinite(mean_kg):
        reason = "no weight in the records"
    return {
        "participant_id": participant,
        "start_session": interval.start_session,
        "end_session": interval.end_session,
        "start_date": interval.start.isoformat(),
        "end_date": interval.end.isoformat(),
        "days": interval.days,
        "n_transfusions": n_transfusions,
        "n_hct_imputed": n_imputed,
        "iron_in_mg": iron_mg,
        "iron_in_mg_per_kg_per_year": iron_mg / mean_kg * annual,
        "chelator_mg": float(dose_mg.sum()),
        "chelator_g_per_kg_per_year": chelator_g_per_kg * annual,
        "mean_weight_kg": mean_kg,
        "adherence": adherence,
        "flags": " ".join(flags),
        "included": int(not reason),
        "reason": reason,
    }
