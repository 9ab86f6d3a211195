"""Edge: the double blind: two arms that are frozen by hash before anything joins them.

Until `hqsm unblind` nothing is made from an image and a record together: the tables after the join are empty, the report is
the blinded edition. Unblinding needs both arms locked and unchanged; what changes afterwards is told apart for ever, because
the hashes of that moment are what later tables are compared with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hqsm.errors import BlindingError

IMAGING, RECORDS = "imaging", "records"
TABLES_OF_ARM: dict[str, dict[str, tuple[str, ...]]] = {
    IMAGING: {"visits": ("group", "visit_type"), "lic": ("group",)},
    RECORDS: {"exposure": ()},
}
"""The tables that an arm freezes, each with its columns that come from the other arm: those are not frozen with it."""
FOLDER = Path("locks")
UNBLINDED = "unblinded.json"
PLAN = "the block statistics of config.yaml"

Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BlindState:
    """How blind a study is.

    Attributes
    ----------
    blinding
        Whether the configuration asks for blinding.
    unblinded
        Whether `hqsm unblind` was done.
    changed
        What differs from what was unblinded: tables and record files by name.
    """

    blinding: bool
    unblinded: bool
    changed: tuple[str, ...] = ()

    @property
    def sealed(self) -> bool:
        """Whether nothing may join images and records."""
        return self.blinding and not self.unblinded

    def stamp(self) -> str:
        """The sentence that every output carries after a change; empty without one."""
        if not self.changed:
            return ""
        return f"CHANGED AFTER UNBLINDING: {', '.join(self.changed)} are not what was locked; see locks/ and provenance/audit.jsonl."


def is_unblinded(study: Path) -> bool:
    """Whether the study was unblinded; cheap enough to ask at every start."""
    return (study / FOLDER / UNBLINDED).is_file()


def blind_state(study: Path, *, blinding: bool, statistics: Mapping[str, Any]) -> BlindState:
    """The state of a study, with what changed since it was unblinded; ``statistics`` is the plan in force (see :func:`arm_digests`)."""
    if not blinding:
        return BlindState(blinding=False, unblinded=False)
    if not is_unblinded(study):
        return BlindState(blinding=True, unblinded=False)
    kept = _read(study / FOLDER / UNBLINDED)
    changed = []
    for arm in (IMAGING, RECORDS):
        now, then = arm_digests(study, arm, statistics), kept[arm]["sha256"]
        changed += sorted(f"{name} ({arm})" for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    return BlindState(blinding=True, unblinded=True, changed=tuple(changed))


def arm_digests(study: Path, arm: str, statistics: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each table of an arm, without the columns of the other; of the records' files and the analysis plan too.

    The plan is the block ``statistics`` of the resolved configuration with every default written out. It belongs to the arm of the
    records: whoever locks it has not seen an image, and what an analysis is told beforehand must not move once results are seen.
    """
    digests = {}
    for table, foreign in TABLES_OF_ARM[arm].items():
        path = study / "results" / "tables" / f"{table}.tsv"
        if path.is_file():
            digests[f"{table}.tsv"] = table_digest(path.read_text(encoding="utf-8"), foreign)
    if arm == RECORDS:
        for path in sorted((study / "records").glob("*.csv")):
            digests[f"records/{hashlib.sha256(path.name.encode()).hexdigest()[:8]}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        digests[PLAN] = hashlib.sha256(json.dumps(statistics, sort_keys=True).encode()).hexdigest()
    return digests


def table_digest(text: str, without: tuple[str, ...] = ()) -> str:
    """SHA-256 of a tab-separated table, some columns left out."""
    lines = [line.split("\t") for line in text.splitlines()]
    kept = [k for k, name in enumerate(lines[0]) if name not in without] if lines else []
    return hashlib.sha256("\n".join("\t".join(line[k] for k in kept) for line in lines).encode()).hexdigest()


def lock(study: Path, arm: str, who: str, facts: Mapping[str, Any], *, statistics: Mapping[str, Any]) -> Path:
    """Freeze an arm: write ``locks/<arm>_<utc>.lock.json``, chained to the lock before it.

    Raises
    ------
    BlindingError
        ``LOCK_NOTHING``: the arm has no tables yet; ``LOCK_UNBLINDED``: the study is unblinded already.
    """
    if is_unblinded(study):
        raise BlindingError("The study is unblinded; a lock would promise nothing.", code="LOCK_UNBLINDED")
    digests = arm_digests(study, arm, statistics)
    missing = [f"{table}.tsv" for table in TABLES_OF_ARM[arm] if f"{table}.tsv" not in digests]
    if missing:
        raise BlindingError(f"There is no {' and no '.join(missing)}.", remedy="Run the workflow first.", code="LOCK_NOTHING")
    before = latest_lock(study, arm)
    now = datetime.now(UTC)
    path = study / FOLDER / f"{arm}_{now.strftime('%Y%m%dT%H%M%S%f')}Z.lock.json"
    _write(
        path,
        {
            "arm": arm,
            "who": who,
            "when_utc": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "sha256": digests,
            "previous_sha256": hashlib.sha256(before.read_bytes()).hexdigest() if before else "",
            **facts,
        },
    )
    return path


def latest_lock(study: Path, arm: str) -> Path | None:
    """The lock of an arm that counts: the last one."""
    return max((study / FOLDER).glob(f"{arm}_*.lock.json"), default=None)


def unblind(study: Path, who: str, *, statistics: Mapping[str, Any]) -> Path:
    """Let images and records meet: both arms must be locked and unchanged.

    Raises
    ------
    BlindingError
        ``UNBLIND_NO_LOCK``, ``UNBLIND_CHANGED`` (names what differs from its lock), ``UNBLIND_TWICE``.
    """
    if is_unblinded(study):
        raise BlindingError("The study is unblinded already.", code="UNBLIND_TWICE")
    kept: Facts = {}
    for arm in (IMAGING, RECORDS):
        path = latest_lock(study, arm)
        if path is None:
            raise BlindingError(f"The arm {arm} is not locked.", remedy=f"Run: hqsm lock {arm} STUDY", code="UNBLIND_NO_LOCK")
        then, now = _read(path)["sha256"], arm_digests(study, arm, statistics)
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        if changed:
            raise BlindingError(
                f"{', '.join(changed)} changed after the arm {arm} was locked.",
                remedy=f"Find out why; then lock again: hqsm lock {arm} STUDY",
                code="UNBLIND_CHANGED",
            )
        kept[arm] = {"lock": path.name, "lock_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "sha256": then}
    target = study / FOLDER / UNBLINDED
    _write(target, {"who": who, "when_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **kept})
    return target


def broken_lock(study: Path) -> str:
    """The first lock that does not fit the chain of locks or what was unblinded; empty if all fit."""
    for arm in (IMAGING, RECORDS):
        previous = ""
        for path in sorted((study / FOLDER).glob(f"{arm}_*.lock.json")):
            if _read(path).get("previous_sha256") != previous:
                return f"locks/{path.name} does not follow the lock before it"
            previous = hashlib.sha256(path.read_bytes()).hexdigest()
        if is_unblinded(study):
            kept = _read(study / FOLDER / UNBLINDED)[arm]
            path = study / FOLDER / kept["lock"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != kept["lock_sha256"]:
                return f"locks/{kept['lock']} is not the lock that was unblinded"
    return ""


def _read(path: Path) -> Facts:
    try:
        facts: Facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise BlindingError(f"locks/{path.name} is damaged.", remedy="Restore it from a backup.", code="LOCK_DAMAGED") from None
    return facts


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as handle:
        handle.write(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    path.chmod(0o444)
