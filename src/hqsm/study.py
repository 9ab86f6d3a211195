"""Edge: what is in a study folder, found by looking, and what of it changed since the last look.

The main Snakemake process looks once per run and writes ``results/work/index.json``; jobs read that file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hqsm.errors import InputError

INDEX = Path("results/work/index.json")
LABEL = re.compile(r"[A-Za-z0-9]{1,64}\Z")
RECORD_NAME = re.compile(
    r"(participants|visits|visits_map|weights|transfusions|chelation|adherence|explant_chemistry|explant_histology|labs|redcap"
    r"|redcap_dictionary)\.(csv|tsv|yaml)\Z"
)
"""Files of ``records/`` whose names may be shown; another name can be that of a person."""
_LINK = "The folder is a link out of dicom/; copy the files, or file them with `hqsm intake`."


@dataclass(frozen=True, kw_only=True)
class VisitFolder:
    """One visit that was found: labels without prefix, and fingerprints of its content."""

    participant: str
    session: str
    folder: str
    content: str
    """Hash over relative names and bytes of every file below the visit folder."""
    rois: str
    """The same over the visit's reader masks; empty without any."""
    n_files: int
    n_bytes: int = 0

    @property
    def name(self) -> str:
        """The visit's name in every path: ``sub-<participant>_ses-<session>``."""
        return f"sub-{self.participant}_ses-{self.session}"


@dataclass(frozen=True, kw_only=True)
class StudyIndex:
    """Everything that discovery found."""

    visits: tuple[VisitFolder, ...]
    unusable: tuple[tuple[str, str], ...]
    """Folders under ``dicom/`` or ``bids/`` that cannot be visits, each with its reason."""
    records: dict[str, str]
    """Hash of each file in ``records/``."""


