"""Whatever goes wrong with a visit or a run is said in plain words, and the cohort goes on."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hqsm.study_status import visit_states
from workflow.small_study import command, copy_study, digests, environment, run, simulate_one_visit, table

pytestmark = pytest.mark.faults

PLANTED = {
    # participant: (stage, way, word in the reason)
    "exception": ("gated_echoes", "exception", "internal error (ValueError)"),
    "data": ("gated_echoes", "bad-data", "A planted fault. Take it out."),
    "memory": ("gated_echoes", "out-of-memory", "needed more memory than it was given"),
    "crash": ("gated_echoes", "crash", "was killed (SIGSEGV) in each of 3 attempts"),
    "fit": ("water_fat", "killed", "was killed (SIGKILL) in each of 3 attempts"),
    "outside": ("gated_echoes", "job-killed", "The stage gated_echoes was killed from outside"),
    "page": ("visit_page", "exception", "internal error (ValueError)"),
}
TRANSIENT = {"memory", "crash", "fit", "outside"}


@pytest.fixture(scope="session")
def one_visit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_one_visit(tmp_path_factory.mktemp("one") / "study")


@pytest.fixture(scope="session")
def undisturbed(one_visit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = copy_study(one_visit, tmp_path_factory.mktemp("undisturbed") / "study")
    done = run(study, "--cores", "1")
    assert done.returncode == 0, done.stderr
    return study


@pytest.fixture(scope="module")
def faulty(one_visit: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    study = copy_study(one_visit, tmp_path_factory.mktemp("faulty") / "study", ("good", "hungry", *PLANTED))
    faults = " ".join(f"{stage}:{who}={way}" for who, (stage, way, _) in PLANTED.items())
    return study, run(study, "--cores", "2", faults=f"{faults} gated_echoes:hungry=hungry")


def test_visits_that_fail_in_any_way_become_rows_and_the_cohort_is_made_in_the_same_run(
    faulty: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    study, done = faulty
    assert done.returncode == 3, done.stderr[-3000:]
    rows = {row["participant_id"].removeprefix("sub-"): row for row in table(study, "visits")}
    assert rows["good"]["status"] != "rejected"
    assert rows["hungry"]["status"] != "rejected", "the second attempt gets twice the memory"
    for who, (stage, _, words) in PLANTED.items():
        assert rows[who]["status"] == "rejected", who
        assert rows[who]["stage"] == stage
        assert words in rows[who]["reason"], rows[who]["reason"]
        assert (study / "logs" / stage / f"sub-{who}_ses-01.log").is_file()
        assert words.split("(")[0] in (study / "results" / "qc" / f"sub-{who}_ses-01.html").read_text(encoding="utf-8")
    assert {row["participant_id"] for row in table(study, "lic")} == {"sub-good", "sub-hungry"}
    assert (study / "results" / "report" / "index.html").is_file()
    assert not [p for p in (study / "results" / "maps").rglob("*") if p.is_file() and p.stat().st_size == 0]


def test_the_last_lines_say_what_failed_and_how_to_look(faulty: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = faulty
    last = done.stderr[done.stderr.index("visits are in the tables") :]
    for who in PLANTED:
        assert f"sub-{who}/ses-01: " in last
    assert "`hqsm status STUDY`" in last
    assert "logs/water_fat/sub-fit_ses-01.log" in last
    assert f"{len(TRANSIENT)} of them were killed or ran out of memory: the same command tries them again" in last


def test_status_tells_the_same(faulty: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    states = {s.participant_id.removeprefix("sub-"): s for s in visit_states(faulty[0])}
    assert {who for who, s in states.items() if s.state == "rejected"} == set(PLANTED)
    assert all(words in states[who].detail for who, (_, _, words) in PLANTED.items())


def test_the_same_command_tries_killed_visits_again_and_leaves_bad_data_alone(
    faulty: tuple[Path, subprocess.CompletedProcess[str]], undisturbed: Path
) -> None:
    study, _ = faulty
    done = run(study, "--cores", "2")
    assert done.returncode == 3
    rows = {row["participant_id"].removeprefix("sub-"): row for row in table(study, "visits")}
    assert {who for who, row in rows.items() if row["status"] == "rejected"} == set(PLANTED) - TRANSIENT
    anat = "maps/sub-{0}/ses-01/anat/sub-{0}_ses-01_Chimap.nii.gz"
    truth = (undisturbed / "results" / anat.format("0101")).read_bytes()
    assert (study / "results" / anat.format("fit")).read_bytes() == truth
    assert "Nothing to be done" in run(study, "--dry-run").stdout


def test_a_run_whose_fork_server_is_killed_ends_with_the_same_bytes(one_visit: Path, undisturbed: Path, tmp_path: Path) -> None:
    study = copy_study(one_visit, tmp_path / "study")
    done = run(study, "--cores", "2", faults="water_fat:0101=server-killed")
    assert done.returncode == 0, done.stderr
    assert "water_fat: was killed (SIGKILL); it is tried again" in done.stderr
    assert digests(study) == digests(undisturbed)


def test_one_core_and_two_cores_give_the_same_bytes(one_visit: Path, undisturbed: Path, tmp_path: Path) -> None:
    study = copy_study(one_visit, tmp_path / "study")
    assert run(study, "--cores", "2").returncode == 0
    assert digests(study) == digests(undisturbed)


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(one_visit: Path, undisturbed: Path, tmp_path: Path) -> None:
    study = copy_study(one_visit, tmp_path / "study")
    dice = random.Random(20)
    killed = 0
    while killed < 20:
        process = subprocess.Popen(
            command(study, "--cores", "2"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            # from the reading of the Snakefile to far into a visit's stages
            _, said = process.communicate(timeout=dice.uniform(0.5, 8))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        else:  # it came to its end: from the start again
            assert process.returncode == 0, said
            shutil.rmtree(study / "results")
    done = run(study, "--cores", "2")
    assert done.returncode == 0, done.stderr
    assert "unlock" not in done.stderr.lower()
    assert digests(study) == digests(undisturbed)


def test_no_job_outlives_the_run_that_started_it(one_visit: Path, tmp_path: Path) -> None:
    study = copy_study(one_visit, tmp_path / "study")
    process = subprocess.Popen(
        command(study, "--cores", "1"), env=environment("gated_echoes:0101=slow"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = study / "logs" / "gated_echoes" / "sub-0101_ses-01.log"
    wait_for(log.is_file)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_in(study), within_s=5)


def test_a_second_run_beside_the_first_is_refused_in_plain_words(one_visit: Path, tmp_path: Path) -> None:
    study = copy_study(one_visit, tmp_path / "study")
    first = subprocess.Popen(
        command(study, "--cores", "1"),
        env=environment("gated_echoes:0101=very-slow"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((study / "logs" / "gated_echoes" / "sub-0101_ses-01.log").is_file)
    second = run(study, "--cores", "1")
    looking = run(study, "--dry-run")
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does
    _, said = first.communicate(timeout=120)
    assert second.returncode == 2
    assert f"Another run is working on this study (process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert looking.returncode == 0
    assert "Stopped on request. The same command goes on where it stopped." in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a disk of its own needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_plain_words(one_visit: Path, small_disk: Path) -> None:
    study = small_disk / "study"
    shutil.copytree(one_visit / "records", study / "records")
    (study / "dicom").symlink_to(one_visit / "dicom")
    fill(small_disk, leave_mb=50)
    before = run(study, "--cores", "1")
    assert before.returncode == 2
    assert "The disk of the study is full" in before.stderr
    assert "Make room, then repeat the command." in before.stderr
    (small_disk / "filling").unlink()
    done = run(study, "--cores", "1", faults="gated_echoes:0101=full-disk")
    assert done.returncode == 2
    assert "The disk of the study is full, or results/ cannot be written. Make room" in done.stderr


def test_results_that_cannot_be_written_are_said_in_plain_words(one_visit: Path, small_disk: Path) -> None:
    study = small_disk.parent / "study"
    copy_study(one_visit, study)
    (study / "results").mkdir()
    subprocess.run(["mount", "--bind", str(study / "results"), str(study / "results")], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(study / "results")], check=True)
    done = run(study, "--cores", "1")
    subprocess.run(["umount", str(study / "results")], check=True)
    assert done.returncode == 2
    assert "results/ cannot be written (Read-only file system)" in done.stderr
    assert "Traceback" not in done.stderr


def fill(folder: Path, *, leave_mb: int) -> None:
    free = shutil.disk_usage(folder).free
    with (folder / "filling").open("wb") as handle:
        handle.write(bytes(free - leave_mb * 1_000_000))


def wait_for(condition, within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def processes_in(folder: Path) -> list[str]:
    """Processes whose working directory is a study."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append(process.name)
        except OSError:
            continue
    return found
