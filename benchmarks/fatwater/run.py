# ruff: noqa: E501
"""Accuracy, speed and memory of fat-water separation: `run.py [CASE ...] [--seed N ...] [--peer PYTHON ...]`, one table per case.

With several seeds, one table of all scans with the standard errors of its figures, and no times: `run.py A15 --seed 21 22 23`.
Either way the field's error over its standard error, by R2* and by the distance from the liver's surface.

`--peer` names Pythons, each with `pycsemri` or `mri-fatwater` (peer.py says how they are installed): each peer then runs on
the same volume, warm, with as many threads, and is timed without reading its input. One that no such Python has is skipped, with the reason.
Last comes a table of both: bias and root mean square error of PDFF, R2* and field in each band, over the voxels that both give a number.
All that the comparison needs, in one command: `run.py A15 A15hi A15lo A3 --peer PYTHON`.

`--slices 8 16 32 64` instead: microseconds for each fitted voxel over the number of slices of 3 mm, the middle ones of the first case.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from peer import PACKAGES
from pooled import Pooled
from scipy import ndimage
from simulation import CASES, LIVER, LUNG, cramer_rao, simulate

N_RUNS = 5
"""Of ours, whose mean is given: together about as long as one of the peer."""
THIN_SLICES = 64
"""Of the slab of 192 mm, from whose middle `--slices` takes its slices."""
PLACES = (("everywhere", 0, np.inf), ("12 mm and more", 12, np.inf), ("4 to 12 mm", 4, 12), ("outer 4 mm", 0, 4))
"""Nearest and farthest distance from the liver's surface [mm]."""
BANDS = ((20, 65), (65, 150), (150, 350), (350, 520), (520, 680), (680, 1100), (0, 1100))
"""R2* [1/s]; the last is all of the liver."""


