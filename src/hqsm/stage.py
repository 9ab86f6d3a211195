"""Edge: how one job of a visit runs, fails softly and says so.

Every per-visit rule writes its results and a small status file. A failure becomes a status with a sentence and empty
placeholders for the results; the job itself succeeds, later stages of that visit pass the status on, and the cohort
goes on without the visit (docs/workflow.md). Placeholders are removed by the visit's last rule.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hqsm.errors import HqsmError

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


def run_visit_stage(job: Any, work: Callable[[Any], Facts | None]) -> None:
    """Run one stage of one visit for a Snakemake job.

    Parameters
    ----------
    job
        The ``snakemake`` object of a script: ``output.status`` is the status file; inputs whose name starts with
        ``status`` are the status files of earlier stages.
    work
        Loads, computes, saves; returns facts for the status file (``codes`` is a list of quality codes).
    """
    _prepare(job)
    stage = job.rule
    for name, path in job.input.items():
        if name.startswith("status"):
            earlier = read_status(path)
            if earlier["failed"]:
                _fail(job, {**earlier, "passed_on_by": stage})
                return
    try:
        facts = work(job) or {}
    except HqsmError as error:
        reason = without_file_names(str(error), job)
        log.error("%s: %s", error.code, reason)
        _fail(job, {"failed": True, "stage": stage, "code": error.code, "reason": reason})
        return
    except MemoryError:
        raise
    except Exception as error:
        log.error("%s", where_it_failed(error))
        reason = f"The stage {stage} stopped with an internal error ({type(error).__name__}); see {job.log[0]}."
        _fail(job, {"failed": True, "stage": stage, "code": "INTERNAL_ERROR", "reason": reason})
        return
    write_json(job.output.status, {"failed": False, "stage": stage, **facts})


def run_cohort_stage(job: Any, work: Callable[[Any], None]) -> None:
    """Run a stage of the whole cohort; a known error ends the job with its sentence instead of a traceback."""
    _prepare(job)
    if getattr(job.params, "sealed", False):
        write_sealed_tables(path for _, path in job.output.items())
        return
    try:
        work(job)
    except HqsmError as error:
        log.error("%s: %s", error.code, error)
        sys.exit(f"{job.rule}: {error}")
    except Exception as error:
        log.error("%s", where_it_failed(error))
        sys.exit(f"{job.rule}: internal error ({type(error).__name__}); see {job.log[0]}")


def without_file_names(text: str, job: Any) -> str:
    """A sentence about a visit without the names of the files that readers gave it: a name can be that of a person."""
    wildcards = getattr(job, "wildcards", None)
    if wildcards is None:
        return text
    for parent in ("rois", "dicom", "bids"):
        folder = Path(parent) / f"sub-{wildcards.participant}" / f"ses-{wildcards.session}"
        names = [path.name for path in sorted(folder.rglob("*"))]
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
    handler = logging.FileHandler(target, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def _fail(job: Any, facts: Facts) -> None:
    """Leave a placeholder for every result (nothing half-written stays) and the status that explains them."""
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
                target.write_bytes(b"")
    write_json(job.output.status, {**facts, "placeholders": placeholders})


def remove_placeholders(statuses: Iterable[Facts]) -> None:
    """Delete the empty files and folders that failed stages left in place of results."""
    for path in [path for facts in statuses for path in facts.get("placeholders", [])]:
        target = Path(path)
        if target.is_file() and target.stat().st_size == 0:
            target.unlink()
        elif target.is_dir() and not any(target.iterdir()):
            target.rmdir()
