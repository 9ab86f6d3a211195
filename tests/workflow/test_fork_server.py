"""Jobs of a run share one process with the libraries in memory, and lose nothing of their own by it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server is for Linux")

DRIVER = """
import subprocess, sys
from hqsm import fork_server
fork_server.start()
for script in sys.argv[1:]:
    subprocess.run([sys.executable, script])
"""
JOB = """
import os, signal, sys, time
from hqsm.fork_server import watcher
from hqsm.supervise import run_in_child
before = "numpy" in sys.modules

def unused():
    import hqsm.arrays

def work():
    {work}

ending = run_in_child(work, {limit_mb})
print("job", os.getpid(), "ended", ending.status, ending.over_memory, round(ending.cpu_s, 1), flush=True)
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., str]:
    def written(work: str, limit_mb: float = 1e6) -> str:
        path = tmp_path / f"tmp{len(list(tmp_path.iterdir()))}.some_rule.py"
        path.write_text(JOB.format(work=work, limit_mb=limit_mb), encoding="utf-8")
        return str(path)

    return written


def run(*jobs: str, driver: str = DRIVER) -> list[str]:
    done = subprocess.run([sys.executable, "-c", driver, *jobs], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_the_child_of_the_server_finds_its_imports_done_and_its_ending_is_told(job: Callable[..., str]) -> None:
    said = run(job("print('parent', os.getppid(), 'for', watcher(), before, flush=True); return 7"), job("return 0"))
    _, parent, _, watched_by, ready = said[0].split()
    number = said[1].split()[1]
    assert ready == "True", "numpy was there before the job imported anything"
    assert watched_by == number != parent
    assert said[1].endswith("ended 7 False 0.0")
    assert said[2].endswith("ended 0 False 0.0")


def test_the_child_of_the_server_finds_the_compiler_ready(job: Callable[..., str]) -> None:
    """Its tables of types are filled by modules that importing numba does not import."""
    script = job("print('numba.core.typing.arraydecl' in sys.modules, flush=True); return 0")
    Path(script).write_text(Path(script).read_text(encoding="utf-8").replace("hqsm.arrays", "hqsm.compiled"), encoding="utf-8")
    assert run(script)[0] == "True"


def test_without_a_server_a_job_forks_its_own_child(job: Callable[..., str]) -> None:
    said = run(job("print('parent', os.getppid(), before, flush=True); return 7"), driver=DRIVER.replace("fork_server.start()", ""))
    number = said[1].split()[1]
    assert said[0] == f"parent {number} False"
    assert said[1].endswith("ended 7 False 0.0")


def test_a_killed_child_takes_no_other_job_along(job: Callable[..., str]) -> None:
    said = run(job("os.kill(os.getpid(), signal.SIGKILL)"), job("return 0"))
    assert [line.split(" ended ")[1] for line in said] == ["-9 False 0.0", "0 False 0.0"]


def test_memory_that_is_shared_with_the_server_is_not_held_against_a_job(job: Callable[..., str]) -> None:
    hungry = "pages = b'x' * 200_000_000; time.sleep(20 * bool(pages)); return 0"
    said = run(job("time.sleep(1); return 0", 20), job(hungry, 20))
    assert said[0].split()[3:5] == ["0", "False"], "numpy alone takes more than that"
    assert said[1].split()[3:5] == ["-9", "True"]


def test_a_killed_server_is_a_killed_job_and_the_next_one_does_without_it(job: Callable[..., str]) -> None:
    kill = "time.sleep(1); os.kill(os.getppid(), signal.SIGKILL); time.sleep(30)"
    said = run(job(kill), job("print(before, flush=True); return 0"))
    assert said[0].split()[3] == "-9"
    assert said[1] == "False"
    assert said[2].split()[3] == "0"


@pytest.mark.parametrize("whom", ["watcher()", "RUN"])
def test_no_child_outlives_its_job_or_its_run(job: Callable[..., str], tmp_path: Path, whom: str) -> None:
    note = tmp_path / "child"
    script = job(f"open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{watcher()}} '); time.sleep(60)")
    run_of_jobs = subprocess.Popen([sys.executable, "-c", DRIVER, script])
    wait_for(lambda: note.is_file() and note.read_text(encoding="utf-8").endswith(" "))
    child, watching = map(int, note.read_text(encoding="utf-8").split())
    os.kill(watching if whom == "watcher()" else run_of_jobs.pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    run_of_jobs.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_served() -> None:
    code = """
import os, socket
from hqsm import fork_server
fork_server.start()
if os.fork() == 0:
    os.setuid(65534)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect("\\0" + os.environ[fork_server.ADDRESS])
    connection.send(b'{"script": "/nowhere/a.b.py", "folder": "/", "environment": {}}')
    print("answer", fork_server.answer(connection), flush=True)
    os._exit(0)
os.wait()
"""
    assert run(driver=code) == ["answer {}"]


def wait_for(condition: Callable[[], object], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
