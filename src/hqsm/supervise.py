"""Edge: a job's work in a child process, so that its death, its memory and the end of its run are noticed.

A process that the kernel kills cannot say so itself. The parent stays small (no numpy), so it is the child that an
out-of-memory killer picks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqsm import fork_server

_TICK_S = 0.25
_TICKS_OF_A_LOOK = 4
_SHELLS = frozenset({"bash", "sh", "dash", "zsh"})


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended: its exit status (a signal is negative), whether it was stopped for its memory, and what it took."""

    status: int
    over_memory: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_mb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Child:
    process: int
    channel: int | fork_server.Connection
    """Readable when the child has ended."""
    shared_mb: float
    """Memory that it has from the start, and shares with the process that it was forked from."""
    wait: Callable[[], dict[str, Any]]
    """How it ended."""


class RunEnded(SystemExit):
    """The run that started this job is gone, or another one has begun."""

    def __init__(self) -> None:
        super().__init__("the run that started this job has ended")


def run_in_child(work: Callable[[], int], limit_mb: float, run_goes_on: Callable[[], bool] = lambda: True) -> Ending:
    """Run ``work`` in a child process and return how it ended.

    The child is forked by the run's :mod:`hqsm.fork_server` where there is one: it then runs this process's script again, comes to
    this same call, and does the work. It is stopped where its resident memory exceeds ``limit_mb`` (where /proc tells, that is under
    Linux), and where the run that started this job is gone: the Snakemake process above it on this machine, or, seen from a
    cluster's node, where ``run_goes_on`` says so. Nobody would collect the result, and the next run may write the same file.

    Raises
    ------
    RunEnded
        The run is gone; the child was stopped, or not begun.
    """
    if fork_server.is_child():
        _do(work)
    family, started = _family(), time.monotonic()
    if not run_goes_on():
        raise RunEnded
    child = _asked_for() or _forked(work)
    try:
        over_memory = _watch(child, limit_mb, lambda: family == _family() and run_goes_on())
    except BaseException:
        _kill(child)
        raise
    finally:
        facts = child.wait()
    return Ending(over_memory=over_memory, wall_s=time.monotonic() - started, **facts)


def _asked_for() -> _Child | None:
    """A child of the fork server."""
    asked = fork_server.ask()
    if asked is None:
        return None
    connection, child = asked

    def wait() -> dict[str, Any]:
        with connection:
            # a server that is gone took its children along
            return fork_server.answer(connection) or {"status": -signal.SIGKILL}

    return _Child(channel=connection, wait=wait, **child)


def _forked(work: Callable[[], int]) -> _Child:
    """A child of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        fork_server.die_with_parent()
        _do(work)
    os.close(writing)

    def wait() -> dict[str, Any]:
        os.close(reading)
        return fork_server.ending_of(process)

    return _Child(process=process, channel=reading, shared_mb=0.0, wait=wait)


def _do(work: Callable[[], int]) -> None:
    """In the child; never returns: the caller's stack belongs to the parent."""
    status = 1
    try:
        status = work()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _kill(child: _Child) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(child.process, signal.SIGKILL)


def _watch(child: _Child, limit_mb: float, is_ours: Callable[[], bool]) -> bool:
    """Wait until the child has ended; whether it was stopped for its memory."""
    tick = 0
    while not select.select([child.channel], [], [], _TICK_S)[0]:
        if fork_server.resident_mb(child.process) - child.shared_mb > limit_mb:
            _kill(child)
            return True
        tick += 1
        if tick % _TICKS_OF_A_LOOK == 0 and not is_ours():
            raise RunEnded
    return False


def _family() -> tuple[int, int]:
    """The parent, and the parent of the shell between Snakemake and this process where there is one."""
    parent = os.getppid()
    try:
        name, rest = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError):
        return parent, 0
    return parent, int(rest.split()[1]) if name in _SHELLS else 0
