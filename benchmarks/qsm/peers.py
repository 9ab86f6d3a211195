"""Our methods and those of others on the same field maps and masks: slope, scatter, errors, time and memory in one table (table.md).

python benchmarks/qsm/peers.py --qsm-rs PATH/QSM.rs --medi-toolbox PATH/MEDI_toolbox --tissue-tables PATH

The maps come from our simulator (`confirm`: visits that no parameter was chosen with), from the tissue values of a published
digital abdomen, and from qsm-forward's own phantom; QSM-CI's scorer judges every map. Every pipeline runs as a process of its own with
one thread, with the settings it ships with. What is not given or does not install is left out and named.

Results are kept in --out: a later call with --only runs some pipelines again and leaves the rest of the table. QSMxT 8.3.4 (PyPI)
cannot be among them: its inversions are Julia packages, or a network whose weights are not in the package; QSM.rs is the engine of
QSMxT 9. The peers' Python packages are installed in an environment below --cache, never in this project's. QSM.rs (MIT) is a source folder,
built here with cargo; the MEDI toolbox is run by Octave from its own folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import visits

from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.report.map_montage import save_montage
from hqsm.robust import median_and_scaled_mad
from hqsm.susceptibility import magnitude_image, total_field_of

HERE = Path(__file__).parent
PEER_PACKAGES = ("qsm-forward==0.32", "qsm-ci==0.6.2")
OURS = ("total-field", "regional", "tfi", "pdf+tikhonov", "pdf+medi", "lbv+tkd", "lbv+medi", "v-sharp+tkd")
QSM_RS = ("lbv+tkd", "lbv+rts", "lbv+tv", "lbv+ilsqr", "vsharp+rts", "pdf+rts")
CASES = ("c1", "c5", "c7", "c9", "c11", "c13", "c15", "c17", "t0", "t1", "t2", "f0.5", "f1.5", "f3")
"""Of our simulator eight from 0 to 6 ppm, so that the scatter about their line means something."""
SETS = ("our simulator", "tissue tables", "qsm-forward")
_NO_SOURCE = (2, 4, 8, 14, 15, 16)
"""Labels of our phantoms whose susceptibility is zero: muscle, bowel, kidney, stomach, heart, gel."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Something that makes a susceptibility map: ``command`` gets the visit's file and the exchange folder."""

    name: str
    whose: str
    command: Callable[[Path, Path], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qsm-rs", type=Path, help="source folder of QSM.rs (needs cargo)")
    parser.add_argument("--medi-toolbox", type=Path, help="folder of the MEDI toolbox (needs octave)")
    parser.add_argument("--tissue-tables", type=Path, help="folder of the digital abdomen's tissue tables (*_chi_model.csv)")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="c: our simulator, t: tissue tables, f: qsm-forward (ppm)")
    parser.add_argument("--only", nargs="*", help="pipelines by name, e.g. total-field QSM.rs:lbv+rts")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hqsm-benchmark")
    parser.add_argument("--out", type=Path, default=Path("qsm-peers"), help="folder for the table and the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    peer_python = peer_environment(options.cache)
    pipelines = [p for p in all_pipelines(options, peer_python) if not options.only or p.name in options.only]
    record = options.out / "maps.tsv"
    rows = pd.read_csv(record, sep="\t").to_dict(orient="records") if record.is_file() else []
    for group, visit in all_visits(options, peer_python):
        new = judged(group, visit, pipelines, options, peer_python)
        done = {(row["case"], row["pipeline"]) for row in new}
        rows = [row for row in rows if (row["case"], row["pipeline"]) not in done] + new
        pd.DataFrame(rows).to_csv(record, sep="\t", index=False, float_format="%.4g")
    summary(pd.DataFrame(rows)).to_csv(options.out / "table.tsv", sep="\t", index=False, float_format="%.4g")
    table = one_table(pd.DataFrame(rows))
    (options.out / "table.md").write_text(table)
    sys.stdout.write(table)


def peer_environment(cache: Path) -> Path | None:
    """Python of the peers' environment, made once; None, with the reason on stderr, where it cannot be made."""
    folder = cache / "peers-venv"
    python = folder / "bin" / "python"
    stamp = folder / " ".join(PEER_PACKAGES).replace("==", "-")
    if stamp.is_file():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    except (subprocess.CalledProcessError, OSError) as error:
        sys.stderr.write(f"without qsm-forward and QSM-CI's scorer: {error}\n")
        return None
    stamp.touch()
    return python


def all_pipelines(options: argparse.Namespace, peer_python: Path | None) -> list[Pipeline]:
    """Ours, then what of the peers can be run here."""
    found = [
        Pipeline(
            name=method,
            whose="ours" if method == SusceptibilityParams().method else "published method, our code",
            command=lambda visit, folder, m=method: [
                sys.executable, str(HERE / "reconstruct.py"), str(visit), m, str(folder / "chi_ppm.f64")
            ],
        )
        for method in OURS
    ]  # fmt: skip
    rust = built_qsm_rs(options.qsm_rs, options.cache) if options.qsm_rs else None
    if rust:
        found += [
            Pipeline(name=f"QSM.rs:{pair}", whose="peer", command=lambda _, folder, p=pair: [str(rust), str(folder), *p.split("+")])
            for pair in QSM_RS
        ]
    else:
        sys.stderr.write("without QSM.rs: --qsm-rs not given or not built\n")
    octave = shutil.which("octave-cli") or shutil.which("octave")
    if options.medi_toolbox and octave:
        toolbox = toolbox_for_octave(options.medi_toolbox, options.cache)
        start = [octave, "--no-gui", "--quiet", str(toolbox / "peer.m"), str(toolbox)]
        found.append(Pipeline(name="MEDI toolbox:pdf+medi", whose="peer", command=lambda _, folder: [*start, str(folder.resolve())]))
    else:
        sys.stderr.write("without the MEDI toolbox: --medi-toolbox not given, or no octave\n")
    return found


def toolbox_for_octave(source: Path, cache: Path) -> Path:
    """The toolbox's functions in the cache, with our script beside them.

    Octave's function handles do not see the variables around a nested function: MEDI_L1's only one is written out in place.
    """
    toolbox = cache / "medi-toolbox"
    shutil.copytree(source / "functions", toolbox, dirs_exist_ok=True, ignore=shutil.ignore_patterns("_LBV", "_spurs_gc", "bet2", "*.mex*"))
    shutil.copytree(HERE / "medi_toolbox", toolbox, dirs_exist_ok=True)
    text = (toolbox / "MEDI_L1.m").read_text(errors="replace")
    text, n = re.subn(r"switch solver.*?function \[[^\]]*\] = gaussnewton\(\)", "", text, flags=re.DOTALL)
    if n == 1:
        (toolbox / "MEDI_L1.m").write_text(text.rstrip().removesuffix("end"))
    return toolbox.resolve()


def built_qsm_rs(source: Path, cache: Path) -> Path | None:
    """The driver of QSM.rs, built in the cache against the source folder; None where cargo fails."""
    driver = cache / "qsm-rs-driver"
    shutil.copytree(HERE / "qsm_rs", driver, dirs_exist_ok=True)
    link = cache / "QSM.rs"
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve())
    try:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=driver, check=True, env={**os.environ, "RUSTFLAGS": "-Awarnings"})
    except (subprocess.CalledProcessError, OSError) as error:
        sys.stderr.write(f"QSM.rs was not built: {error}\n")
        return None
    return driver / "target" / "release" / "qsm-peer"


