"""The Job for Kubernetes asks Snakemake for what it understands, and the pod for what Snakemake uses."""

import subprocess
import sys
from pathlib import Path

import yaml

from hqsm.workflow_folder import REPOSITORY

PROFILE = REPOSITORY / "workflow" / "profiles" / "kubernetes"


def test_snakemake_plans_a_study_by_the_command_of_the_job(tmp_path: Path) -> None:
    visit = tmp_path / "dicom" / "sub-01" / "ses-01"
    visit.mkdir(parents=True)
    (visit / "a").write_bytes(b"0")
    pod = yaml.safe_load((PROFILE / "job.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, *arguments = container["command"]
    assert program.endswith("/snakemake")
    study = arguments[arguments.index("--directory") + 1]
    assert study.startswith(container["volumeMounts"][0]["mountPath"])
    arguments = [str(tmp_path) if argument == study else argument for argument in arguments]
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "susceptibility" in done.stdout


def test_the_profile_uses_what_the_pod_asks_for() -> None:
    pod = yaml.safe_load((PROFILE / "job.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    asked = pod["containers"][0]["resources"]
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text(encoding="utf-8"))
    assert profile["cores"] == int(asked["requests"]["cpu"])
    jobs_mb = int(profile["resources"][0].removeprefix("mem_mb="))
    assert 0.7 < jobs_mb / (int(asked["limits"]["memory"].removesuffix("Gi")) * 1024) < 0.95
