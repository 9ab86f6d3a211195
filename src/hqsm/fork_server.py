"""Edge: one process of a run that has the libraries in memory and forks a child for each job, which then imports nothing.

Importing numpy, scipy, nibabel, matplotlib and the rest costs a job more than many a stage's computation. The main Snakemake process
of a run on this machine starts the server; it imports what a rule needs when the rule's first job asks, and ends with the run. Where
there is none (a cluster's node, a system other than Linux, a server that was killed) a job forks its child itself.

A job sends its script over an abstract Unix socket and waits; the child runs the same script from its start. A job that is killed
closes the connection, and the server ends its child; a server that is killed takes its children along, and their jobs are tried again.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

ADDRESS = "HQSM_FORK_SERVER"
"""In the environment: the server's address; ``off`` where a person wants none."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_PROGRAM = "from hqsm.fork_server import main; main()"
_LARGEST_MESSAGE = 1 << 20
_PR_SET_PDEATHSIG = 1
Connection = socket.socket
"""Of this machine alone: an abstract Unix socket, which no network reaches and which the server answers to its own user only."""

_this_process: dict[str, int] = {"watcher": 0}
"""Of a server's child: the process of the job that it works for."""


def start() -> None:
    """Start the server of this run and name it to the jobs; it ends when this process does, however that ends."""
    if not sys.platform.startswith("linux") or os.environ.get(ADDRESS) == "off":
        return
    address = f"hqsm-{os.urandom(16).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{address}")
        listening.listen(1024)
        command = [sys.executable, "-c", _PROGRAM, str(listening.fileno()), str(os.getpid())]
        # in a session of its own: Ctrl-C is for the jobs, and their children follow them
        server = subprocess.Popen(command, pass_fds=[listening.fileno()], env={**os.environ, **_ONE_THREAD}, start_new_session=True)
    os.environ[ADDRESS] = address
    atexit.register(_stop, server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait()


def is_child() -> bool:
    """Whether this process is a child of the server, there to do a job's work."""
    return bool(_this_process["watcher"])


def watcher() -> int:
    """The process of the job that this child works for."""
    return _this_process["watcher"] or os.getppid()


def ask() -> tuple[Connection, dict[str, Any]] | None:
    """Let the server of this run begin the script of this process in a child of its own.

    Returns
    -------
    connection, child
        Where :func:`answer` will tell the ending, and the child's ``process`` and ``shared_mb``, the memory that it shares with the
        server from the start. None where there is no server, or none for a job of more than one thread.
    """
    address, script = os.environ.get(ADDRESS, "off"), Path(sys.argv[0])
    if address == "off" or script.suffix != ".py" or os.environ.get("NUMBA_NUM_THREADS", "1") != "1":
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"\0{address}")
        connection.send(json.dumps({"script": str(script), "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode())
        child = answer(connection)
    except OSError:
        child = {}
    if not child:
        connection.close()
        return None
    return connection, child


def answer(connection: Connection) -> dict[str, Any]:
    """The server's next message; empty where the server is gone."""
    with contextlib.suppress(ConnectionError):
        return _read(connection)
    return {}


def _read(connection: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(_LARGEST_MESSAGE) or b"{}")
    return message


def serve(listening: Connection) -> None:
    """Fork a child for each job that asks, and tell the job how it ended; end a child whose job is gone. Never returns."""
    watched = selectors.DefaultSelector()
    watched.register(listening, selectors.EVENT_READ)
    jobs: dict[int, Connection] = {}
    while True:
        for key, _ in watched.select():
            if key.fileobj is listening:
                with contextlib.suppress(OSError, ValueError):
                    _begin(listening.accept()[0], watched, jobs)
            elif key.fileobj is jobs.get(key.data):  # a job says nothing more: it is gone
                watched.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
            elif key.data in jobs:
                watched.unregister(key.fd)
                os.close(key.fd)
                _end(key.data, watched, jobs)


def _begin(connection: Connection, watched: selectors.BaseSelector, jobs: dict[int, Connection]) -> None:
    watcher, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.getuid():
        connection.close()
        return
    job = _read(connection)
    _import_for(Path(job["script"]))
    child = os.fork()
    if child == 0:
        _this_process["watcher"] = watcher
        _be_the_child(job, watched)
    jobs[child] = connection
    watched.register(connection, selectors.EVENT_READ, child)
    watched.register(os.pidfd_open(child), selectors.EVENT_READ, child)
    connection.send(json.dumps({"process": child, "shared_mb": resident_mb(os.getpid())}).encode())


def _end(child: int, watched: selectors.BaseSelector, jobs: dict[int, Connection]) -> None:
    facts = ending_of(child)
    connection = jobs.pop(child)
    with contextlib.suppress(KeyError):
        watched.unregister(connection)
    with connection, contextlib.suppress(OSError):
        connection.send(json.dumps(facts).encode())


def ending_of(child: int) -> dict[str, float]:
    """Wait for a child of this process: its exit status (a signal is negative), CPU seconds, and peak of memory [MB]."""
    _, status, used = os.wait4(child, 0)
    to_mb = 1 / 1e6 if sys.platform == "darwin" else 1024 / 1e6
    return {"status": os.waitstatus_to_exitcode(status), "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss * to_mb}


def _import_for(script: Path) -> None:
    """Import what a rule's script imports, at its top or in its functions."""
    import gc
    import importlib

    from hqsm.code_digest import imports_of

    missing = [module for module in ("snakemake.iocontainers", "snakemake.logging", *imports_of(script)) if module not in sys.modules]
    for module in missing:
        with contextlib.suppress(Exception):  # the job will meet it again, and say so
            importlib.import_module(module)
    if missing:
        _make_compiler_ready()
        gc.collect()
        gc.freeze()  # what is shared now stays shared: the children's collector leaves it alone


def _make_compiler_ready() -> None:
    """Let numba, where it was imported, fill its tables of types; else each child does so, at its first compiled function."""
    registry = sys.modules.get("numba.core.registry")
    if registry is not None:
        registry.cpu_target.typing_context.refresh()
        registry.cpu_target.target_context.refresh()


def _be_the_child(job: dict[str, Any], watched: selectors.BaseSelector) -> None:
    """Never returns."""
    import runpy

    status = 1
    try:
        die_with_parent()
        for key in list(watched.get_map().values()):
            os.close(key.fd)
        watched.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        sys.argv = [job["script"]]
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def resident_mb(process: int) -> float:
    """Memory of a process that is in RAM [MB]; 0 where /proc does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Serve on the socket that was handed down, until the process that did so ends."""
    descriptor, parent = map(int, sys.argv[1:])
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if os.getppid() == parent:
        serve(socket.socket(fileno=descriptor))