def all_visits(options: argparse.Namespace, peer_python: Path | None) -> Iterator[tuple[str, visits.Visit]]:
    """Every field map with its truth, by where it comes from."""
    for case in visits.confirm():
        if case.name in options.cases:
            yield SETS[0], visits.load(case, options.cache)
    if options.tissue_tables:
        for case in visits.tissue_tables(options.tissue_tables):
            if case.name in options.cases:
                yield SETS[1], visits.load(case, options.cache)
    else:
        sys.stderr.write("without the digital abdomen: --tissue-tables not given\n")
    if peer_python:
        for name in (name for name in options.cases if name.startswith("f")):
            yield SETS[2], visits.forward_phantom(float(name[1:]), peer_python, options.cache)


def judged(
    group: str, visit: visits.Visit, pipelines: list[Pipeline], options: argparse.Namespace, peer_python: Path | None
) -> list[dict[str, object]]:
    """Run every pipeline on one visit; one row each, and a picture of all maps."""
    rows, maps = [], {}
    with tempfile.TemporaryDirectory(prefix="hqsm-peers-") as name:
        folder = Path(name)
        pickled = folder / "input.pkl"
        pickled.write_bytes(visit.pickled_input())
        exchange(visit, folder)
        for pipeline in pipelines:
            cost = timed(pipeline.command(pickled, folder), folder / "log.txt")
            out = folder / "chi_ppm.f64"
            row: dict[str, object] = {"group": group, "case": visit.case.name, "pipeline": pipeline.name, "whose": pipeline.whose, **cost}
            if out.is_file():
                chi = np.fromfile(out).reshape(visit.truth.chi_ppm.shape, order="F")
                out.unlink()
                maps[pipeline.name] = referenced(chi, visit)
                row |= accuracy(maps[pipeline.name], visit)
            else:
                sys.stderr.write(f"{pipeline.name} made no map of {visit.case.name}:\n{(folder / 'log.txt').read_text()[-600:]}\n")
            sys.stderr.write(f"{visit.case.name:<12}{pipeline.name:<24}{cost['cpu_s']:7.1f} s  {row.get('liver_ppm', np.nan):6.3f} ppm\n")
            rows.append(row)
        scores = scored(maps, visit, folder, peer_python)
    kept = options.out / f"{visit.case.name}.npz"
    if kept.is_file():
        with np.load(kept) as earlier:
            maps = {**{name: earlier[name] for name in earlier.files}, **maps}
    np.savez_compressed(kept, **{name: chi.astype(np.float32) for name, chi in maps.items()})
    shown = {"truth": np.where(visit.regions.body, visit.truth.chi_ppm, np.nan), **maps}
    top_ppm = max(1.0, 1.3 * visit.truth.liver_chi_ppm)
    save_montage(options.out / f"{visit.case.name}.png", shown, visit.regions.liver_whole, visit.maps.grid, top_ppm=top_ppm)
    return [row | scores.get(str(row["pipeline"]), {}) for row in rows]


