"""Clinical records whose iron balance drives the simulated livers.

The arithmetic here is written from the formulas, not imported from :mod:`hqsm.records`, so that the two can disagree.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.phantom.forward import LiverState

IRON_MG_PER_ML_RED_CELLS = 1.08
BODY_IRON_PER_LIC = 10.6
"""mg of iron per kg of body for 1 mg/g of liver dry weight (Angelucci et al., NEJM 2000;343:327)."""
IRON_BOUND_MG_PER_G_DEFERASIROX = 74.79
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SimulatedVisit:
    """One scan to be made."""

    participant: str
    session: str
    group: str
    visit_date: date
    visit_type: str
    vendor: str
    field_strength_tesla: float
    liver: LiverState
    anatomy_seed: int


@dataclass(kw_only=True)
class SimulatedRecords:
    """Rows of each table, as a coordinator keeps them, and the true intervals."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    intervals: list[Row] = field(default_factory=list)

    def add(self, table: str, **row: Any) -> None:
        """Add a row to a table."""
        self.tables.setdefault(table, []).append(row)


def simulate_participants(
    participants: int, visits: int, vendors: tuple[str, ...], seed: int
) -> tuple[list[SimulatedVisit], SimulatedRecords]:
    """Visits to scan and records to write: about 55 % thalassaemia, 30 % transplant, the rest healthy."""
    n_healthy = max(1, round(0.15 * participants)) if participants > 2 else 0
    n_transplant = max(1, round(0.3 * participants)) if participants > 3 else 0
    groups = ["thalassemia"] * (participants - n_healthy - n_transplant)
    groups += ["transplant"] * n_transplant + ["healthy"] * n_healthy
    records = SimulatedRecords()
    scans: list[SimulatedVisit] = []
    counts = {"thalassemia": 0, "transplant": 0, "healthy": 0}
    for number, group in enumerate(groups):
        counts[group] += 1
        prefix = {"thalassemia": 1, "transplant": 2, "healthy": 3}[group]
        participant = f"{prefix:02d}{counts[group]:02d}"
        vendor = vendors[number % len(vendors)]
        tesla = 3.0 if vendor == "ge" else 1.5
        rng = np.random.default_rng([seed, 31, number])
        site = "CUMC" if vendor == "ge" else "WCM"
        age = int(rng.integers(8, 40)) if group == "thalassemia" else int(rng.integers(25, 60))
        records.add(
            "participants",
            participant_id=participant,
            site=site,
            group=group,
            sex=str(rng.choice(["F", "M"])),
            birth_year=2021 - age,
            enrol_date="2021-01-15",
            splenectomy=str(rng.choice(["y", "n"])) if group == "thalassemia" else "n",
            withdrawn_date="",
            exclusion_code="",
        )
        maker = {"thalassemia": _thalassemia, "transplant": _transplant, "healthy": _healthy}[group]
        scans += maker(records, participant, visits, vendor, tesla, age, number, rng)
    return scans, records


def _visit(records: SimulatedRecords, participant: str, session: str, when: date, kind: str, weight_kg: float) -> None:
    records.add(
        "visits",
        participant_id=participant,
        session_id=session,
        visit_date=when.isoformat(),
        visit_type=kind,
        weight_kg=f"{weight_kg:.1f}" if weight_kg else "",
        height_cm="",
        haemoglobin_g_dl="",
        ferritin_ng_ml="",
        scan_ok="y",
        comment_code="",
    )


