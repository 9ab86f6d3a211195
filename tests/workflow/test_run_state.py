"""A job's child is watched; a study has one holder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hqsm import run_state, workflow_support
from hqsm.config.study import as_plain, load_config
from hqsm.errors import InputError
from hqsm.stage import write_json
from hqsm.study import discover
from hqsm.supervise import RunEnded, run_in_child

HOLD = "import time; from hqsm.run_state import take_study; print(take_study(), flush=True); time.sleep(60)"


def test_the_ending_of_a_child_is_told() -> None:
    assert run_in_child(lambda: 0, 1e6).status == 0
    assert run_in_child(lambda: 7, 1e6).status == 7
    assert run_in_child(lambda: os.kill(os.getpid(), signal.SIGKILL) or 0, 1e6).status == -signal.SIGKILL


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_a_child_that_needs_more_memory_than_it_was_given_is_stopped() -> None:
    def hungry() -> int:
        pages = b"x" * 400_000_000
        time.sleep(20)
        return len(pages) % 2

    start = time.monotonic()
    ending = run_in_child(hungry, 300)
    assert ending.over_memory
    assert time.monotonic() - start < 15
    assert not run_in_child(lambda: 0, 300).over_memory


def test_a_child_of_a_run_that_is_over_is_stopped() -> None:
    goes_on = iter([True, True, False])
    with pytest.raises(SystemExit, match="has ended"):
        run_in_child(lambda: time.sleep(60) or 0, 1e6, lambda: next(goes_on))


def test_a_job_of_a_run_that_is_over_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(RunEnded):
        run_in_child(lambda: (tmp_path / "begun").write_text("x"), 1e6, lambda: False)
    assert not (tmp_path / "begun").exists()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").write_text("x", encoding="utf-8")
    return tmp_path


def test_a_lock_that_a_dead_run_left_is_taken_away(study: Path) -> None:
    assert run_state.take_study() == ""
    assert not list((study / ".snakemake" / "locks").iterdir())


def test_the_holder_of_a_study_is_named_and_its_locks_stay(study: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], cwd=study, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "\n"
        (study / ".snakemake" / "locks" / "0.input.lock").write_text("x", encoding="utf-8")
        said = run_state.take_study()
        holder.kill()
    assert f"(process {holder.pid} on " in said
    assert list((study / ".snakemake" / "locks").iterdir())
    assert run_state.take_study() == "", "the kernel let go of it"


def test_a_full_disk_is_refused_before_anything_runs(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "LEAST_FREE_MB", 1e12)
    with pytest.raises(InputError, match=r"The disk of the study is full .* Make room"):
        run_state.take_study()


def test_a_killed_visit_is_due_again_and_counted(study: Path) -> None:
    run_state.take_study()
    (study / "logs" / "water_fat").mkdir(parents=True)
    (study / "logs" / "water_fat" / "sub-1_ses-1.log").write_text("", encoding="utf-8")
    run_state.give_up(["sub-1_ses-1", "sub-2_ses-1"], since=time.time() - 60)
    assert run_state.given_up("sub-1_ses-1")["stage"] == "water_fat"  # type: ignore[index]
    assert "never started" in run_state.given_up("sub-2_ses-1")["reason"]  # type: ignore[index]
    assert run_state.given_up("sub-3_ses-1") is None
    run_state.try_again(["sub-1_ses-1"])
    run_state.try_again(["sub-1_ses-1"])
    assert run_state.retries() == {"sub-1_ses-1": 2}


def test_a_job_knows_its_run_by_its_environment_and_else_by_the_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_state.WORK.mkdir(parents=True)
    monkeypatch.setattr(os, "environ", {})
    run_state.begin_run(attempts=1)
    first, environment_of_its_jobs = run_state.current_run(), dict(os.environ)
    run_state.begin_run(attempts=1)
    assert run_state.run_of_job() == run_state.current_run() != first
    monkeypatch.setattr(os, "environ", environment_of_its_jobs)
    assert run_state.run_of_job() == first
    monkeypatch.setattr(os, "environ", {})
    assert run_state.run_of_job() == run_state.current_run()


@pytest.mark.parametrize(("of_the_run", "ended"), [("", True), ("777000011", True), ("777000012", False), (None, False)])
def test_only_a_slurm_job_that_the_run_submitted_is_ended(
    study: Path, monkeypatch: pytest.MonkeyPatch, of_the_run: str | None, *, ended: bool
) -> None:
    """Not the interactive allocation that a person works in, and nothing of another job."""
    run_state.WORK.mkdir(parents=True)
    job = "777000012"
    processes = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"SLURM_JOB_ID": number}) for number in (job, job + "3")
    ]
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": of_the_run} if of_the_run else {})
    if of_the_run is not None:
        run_state.begin_run(attempts=1)
    os.environ["SLURM_JOB_ID"] = job
    run_state.end_slurm_job()
    time.sleep(0.5)
    assert [process.poll() for process in processes] == [-signal.SIGKILL if ended else None, None]
    for process in processes:
        process.kill()
        process.wait()


def test_results_of_visits_whose_images_are_gone_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("sub-1_ses-1", "sub-1_ses-2", "benchmarks", "records"):
        (tmp_path / "results" / "work" / folder).mkdir(parents=True)
    (tmp_path / "dicom" / "sub-1" / "ses-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    study = SimpleNamespace(index=discover(Path())[0])
    assert workflow_support._results_without_images(study) == ["sub-1_ses-2"]  # type: ignore[arg-type]


def test_the_end_of_a_run_tells_folders_that_are_no_visits_and_errors_in_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("sub-1/ses-1", "sub-2"):
        (tmp_path / "dicom" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write_json("results/work/records/findings.json", {"findings": [{"severity": "error"}, {"severity": "warning"}]})
    config = load_config({})
    index = discover(Path())[0]
    study = workflow_support.OpenStudy(config=config, index=index, stage_parameters=as_plain(config), code_digests={}, retries={})
    assert workflow_support.close_run(study, succeeded=True) == 3
    said = capsys.readouterr().err
    for words in (
        "1 of 2 visits are in the tables",
        "sub-2: There is no ses-<label> folder in it",
        "The records have an error: `hqsm check",
    ):
        assert words in said
    monkeypatch.setattr(workflow_support.sys, "argv", ["snakemake", "-n"])
    (tmp_path / "decisions.csv").write_text("participant_id,session_id,decision,who,when,why\n1,1,exclude,AB,,\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        workflow_support.open_study({}, Path("scripts"), is_main_process=True)
    assert ended.value.code == 2
    assert "decisions.csv line 2: when is empty" in capsys.readouterr().err
    (tmp_path / "decisions.csv").unlink()
    workflow_support.open_study({}, Path("scripts"), is_main_process=True)
    assert "1 visit found" in capsys.readouterr().err
