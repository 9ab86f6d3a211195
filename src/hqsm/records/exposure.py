"""Iron in and chelator of an interval, counted day by day from the records.

Interval convention: [scan 1, scan 2) by default, a scan precedes its day's transfusion (``scan_day``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.config.records import RecordsParams
from hqsm.records.data import Records
from hqsm.records.intervals import Interval
from hqsm.records.schema import DEFERASIROX
from hqsm.units import DAYS_PER_YEAR, g_per_dl_to_g_per_ml, mg_to_g, percent_to_fraction

Row = dict[str, Any]
HIGHEST_ADHERENCE = 1.1
"""More than this share of the prescribed dose is a counting error."""


def age_years(when: date, birth_year: float) -> float:
    """Age on a day [years]; only the year of birth is known, so its middle stands for it."""
    return when.year + when.timetuple().tm_yday / DAYS_PER_YEAR - (birth_year + 0.5)


def transfused_iron_mg(row: Row, site: str, params: RecordsParams) -> tuple[float, bool]:
    """Net iron of one transfusion [mg], and whether a haematocrit had to be assumed.

    mL x haematocrit x iron per mL of pure red cells; where only the haemoglobin of the bag is known, mL x Hb x iron per g
    of haemoglobin; units by the site's volume or the default iron per unit; what an exchange removed is subtracted.
    """
    site = str(row.get("site", "")) or site
    default_hct = params.site_haematocrit_percent.get(site, params.default_haematocrit_percent)
    hct_known, hb_known = bool(np.isfinite(row["hct_pct"])), bool(np.isfinite(row.get("hb_g_dl", np.nan)))
    hct = percent_to_fraction(row["hct_pct"] if hct_known else default_hct)
    iron_per_ml = hct * params.iron_per_ml_red_cells_mg
    if hb_known and not hct_known:
        iron_per_ml = g_per_dl_to_g_per_ml(row["hb_g_dl"]) * params.iron_per_g_haemoglobin_mg
    imputed = not (hct_known or hb_known)
    if str(row["unit"]).lower() == "ml":
        iron = row["amount"] * iron_per_ml
    elif site in params.site_ml_per_unit:
        iron = row["amount"] * params.site_ml_per_unit[site] * iron_per_ml
    else:
        iron = row["amount"] * params.iron_per_unit_mg
        imputed = False
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
    """Jadenu-equivalent deferasirox on each day [mg].

    The prescription with the latest start that covers the day counts, those with the component ``add`` on top of it;
    nothing on a day that is held. Other chelators, and their holds, are not counted.
    """
    dose, added = np.zeros(len(days)), np.zeros(len(days))
    held = np.zeros(len(days), bool)
    ordinals = np.array([d.toordinal() for d in days])
    for row in sorted(prescriptions, key=lambda r: str(r["start"])):
        # what was dispensed is pharmacy's account of the same prescription, not a second one
        if not row["start"] or row["status"] == "dispensed":
            continue
        first = date.fromisoformat(str(row["start"])).toordinal()
        last = date.fromisoformat(str(row["stop"])).toordinal() if row["stop"] else data_cut.toordinal()
        covered = (ordinals >= first) & (ordinals <= last)
        if row["product"] not in DEFERASIROX:
            continue
        if row["status"] == "held":
            held |= covered
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
        if row.get("component") == "add":
            added[covered] += amount[covered]
        else:
            dose[covered] = amount[covered]
    total = dose + added
    total[held] = 0
    return total


def days_without_prescription(days: list[date], prescriptions: Iterable[Row], data_cut: date) -> int:
    """Days that no prescription of deferasirox covers and no hold explains; they count as 0 mg."""
    covered: set[int] = set()
    for row in prescriptions:
        if row["start"] and row["status"] != "dispensed" and row["product"] in DEFERASIROX:
            last = date.fromisoformat(str(row["stop"])) if row["stop"] else data_cut
            covered |= set(range(date.fromisoformat(str(row["start"])).toordinal(), last.toordinal() + 1))
    return sum(day.toordinal() not in covered for day in days)


def daily_adherence(
    days: list[date], rows: Iterable[Row], prescribed_mg: Callable[[list[date]], FloatArray]
) -> tuple[FloatArray, list[str]]:
    """Adherence on each day (0 to 1.1; 1 where it is not known), and flags.

    A percentage as given; else a pill count: tablets dispensed less returned, times their strength, over what
    ``prescribed_mg`` says was prescribed in the same span. Flags: ``adherence_assumed`` where a day is not covered,
    ``adherence_implausible`` where a pill count gives more than 110 % (it is not used).
    """
    factor = np.ones(len(days))
    known = np.zeros(len(days), bool)
    flags: list[str] = []
    for row in rows:
        if not (row["from"] and row["to"]):
            continue
        first, last = date.fromisoformat(str(row["from"])), date.fromisoformat(str(row["to"]))
        inside = np.array([first <= d <= last for d in days], bool)
        if not inside.any():
            continue
        value = percent_to_fraction(float(row["adherence_pct"]))
        if not np.isfinite(value):
            taken = (row["dispensed_n"] - row["returned_n"]) * row["strength_mg"]
            span = [first + timedelta(days=k) for k in range((last - first).days + 1)]
            wanted = float(prescribed_mg(span).sum())
            value = float(taken / wanted) if wanted > 0 else np.nan
        if not np.isfinite(value):
            continue
        if not 0 <= value <= HIGHEST_ADHERENCE:
            flags.append("adherence_implausible")
            continue
        factor[inside] = value
        known |= inside
    if not known.all():
        flags.append("adherence_assumed")
    return factor, list(dict.fromkeys(flags))


def _days_from_nearest(days: list[date], known: list[date]) -> int:
    """The longest distance of a day from its nearest weighing [days]."""
    return max(min(abs((day - when).days) for when in known) for day in days)


class ParticipantRecords:
    """What the records say about one participant, ready to be counted day by day."""

    def __init__(self, participant_id: str, records: Records, params: RecordsParams) -> None:
        found = records.participants[records.participants["participant_id"] == participant_id].to_dict(orient="records")
        self.who: dict[Any, Any] = found[0] if found else {"site": "", "birth_year": np.nan, "splenectomy": ""}
        self._id, self._records, self._params = participant_id, records, params
        self.prescriptions = self.rows_of("chelation")
        self.weighings = [
            (date.fromisoformat(str(row[when])), float(row["weight_kg"]))
            for table, when in (("visits", "visit_date"), ("weights", "date"))
            for row in self.rows_of(table)
            if row[when] and np.isfinite(row["weight_kg"])
        ]
        visits = [date.fromisoformat(str(d)) for d in records.visits["visit_date"] if d]
        self.data_cut = max(visits, default=date.max)
        if params.data_cut_date:
            self.data_cut = date.fromisoformat(params.data_cut_date)

    def rows_of(self, table: str) -> list[Row]:
        """The participant's rows of a table."""
        frame = self._records.tables[table]
        return [
            {str(key): value for key, value in row.items()} for row in frame[frame["participant_id"] == self._id].to_dict(orient="records")
        ]

    def transfusions(self) -> list[tuple[date, float, bool]]:
        """Day, net iron [mg], and whether the haematocrit was assumed, of every transfusion that can be counted."""
        site = str(self.who["site"])
        return [
            (date.fromisoformat(str(row["date"])), *transfused_iron_mg(row, site, self._params))
            for row in self.rows_of("transfusions")
            if row["date"] and np.isfinite(row["amount"])
        ]

    def weights_kg(self, days: list[date]) -> FloatArray:
        """Body weight on each day [kg]."""
        return daily_weights_kg(days, self.weighings)

    def prescribed_mg(self, days: list[date]) -> FloatArray:
        """Jadenu-equivalent chelator prescribed on each day [mg]."""
        return daily_chelator_mg(days, self.prescriptions, self.weights_kg(days), self._params, self.data_cut)


