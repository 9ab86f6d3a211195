"""Respiratory position of each repetition from a file beside the images, or from their headers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.data import NavigatorTrace
from hqsm.dicom.guarded import read_guarded
from hqsm.errors import InputError
from hqsm.table_cells import separator_of
from hqsm.units import DAY_S

_UNKNOWN = {"", "n/a", "nan"}


def read_navigator_csv(content: bytes, n_repetitions: int) -> NavigatorTrace:
    """The displacement of each repetition in a navigator.csv; NaN where the file states none (:func:`navigator_rows`).

    Raises
    ------
    InputError
        As :func:`navigator_rows`, and for a repetition that is missing, given twice or unknown.
    """
    found: dict[int, float] = {}
    for line, repetition, displacement_mm in navigator_rows(content):
        if not 1 <= repetition <= n_repetitions:
            raise InputError(
                f"navigator.csv line {line} names repetition {repetition}, the images have {n_repetitions}.",
                remedy="Give one row per repetition of the images.",
                code="NAVIGATOR_LENGTH",
            )
        if repetition in found:
            raise InputError(f"navigator.csv gives repetition {repetition} twice.", remedy="Keep one.", code="NAVIGATOR_TWICE")
        found[repetition] = displacement_mm
    missing = sorted(set(range(1, n_repetitions + 1)) - found.keys())
    if missing:
        raise InputError(
            f"navigator.csv has no row for repetition {', '.join(map(str, missing))}.",
            remedy="Give one row per repetition of the images, n/a where the navigator failed.",
            code="NAVIGATOR_LENGTH",
        )
    return NavigatorTrace(displacement_mm=np.array([found[r + 1] for r in range(n_repetitions)]), source="navigator.csv")


def navigator_rows(content: bytes) -> Iterator[tuple[int, int, float]]:
    """Line, repetition (from 1) and displacement [mm] of each row of a navigator.csv, ``repetition,displacement_mm``.

    Written by a program or saved by a spreadsheet: separated by comma, semicolon or tab, with a decimal comma where the comma does
    not separate. An empty cell or ``n/a`` is a displacement that is not known (NaN).

    Raises
    ------
    InputError
        For a text that is not UTF-8, a missing column, a row that is not two numbers.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("navigator.csv is not UTF-8.", remedy="Save it as CSV UTF-8.", code="NAVIGATOR_ENCODING") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator_of(text.split("\n", 1)[0]))
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if not {"repetition", "displacement_mm"} <= set(reader.fieldnames):
        raise InputError(
            "navigator.csv has not the columns repetition,displacement_mm.",
            remedy="Write them as its first line.",
            code="NAVIGATOR_COLUMNS",
        )
    for row in reader:
        cells = [(row[name] or "").strip() for name in ("repetition", "displacement_mm")]
        if not any(cells):
            continue
        try:
            displacement_mm = float("nan") if cells[1].lower() in _UNKNOWN else float(cells[1].replace(",", "."))
            repetition = int(cells[0])
        except ValueError:
            repetition, displacement_mm = 0, float("inf")
        if np.isinf(displacement_mm):
            raise InputError(f"navigator.csv line {reader.line_num} is not two numbers.", remedy="Correct it.", code="NAVIGATOR_NUMBER")
        yield reader.line_num, repetition, displacement_mm


_SAME_TIME_S = 0.005
_LARGEST_MB = 512.0
_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
_RESPIRATORY = "RespiratorySynchronizationSequence"


