"""Edge: what one run of a study must know of itself and of the runs before it.

``results/work/`` holds ``run.json`` (which run is going on, and how often its jobs may be tried), ``given_up.json`` (visits whose
job was killed from outside, while the rest of the run is finished without them), ``retries.json`` (how often a visit ended so that
the next run tries it again) and ``lock`` (held by the process that runs; the kernel lets go of it when that process ends, however
it ends).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from hqsm.errors import InputError

WORK = Path("results/work")
RUN, GIVEN_UP, RETRIES, LOCK = WORK / "run.json", WORK / "given_up.json", WORK / "retries.json", WORK / "lock"
SNAKEMAKE_LOCKS = Path(".snakemake/locks")
LEAST_FREE_MB = 100
_RUN_OF_JOB, _SLURM_JOB, _SLURM_JOB_OF_RUN = "HQSM_RUN", "SLURM_JOB_ID", "HQSM_RUN_IN_SLURM_JOB"
STAGES = ("gated_echoes", "water_fat", "regions", "susceptibility", "liver_iron", "visit_page")
"""The stages of a visit in their order; each leaves ``results/work/<visit>/<stage>.json`` and ``logs/<stage>/<visit>.log``."""

Facts = dict[str, Any]

_process: dict[str, Any] = {"lock": None, "interrupted": False}
"""Of this process: the open file that holds the study, and whether it was asked to stop."""


def take_study() -> str:
    """Make this process the one that runs the study in the current directory.

    Returns
    -------
    str
        A sentence about another process that runs it now; empty where there is none. Locks that a run left behind when it was
        killed are taken away.

    Raises
    ------
    InputError
        If ``results/`` cannot be written or the disk is full.
    """
    try:
        WORK.mkdir(parents=True, exist_ok=True)
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        disk = os.statvfs(WORK)
        free_mb = disk.f_bavail * disk.f_frsize / 1e6
        if free_mb < LEAST_FREE_MB:
            raise OSError(errno.ENOSPC, f"{free_mb:.0f} MB free, a run needs {LEAST_FREE_MB} MB and more")
    except OSError as error:
        raise cannot_write(error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = any(SNAKEMAKE_LOCKS.glob("*"))
        said = os.pread(handle, 500, 0).decode(errors="replace").strip() if running else ""
        os.close(handle)
        remedy = "Wait until it has ended, or stop it (Ctrl-C there); then repeat the command."
        return f"another run is working on this study ({said}). {remedy}" if running else ""
    except OSError:  # a file system without such locks: Snakemake's own lock stands
        os.close(handle)
        return ""
    _process["lock"] = handle
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n".encode(), 0)
    for path in [*SNAKEMAKE_LOCKS.glob("*"), GIVEN_UP]:
        path.unlink(missing_ok=True)
    return ""


def cannot_write(error: OSError) -> InputError:
    """The sentence for a study whose results cannot be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        detail = error.strerror or "no space left"
        return InputError(f"The disk of the study is full ({detail}).", remedy="Make room, then repeat the command.", code="DISK_FULL")
    return InputError(
        f"results/ cannot be written ({os.strerror(error.errno or errno.EACCES)}).",
        remedy="Give the right to write there (or mount it writable), then repeat the command.",
        code="RESULTS_READ_ONLY",
    )


DISK_REFUSED = "results/ cannot be written. Make room or give the right to write, then repeat the command."
"""In the log of a stage whose file could not be written."""


def disk_is_full(visits: Iterable[str], since: float) -> bool:
    """Whether the study's disk has no room for a small file, or had none for one of these visits since that second of the epoch."""
    logs = [Path("logs") / stage / f"{visit}.log" for visit in visits for stage in STAGES]
    recent = [path for path in logs if path.is_file() and path.stat().st_mtime >= since]
    if any(DISK_REFUSED in path.read_text(encoding="utf-8", errors="replace") for path in recent):
        return True  # what the failed job had written was taken away since
    probe = WORK / "probe"
    try:
        probe.write_bytes(bytes(1 << 20))
    except OSError:
        return True
    finally:
        probe.unlink(missing_ok=True)
    return False


def attempts_of_run() -> int:
    """How often a job of this run is tried."""
    return int(_read(RUN).get("attempts", 1))


def current_run() -> str:
    """Which run is going on: a job that sees another one than at its start belongs to a run that was killed."""
    return str(_read(RUN).get("run", ""))


def begin_run(attempts: int) -> None:
    """Tell the jobs which run they belong to, and how often they are tried."""
    run = os.urandom(8).hex()
    _write(RUN, {"attempts": attempts, "run": run})
    os.environ[_RUN_OF_JOB], os.environ[_SLURM_JOB_OF_RUN] = run, os.environ.get(_SLURM_JOB, "")


def run_of_job() -> str:
    """The run that this job belongs to: its environment names it where the executor hands that on, else it is the one that goes on."""
    return os.environ.get(_RUN_OF_JOB) or current_run()


def end_slurm_job() -> None:
    """End the Slurm job that this process is part of: kill every other process of it on this node, at once.

    Asked politely, or seeing this stage fail, Snakemake in it would take away what the visit's earlier stages have finished, and
    the next run counts on that. A job in which the run itself was started, as an interactive allocation, is left alone.
    """
    job = os.environ.get(_SLURM_JOB, "")
    if not job or os.environ.get(_SLURM_JOB_OF_RUN, job) == job:
        return
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or just ended
            if int(process.name) != os.getpid() and f"{_SLURM_JOB}={job}".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def given_up(visit: str) -> Facts | None:
    """Why this run goes on without a visit (``sub-P_ses-S``); None for any other."""
    return _read(GIVEN_UP).get(visit)


def give_up(visits: Iterable[str], since: float) -> None:
    """Let the run go on without visits whose jobs were killed; ``since``: the start of the run in seconds of the epoch."""
    _write(GIVEN_UP, {visit: _how_it_was_killed(visit, since) for visit in visits})


def _how_it_was_killed(visit: str, since: float) -> Facts:
    logs = [Path("logs") / stage / f"{visit}.log" for stage in STAGES]
    begun = [path for path in logs if path.is_file() and path.stat().st_mtime >= since]
    if begun:
        stage, where = begun[-1].parent.name, f"See {begun[-1]}."
        reason = f"The stage {stage} was killed from outside (memory, time limit or an administrator) in each of its attempts. {where}"
    else:
        stage = STAGES[0]
        reason = "The visit's job never started; see the messages of the cluster (.snakemake/slurm_logs)."
    return {"failed": True, "stage": stage, "code": "KILLED", "reason": reason, "transient": True}


def retries() -> dict[str, int]:
    """How often each visit ended in a way that the next run tries again: killed, out of memory."""
    return {str(visit): int(count) for visit, count in _read(RETRIES).items()}


def try_again(visits: Iterable[str]) -> None:
    """Count these visits once more in :func:`retries`."""
    counts = retries()
    for visit in visits:
        counts[visit] = counts.get(visit, 0) + 1
    if counts:
        _write(RETRIES, counts)


def listen_for_interrupts() -> None:
    """Remember that a person or the system asked the run to stop, whatever Snakemake does about it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def note(received: int, frame: FrameType | None, before: Any = before) -> None:
            _process["interrupted"] = True
            if callable(before):
                before(received, frame)
            elif received == signal.SIGTERM:
                raise SystemExit(143)

        signal.signal(number, note)


def was_interrupted() -> bool:
    """Whether the run was asked to stop."""
    return bool(_process["interrupted"])


def _read(path: Path) -> Facts:
    try:
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def _write(path: Path, facts: Facts) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
