"""Put on PYTHONPATH by overhead.py: every Python process writes its CPU seconds, and those that went into imports."""

import atexit
import builtins
import importlib
import json
import os
import sys
import time
from collections.abc import Callable

FOLDER = os.environ["HQSM_OVERHEAD"]
state = {"depth": 0, "imports_s": 0.0, "forked": False}
original_exit = os._exit


def timed(original: Callable[..., object]) -> Callable[..., object]:
    def timed_import(*arguments: object, **named: object) -> object:
        if state["depth"]:
            return original(*arguments, **named)
        state["depth"] = 1
        start = time.process_time()
        try:
            return original(*arguments, **named)
        finally:
            state["depth"] = 0
            state["imports_s"] += time.process_time() - start

    return timed_import


def write() -> None:
    kind = "snakemake" if sys.argv[0].endswith(("snakemake", "snakemake/__main__.py")) else "job"
    facts = {"kind": kind, "forked": state["forked"], "total_s": time.process_time(), "imports_s": state["imports_s"]}
    with open(os.path.join(FOLDER, f"{os.getpid()}_{time.time_ns()}.json"), "w", encoding="utf-8") as handle:
        json.dump(facts, handle)


def exit_now(status: int) -> None:
    write()
    original_exit(status)


builtins.__import__ = timed(builtins.__import__)
importlib.import_module = timed(importlib.import_module)
os._exit = exit_now
os.register_at_fork(after_in_child=lambda: state.update(depth=0, imports_s=0.0, forked=True))
atexit.register(write)
