"""Edge: what made the results: versions, parameters, inputs, outputs; a chain of hashes that shows a later change.

``results/provenance/run_<utc>.json`` records a run; ``audit.jsonl`` has a line per event (a run, a lock, an unblinding), each
with the hash of the line before it: a line that is changed, removed or put in breaks the chain there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hqsm
from hqsm.errors import InputError

_LIBRARIES = ("numpy", "scipy", "numba", "nibabel", "pydicom", "pandas", "statsmodels", "scikit-image", "snakemake")
FOLDER = Path("results/provenance")
_CACHE = Path("results/work/output_hashes.json")
_OUTPUTS = ("tables", "report", "qc", "bids", "maps")

Facts = dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of the package, of Python and of the libraries that compute."""
    return {"hqsm": hqsm.__version__, "python": platform.python_version()} | {n: version(n) for n in _LIBRARIES}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """SHA-256 of text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write_run_record(
    parameters: Mapping[str, Any],
    digests: Mapping[str, str],
    *,
    succeeded: bool,
    rejected: Sequence[str],
    inputs: Mapping[str, Any] | None = None,
    stamp: str = "",
) -> Path:
    """Write ``results/provenance/run_<utc>.json`` of the study in the current directory, and its line in ``audit.jsonl``.

    Parameters
    ----------
    parameters, digests
        The resolved configuration and the digest of the code of each stage.
    succeeded, rejected
        How the run ended, and the visits that were rejected.
    inputs
        Hashes of what went in: each visit's files and masks, the records, decisions.
    stamp
        What changed after unblinding; empty otherwise.
    """
    now = datetime.now(UTC)
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = {
        "finished_utc": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "succeeded": succeeded,
        "rejected_visits": list(rejected),
        "command": redacted_command(sys.argv),
        "operator": os.environ.get("HQSM_OPERATOR", ""),
        "versions": versions(),
        "commit": commit(),
        "platform": {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()},
        "code_digests": dict(digests),
        "parameters": parameters,
        "parameters_sha256": sha256_of_text(json.dumps(parameters, sort_keys=True)),
        "inputs": dict(inputs or {}),
        "dicom": dicom_manifests(Path()),
        "outputs_sha256": output_hashes(Path()),
        "stamp": stamp,
    }
    path = FOLDER / f"run_{now.strftime('%Y%m%dT%H%M%S')}Z.json"
    k = 1
    while path.exists():  # two runs in one second
        k += 1
        path = FOLDER / f"run_{now.strftime('%Y%m%dT%H%M%S')}Z-{k}.json"
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
    append_audit(Path(), "run", {"record": path.name, "record_sha256": sha256_of_text(text)})
    return path


def redacted_command(arguments: Sequence[str]) -> list[str]:
    """The program and its options; values are left out: they can be paths that name a person, and are resolved elsewhere."""
    return [Path(arguments[0]).name, *(a.split("=", 1)[0] if a.startswith("-") else "(value)" for a in arguments[1:])]


def commit() -> str:
    """Commit of the package's repository, ``+changes`` where the working tree differs; empty outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        status = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+changes" if status.strip() else "")


def dicom_manifests(study: Path) -> dict[str, str]:
    """SHA-256 of each visit's DICOM manifest (hashed UIDs and pixel digests), by visit."""
    found = sorted((study / "results" / "work").glob("sub-*_ses-*/dicom_manifest.tsv"))
    return {path.parent.name: sha256_of(path) for path in found if path.stat().st_size}


def output_hashes(study: Path) -> dict[str, str]:
    """SHA-256 of every output; a file whose size and time are those of the last look is not read again."""
    cache_path = study / _CACHE
    try:
        cache = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        cache = {}
    hashes, fresh = {}, {}
    for path in _output_files(study):
        name, stat = path.relative_to(study).as_posix(), path.stat()
        key = f"{name}|{stat.st_size}|{stat.st_mtime_ns}"
        hashes[name] = fresh[key] = cache.get(key) or sha256_of(path)
    if cache_path.parent.is_dir():
        cache_path.write_text(json.dumps(fresh) + "\n", encoding="utf-8")
    return hashes


