"""A simulated study on disk: raw DICOM and records in the input contract, truth beside the study."""

from __future__ import annotations

import csv
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.errors import InputError
from hqsm.phantom.clinical import SimulatedVisit, simulate_participants, write_records
from hqsm.phantom.dicom_writer import write_clutter, write_scan
from hqsm.phantom.forward import ScanProtocol, simulate_abdomen, simulate_explant

_SIZES = {
    "demo": ((96, 76, 24), (3.75, 3.75, 7.0), 5),
    "tiny": ((72, 56, 20), (5.0, 5.0, 8.4), 3),
}
_ECHO_TIMES_S = {
    1.5: tuple(1.2e-3 + 1.6e-3 * n for n in range(6)),
    3.0: tuple(1.0e-3 + 1.0e-3 * n for n in range(6)),
}


def truth_folder(study: Path) -> Path:
    """Where the truth of a simulated study lies: beside it, where no rule reads it."""
    return study.resolve().parent / f"{study.resolve().name}-truth"


def simulate_study(
    study: Path,
    *,
    participants: int = 12,
    visits: int = 3,
    seed: int = 1,
    size: str = "demo",
    vendors: tuple[str, ...] = ("siemens", "ge", "philips"),
    with_bad_visit: bool = True,
    processes: int | None = None,
    progress: Callable[[str], None] = print,
) -> Path:
    """Write ``STUDY/dicom`` and ``STUDY/records``; return the folder of the truth.

    The same arguments give the same bytes, whatever the number of processes.

    Raises
    ------
    InputError
        If the study folder already holds DICOM, or there would be nothing in it.
    """
    if (study / "dicom").exists():
        raise InputError(f"{study} already holds a study.", remedy="Name another folder, or remove it.", code="STUDY_EXISTS")
    if participants < 1 or visits < 1:
        raise InputError("A study has at least one participant and one visit.", remedy="Give other numbers.", code="STUDY_SIZE")
    scans, records = simulate_participants(participants, visits, vendors, seed)
    bad = (scans[-1].participant, scans[-1].session) if with_bad_visit else None
    truth = truth_folder(study)
    truth.mkdir(parents=True, exist_ok=True)
    write_records(study / "records", records)
    _write_tsv(truth / "intervals.tsv", records.intervals)
    jobs = [(study, truth, scan, seed, size, bad == (scan.participant, scan.session)) for scan in scans]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(max_workers=processes or len(os.sched_getaffinity(0))) as pool:
        for done, row in enumerate(pool.map(_one_visit, jobs), start=1):
            rows.append(row)
            progress(f"simulated {done}/{len(jobs)}  {row['participant_id']} {row['session_id']}")
    _write_tsv(truth / "visits.tsv", rows)
    return truth


def _one_visit(job: tuple[Path, Path, SimulatedVisit, int, str, bool]) -> dict[str, Any]:
    study, truth_dir, scan, seed, size, bad = job
    shape, voxel_mm, n_repetitions = _SIZES[size]
    explant = scan.visit_type == "explant"
    if explant:
        shape, voxel_mm = (shape[0], shape[1], shape[2]), (voxel_mm[0] * 0.72, voxel_mm[1] * 0.72, voxel_mm[2] * 0.9)
    tilt = float(np.random.default_rng([seed, 41, scan.anatomy_seed]).uniform(-8, 8))
    protocol = ScanProtocol(
        echo_times_s=_ECHO_TIMES_S[scan.field_strength_tesla],
        field_strength_tesla=scan.field_strength_tesla,
        shape=shape,
        voxel_size_mm=voxel_mm,
        tilt_degrees=0.0 if explant else tilt,
        n_repetitions=1 if explant else n_repetitions,
        temperature_celsius=20.0 if explant else 37.0,
        snr=40.0,
    )
    visit_seed = zlib.crc32(f"{scan.participant}/{scan.session}".encode()) + seed  # noise and breathing of this scan alone
    make = simulate_explant if explant else simulate_abdomen
    made = make(scan.liver, protocol, visit_seed, scan.anatomy_seed + 100 * seed)
    identity = f"{scan.participant}_{scan.session}"
    date = scan.visit_date.strftime("%Y%m%d")
    folder = study / "dicom" / f"sub-{scan.participant}" / f"ses-{scan.session}"
    broken = ({"ge": "imaginary"}.get(scan.vendor, "phase"), 3) if bad else None
    write_scan(folder / "export", made.echoes, vendor=scan.vendor, identity=identity, date=date, drop=broken)
    write_clutter(folder, made.echoes, vendor=scan.vendor, identity=identity, date=date)
    if protocol.n_repetitions > 1:
        lines = ["repetition,displacement_mm"]
        lines += [f"{k + 1},{d:.2f}" for k, d in enumerate(made.displacement_mm)]
        (folder / "navigator.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    t = made.truth
    np.savez(
        truth_dir / f"sub-{scan.participant}_ses-{scan.session}.npz",
        chi_ppm=t.chi_ppm,
        r2star_per_s=t.r2star_per_s,
        pdff_percent=t.pdff_percent,
        field_hz=t.field_hz,
        labels=t.labels,
    )
    return {
        "participant_id": f"sub-{scan.participant}",
        "session_id": f"ses-{scan.session}",
        "group": scan.group,
        "field_strength_t": scan.field_strength_tesla,
        "bad": int(bad),
        "lic_mg_g": round(asdict(scan.liver)["lic_mg_g"], 6),
        "chi_liver_ppm": round(t.liver_chi_ppm, 6),
        "r2star_per_s": round(t.liver_r2star_per_s, 4),
        "pdff_percent": round(t.liver_pdff_percent, 4),
    }


def _write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
