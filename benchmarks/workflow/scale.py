"""How long Snakemake thinks about a large study: `python benchmarks/workflow/scale.py [PARTICIPANTS VISITS ...]`.

A study of empty results is made by hand (a file of one byte per visit, a file for every output), so that no image is computed. One
visit's results and Snakemake's records of them come from a dry run and `--touch`; those of the others are copies under their names.
Then: a dry run of everything, a run with nothing to do, `hqsm status`. Wall and CPU seconds; on a machine that does something else
besides, the CPU seconds are what counts.
"""

from __future__ import annotations

import base64
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hqsm.study import INDEX, read_index
from hqsm.workflow_folder import REPOSITORY

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
    target = TARGETS_S.get(participants * visits)
    with tempfile.TemporaryDirectory() as name:
        study = Path(name)
        names = [(f"sub-{k:04d}", f"ses-{s:02d}") for k in range(participants) for s in range(visits)]
        add_visits(study, names[:1])
        write_outputs(study, timed("(dry run of one visit)", [*command(study), "--dry-run"]))
        timed("(its records, by --touch)", [*command(study), "--touch", "--forceall", "--quiet", "all"])
        add_visits(study, names[1:])
        timed("dry run of everything", [*command(study), "--dry-run", "--forceall"], target)
        copy_results(study, names[0], fingerprints_of(study))
        timed("(the cohort's, by --touch)", [*command(study), "--touch", "--quiet", "all"])
        said = timed("nothing to do", command(study), target)
        if "Nothing to be done" not in said:
            raise SystemExit("there was something to do:\n" + said[-2000:])
        for status in study.glob("results/work/sub-*/*.json"):
            status.write_text('{"failed": false}', encoding="utf-8")
        timed("hqsm status", [sys.executable, "-m", "hqsm.cli", "status", str(study)], STATUS_TARGET_S)


def command(study: Path) -> list[str]:
    """Snakemake on a study."""
    arguments = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
    return [*arguments, "--workflow-profile", str(REPOSITORY / "workflow/profiles/default")]


def add_visits(study: Path, names: list[tuple[str, str]]) -> None:
    for visit in names:
        folder = study.joinpath("dicom", *visit)
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"1")


def write_outputs(study: Path, plan: str) -> None:
    """An empty file (or folder) for every output that a dry run names."""
    for line in re.findall(r"^ *(?:output|log): (.+)$", plan, re.M):
        for path in line.split(", "):
            file = study / path
            if file.suffix or file.name == "README" or file.name.startswith("."):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("{}", encoding="utf-8")
            else:
                file.mkdir(parents=True, exist_ok=True)


def fingerprints_of(study: Path) -> dict[tuple[str, str], str]:
    """What the workflow takes each visit's files for; part of Snakemake's records."""
    return {(f"sub-{v.participant}", f"ses-{v.session}"): v.content for v in read_index(study / INDEX)[0].visits}


def copy_results(study: Path, first: tuple[str, str], fingerprints: dict[tuple[str, str], str]) -> None:
    """The results of the first visit, and Snakemake's records of them, as those of the others; all of one moment."""
    content = fingerprints.pop(first)
    spellings = ("_".join(first), "/".join(first))
    made = [path.relative_to(study).as_posix() for part in ("results", "logs") for path in (study / part).rglob("*")]
    made = sorted(path for path in made if any(spelling in path for spelling in spellings))
    records = study / ".snakemake" / "metadata"
    known = {base64.b64decode(record.name).decode(): record.read_text(encoding="utf-8") for record in records.iterdir()}
    known = {path: text for path, text in known.items() if any(spelling in path for spelling in spellings)}
    now = time.time_ns()
    for visit, found in fingerprints.items():

        def renamed(text: str, visit: tuple[str, str] = visit) -> str:
            return text.replace(spellings[0], "_".join(visit)).replace(spellings[1], "/".join(visit))

        for path in made:
            target = study / renamed(path)
            if (study / path).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("{}", encoding="utf-8")
        for path in made:
            os.utime(study / renamed(path), ns=(now, now))
        for path, text in known.items():
            name = base64.b64encode(renamed(path).encode()).decode()
            (records / name).write_text(renamed(text).replace(content, found), encoding="utf-8")


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [42, 5]
    os.environ["OMP_NUM_THREADS"] = "1"
    for participants, visits in zip(sizes[::2], sizes[1::2], strict=True):
        measure(participants, visits)


if __name__ == "__main__":
    main()
