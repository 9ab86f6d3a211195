"""Put on PYTHONPATH by a test: the stage and visit named in HQSM_FAULTS fail in the named way (``stage:participant=way ...``)."""

import errno
import os
import signal
import time

import hqsm.fork_server
import hqsm.stage

FAULTS = dict(entry.split("=") for entry in os.environ.get("HQSM_FAULTS", "").split())
run_visit_stage = hqsm.stage.run_visit_stage


def fail(way: str, job: object) -> None:
    """Fail; does nothing where the way is over after the first attempts."""
    if way == "exception":
        raise ValueError("a planted fault")
    if way == "bad-data":
        raise hqsm.stage.HqsmError("A planted fault.", remedy="Take it out.", code="PLANTED")
    if way == "out-of-memory":
        raise MemoryError
    if way == "hungry" and job.resources.attempt == 1:
        pages = b"x" * int(1e6 * 1.5 * job.resources.mem_mb)
        time.sleep(5 * bool(pages))
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "job-killed":  # with the process that watches: only the end of the run can tell
        os.kill(hqsm.fork_server.watcher(), signal.SIGKILL)
        time.sleep(60)
    if way == "server-killed" and hqsm.fork_server.is_child():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if way == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if way == "full-disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if way == "slow":
        time.sleep(20)
    if way == "very-slow":
        time.sleep(1800)


def planted(job: object, work: object) -> None:
    """The stage with its fault."""
    way = FAULTS.get(f"{job.rule}:{job.wildcards.participant}")

    if way == "fills-allocation" and job.resources.attempt == 1:  # beside the child that is watched: for the cluster to see
        pages = b"x" * int(1e6 * 2.5 * job.resources.mem_mb)
        time.sleep(30 * bool(pages))

    def faulty(job: object) -> object:
        fail(way, job)
        return work(job)

    run_visit_stage(job, faulty if way else work)


if FAULTS:
    hqsm.stage.run_visit_stage = planted