def ours(scan, case, n_threads):
    from hqsm.config.fatwater import FatWaterParams
    from hqsm.data import MultiEcho, VoxelGrid
    from hqsm.fatwater.separation import separate

    affine = np.diag([*scan.voxel_size_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(case.shape) - 1) / 2
    grid = VoxelGrid(shape=case.shape, affine_mm=affine)
    echoes = MultiEcho(
        signal=scan.signal, echo_times_s=case.echo_times_s, field_strength_tesla=case.tesla, grid=grid, noise_sd=scan.noise_sd
    )
    wall, cpu = time.perf_counter(), time.process_time()
    fit = separate(echoes, FatWaterParams(), n_threads=n_threads)
    return fit, time.perf_counter() - wall, time.process_time() - cpu


def report(case, scan, pdff, r2star, field, where, se=None, model=None, censored=None):
    liver = (scan.labels == LIVER) & where
    tissue = (scan.density > 50) & where
    print(
        f"  {'band':>10} {'n':>6} | PDFF bias  RMSE   CRB  bound* gross% | R2* bias   RMSE    CRB  bound* | field  CRB | error/SE PDFF R2* field | none% | model 1 2 3 %"
    )
    for low, high in BANDS:
        band = liver & (scan.r2star >= low) & (scan.r2star < high)
        n = band.sum()
        crb = cramer_rao(case, scan.r2star[band], scan.pdff[band], scan.density[band], scan.noise_sd)
        tight = cramer_rao(case, scan.r2star[band], scan.pdff[band], scan.density[band], scan.noise_sd, constrained=True)
        rms = [np.sqrt(np.mean(b**2)) for b in (*crb, *tight[:2])]
        ep, er, ef = (a[band] - b[band] for a, b in ((pdff, scan.pdff), (r2star, scan.r2star), (field, scan.field_hz)))
        gross = 100 * np.mean(np.abs(ep[np.isfinite(ep)]) > 30)
        ratio = ["", "", ""]
        if se is not None:
            ratio = [f"{np.nanstd(e / s[band]):.2f}" for e, s in zip((ep, er, ef), se, strict=True)]
        missing = f"{100 * np.mean(~np.isfinite(ep)):.1f}/{100 * np.mean(~np.isfinite(er)):.1f}"
        orders = "" if model is None else " ".join(f"{100 * np.mean(model[band] == m):.0f}" for m in (1, 2, 3))
        rp, rr, rf = (np.sqrt(np.nanmean(e**2)) for e in (ep, er, ef))
        print(
            f"  {low:>4}-{high:<5} {n:>6} | {np.nanmean(ep):>8.2f} {rp:>6.2f} {rms[0]:>6.2f} {rms[3]:>6.2f} {gross:>6.3f} | {np.nanmean(er):>7.2f} {rr:>7.1f}"
            f" {rms[1]:>6.1f} {rms[4]:>6.1f} | {rf:>5.2f} {rms[2]:>5.2f} | {' '.join(ratio)} | {missing} | {orders}"
        )
    low_iron = tissue & (scan.r2star < 350)
    wrong = np.abs(pdff - scan.pdff) > 30
    print(
        f"  swapped tissue below 350 1/s: {100 * np.mean(wrong[low_iron]):.4f} %; liver alone {100 * np.mean(wrong[low_iron & liver]):.4f} %"
    )


def beside(scan, mine, theirs, package):
    """Bias and RMSE of ours / the peer's by bands of R2* in the liver, (PDFF, R2*, field) each, over the voxels that both number."""
    truths = (scan.pdff, scan.r2star, scan.field_hz)
    print(f"  ours / {package}, where both give a number; * where ours is no better")
    print(f"  {'band':>10} | " + " | ".join(f"{f'{name} bias':>17} {f'{name} RMSE':>17}" for name in ("PDFF", "R2*", "field")))
    worse = cells = 0
    for low, high in BANDS:
        band = (scan.labels == LIVER) & (scan.r2star >= low) & (scan.r2star < high)
        row = []
        for ours_map, peers_map, truth in zip(mine, theirs, truths, strict=True):
            both = band & np.isfinite(ours_map) & np.isfinite(peers_map)
            errors = [values[both] - truth[both] for values in (ours_map, peers_map)] if both.any() else [np.full(1, np.nan)] * 2
            for measure in (np.mean, lambda error: np.sqrt(np.mean(error**2))):
                one, other = (measure(error) for error in errors)
                no_better = not abs(one) < abs(other)
                worse, cells = worse + no_better, cells + 1
                row.append(f"{one:.2f} / {other:.2f}{'*' * no_better}".rjust(17))
        print(f"  {low:>4}-{high:<5} | " + " | ".join(f"{row[k]} {row[k + 1]}" for k in (0, 2, 4)))
    print(f"  ours is better in {cells - worse} of {cells}", flush=True)


def pooled(name, seeds, n_threads):
    """Print one table of all the seeds of a case."""
    together, fields = Pooled(BANDS), []
    for done, seed in enumerate(seeds):
        print(f"\r{name}: scan {done + 1} of {len(seeds)}", end="", file=sys.stderr, flush=True)
        case = replace(CASES[name], seed=seed)
        scan = simulate(case)
        fit, *_ = ours(scan, case, n_threads)
        liver = scan.labels == LIVER
        r2star, pdff, density = (values[liver] for values in (scan.r2star, scan.pdff, scan.density))

        def bound(band, which, case=case, scan=scan, r2star=r2star, pdff=pdff, density=density):
            return np.sqrt(np.mean(cramer_rao(case, r2star[band], pdff[band], density[band], scan.noise_sd)[which] ** 2))

        together.add(
            r2star,
            {"PDFF": (fit.pdff_percent[liver], pdff), "R2*": (fit.r2star_per_s[liver], r2star)},
            {"PDFF": fit.pdff_se_percent[liver], "R2*": fit.r2star_se_per_s[liver]},
            {"PDFF": partial(bound, which=0), "R2*": partial(bound, which=1)},
        )
        fields.append(field_errors(scan, fit))
    print(file=sys.stderr)
    print(f"{name}, seeds {' '.join(map(str, seeds))}: {CASES[name].tesla} T, SNR {CASES[name].snr}")
    print("\n".join(together.table()))
    report_field_errors(np.concatenate(fields, axis=1))


def field_errors(scan, fit):
    """(3, voxel) R2* of the liver's voxels, their distance from its surface [mm], and their field's error over its standard error."""
    liver = scan.labels == LIVER
    from_surface_mm = ndimage.distance_transform_edt(liver, sampling=scan.voxel_size_mm)
    return np.stack([scan.r2star[liver], from_surface_mm[liver], ((fit.field_hz - scan.field_hz) / fit.field_se_hz)[liver]])


def report_field_errors(voxels):
    """Of such voxels: SD in each place, and per cent inside 1.96 and beyond 4."""
    r2star, from_surface_mm, ratio = voxels[:, np.isfinite(voxels[2])]
    print("  field error/SE (inside 1.96, beyond 4 [%]) by distance from the liver's surface")
    for place, nearest_mm, farthest_mm in PLACES:
        cells = []
        for low, high in BANDS:
            here = (from_surface_mm > nearest_mm) & (from_surface_mm <= farthest_mm) & (r2star >= low) & (r2star < high)
            inside, beyond = 100 * np.mean(np.abs(ratio[here]) < 1.96), 100 * np.mean(np.abs(ratio[here]) > 4)
            cells.append(f"{low}-{high} {np.std(ratio[here]):.2f} ({inside:.0f}, {beyond:.2f})")
        print(f"  {place:>16}: {' | '.join(cells)}", flush=True)


def over_slices(name, numbers, n_threads):
    """Print the time for each fitted voxel of ever more of the middle slices of one scan; rounds take every number in turn."""
    if max(numbers) > THIN_SLICES:
        raise SystemExit(f"--slices: {THIN_SLICES} at most")
    case = replace(CASES[name], shape=(*CASES[name].shape[:2], THIN_SLICES))
    scan = simulate(case)
    parts = []
    for n in numbers:
        first = (case.shape[2] - n) // 2
        parts.append(
            (replace(case, shape=(*case.shape[:2], n)), replace(scan, signal=np.ascontiguousarray(scan.signal[:, :, first : first + n])))
        )
    fitted = [np.isfinite(ours(part, its, n_threads)[0].field_hz).sum() for its, part in parts]
    seconds = np.array([[ours(part, its, n_threads)[1:] for its, part in parts] for _ in range(N_RUNS)])
    wall, cpu = np.median(seconds, axis=0).T
    print(f"{name}: slices of {scan.voxel_size_mm[2]:.1f} mm, {n_threads} thread(s), warm, median of {N_RUNS} runs")
    print(f"  {'slices':>6} {'fitted voxels':>13} {'wall s':>7} {'CPU s':>7} {'us of CPU per fitted voxel':>26}")
    for n, voxels, w, c in zip(numbers, fitted, wall, cpu, strict=True):
        print(f"  {n:>6} {voxels:>13,} {w:>7.2f} {c:>7.2f} {1e6 * c / voxels:>26.2f}")


def python_with(package, pythons):
    """The first of the Pythons that imports the package, and why each one before did not."""
    reasons = []
    for python in pythons:
        if shutil.which(python) is None:
            reasons.append(f"{python}: no such program")
            continue
        tried = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return python, reasons
        reasons.append(f"{python}: {(tried.stderr.strip().splitlines() or ['no message'])[-1]}")
    return None, reasons


def peer(package, scan, case, python, n_threads):
    """(PDFF, R2*, field) of the peer, its wall and CPU seconds for the whole volume."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(
            place / "in.npz",
            signal=scan.signal,
            t=case.echo_times_s,
            tesla=case.tesla,
            voxel_size_mm=scan.voxel_size_mm,
            sd=scan.noise_sd,
        )
        environment = {**os.environ, **{f"{name}_NUM_THREADS": str(n_threads) for name in ("OMP", "OPENBLAS", "MKL")}}
        command = [python, str(Path(__file__).with_name("peer.py")), package, str(place)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        with np.load(place / "out.npz") as stored:
            return stored["maps"], float(stored["wall_s"]), float(stored["cpu_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["A15", "A3", "A15lo"], help=", ".join(CASES))
    parser.add_argument("--peer", metavar="PYTHON", nargs="+", default=[], help="Pythons that have one of the peers")
    parser.add_argument("--slices", metavar="N", type=int, nargs="+", help="time over the number of slices, nothing else")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="several: pooled accuracy, no times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--once", action="store_true", help="no warming run")
    options = parser.parse_args()
    if options.slices:
        over_slices(options.cases[0], options.slices, options.threads)
        return
    for name in options.cases:
        if len(options.seed) > 1:
            pooled(name, options.seed, options.threads)
            continue
        case = replace(CASES[name], seed=options.seed[0])
        scan = simulate(case)
        body = scan.field_hz[scan.density > 50]
        spread = np.percentile(body, [0.5, 99.5])
        print(
            f"{name}, seed {case.seed}: {case.tesla} T, SNR {case.snr}, {case.shape}, field p0.5/p99.5 {spread[0]:.0f}/{spread[1]:.0f} Hz, {body.min():.0f}..{body.max():.0f}"
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        if not options.once:
            ours(scan, case, options.threads)
        fit, *first = ours(scan, case, options.threads)
        others = [ours(scan, case, options.threads)[1:] for _ in range(0 if options.once else N_RUNS - 1)]
        wall, cpu = np.mean([first, *others], axis=0)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f" hqsm: {wall:.2f} s wall, {cpu:.2f} s CPU, peak memory {after:.2f} GB ({before:.2f} before), R2* limit {fit.r2star_limit_per_s:.0f} 1/s"
        )
        se = (fit.pdff_se_percent, fit.r2star_se_per_s, fit.field_se_hz)
        report(case, scan, fit.pdff_percent, fit.r2star_per_s, fit.field_hz, scan.labels != LUNG, se, fit.model, fit.censored)
        report_field_errors(field_errors(scan, fit))
        for package in PACKAGES if options.peer else ():
            python, reasons = python_with(package, options.peer)
            if python is None:
                print(f" {package}: skipped ({'; '.join(reasons)})")
                continue
            maps, peer_wall, peer_cpu = peer(package, scan, case, python, options.threads)
            print(
                f" {package}: {peer_wall:.2f} s wall, {peer_cpu:.2f} s CPU for the volume: {peer_wall / wall:.1f} times ours in wall, {peer_cpu / cpu:.1f} in CPU"
            )
            report(case, scan, *maps, np.isfinite(maps[2]))
            beside(scan, (fit.pdff_percent, fit.r2star_per_s, fit.field_hz), maps, package)


if __name__ == "__main__":
    main()
