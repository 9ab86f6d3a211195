"""Edge: what made the results: versions, parameters, inputs, outputs."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hqsm

_LIBRARIES = ("numpy", "scipy", "numba", "nibabel", "pydicom", "pandas", "statsmodels", "scikit-image", "snakemake")


def versions() -> dict[str, str]:
    """Versions of the package, of Python and of the libraries that compute."""
    return {"hqsm": hqsm.__version__, "python": platform.python_version()} | {n: version(n) for n in _LIBRARIES}


def write_run_record(parameters: Mapping[str, Any], digests: Mapping[str, str], *, succeeded: bool, rejected: Sequence[str]) -> Path:
    """Write ``results/provenance/run_<utc>.json`` and add a line to the hash-chained ``audit.jsonl``."""
    now = datetime.now(UTC)
    folder = Path("results/provenance")
    folder.mkdir(parents=True, exist_ok=True)
    tables = sorted(Path("results/tables").glob("*.tsv"))
    record = {
        "finished_utc": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "succeeded": succeeded,
        "rejected_visits": list(rejected),
        "command": Path(sys.argv[0]).name,
        "versions": versions(),
        "code_digests": dict(digests),
        "parameters": parameters,
        "outputs_sha256": {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables},
    }
    path = folder / f"run_{now.strftime('%Y%m%dT%H%M%S')}Z.json"
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
    audit = folder / "audit.jsonl"
    lines = audit.read_text(encoding="utf-8").splitlines() if audit.is_file() else []
    entry = {
        "finished_utc": record["finished_utc"],
        "record": path.name,
        "record_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "previous_sha256": hashlib.sha256(lines[-1].encode()).hexdigest() if lines else "",
    }
    with audit.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(entry, sort_keys=True) + "\n")
    return path
