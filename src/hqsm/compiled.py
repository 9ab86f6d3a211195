"""Edge: the one way to compile a function, numba, with a cache that belongs to the source it was made from.

numba keeps compiled code as long as the file of the function itself is the same; a helper or a constant that it takes from
another file would stay in it as it was before an upgrade. Here the cache's folder is named by the digest of every file that
compiles anything. ``NUMBA_CACHE_DIR`` still says where.

Threads that wait, sleep: GNU's OpenMP lets them spin, and where other jobs hold the second core, which is any study with
several jobs, the one that waits took the time of the one that works and two threads were twice as slow as one.
``OMP_WAIT_POLICY`` still says otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

_PACKAGE = Path(__file__).resolve().parent
_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = b"from hqsm.compiled import"


def sources() -> list[Path]:
    """The files of the package that compile anything."""
    return sorted(path for path in _PACKAGE.rglob("*.py") if _MARK in path.read_bytes() or path == Path(__file__).resolve())


def cache_folder() -> Path:
    """Where this version's compiled code is kept: beside the package, or in the user's cache where that cannot be written."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    base = os.environ.get("NUMBA_CACHE_DIR")
    if base:
        return Path(base) / digest.hexdigest()[:12]
    beside = _PACKAGE / "__pycache__"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hqsm"
    writable = os.access(beside if beside.exists() else _PACKAGE, os.W_OK)
    return (beside if writable else user) / f"compiled-{digest.hexdigest()[:12]}"


os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when the first parallel loop loads OpenMP
numba.config.CACHE_DIR = str(cache_folder())  # type: ignore[attr-defined]
prange: Any = numba.prange


def njit(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function without Python's objects, kept in this version's cache; options as numba's."""
    decorator: Callable[[_Function], _Function] = numba.njit(cache=True, **options)
    return decorator