def read_displacement_element(
    folder: Path, element: str, mm_per_unit: float, repetition_times_of_day_s: FloatArray
) -> NavigatorTrace | None:
    """Displacement of each repetition from one DICOM element that the study names; None if no image has it.

    Parameters
    ----------
    folder
        The visit.
    element
        ``GGGG,EEEE`` for a fixed tag, or ``GGGG,xxEE CREATOR`` for a private one, whose block the creator decides. In an
        enhanced file it is looked for in the frame's functional groups, then in the shared ones, then in the file.
    mm_per_unit
        What its value is multiplied by; negative where the element counts towards the feet.
    repetition_times_of_day_s
        (repetition,) the headers are matched by AcquisitionTime, enhanced frames by FrameAcquisitionDateTime.

    Raises
    ------
    InputError
        If the headers of one repetition give two values.
    """
    values: list[set[float]] = [set() for _ in repetition_times_of_day_s]
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        for time_s, layers in _frames(path):
            value = next((v for v in (_element_number(layer, element) for layer in layers) if np.isfinite(v)), np.nan)
            for r in np.flatnonzero(np.abs(repetition_times_of_day_s % DAY_S - time_s) < _SAME_TIME_S) if np.isfinite(value) else ():
                values[r].add(float(value) * mm_per_unit)
    for number, found in enumerate(values, start=1):
        if len(found) > 1:
            raise InputError(
                f"The element {element} has {len(found)} different values in the images of repetition {number}.",
                remedy="Correct gating.displacement_element: it must be one number for a repetition.",
                code="NAVIGATOR_TWICE",
            )
    if not any(values):
        return None
    return NavigatorTrace(displacement_mm=np.array([next(iter(v), np.nan) for v in values]), source="dicom")


def read_respiratory_amplitude(path: Path) -> list[tuple[float, float]]:
    """Time of day [s] and respiratory amplitude of every frame of an enhanced file that states both.

    Starting and Ending Respiratory Amplitude (0020,9246) and (0020,9248) are shares of an amplitude, not millimetres: what
    they are worth has to come from elsewhere. RespiratoryCyclePosition names a class and says nothing of a distance.
    """
    found = []
    for time_s, layers in _frames(path):
        group = next((layer for layer in layers if "StartingRespiratoryAmplitude" in layer), None)
        if group is None:
            continue
        ends = [_number(group.get(name)) for name in ("StartingRespiratoryAmplitude", "EndingRespiratoryAmplitude")]
        stated = [value for value in ends if np.isfinite(value)]
        if stated and np.isfinite(time_s):
            found.append((time_s, float(np.mean(stated))))
    return found


def _frames(path: Path) -> list[tuple[float, list[Any]]]:
    """Time of day [s] of every frame of a file, and where its attributes are: own groups, shared groups, file."""
    try:
        header = read_guarded(path, _LARGEST_MB)
    except InputError:
        return []
    per_frame = header.get(_PER_FRAME)
    if not per_frame:
        return [(_time_of_day_s(header.get("AcquisitionTime")), [header])]
    shared = _groups(header.get(_SHARED) or [])
    frames = []
    for item in per_frame:
        layers = [*_groups([item]), *shared, header]
        stamps = [str(layer.get("FrameAcquisitionDateTime") or "")[8:] for layer in layers] + [header.get("AcquisitionTime")]
        frames.append((next((t for t in map(_time_of_day_s, stamps) if np.isfinite(t)), float("nan")), layers))
    return frames


def _groups(items: Any) -> list[Any]:
    """The functional groups in the items of a sequence, and the items themselves."""
    return [group for item in items for group in (*(e.value[0] for e in item if e.VR == "SQ" and len(e.value)), item)]


def _element_number(header: Any, element: str) -> float:
    """The element as a number; NaN where it is absent, hidden in another block, or not one number."""
    tag, _, creator = element.partition(" ")
    group, number = tag.split(",")
    try:
        if creator:
            value = header.private_block(int(group, 16), creator)[int(number[-2:], 16)].value
        else:
            value = header[int(group, 16), int(number, 16)].value
    except KeyError:
        return float("nan")
    return _number(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError):
        return float("nan")


def _time_of_day_s(value: Any) -> float:
    text = str(value or "")
    try:
        return 3600 * int(text[:2]) + 60 * int(text[2:4]) + float(text[4:])
    except ValueError:
        return float("nan")
