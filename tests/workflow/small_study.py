"""The smallest studies that the simulator makes, and runs of them in a process of their own."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hqsm.phantom.cohort import simulate_study
from hqsm.workflow_folder import REPOSITORY

FAULTS = Path(__file__).parent / "faults"


def simulate_one_visit(folder: Path) -> Path:
    """A study with one visit of one participant, sub-0101/ses-01, and its records."""
    simulate_study(folder, participants=1, visits=1, size="tiny", with_bad_visit=False, progress=lambda _: None)
    return folder


def copy_study(study: Path, target: Path, participants: tuple[str, ...] = ("0101",)) -> Path:
    """A study whose participants all have the first visit of ``study``; runs on nothing but links to its images."""
    source = study / "dicom" / "sub-0101" / "ses-01"
    for participant in participants:
        shutil.copytree(source, target / "dicom" / f"sub-{participant}" / "ses-01", copy_function=os.link)
    shutil.copytree(study / "records", target / "records")
    return target


def command(study: Path, *further: str, profile: str = "default") -> list[str]:
    """Snakemake on a study, as a person types it."""
    arguments = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(study)]
    return [*arguments, "--workflow-profile", str(REPOSITORY / "workflow" / "profiles" / profile), *further]


def environment(faults: str = "") -> dict[str, str]:
    """The environment of a run; ``faults``: see faults/sitecustomize.py."""
    path = os.pathsep.join([str(FAULTS), str(REPOSITORY / "src")])
    return {**os.environ, "PYTHONPATH": path, "HQSM_FAULTS": faults, "OMP_NUM_THREADS": "1"}


def run(study: Path, *further: str, faults: str = "", profile: str = "default", timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a study to its end."""
    arguments = command(study, *further, profile=profile)
    return subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment(faults), timeout=timeout_s)


def table(study: Path, name: str) -> list[dict[str, str]]:
    """Rows of a table of the results."""
    with (study / "results" / "tables" / f"{name}.tsv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def digests(study: Path) -> dict[str, str]:
    """Hash of every TSV and NIfTI of the results, by its path; what only says how long jobs took is left out."""
    paths = [p for p in (study / "results").rglob("*") if p.suffix == ".tsv" or p.name.endswith(".nii.gz")]
    kept = [p for p in paths if "benchmarks" not in p.parts]
    return {str(p.relative_to(study)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}
