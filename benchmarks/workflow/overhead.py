"""What share of a run is not computation: `python benchmarks/workflow/overhead.py [STUDY]` (a demo study is made without one).

CPU seconds of every process of a run on one core: Snakemake itself, the interpreters' starts and imports, and what is left,
the computation. numba's compilation is done before (a study's first run pays it once, for good).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hqsm.phantom.cohort import simulate_study
from hqsm.workflow_folder import REPOSITORY

TARGET_PERCENT = 25


def run(study: Path, hook: Path | None) -> float:
    """Run a study on one core; its CPU seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if hook is not None:
        paths = [str(Path(__file__).parent / "hook"), os.environ.get("PYTHONPATH", "")]
        environment |= {"HQSM_OVERHEAD": str(hook), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
    command += ["--workflow-profile", str(REPOSITORY / "workflow/profiles/default"), "--cores", "1", "--quiet", "all"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run(command, env=environment, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status not in {0, 3}:
        raise SystemExit(f"the run ended with status {status}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, help="a study; its results are left as they are")
    parser.add_argument("--size", choices=("demo", "tiny"), default="demo")
    parser.add_argument("--participants", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = options.study
        if given is None:
            given = folder / "given"
            simulate_study(given, participants=options.participants, visits=2, size=options.size, progress=lambda _: None)
        warm, study, hook = folder / "warm", folder / "study", folder / "hook"
        hook.mkdir()
        for target in (warm, study):
            shutil.copytree(given, target, ignore=shutil.ignore_patterns("results", "logs", ".snakemake"))
        first = sorted((warm / "dicom").glob("*"))
        for extra in first[1:]:
            shutil.rmtree(extra)
        run(warm, None)
        total = run(study, hook)
        facts = [json.loads(path.read_text(encoding="utf-8")) for path in hook.glob("*.json")]
        n_visits = len(list((study / "dicom").glob("*/*")))
    snakemake = sum(f["total_s"] for f in facts if f["kind"] == "snakemake" and not f["forked"])
    jobs = [f for f in facts if f["kind"] == "job"]
    imports = sum(f["imports_s"] for f in jobs)
    computing = sum(f["total_s"] - f["imports_s"] for f in jobs)
    print(
        f"{n_visits} visits ({options.size if options.study is None else options.study.name}), {len(jobs)} processes of jobs, CPU seconds:"
    )
    for label, value in (
        ("computation", computing),
        ("imports of the jobs", imports),
        ("Snakemake itself", snakemake),
        ("shells and the rest", total - computing - imports - snakemake),
        ("all", total),
    ):
        print(f"  {label:22s}{value:8.1f}  {100 * value / total:5.1f} %")
    share = 100 * (1 - computing / total)
    print(f"not computation: {share:.1f} % (target: below {TARGET_PERCENT} %)")
    raise SystemExit(share >= TARGET_PERCENT)


if __name__ == "__main__":
    main()
