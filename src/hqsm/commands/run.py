"""Run the workflow on a study folder."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="study folder (dicom/, records/, config.yaml)")
    parser.add_argument("snakemake", nargs=argparse.REMAINDER, help="further arguments for snakemake")


def run_workflow(study: Path, further: list[str]) -> int:
    """Run snakemake on a study; returns its exit status (3: some visits were rejected, the tables are made)."""
    from hqsm.errors import InputError
    from hqsm.workflow_folder import workflow_folder

    if not study.is_dir():  # snakemake would make it
        raise InputError(f"There is no folder {study}.", remedy="Name a study folder.", code="STUDY_NONE")
    folder = workflow_folder()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(folder / "Snakefile"), "--directory", str(study)]
    if "--workflow-profile" not in further:
        command += ["--workflow-profile", str(folder / "workflow" / "profiles" / "default")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run([*command, *further], env=environment, check=False).returncode


def run(options: argparse.Namespace) -> int:
    """Run the workflow and pass its exit status on."""
    return run_workflow(options.study, options.snakemake)
