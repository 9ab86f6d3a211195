"""Edge: the nouns to and from a file between two jobs of one visit, without loss and with the same bytes each time."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hqsm.data import VoxelGrid
from hqsm.errors import InputError

_Noun = TypeVar("_Noun")

# An .npz as numpy writes it, but deflated at level 1, which numpy does not offer: half the disk (air is constant) for 10 ms a MB.
# First bytes of all numbers come first, then all second ones: signs and exponents are alike, which is a tenth of the disk more.


def save_noun(path: Path, noun: Any, maps: Mapping[str, str] | None = None) -> None:
    """Write a frozen dataclass of arrays, numbers, strings, tuples, mask dictionaries and one grid.

    ``maps``: fields that a NIfTI file of the same job holds already, with its path; they are read from there.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain: dict[str, Any] = {}
    for entry in dataclasses.fields(noun):
        value = getattr(noun, entry.name)
        if maps and entry.name in maps:
            if value.dtype != np.float32:
                raise ValueError(f"{entry.name} is {value.dtype}; a map holds float32")
            plain[f"{entry.name}@map"] = os.path.relpath(maps[entry.name], path.parent)
        elif isinstance(value, VoxelGrid):
            arrays["grid_affine_mm"] = value.affine_mm
            plain["grid_shape"] = list(value.shape)
        elif isinstance(value, np.ndarray):
            arrays[entry.name] = np.packbits(value) if value.dtype == np.bool_ else _bytes_by_place(value)
            plain[f"{entry.name}@shape"] = list(value.shape)
            if value.dtype != np.bool_:
                plain[f"{entry.name}@type"] = value.dtype.str
        elif isinstance(value, dict) and any(isinstance(v, np.ndarray) for v in value.values()):
            plain[f"{entry.name}@keys"] = list(value)
            for key, mask in value.items():
                arrays[f"{entry.name}@{key}"] = np.packbits(mask)
                plain[f"{entry.name}@{key}@shape"] = list(mask.shape)
            plain[entry.name] = None
        else:
            plain[entry.name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = np.frombuffer(json.dumps(plain, sort_keys=True).encode(), dtype=np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, array in {"_plain": encoded, **arrays}.items():
            with packed.open(f"{name}.npy", "w", force_zip64=True) as handle:  # dated 1980: equal content, equal bytes
                np.lib.format.write_array(handle, np.ascontiguousarray(array), allow_pickle=False)


def load_noun(path: Path, kind: type[_Noun]) -> _Noun:
    """Read what :func:`save_noun` wrote."""
    with np.load(path) as stored:
        plain = json.loads(stored["_plain"].tobytes())
        values: dict[str, Any] = {}
        for entry in dataclasses.fields(kind):  # type: ignore[arg-type]
            name = entry.name
            if name == "grid":
                values[name] = VoxelGrid(shape=tuple(plain["grid_shape"]), affine_mm=stored["grid_affine_mm"])
            elif f"{name}@map" in plain:
                values[name] = _read_map(path.parent / plain[f"{name}@map"], path)
            elif f"{name}@keys" in plain:
                values[name] = {key: _unpack(stored[f"{name}@{key}"], plain[f"{name}@{key}@shape"]) for key in plain[f"{name}@keys"]}
            elif f"{name}@type" in plain:
                values[name] = _numbers(stored[name], plain[f"{name}@type"], plain[f"{name}@shape"])
            elif f"{name}@shape" in plain:
                values[name] = _unpack(stored[name], plain[f"{name}@shape"])
            elif name in plain:  # else the archive is older than the field, whose default holds
                value = plain[name]
                values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _read_map(path: Path, archive: Path) -> np.ndarray[Any, Any]:
    from hqsm.nifti import load_volume

    if not path.is_file():
        raise InputError(
            f"{path.name} was removed, and a later stage needs it.",
            remedy=f"Remove {archive.with_suffix('.json')}, too: the stage before then makes both again.",
            code="MAP_MISSING",
        )
    return np.ascontiguousarray(load_volume(path)[0])


def _unpack(bits: np.ndarray[Any, Any], shape: list[int]) -> np.ndarray[Any, Any]:
    return np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)


def _bytes_by_place(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(byte of a number, number) uint8: the first bytes of all numbers, then all second ones, and so on."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8).T


def _numbers(places: np.ndarray[Any, Any], kind: str, shape: list[int]) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = np.ascontiguousarray(places.T).view(kind).reshape(shape)
    return numbers
