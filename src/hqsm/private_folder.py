"""Edge: a folder that its owner alone can read, outside of the study and of any repository: where secrets and keys lie."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TextIO

from hqsm.errors import InputError


def private_folder(folder: Path, study: Path, *, create: bool) -> Path:
    """The folder of keys, after its place and its permissions were checked; made where it is missing and ``create``.

    Raises
    ------
    InputError
        ``KEYS_PLACE``: inside the study or a repository, or around the study; ``KEYS_READABLE``: others may read it;
        ``KEYS_MISSING``: it does not exist.
    """
    place = folder.expanduser().resolve()
    _refuse_place(place, study.resolve())
    if create and not place.exists():
        place.mkdir(parents=True, mode=0o700)
        place.chmod(0o700)
    if not place.is_dir():
        raise InputError("There is no folder of keys at the place given.", remedy="Name the one that was made before.", code="KEYS_MISSING")
    refuse_readable(place)
    return place


def _refuse_place(place: Path, study: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    inside = place.is_relative_to(study) or place.is_relative_to(repository)
    if inside or study.is_relative_to(place) or any((parent / ".git").exists() for parent in (place, *place.parents)):
        raise InputError(
            "The folder of keys lies inside the study, around it, or in a repository.",
            remedy="Keep it apart, for example ~/hqsm-keys/<study>, and back it up where patient data may lie.",
            code="KEYS_PLACE",
        )


def refuse_readable(path: Path) -> None:
    """Refuse a folder or file of keys that others than its owner may read; one that does not exist passes."""
    if not path.exists():
        return
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise InputError(
            f"Others than you may read {'the folder of keys' if path.is_dir() else path.name}.",
            remedy="Make it yours alone: chmod 700 the folder, chmod 600 its files.",
            code="KEYS_READABLE",
        )


def private_file(path: Path) -> TextIO:
    """A new file that only its owner can read, open for writing; :class:`FileExistsError` where there is one."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline="")
