"""The workflow on a real Slurm: controller, database and three nodes on this machine (cluster.sh)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hqsm.phantom.cohort import simulate_study
from workflow.small_study import command, copy_study, digests, environment, run, simulate_one_visit, table

pytestmark = pytest.mark.slurm

CLUSTER = Path(__file__).with_name("cluster.sh")
FAST = ("--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "2", "--latency-wait", "10")


def cluster(*action: str) -> None:
    done = subprocess.run([str(CLUSTER), *action], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def slurm() -> Iterator[None]:
    if os.getuid() != 0:
        pytest.skip("a Slurm for tests needs root")
    missing = [name for name in ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (tests/slurm/cluster.sh install)")
    cluster("up")
    yield
    cluster("down")


def start(study: Path, *further: str, faults: str = "") -> subprocess.Popen[str]:
    with (study / "said.txt").open("w", encoding="utf-8") as said:
        return subprocess.Popen(
            command(study, *FAST, *further, profile="slurm"), env=environment(faults), stdout=said, stderr=said, text=True
        )


def finish(process: subprocess.Popen[str], study: Path) -> str:
    process.wait(timeout=600)
    return (study / "said.txt").read_text(encoding="utf-8")


def running() -> list[str]:
    return subprocess.run(["squeue", "-h", "-t", "R", "-o", "%A"], check=False, capture_output=True, text=True).stdout.split()


def wait_for(condition: Callable[[], object], within_s: float = 120) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


def last_job() -> int:
    """The highest number that Slurm gave so far."""
    return max((int(row[0]) for row in accounted(0)), default=0)


def accounted(after: int) -> list[list[str]]:
    """Number, state and memory [MB] of every submission with a higher number, from the accounting database."""
    columns = ["sacct", "-X", "-n", "-P", "-D", "-S", "now-1day", "-o", "jobid,state,reqmem"]
    rows = [line.split("|") for line in subprocess.run(columns, check=True, capture_output=True, text=True).stdout.splitlines()]
    return [row for row in rows if row[0].isdigit() and int(row[0]) > after]


def megabytes(text: str) -> float:
    return float(text.rstrip("MGn")) * (1024 if "G" in text else 1)


@pytest.fixture(scope="module")
def two_visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = simulate_one_visit(tmp_path_factory.mktemp("one") / "study")
    return copy_study(one, tmp_path_factory.mktemp("two") / "study", ("0101", "0102"))


@pytest.fixture(scope="module")
def two_visits_locally(two_visits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    study = fresh(two_visits, tmp_path_factory.mktemp("local"))
    done = run(study, "--cores", "2")
    assert done.returncode == 0, done.stderr
    return digests(study)


def fresh(study: Path, folder: Path) -> Path:
    return Path(shutil.copytree(study, folder / "study", copy_function=os.link))


def test_a_whole_study_gives_the_bytes_of_the_local_run_with_one_submission_a_visit(tmp_path: Path) -> None:
    made = tmp_path / "made"
    simulate_study(made, participants=3, visits=1, size="tiny", progress=lambda _: None)
    local, away = fresh(made, tmp_path / "local"), fresh(made, tmp_path / "away")
    assert run(local, "--cores", "2").returncode == 3  # one visit is broken on purpose
    before = last_job()
    # one visit fills its allocation on the first attempt, and Slurm ends it
    process = start(away, faults="gated_echoes:0101=fills-allocation")
    said = finish(process, away)
    assert process.returncode == 3, said[-4000:]
    assert digests(away) == digests(local)
    assert len(table(away, "visits")) == 4
    jobs = accounted(before)
    failed = [job for job in jobs if not job[1].startswith("COMPLETED")]
    assert len(jobs) == 4 + 1, jobs
    assert len(failed) == 1, jobs
    memory = sorted(megabytes(job[2]) for job in jobs)
    assert memory[-1] > 1.9 * memory[0], "the second attempt asks for twice the memory"


def test_a_killed_job_a_drained_node_and_a_restarted_controller_are_survived(
    two_visits: Path, two_visits_locally: dict[str, str], tmp_path: Path
) -> None:
    study = fresh(two_visits, tmp_path)
    before = last_job()
    process = start(study, faults="gated_echoes:0102=slow")
    wait_for(lambda: len(running()) == 2)
    subprocess.run(["scontrol", "update", "nodename=n1", "state=drain", "reason=test"], check=True)
    subprocess.run(["scancel", running()[0]], check=True)
    cluster("restart", "3")
    said = finish(process, study)
    subprocess.run(["scontrol", "update", "nodename=n1", "state=resume"], check=True)
    assert process.returncode == 0, said[-4000:]
    assert digests(study) == two_visits_locally
    assert len(accounted(before)) == 3


def test_ctrl_c_takes_the_jobs_away_and_the_same_command_goes_on(
    two_visits: Path, two_visits_locally: dict[str, str], tmp_path: Path
) -> None:
    study = fresh(two_visits, tmp_path)
    process = start(study, faults="water_fat:0102=slow")
    wait_for((study / "logs" / "water_fat" / "sub-0102_ses-01.log").is_file)
    process.send_signal(signal.SIGINT)
    said = finish(process, study)
    assert process.returncode != 0
    assert "Stopped on request. The same command goes on where it stopped." in said
    wait_for(lambda: not running(), within_s=30)
    process = start(study)
    said = finish(process, study)
    assert process.returncode == 0, said[-4000:]
    assert digests(study) == two_visits_locally


@pytest.mark.parametrize("stage", ["gated_echoes", "water_fat"])
def test_jobs_of_a_killed_run_make_way_for_the_next_one(
    two_visits: Path, two_visits_locally: dict[str, str], tmp_path: Path, stage: str
) -> None:
    """In its first stage or a later one: what the stages before have finished is neither lost nor written twice."""
    study = fresh(two_visits, tmp_path)
    process = start(study, faults=f"{stage}:0101=very-slow")
    wait_for((study / "logs" / stage / "sub-0101_ses-01.log").is_file)
    process.kill()
    process.wait()
    process = start(study)
    said = finish(process, study)
    assert process.returncode == 0, said[-4000:]
    wait_for(lambda: not running(), within_s=60)  # the first run's job would have slept for longer
    assert digests(study) == two_visits_locally


def test_scancel_of_everything_ends_in_rejected_rows_and_the_same_command_tries_again(
    two_visits: Path, two_visits_locally: dict[str, str], tmp_path: Path
) -> None:
    study = fresh(two_visits, tmp_path)
    process = start(study, "--retries", "0", faults="gated_echoes:0101=slow gated_echoes:0102=slow")
    wait_for(lambda: len(running()) == 2)
    subprocess.run(["scancel", *running()], check=True)
    said = finish(process, study)
    assert process.returncode == 3, said[-4000:]
    assert "the same command tries them again" in said
    assert {row["status"] for row in table(study, "visits")} == {"rejected"}
    process = start(study)
    said = finish(process, study)
    assert process.returncode == 0, said[-4000:]
    assert digests(study) == two_visits_locally


def test_the_profile_needs_no_path_of_this_checkout(two_visits: Path) -> None:
    """Jobs run with the interpreter that submitted them; what is on its path at home must be there too."""
    text = (Path(__file__).parents[2] / "workflow" / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    assert "PYTHONPATH" not in text
    assert str(Path(sys.executable).parent) not in text
