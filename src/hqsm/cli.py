"""Edge: the command line; thin, every command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from hqsm import __version__
from hqsm.errors import HqsmError

REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a known error becomes one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="hqsm", description="Liver iron from raw multi-echo MRI.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    simulate = commands.add_parser("simulate", help="write a simulated study (raw DICOM, records; truth beside it)")
    simulate.add_argument("study", type=Path)
    simulate.add_argument("--participants", type=int, default=12)
    simulate.add_argument("--visits", type=int, default=3, help="annual visits of a thalassaemia participant")
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--size", choices=("demo", "tiny"), default="demo")

    run = commands.add_parser("run", help="run the workflow on a study folder")
    run.add_argument("study", type=Path)
    run.add_argument("snakemake", nargs=argparse.REMAINDER, help="further arguments for snakemake")

    demo = commands.add_parser("demo", help="simulate a small study, run it, compare it with its truth")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--participants", type=int, default=12)
    demo.add_argument("--size", choices=("demo", "tiny"), default="demo")

    accuracy = commands.add_parser("accuracy", help="compare a simulated study's results with its truth")
    accuracy.add_argument("study", type=Path)

    inspect = commands.add_parser("inspect", help="say what a folder of DICOM holds and what would be used")
    inspect.add_argument("folder", type=Path)

    commands.add_parser("schema", help="print the JSON schema of config.yaml")
    options = parser.parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except HqsmError as error:
        sys.stderr.write(f"hqsm: {error}\n")
        return 2


def _simulate(options: argparse.Namespace) -> int:
    from hqsm.phantom.cohort import simulate_study

    truth = simulate_study(options.study, participants=options.participants, visits=options.visits, seed=options.seed, size=options.size)
    sys.stdout.write(f"study: {options.study}\ntruth: {truth}\n")
    return 0


def run_workflow(study: Path, further: list[str]) -> int:
    """Run snakemake on a study; returns its exit status (3: some visits were rejected, the tables are made)."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
    if "--workflow-profile" not in further:
        command += ["--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / "default")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run([*command, *further], env=environment, check=False).returncode


def _run(options: argparse.Namespace) -> int:
    return run_workflow(options.study, options.snakemake)


def _demo(options: argparse.Namespace) -> int:
    from hqsm.phantom.accuracy import score
    from hqsm.phantom.cohort import simulate_study, truth_folder

    study = options.folder / "study"
    if not (truth_folder(study) / "visits.tsv").is_file():
        sys.stdout.write(f"[1/3] simulating {options.participants} participants as raw DICOM in {study}\n")
        simulate_study(study, participants=options.participants, size=options.size)
    sys.stdout.write("[2/3] running the workflow; one visit is broken on purpose and will be rejected\n")
    sys.stdout.flush()
    status = run_workflow(study, [])
    if status not in {0, 3}:
        return status
    sys.stdout.write("[3/3] comparing with the truth\n\n")
    sys.stdout.write(score(study, truth_folder(study)).render() + "\n\n")
    sys.stdout.write(f"Report: {(study / 'results' / 'report' / 'index.html').resolve()}\n")
    return 0


def _accuracy(options: argparse.Namespace) -> int:
    from hqsm.phantom.accuracy import score
    from hqsm.phantom.cohort import truth_folder

    sys.stdout.write(score(options.study, truth_folder(options.study)).render() + "\n")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from hqsm.config.dicom import DicomParams
    from hqsm.dicom.reader import read_visit

    visit = read_visit(options.folder, DicomParams())
    echoes, info = visit.echoes, visit.info
    lines = [
        f"convention    {info.convention} ({info.manufacturer} {info.model})",
        f"echo times    {', '.join(f'{1e3 * t:g}' for t in echoes.echo_times_s)} ms",
        f"repetitions   {echoes.n_repetitions}",
        f"field         {echoes.field_strength_tesla:.3f} T",
        f"grid          {' x '.join(map(str, echoes.grid.shape))} voxels of "
        f"{' x '.join(f'{d:g}' for d in echoes.grid.voxel_size_mm.round(3))} mm",
        f"navigator     {visit.navigator.source if visit.navigator else 'none'}",
    ]
    lines += [f"left aside    {item.name}: {item.kind}, {item.reason}" for item in info.set_aside]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _schema(_: argparse.Namespace) -> int:
    from hqsm.config.study import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=1) + "\n")
    return 0


_COMMANDS = {
    "simulate": _simulate,
    "run": _run,
    "demo": _demo,
    "accuracy": _accuracy,
    "inspect": _inspect,
    "schema": _schema,
}


if __name__ == "__main__":
    sys.exit(main())
