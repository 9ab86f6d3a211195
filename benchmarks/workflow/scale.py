"""How long Snakemake thinks about a large study: `python benchmarks/workflow/scale.py [PARTICIPANTS VISITS ...]`.

A study of empty results is made by hand (a file of one byte per visit, a file for every output, `snakemake --touch` for its
records), so that no image is computed. Then: a dry run of everything, a run with nothing to do, `hqsm status`. Wall and CPU seconds;
on a machine that does something else besides, the CPU seconds are what counts.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hqsm.commands.run import REPOSITORY

TARGETS_S = {210: 10, 10000: 180}
STATUS_TARGET_S = 2


def timed(label: str, command: list[str], target_s: float | None = None) -> str:
    """Run a command; print its seconds; return what it said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    aim = f" (target: below {target_s:g} s)" if target_s else ""
    print(f"  {label:28s}{wall_s:8.1f} s wall{cpu_s:8.1f} s CPU{aim}", flush=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout + done.stderr


def measure(participants: int, visits: int) -> None:
    print(f"{participants} participants x {visits} visits", flush=True)
    with tempfile.TemporaryDirectory() as name:
        study = Path(name)
        for k in range(participants):
            for s in range(visits):
                folder = study / "dicom" / f"sub-{k:04d}" / f"ses-{s:02d}"
                folder.mkdir(parents=True)
                (folder / "a").write_bytes(b"1")
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
        command += ["--workflow-profile", str(REPOSITORY / "workflow/profiles/default")]
        target = TARGETS_S.get(participants * visits)
        plan = timed("dry run of everything", [*command, "--dry-run"], target)
        for line in re.findall(r"^ *(?:output|log|benchmark): (.+)$", plan, re.M):
            for path in line.split(", "):
                file = study / path
                if file.suffix or file.name == "README" or file.name.startswith("."):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text("{}", encoding="utf-8")
                else:
                    file.mkdir(parents=True, exist_ok=True)
        timed("(its records, by --touch)", [*command, "--touch", "--quiet", "all"])
        said = timed("nothing to do", [*command], target)
        if "Nothing to be done" not in said:
            raise SystemExit("there was something to do:\n" + said[-2000:])
        for status in study.glob("results/work/sub-*/*.json"):
            status.write_text('{"failed": false}', encoding="utf-8")
        timed("hqsm status", [sys.executable, "-m", "hqsm.cli", "status", str(study)], STATUS_TARGET_S)


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [42, 5]
    os.environ["OMP_NUM_THREADS"] = "1"
    for participants, visits in zip(sizes[::2], sizes[1::2], strict=True):
        measure(participants, visits)


if __name__ == "__main__":
    main()
