"""The profile for any other batch system, with commands that start processes instead of submitting them."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from workflow.small_study import command, copy_study, digests, environment, run, simulate_one_visit

pytestmark = pytest.mark.faults

COMMANDS = Path(__file__).parent / "batch_system"
QUICK = ("--cluster-generic-status-cmd", str(COMMANDS / "qstatus"), "--seconds-between-status-checks", "1", "--latency-wait", "10")


@pytest.fixture
def submitted(tmp_path: Path) -> Path:
    folder = tmp_path / "batch"
    folder.mkdir()
    return folder


def test_a_study_on_another_batch_system_gives_the_bytes_of_a_local_run(tmp_path: Path, submitted: Path) -> None:
    one = simulate_one_visit(tmp_path / "one")
    away, local = copy_study(one, tmp_path / "away", ("0101", "0102")), copy_study(one, tmp_path / "local", ("0101", "0102"))
    paths = {"PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}", "FAKE_BATCH": str(submitted)}
    process = subprocess.Popen(
        command(away, *QUICK, profile="generic"),
        env={**environment("gated_echoes:0102=slow"), **paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # the system ends a job that has begun
    log = away / "logs" / "gated_echoes" / "sub-0102_ses-01.log"
    end = time.monotonic() + 240
    while not log.is_file():
        assert time.monotonic() < end, process.poll()
        time.sleep(0.5)
    number = next(path.stem for path in submitted.glob("*.arguments") if names(path, away, "sub-0102"))
    subprocess.run([COMMANDS / "qdel", number], check=True, env={**os.environ, **paths})
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said[-4000:]
    assert run(local, "--cores", "2").returncode == 0
    assert digests(away) == digests(local)
    asked = [path.read_text(encoding="utf-8") for path in sorted(submitted.glob("*.arguments"))]
    assert len(asked) == 3, "a visit is one submission, and the one that was ended is made again"
    memory = sorted(int(text.split("mem_free=")[1].split("M")[0]) for text in asked)
    assert memory[2] == 2 * memory[1] == 2 * memory[0]


def names(arguments: Path, study: Path, visit: str) -> bool:
    """Whether a submission's script is about a visit."""
    script = Path(arguments.read_text(encoding="utf-8").split()[-1])
    return visit in (study / script).read_text(encoding="utf-8")
