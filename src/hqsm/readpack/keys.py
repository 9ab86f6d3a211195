"""The keys folder: what links a code to a scan, where nobody who reads can look."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path

from hqsm.errors import InputError
from hqsm.private_folder import private_file, refuse_readable
from hqsm.readpack.plan import Case

KEY_FILE = "readpack_key.csv"


def write_key(keys: Path, cases: list[Case]) -> Path:
    """Write the key, readable by its owner alone; a key that exists is never overwritten.

    Raises
    ------
    InputError
        ``KEYS_EXIST`` if there is one.
    """
    path = keys / KEY_FILE
    try:
        stream = private_file(path)
    except FileExistsError as error:
        raise InputError(
            "The keys folder already holds the key of another reading.",
            remedy="Use a new folder: without its key the readings under it are lost.",
            code="KEYS_EXIST",
        ) from error
    with stream:
        writer = csv.DictWriter(stream, fieldnames=[entry.name for entry in fields(Case)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(case) for case in cases)
    return path


def read_key(keys: Path) -> list[Case]:
    """The cases of a key.

    Raises
    ------
    InputError
        ``KEYS_MISSING`` without one, ``KEYS_READABLE`` where others may read it.
    """
    path = keys / KEY_FILE
    refuse_readable(path)
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