def _thalassemia(
    records: SimulatedRecords,
    participant: str,
    visits: int,
    vendor: str,
    tesla: float,
    age: int,
    number: int,
    rng: np.random.Generator,
) -> list[SimulatedVisit]:
    start = date(2021, 2, 1) + timedelta(days=int(rng.integers(0, 60)))
    dates = [start]
    for _ in range(visits - 1):
        dates.append(dates[-1] + timedelta(days=365 + int(rng.integers(-20, 21))))
    weight = float(np.clip(12 + 2.9 * age, 20, 62)) * rng.uniform(0.92, 1.08)
    growth_kg_per_day = (2.5 if age < 16 else 0.3) / 365
    weights = [round(weight + growth_kg_per_day * (d - dates[0]).days, 1) for d in dates]
    efficiency = float(np.clip(rng.normal(0.28, 0.02), 0.22, 0.34))
    lic = rng.uniform(4, 9)
    lics = [lic]
    for k in range(visits - 1):
        iron_mg = _transfusions(records, participant, dates[k], dates[k + 1], weights[k], k, rng)
        grams, dose_mg = _chelation(records, participant, dates[k], dates[k + 1], weights[k], k, rng)
        mean_kg = 0.5 * (weights[k] + weights[k + 1])
        years = (dates[k + 1] - dates[k]).days / 365.25
        change = (iron_mg / mean_kg - IRON_BOUND_MG_PER_G_DEFERASIROX * efficiency * grams / mean_kg) / BODY_IRON_PER_LIC
        lics.append(float(np.clip(lics[-1] + change, 1.2, 18)))
        records.intervals.append(
            {
                "participant_id": f"sub-{participant}",
                "start_session": f"ses-{k + 1:02d}",
                "end_session": f"ses-{k + 2:02d}",
                "iron_in_mg": round(iron_mg, 3),
                "chelator_mg": round(1000 * grams, 1),
                "delta_lic_mg_g_per_year": round((lics[-1] - lics[-2]) / years, 6),
            }
        )
        records.add(
            "adherence",
            participant_id=participant,
            **{"from": dates[k].isoformat(), "to": (dates[k + 1] - timedelta(days=1)).isoformat()},
            dispensed_n="",
            returned_n="",
            strength_mg="",
            adherence_pct=f"{rng.uniform(88, 100):.0f}",
            method="pill_count",
        )
        del dose_mg
    scans = []
    for k, (when, kg) in enumerate(zip(dates, weights, strict=True)):
        session = f"{k + 1:02d}"
        _visit(records, participant, session, when, "annual", kg)
        scans.append(
            SimulatedVisit(
                participant=participant,
                session=session,
                group="thalassemia",
                visit_date=when,
                visit_type="annual",
                vendor=vendor,
                field_strength_tesla=tesla,
                liver=LiverState(
                    lic_mg_g=lics[k],
                    pdff_percent=float(2 + 6 * ((number * 7) % 5) / 4),
                    body_scale=0.86 if age < 14 else 1.0,
                ),
                anatomy_seed=number,
            )
        )
    return scans


def _transfusions(
    records: SimulatedRecords, participant: str, start: date, end: date, weight: float, k: int, rng: np.random.Generator
) -> float:
    """A transfusion every three weeks in [start, end); returns the iron [mg] that was given."""
    wanted_mg_per_kg_day = rng.uniform(0.22, 0.52)
    when = start + timedelta(days=int(rng.integers(1, 15)))
    total = 0.0
    n = 0
    while when < end:
        n += 1
        hct = int(rng.integers(55, 63))
        amount = round(wanted_mg_per_kg_day * 21 * weight / (hct / 100 * IRON_MG_PER_ML_RED_CELLS) / 10) * 10
        records.add(
            "transfusions",
            participant_id=participant,
            tx_id=f"{participant}T{k}{n:02d}",
            date=when.isoformat(),
            amount=amount,
            unit="mL",
            hct_pct=hct,
            product="prbc",
            removed_ml="",
            removed_hct_pct="",
            site="",
            source="clinic",
        )
        total += amount * hct / 100 * IRON_MG_PER_ML_RED_CELLS
        when += timedelta(days=21)
    return total


def _chelation(
    records: SimulatedRecords, participant: str, start: date, end: date, weight: float, k: int, rng: np.random.Generator
) -> tuple[float, list[int]]:
    """Two doses of Jadenu a year in whole tablets, a hold of ten days; returns grams taken in [start, end)."""
    middle = start + (end - start) / 2
    hold_from = start + timedelta(days=int(rng.integers(30, 120)))
    doses = [max(180, round(rng.uniform(10, 27) * weight / 90) * 90) for _ in range(2)]
    total_mg = 0.0
    for n, (first, last, dose) in enumerate(((start, middle - timedelta(days=1), doses[0]), (middle, end - timedelta(days=1), doses[1]))):
        records.add(
            "chelation",
            participant_id=participant,
            rx_id=f"{participant}R{k}{n}",
            start=first.isoformat(),
            stop=last.isoformat(),
            product="jadenu_tablet",
            dose=dose,
            dose_unit="mg",
            per="day",
            times_per_day=1,
            days_per_week=7,
            status="prescribed",
            reason="",
        )
        total_mg += dose * ((last - first).days + 1)
    records.add(
        "chelation",
        participant_id=participant,
        rx_id=f"{participant}H{k}",
        start=hold_from.isoformat(),
        stop=(hold_from + timedelta(days=9)).isoformat(),
        product="jadenu_tablet",
        dose=0,
        dose_unit="mg",
        per="day",
        times_per_day=1,
        days_per_week=7,
        status="held",
        reason="infection",
    )
    return (total_mg - 10 * doses[0]) / 1000, doses