def discover(study: Path, previous: dict[str, Any] | None = None) -> tuple[StudyIndex, dict[str, Any]]:
    """Look at ``dicom/sub-*/ses-*`` (or ``bids/``), ``rois/`` and ``records/``.

    Parameters
    ----------
    study
        The study folder.
    previous
        Cache of the last look (``stat`` key to content hash): a file tree whose names, sizes and times are unchanged
        is not read again; one that was merely touched is read and found equal.

    Raises
    ------
    InputError
        ``RECORDS_CLOSED``: a record may not be read. Of the visits nothing stops the cohort.

    Returns
    -------
    index, cache
        What was found, and the cache for the next look.
    """
    known: dict[str, str] = (previous or {}).get("hashes", {})
    hashes: dict[str, str] = {}
    visits: list[VisitFolder] = []
    found, unusable = find_folders(study)
    for name, label, folder in found:
        rois = study / "rois" / name / label
        content, n_files, n_bytes = _tree_hash(folder, known, hashes)
        source = folder.parents[1]
        if source.name == "bids":
            content = _with_inherited_sidecars(content, source, folder.parent)
        visits.append(
            VisitFolder(
                participant=name[4:],
                session=label[4:],
                folder=f"{source.name}/{name}/{label}",
                content=content,
                rois=_tree_hash(rois, known, hashes)[0] if rois.is_dir() else "",
                n_files=n_files,
                n_bytes=n_bytes,
            )
        )
    records: dict[str, str] = {}
    for position, path in enumerate(sorted((study / "records").glob("*")) if (study / "records").is_dir() else [], start=1):
        if path.is_file() and path.suffix in {".csv", ".tsv", ".yaml"} and not path.name.startswith("."):
            name = path.name if RECORD_NAME.match(path.name) else _nameless("records", position)
            try:
                records[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            except PermissionError:
                raise InputError(
                    f"records/{name} cannot be opened.", remedy="Give the right to read it, then repeat the command.", code="RECORDS_CLOSED"
                ) from None
    index = StudyIndex(visits=tuple(visits), unusable=tuple(unusable), records=records)
    return index, {"hashes": hashes}


def find_folders(study: Path) -> tuple[list[tuple[str, str, Path]], list[tuple[str, str]]]:
    """Participant, session (with their prefixes) and folder of each visit, and the folders that cannot be visits with their reason.

    Visits lie below ``dicom/`` or, of a study that starts from BIDS, below ``bids/``. Names are looked at, no file is opened.
    """
    visits: list[tuple[str, str, Path]] = []
    unusable: list[tuple[str, str]] = []
    for source in ("dicom", "bids"):
        root = (study / source).resolve()
        in_dicom = {visit[:2] for visit in visits}
        for position, participant_dir in enumerate(_folders(study / source), start=1):
            name = participant_dir.name
            if source == "bids" and not name.startswith("sub-"):
                continue  # derivatives, code, sourcedata
            if not name.startswith("sub-") or not LABEL.match(name[4:]):
                unusable.append((_nameless(source, position), "The folder is not named sub-<letters and digits>; rename it."))
                continue
            if not participant_dir.resolve().is_relative_to(root):
                unusable.append((name, _LINK))
                continue
            try:
                sessions = list(_folders(participant_dir))
            except PermissionError:
                unusable.append((name, "The folder cannot be opened; give the right to read it."))
                continue
            if not sessions:
                unusable.append((name, "There is no ses-<label> folder in it; put each visit into its own."))
            for place, session_dir in enumerate(sessions, start=1):
                label = session_dir.name
                if not label.startswith("ses-") or not LABEL.match(label[4:]):
                    unusable.append((f"{name}/{_nameless(name, place)}", "The folder is not named ses-<letters and digits>; rename it."))
                elif not session_dir.resolve().is_relative_to(root):
                    unusable.append((f"{name}/{label}", _LINK))
                elif (name, label) in in_dicom:
                    why = "The visit is below dicom/ and below bids/; the DICOM is used. Remove one of them."
                    unusable.append((f"{name}/(bids of {label})", why))  # the label is the row of the visit that is used
                else:
                    visits.append((name, label, session_dir))
    return visits, unusable


def _with_inherited_sidecars(content: str, *folders: Path) -> str:
    """The fingerprint of a BIDS session together with the sidecars above it that it may inherit."""
    inherited = [path for folder in folders for path in sorted(folder.glob("*MEGRE.json"))]
    if not inherited:
        return content
    digest = hashlib.blake2b(content.encode(), digest_size=12)
    for path in inherited:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def write_index(path: Path, index: StudyIndex, cache: dict[str, Any], extra: dict[str, Any]) -> None:
    """Write the index for the jobs of this run and the cache for the next one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"index": asdict(index), "cache": cache, **extra}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_index(path: Path) -> tuple[StudyIndex, dict[str, Any]]:
    """Read what :func:`write_index` wrote: the index, and everything else in the file."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    raw = stored.pop("index")
    index = StudyIndex(
        visits=tuple(VisitFolder(**visit) for visit in raw["visits"]),
        unusable=tuple((name, reason) for name, reason in raw["unusable"]),
        records=raw["records"],
    )
    return index, stored


def describe_changes(before: StudyIndex | None, now: StudyIndex) -> str:
    """One line for people: what is new, changed and removed since the last look."""
    if before is None:
        return f"{_visits(len(now.visits))} found."
    old = {(v.participant, v.session): (v.content, v.rois) for v in before.visits}
    new = {(v.participant, v.session): (v.content, v.rois) for v in now.visits}
    parts = []
    for word, keys in (
        ("new", sorted(new.keys() - old.keys())),
        ("changed", sorted(key for key in new.keys() & old.keys() if new[key] != old[key])),
        ("removed", sorted(old.keys() - new.keys())),
    ):
        if keys:
            shown = ", ".join(f"sub-{p}/ses-{s}" for p, s in keys[:5]) + (" ..." if len(keys) > 5 else "")
            parts.append(f"{len(keys)} {word} ({shown})")
    changed_records = sorted(
        name for name in before.records.keys() | now.records.keys() if before.records.get(name) != now.records.get(name)
    )
    if changed_records:
        parts.append("records changed: " + ", ".join(changed_records))
    return f"{_visits(len(new))} found; since the last run: " + ("; ".join(parts) if parts else "nothing changed") + "."


def _visits(n: int) -> str:
    return "1 visit" if n == 1 else f"{n} visits"


def _nameless(parent: str, position: int) -> str:
    """What a file or folder of an unexpected name is called: its name can be that of a person."""
    return f"(no. {position} in {parent} by name)"


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _tree_hash(folder: Path, known: dict[str, str], hashes: dict[str, str]) -> tuple[str, int, int]:
    """Content hash of a tree; files are read only when a name, a size or a time differs from the last look."""
    entries = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(root, name)
            if os.path.islink(path) and not Path(path).resolve().is_relative_to(folder.resolve()):
                continue  # as in the reader: what a link points to outside of the visit is not part of it
            if not os.path.isfile(path):
                continue  # a pipe or device would block or never end
            stat = os.stat(path)
            entries.append((os.path.relpath(path, folder), stat.st_size, stat.st_mtime_ns, path))
    shape = hashlib.sha256(repr([(folder.name, *entry[:3]) for entry in entries]).encode()).hexdigest()[:24]
    n_bytes = sum(entry[1] for entry in entries)
    if shape in known:
        hashes[shape] = known[shape]
    else:
        digest, readable = hashlib.blake2b(digest_size=12), True
        for name, size, _, path in entries:
            digest.update(f"{name}\0{size}\0".encode())
            try:
                with open(path, "rb") as handle:
                    digest.update(handle.read())
            except OSError:  # not ours to read: the visit's own job says so, and the cohort goes on
                digest.update(b"unreadable")
                readable = False
        if not readable:
            return digest.hexdigest(), len(entries), n_bytes  # not remembered: a right that is given changes neither size nor time
        hashes[shape] = digest.hexdigest()
    return hashes[shape], len(entries), n_bytes