def exchange(visit: visits.Visit, folder: Path) -> None:
    """What a peer reads: raw volumes, x fastest, and scan.txt (shape, voxel [mm], B0, tesla, first echo and echo spacing [s])."""
    total, noise_ppm = total_field_of(visit.maps, visit.regions, SusceptibilityParams())
    echo_times_s = visit.echo_times_s
    for name, volume in (
        ("field_ppm", np.where(total.mask, total.field_ppm, 0)),
        ("magnitude", magnitude_image(visit.maps)),
        ("noise", np.where(total.mask, noise_ppm, 0)),
    ):
        volume.astype(np.float64).ravel(order="F").tofile(folder / f"{name}.f64")
    total.mask.astype(np.uint8).ravel(order="F").tofile(folder / "mask.u8")
    grid = visit.maps.grid
    facts = [*grid.shape, *grid.voxel_size_mm, *grid.b0_direction, visit.maps.field_strength_tesla]
    facts += [echo_times_s[0], echo_times_s[1] - echo_times_s[0]]
    (folder / "scan.txt").write_text("\n".join(f"{fact:.12g}" for fact in facts) + "\n")


def timed(command: list[str], log: Path, limit_s: float = 1800.0) -> dict[str, float]:
    """Run a command on one thread: wall and CPU seconds and its largest memory.

    A small process starts it: a child of this one would be charged with the memory of this one.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    starter = [sys.executable, "-I", "-S", str(HERE / "timed.py"), str(log), str(limit_s)]
    found = subprocess.run([*starter, *command], check=True, capture_output=True, text=True, env={**os.environ, **one_thread})
    cost: dict[str, float] = json.loads(found.stdout)
    return cost


def referenced(chi: np.ndarray, visit: visits.Visit) -> np.ndarray:
    """The map relative to the reference tissue that every pipeline gets: muscle, or an explant's medium."""
    reference = visit.regions.references["medium" if visit.case.explant else "muscle"]
    return chi - np.nanmedian(chi[reference])


def accuracy(chi: np.ndarray, visit: visits.Visit) -> dict[str, float]:
    """The liver's value and spread, its voxels' error, and the spread of tissue that has no source."""
    liver = visit.regions.liver & np.isfinite(chi)
    still = np.isin(visit.truth.labels, _NO_SOURCE) & visit.regions.body & np.isfinite(chi)
    error = (chi - visit.truth.chi_ppm)[liver]
    return {
        "true_ppm": visit.truth.liver_chi_ppm,
        "liver_ppm": float(np.median(chi[liver])),
        "liver_sd_ppm": float(np.std(chi[liver])),
        "liver_rmse_ppm": float(np.sqrt(np.mean(error**2))),
        "streak_sd_ppm": median_and_scaled_mad(chi[still])[1],
    }


