"""The keys folder: what links a code to a scan, where nobody who reads can look."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, fields
from pathlib import Path

from hqsm.errors import InputError
from hqsm.readpack.plan import Case

KEY_FILE = "readpack_key.csv"


def keys_folder(folder: Path, study: Path, *, create: bool) -> Path:
    """The keys folder, after its place and its permissions were checked.

    Raises
    ------
    InputError
        ``KEYS_PLACE`` inside the study or inside a repository, ``KEYS_OPEN`` readable by others, ``KEYS_MISSING`` not there.
    """
    keys = folder.expanduser().resolve()
    root = study.resolve()
    if keys == root or root in keys.parents:
        raise InputError("The keys folder lies inside the study.", remedy="Choose one that readers cannot reach.", code="KEYS_PLACE")
    for parent in (keys, *keys.parents):
        if (parent / ".git").exists():
            raise InputError(
                f"The keys folder lies inside a repository ({parent.name}).",
                remedy="Choose a private folder outside of it: what is committed cannot be taken back.",
                code="KEYS_PLACE",
            )
    if create and not keys.exists():
        keys.mkdir(parents=True, mode=0o700)
    if not keys.is_dir():
        raise InputError("There is no keys folder at the place given.", remedy="Name the folder of `readpack make`.", code="KEYS_MISSING")
    if keys.stat().st_mode & 0o077:
        raise InputError("The keys folder can be read by others.", remedy=f"chmod 700 {keys}", code="KEYS_OPEN")
    return keys


def write_key(keys: Path, cases: list[Case]) -> Path:
    """Write the key, readable by its owner alone; a key that exists is never overwritten.

    Raises
    ------
    InputError
        ``KEYS_EXIST`` if there is one.
    """
    path = keys / KEY_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            "The keys folder already holds the key of another reading.",
            remedy="Use a new folder: without its key the readings under it are lost.",
            code="KEYS_EXIST",
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=[entry.name for entry in fields(Case)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(case) for case in cases)
    return path


def read_key(keys: Path) -> list[Case]:
    """The cases of a key.

    Raises
    ------
    InputError
        ``KEYS_MISSING`` without one.
    """
    path = keys / KEY_FILE
    if not path.is_file():
        raise InputError(f"There is no {KEY_FILE} in the keys folder.", remedy="Name the folder of `readpack make`.", code="KEYS_MISSING")
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            Case(
                reader=row["reader"],
                position=int(row["position"]),
                code=row["code"],
                participant_id=row["participant_id"],
                session_id=row["session_id"],
                reading=int(row["reading"]),
            )
            for row in csv.DictReader(stream)
        ]
