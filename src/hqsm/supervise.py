"""Edge: a job's work in a child process, so that its death, its memory and the end of its run are noticed.

A process that the kernel kills cannot say so itself. The parent stays small (no numpy), so it is the child that an
out-of-memory killer picks.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 0.25
_TICKS_OF_A_LOOK = 4
_SHELLS = frozenset({"bash", "sh", "dash", "zsh"})
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the child ended: its exit status (a signal is negative), and whether it was stopped for its memory."""

    status: int
    over_memory: bool = False


def run_in_child(work: Callable[[], int], limit_mb: float, run_of_study: Callable[[], str] = str) -> Ending:
    """Run ``work`` in a forked child and return how it ended.

    The child is stopped where its resident memory exceeds ``limit_mb`` (where /proc tells, that is under Linux), and where the run
    that started this job is gone: the Snakemake process above it on this machine, or, seen from a cluster's node, where
    ``run_of_study`` names another run. Nobody would collect the result, and the next run may write the same file.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    family, run = _family(), run_of_study()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_child(work)
    os.close(writing)
    try:
        over_memory = _watch(child, reading, limit_mb, lambda: (family, run) == (_family(), run_of_study()))
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    return Ending(status=os.waitstatus_to_exitcode(status), over_memory=over_memory)


def _be_the_child(work: Callable[[], int]) -> None:
    """Never returns: the caller's stack belongs to the parent."""
    status = 1
    try:
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        status = work()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(child: int, reading: int, limit_mb: float, is_ours: Callable[[], bool]) -> bool:
    """Wait until the child closes its pipe by ending; whether it was stopped for its memory."""
    tick = 0
    while not select.select([reading], [], [], _TICK_S)[0]:
        if _resident_mb(child) > limit_mb:
            os.kill(child, signal.SIGKILL)
            return True
        tick += 1
        if tick % _TICKS_OF_A_LOOK == 0 and not is_ours():
            sys.exit("the run that started this job has ended")
    return False


def _resident_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _family() -> tuple[int, int]:
    """The parent, and the parent of the shell between Snakemake and this process where there is one."""
    parent = os.getppid()
    try:
        name, rest = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError):
        return parent, 0
    return parent, int(rest.split()[1]) if name in _SHELLS else 0
