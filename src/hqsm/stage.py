"""Edge: how one job of a visit runs, fails softly and says so.

Every per-visit rule writes its results and a small status file. A failure becomes a status with a sentence and empty
placeholders for the results; the job itself succeeds, later stages of that visit pass the status on, and the cohort
goes on without the visit (docs/workflow.md). The cohort's table of visits takes those away that lie among the maps; those in
``results/work`` stay, so that a rejected visit is not tried again before something that it depends on changes.

The work runs in a child (:mod:`hqsm.supervise`): a stage that is killed or needs more memory than it was given is tried
again with more, and becomes a failure with its reason at the last attempt.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hqsm.errors import HqsmError
from hqsm.fork_server import is_child
from hqsm.run_state import DISK_REFUSED, attempts_of_run, current_run, end_slurm_job, given_up, run_of_job
from hqsm.supervise import Ending, RunEnded, run_in_child

Facts = dict[str, Any]

log = logging.getLogger("hqsm")


def read_status(path: str | Path) -> Facts:
    """The status file of one stage of one visit."""
    facts: Facts = json.loads(Path(path).read_text(encoding="utf-8"))
    return facts


def write_json(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys; NaN becomes null, as JSON has no NaN."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(_plain(facts), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and value != value:  # NaN
        return None
    return value


_OUR_NAMES = frozenset({"navigator.csv", "labels.tsv"})
_SHORTEST_NAME = 6
"""A shorter name (``1``, ``IM7``) is a counter, and would be found in any sentence."""


_AGAIN, _DISK = 75, 74  # sysexits.h: a temporary failure; an input or output error
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_SHARE_OF_MEMORY = 0.9
"""What a stage may use of a job's memory: Snakemake itself lives beside it in a cluster's allocation."""


def run_visit_stage(job: Any, work: Callable[[Any], Facts | None]) -> None:
    """Run one stage of one visit for a Snakemake job.

    Parameters
    ----------
    job
        The ``snakemake`` object of a script: ``output.status`` is the status file; inputs whose name starts with
        ``status`` are the status files of earlier stages; ``resources`` has ``mem_mb`` and the number of the ``attempt``.
    work
        Loads, computes, saves; returns facts for the status file (``codes`` is a list of quality codes).
    """
    _prepare(job)
    failure = given_up(_visit(job)) or _failure_before(job)
    if failure:
        _fail(job, failure)
        return
    limit_mb = _SHARE_OF_MEMORY * float(job.resources.get("mem_mb", "inf"))
    ending = _supervised(lambda: _attempt(job, work), limit_mb)
    _write_costs(job, ending)
    if ending.status == _DISK:
        sys.exit(f"{job.rule}: the disk cannot be written; see {job.log[0]}")
    if ending.status:
        _ended_badly(job, ending, limit_mb)


def _failure_before(job: Any) -> Facts | None:
    for name, path in job.input.items():
        if name.startswith("status"):
            earlier = read_status(path)
            if earlier["failed"]:
                return {**earlier, "passed_on_by": job.rule}
    return None


def _attempt(job: Any, work: Callable[[Any], Facts | None]) -> int:
    """In the child: do the work and write its status; return the exit status."""
    stage = job.rule
    try:
        write_json(job.output.status, {"failed": False, "stage": stage, **(work(job) or {})})
    except HqsmError as error:
        reason = without_file_names(str(error), job)
        log.error("%s: %s", error.code, reason)
        _fail(job, {"failed": True, "stage": stage, "code": error.code, "reason": reason})
    except MemoryError as error:
        log.error("%s", where_it_failed(error))
        return _AGAIN
    except Exception as error:
        log.error("%s", where_it_failed(error))
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            log.error("%s: %s", os.strerror(error.errno), DISK_REFUSED)
            return _DISK
        reason = f"The stage {stage} stopped with an internal error ({type(error).__name__}); see {job.log[0]}."
        _fail(job, {"failed": True, "stage": stage, "code": "INTERNAL_ERROR", "reason": reason})
    return 0


def _ended_badly(job: Any, ending: Ending, limit_mb: float) -> None:
    """Ask for another attempt, or make the last one a failure with its reason."""
    attempt, attempts = int(job.resources.get("attempt", 1)), attempts_of_run()
    if ending.over_memory or ending.status == _AGAIN:
        code, what = "OUT_OF_MEMORY", f"needed more memory than it was given ({limit_mb:.0f} MB)"
    elif ending.status < 0:
        code, what = "KILLED", f"was killed ({signal.Signals(-ending.status).name})"
    else:
        code, what = "KILLED", f"ended with status {ending.status} and said nothing"
    log.error("attempt %d of %d: %s %s", attempt, attempts, job.rule, what)
    if attempt < attempts:
        sys.exit(f"{job.rule}: {what}; it is tried again with more memory")
    remedy = f"See {job.log[0]}; --set-resources {job.rule}:mem_mb=... gives it more." if code == "OUT_OF_MEMORY" else f"See {job.log[0]}."
    tries = f" in each of {attempts} attempts" if attempts > 1 else ""
    reason = f"The stage {job.rule} {what}{tries}. {remedy}"
    _fail(job, {"failed": True, "stage": job.rule, "code": code, "reason": reason, "transient": True})


def _write_costs(job: Any, ending: Ending) -> None:
    """What a stage took, for people and for ``benchmarks/workflow/resources.py``.

    Snakemake's own ``benchmark`` sees the processes below a job, and a child of the fork server is none of them.
    """
    target = Path(f"results/work/benchmarks/{job.rule}/{_visit(job)}.tsv")
    row = f"{ending.wall_s:.2f}\t{ending.cpu_s:.2f}\t{ending.rss_mb:.0f}\n"
    with contextlib.suppress(OSError):  # a full disk is told of by the stage itself
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("wall_s\tcpu_s\tmax_rss_mb\n" + row, encoding="utf-8")


def run_cohort_stage(job: Any, work: Callable[[Any], None]) -> None:
    """Run a stage of the whole cohort; a known error ends the job with its sentence instead of a traceback."""
    _prepare(job)
    if getattr(job.params, "sealed", False):
        write_sealed_tables(path for _, path in job.output.items())
        return
    ending = _supervised(lambda: _cohort_attempt(job, work), float("inf"))
    if ending.status < 0:
        sys.exit(f"{job.rule} was killed ({signal.Signals(-ending.status).name}); see {job.log[0]}")
    if ending.status:
        sys.exit(ending.status)


def _supervised(work: Callable[[], int], limit_mb: float) -> Ending:
    run = run_of_job()
    try:
        return run_in_child(work, limit_mb, lambda: current_run() == run)
    except RunEnded:
        end_slurm_job()
        raise


def _cohort_attempt(job: Any, work: Callable[[Any], None]) -> int:
    """In the child: do the work; return the exit status."""
    try:
        work(job)
    except HqsmError as error:
        log.error("%s: %s", error.code, error)
        sys.stderr.write(f"{job.rule}: {error}\n")
        return 1
    except Exception as error:
        log.error("%s", where_it_failed(error))
        sys.stderr.write(f"{job.rule}: internal error ({type(error).__name__}); see {job.log[0]}\n")
        return 1
    return 0


def without_file_names(text: str, job: Any) -> str:
    """A sentence about a visit without the names of the files that readers gave it: a name can be that of a person."""
    wildcards = getattr(job, "wildcards", None)
    if wildcards is None:
        return text
    for parent in ("rois", "dicom", "bids"):
        folder = Path(parent) / f"sub-{wildcards.participant}" / f"ses-{wildcards.session}"
        # no sentence names a folder, and a folder is often called as a word of ours is: magnitude, Export
        names = [path.name for path in sorted(folder.rglob("*")) if not path.is_dir()]
        for position, name in sorted(enumerate(names, start=1), key=lambda entry: -len(entry[1])):
            if len(name) >= _SHORTEST_NAME and name not in _OUR_NAMES:
                text = text.replace(name, f"(no. {position} in {parent} by name)")
    return text


def write_sealed_tables(outputs: Iterable[Any]) -> None:
    """The tables of a rule after the join, without a row: images and records do not meet before the study is unblinded."""
    from hqsm.tables import write_rows

    log.info("sealed: the study is blinded and not unblinded yet")
    for path in [path for value in outputs for path in ([value] if isinstance(value, str) else list(value))]:
        if str(path).endswith(".tsv"):
            write_rows(Path(path), Path(path).stem, [])


def where_it_failed(error: BaseException) -> str:
    """The frames of an exception and its type, without its message and without paths: both can hold a person's data."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        lines += [f"  {Path(f.filename).name}:{f.lineno} in {f.name}" for f in traceback.extract_tb(seen.__traceback__)]
        lines.append(f"{type(seen).__module__}.{type(seen).__name__} (its message is left out: it may hold data of a person)")
        seen = seen.__cause__
    return "\n".join(lines)