def exposure_of(interval: Interval, records: Records, params: RecordsParams) -> Row:
    """One row of exposure.tsv: iron in and chelator between two visits."""
    participant = interval.participant_id
    shift = 0 if params.scan_day == "before" else 1
    days = [interval.start + timedelta(days=k + shift) for k in range(interval.days)]
    own = ParticipantRecords(participant, records, params)
    who = own.who
    weights_kg = own.weights_kg(days)
    flags: list[str] = []
    if own.weighings and _days_from_nearest(days, [when for when, _ in own.weighings]) > params.max_days_from_weight:
        flags.append("weight_distant")
    given = [(iron, imputed) for when, iron, imputed in own.transfusions() if days[0] <= when <= days[-1]]
    n_imputed = sum(imputed for _, imputed in given)
    if n_imputed:
        flags.append("hct_imputed")
    adherence, adherence_flags = daily_adherence(days, own.rows_of("adherence"), own.prescribed_mg)
    flags += adherence_flags
    prescribed = own.prescribed_mg(days)
    taken = prescribed * adherence
    dose_mg = taken if params.use_adherence else prescribed
    flags += [flag for flag, found in (("no_transfusion", given), ("no_chelator", prescribed.any())) if not found]
    if prescribed.any() and days_without_prescription(days, own.prescriptions, own.data_cut) > params.max_gap_days:
        flags.append("chelator_gap")
    annual = DAYS_PER_YEAR / interval.days
    iron_mg = sum(iron for iron, _ in given)
    mean_kg = float(weights_kg.mean())
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
        "n_transfusions": len(given),
        "n_hct_imputed": n_imputed,
        "iron_in_mg": iron_mg,
        "iron_in_mg_per_kg_per_year": iron_mg / mean_kg * annual,
        "chelator_mg": float(dose_mg.sum()),
        "chelator_g_per_kg_per_year": mg_to_g(float((dose_mg / weights_kg).sum())) * annual,
        "chelator_adherence_g_per_kg_per_year": mg_to_g(float((taken / weights_kg).sum())) * annual,
        "mean_weight_kg": mean_kg,
        "adherence": float(adherence.mean()),
        "age_years": age_years(interval.start, who["birth_year"]),
        "splenectomy": {"y": 1.0, "n": 0.0}.get(str(who["splenectomy"]), np.nan),
        "flags": " ".join(flags),
        "included": int(not reason),
        "reason": reason,
    }