def _transplant(
    records: SimulatedRecords,
    participant: str,
    visits: int,
    vendor: str,
    tesla: float,
    age: int,
    number: int,
    rng: np.random.Generator,
) -> list[SimulatedVisit]:
    lic = float(1.0 + 8.0 * ((number * 3) % 7) / 6 + rng.uniform(0, 0.5))
    fat = float(rng.uniform(2, 15))
    when = date(2021, 5, 3) + timedelta(days=int(rng.integers(0, 200)))
    explanted = when + timedelta(days=int(rng.integers(20, 80)))
    specimen = f"E{participant}"
    _visit(records, participant, "01", when, "pretransplant", 70.0)
    _visit(records, participant, "explant", explanted, "explant", 0)
    for replicate in range(1, 4):
        dry_mg_g = lic * rng.normal(1, 0.06)
        value, unit, basis, prep = (
            (dry_mg_g, "mg/g", "dry", "fresh"),
            (1000 * dry_mg_g, "ug/g", "dry", "fresh"),
            (dry_mg_g / 3.33, "mg/g", "wet", "fresh"),
        )[replicate - 1]
        records.add(
            "explant_chemistry",
            specimen_id=specimen,
            participant_id=participant,
            explant_date=explanted.isoformat(),
            block_id=f"{specimen}B{replicate}",
            couinaud_segment="7",
            wet_mass_mg="",
            dry_mass_mg="",
            fe_value=f"{value:.5g}",
            fe_unit=unit,
            basis=basis,
            prep=prep,
            method="ICP-MS",
            lab="A",
            lod="",
            below_lod="n",
            replicate_no=replicate,
        )
    records.add(
        "explant_histology",
        specimen_id=specimen,
        participant_id=participant,
        block_id=f"{specimen}B1",
        pathologist_code="P1",
        read_no=1,
        fibrosis_stage=int(rng.integers(0, 5)),
        fibrosis_scale="metavir",
        steatosis_pct=f"{fat:.0f}",
        inflammation_grade=int(rng.integers(0, 4)),
        iron_grade=min(4, int(lic // 2)),
        nodular="n",
    )
    common: dict[str, Any] = {"participant": participant, "group": "transplant", "vendor": vendor, "field_strength_tesla": tesla}
    liver = LiverState(lic_mg_g=lic, pdff_percent=fat)
    return [
        SimulatedVisit(session="01", visit_date=when, visit_type="pretransplant", liver=liver, anatomy_seed=number, **common),
        SimulatedVisit(session="explant", visit_date=explanted, visit_type="explant", liver=liver, anatomy_seed=number, **common),
    ]


def _healthy(
    records: SimulatedRecords,
    participant: str,
    visits: int,
    vendor: str,
    tesla: float,
    age: int,
    number: int,
    rng: np.random.Generator,
) -> list[SimulatedVisit]:
    liver = LiverState(lic_mg_g=float(rng.uniform(0.7, 1.4)), pdff_percent=float(rng.uniform(2, 6)))
    when = date(2021, 4, 12) + timedelta(days=int(rng.integers(0, 200)))
    scans = []
    for session, kind in (("01", "control"), ("02", "repeat")):
        _visit(records, participant, session, when, kind, 72.0)
        scans.append(
            SimulatedVisit(
                participant=participant,
                session=session,
                group="healthy",
                visit_date=when,
                visit_type=kind,
                vendor=vendor,
                field_strength_tesla=tesla,
                liver=liver,
                anatomy_seed=number,
            )
        )
    return scans


def write_records(folder: Path, records: SimulatedRecords) -> None:
    """Write every table as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in records.tables.items():
        with (folder / f"{table}.csv").open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