def _prepare(job: Any) -> None:
    """One thread pool of the rule's size for every numeric library, and a log file."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["NUMBA_NUM_THREADS"] = str(job.threads)
    target = Path(job.log[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_child():
        target.write_bytes(b"")
    handler = logging.FileHandler(target, encoding="utf-8")  # appends: the job and its child both write
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _visit(job: Any) -> str:
    return f"sub-{job.wildcards.participant}_ses-{job.wildcards.session}"


def _fail(job: Any, facts: Facts) -> None:
    """Leave a placeholder for every result (nothing half-written stays) and the status that explains them."""
    import shutil

    placeholders = []
    for name, value in job.output.items():
        if name == "status":
            continue
        for path in [value] if isinstance(value, str) else list(value):
            target = Path(path)
            placeholders.append(str(path))
            if target.is_dir():
                shutil.rmtree(target)
            if name.endswith("folder"):
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_bare_page(_visit(job), facts) if target.suffix == ".html" else "", encoding="utf-8")
    names = {"participant_id": f"sub-{job.wildcards.participant}", "session_id": f"ses-{job.wildcards.session}"}
    write_json(job.output.status, {**facts, **names, "placeholders": placeholders})


def _bare_page(visit: str, facts: Facts) -> str:
    """What stands in for a page that could not be made."""
    import html

    body = f"<h1>{html.escape(visit)}</h1><p>Rejected. {html.escape(str(facts['reason']))}</p>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(visit)}</title>{body}</html>\n'


def remove_placeholders(paths: Iterable[str], *, below: str | Path) -> None:
    """Delete the empty files of failed stages that lie below a folder.

    For a rule of the cohort: in a cluster's group of jobs Snakemake looks for every output once the whole group is done.
    """
    for path in map(Path, paths):
        if path.is_relative_to(below) and path.is_file() and path.stat().st_size == 0:
            path.unlink()