def _output_files(study: Path) -> Iterator[Path]:
    for name in _OUTPUTS:
        yield from sorted(p for p in (study / "results" / name).rglob("*") if p.is_file())


def append_audit(study: Path, event: str, facts: Mapping[str, Any]) -> None:
    """Add an event to the audit trail, chained to the line before it."""
    audit = study / FOLDER / "audit.jsonl"
    audit.parent.mkdir(parents=True, exist_ok=True)
    lines = audit.read_text(encoding="utf-8").splitlines() if audit.is_file() else []
    entry = {
        "utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "event": event,
        **facts,
        "previous_sha256": sha256_of_text(lines[-1]) if lines else "",
    }
    with audit.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(entry, sort_keys=True) + "\n")


def last_record(study: Path) -> tuple[Path, Facts] | None:
    """The last run's record; None before the first."""
    paths = sorted((study / FOLDER).glob("run_*.json"), key=lambda p: (p.name[:20], len(p.name), p.name))
    if not paths:
        return None
    try:
        record: Facts = json.loads(paths[-1].read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{paths[-1].name} is damaged.", remedy="Run the workflow again.", code="PROVENANCE_DAMAGED") from None
    return paths[-1], record


def edited_outputs(study: Path, record: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Outputs that are not what the run wrote: changed, removed or put there since."""
    then = {name: value for name, value in record["outputs_sha256"].items() if name.startswith(prefix)}
    now = {path.relative_to(study).as_posix(): path for path in _output_files(study)}
    wrong = [f"{name} (missing)" for name in then if name not in now]
    wrong += [f"{name} (changed)" for name, value in then.items() if name in now and sha256_of(now[name]) != value]
    wrong += [f"{name} (not of the run)" for name in now if name.startswith(prefix) and name not in then]
    return sorted(wrong)


def audit_head(study: Path) -> str:
    """Hash of the last line of the audit trail: kept elsewhere, it shows a trail that was written anew."""
    audit = study / FOLDER / "audit.jsonl"
    lines = audit.read_text(encoding="utf-8").splitlines() if audit.is_file() else []
    return sha256_of_text(lines[-1]) if lines else ""


def broken_audit(study: Path) -> str:
    """The first broken link of the audit trail as a sentence; empty if the chain holds."""
    audit = study / FOLDER / "audit.jsonl"
    if not audit.is_file():
        return "there is no audit.jsonl" if last_record(study) else ""
    previous = ""
    recorded = set()
    for number, line in enumerate(audit.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            link, event = entry["previous_sha256"], entry.get("event", "run")
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"audit.jsonl line {number} is damaged"
        if link != previous:
            return f"audit.jsonl line {number} does not follow the line before it"
        previous = sha256_of_text(line)
        if event == "run":
            recorded.add(str(entry["record"]))
            path = study / FOLDER / Path(str(entry["record"])).name
            if not path.is_file():
                return f"audit.jsonl line {number}: {path.name} is missing"
            if sha256_of(path) != entry["record_sha256"]:
                return f"audit.jsonl line {number}: {path.name} was changed"
        named = {"lock": ("lock", "lock_sha256"), "unblind": (None, "unblinded_sha256")}.get(event)
        if named:
            path = study / "locks" / (Path(str(entry[named[0]])).name if named[0] else "unblinded.json")
            if not path.is_file() or sha256_of(path) != entry[named[1]]:
                return f"audit.jsonl line {number}: locks/{path.name} was changed or removed"
    unknown = sorted({p.name for p in (study / FOLDER).glob("run_*.json")} - recorded)
    return f"{unknown[0]} is in no line of audit.jsonl" if unknown else ""