def scored(maps: dict[str, np.ndarray], visit: visits.Visit, folder: Path, peer_python: Path | None) -> dict[str, dict[str, float]]:
    """QSM-CI's scores by pipeline, in voxels that are tissue altogether and have a value.

    A voxel at the skin that is a tenth air has 0.9 ppm: with those, the score would be about the masks and not the maps.
    """
    if peer_python is None or not maps:
        return {}
    tissue = visit.regions.body & (visit.truth.chi_ppm < max(0.8, 1.25 * visit.truth.liver_chi_ppm))
    np.savez(folder / "maps.npz", truth=np.where(tissue, visit.truth.chi_ppm, np.nan), **maps)
    found = subprocess.run([str(peer_python), str(HERE / "score.py"), str(folder / "maps.npz")], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    return {line.pop("name"): line for line in lines}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per phantom and pipeline: the line of measured on true, and means of the rest."""
    lines = []
    for (group, name), cases in rows.groupby(["group", "pipeline"], sort=False):
        known = cases.dropna(subset=["liver_ppm"]) if "liver_ppm" in cases else cases[:0]
        if len(known) < 2:
            continue
        slope, intercept = np.polyfit(known.true_ppm, known.liver_ppm, 1)
        scatter = np.sqrt(np.mean((known.liver_ppm - slope * known.true_ppm - intercept) ** 2)) if len(known) > 2 else np.nan
        line = {"phantom": group, "pipeline": name, "whose": cases.whose.iloc[0], "n": len(known)}
        line |= {"slope": slope, "intercept_ppm": intercept, "scatter_ppm": scatter}
        for column in ("liver_sd_ppm", "liver_rmse_ppm", "streak_sd_ppm", "xsim", "nrmse_percent", "hfen_percent", "cpu_s", "wall_s"):
            line[column] = known[column].mean() if column in known else np.nan
        line["memory_mb"] = known.memory_mb.max()
        lines.append(line)
    return pd.DataFrame(lines)


def one_table(rows: pd.DataFrame) -> str:
    """One line per pipeline, in Markdown: per set the line of measured on true and the scatter about it (RMSE), over all maps their
    error (RMS) and means of the rest; time (mean) and memory (largest) are those of the first set.
    """
    lines = summary(rows)
    if lines.empty:
        return "Too few maps for a line.\n"
    lines = lines.set_index(["phantom", "pipeline"])
    sets = [name for name in SETS if name in lines.index.get_level_values("phantom")]
    titles = [f"{name}: slope, intercept, scatter [ppm]" for name in sets]
    titles += ["error [ppm]", "SD in the liver", "SD where nothing is", "xsim / NRMSE % / HFEN %", "wall s", "CPU s", "MB"]
    text = [f"| pipeline | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for pipeline, maps in rows.groupby("pipeline", sort=False):
        fitted = {name: lines.loc[name, pipeline] for name in sets if (name, pipeline) in lines.index}
        if sets[0] not in fitted:
            continue
        cells = ["no map"] * len(sets)
        for place, name in enumerate(sets):
            if name in fitted:
                line = fitted[name]
                cells[place] = f"{line.slope:.2f}, {line.intercept_ppm:+.2f}, {line.scatter_ppm:.2f}"
        cells.append(f"{np.sqrt(((maps.liver_ppm - maps.true_ppm) ** 2).mean()):.2f}")
        mean = maps.reindex(columns=["liver_sd_ppm", "streak_sd_ppm", "xsim", "nrmse_percent", "hfen_percent"]).mean()
        cells += [f"{mean.liver_sd_ppm:.2f}", f"{mean.streak_sd_ppm:.2f}"]
        cells.append(f"{mean.xsim:.2f} / {mean.nrmse_percent:.0f} / {mean.hfen_percent:.0f}")
        cells += [f"{fitted[sets[0]].wall_s:.1f}", f"{fitted[sets[0]].cpu_s:.1f}", f"{fitted[sets[0]].memory_mb:.0f}"]
        text.append(f"| `{pipeline}` | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
