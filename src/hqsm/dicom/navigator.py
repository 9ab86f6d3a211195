"""Respiratory position of each repetition from a file beside the images, or from their headers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.data import NavigatorTrace
from hqsm.dicom.guarded import read_guarded
from hqsm.errors import InputError


def read_navigator_csv(path: Path, n_repetitions: int) -> NavigatorTrace:
    """Read ``repetition,displacement_mm`` with one row per repetition, from 1.

    Raises
    ------
    InputError
        For a missing column, a row that is not a number, a repetition that is missing, given twice or unknown.
    """
    displacement_mm = np.full(n_repetitions, np.nan)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        if not {"repetition", "displacement_mm"} <= set(reader.fieldnames or ()):
            raise InputError(
                "navigator.csv has not the columns repetition,displacement_mm.",
                remedy="Write them as its first line.",
                code="NAVIGATOR_COLUMNS",
            )
        for line, row in enumerate(reader, start=2):
            try:
                repetition, value = int(row["repetition"]), float(row["displacement_mm"])
            except (TypeError, ValueError):
                raise InputError(f"navigator.csv line {line} is not two numbers.", remedy="Correct it.", code="NAVIGATOR_NUMBER") from None
            if not 1 <= repetition <= n_repetitions:
                raise InputError(
                    f"navigator.csv line {line} names repetition {repetition}, the images have {n_repetitions}.",
                    remedy="Give one row per repetition of the images.",
                    code="NAVIGATOR_LENGTH",
                )
            if np.isfinite(displacement_mm[repetition - 1]):
                raise InputError(f"navigator.csv gives repetition {repetition} twice.", remedy="Keep one.", code="NAVIGATOR_TWICE")
            displacement_mm[repetition - 1] = value
    missing = np.flatnonzero(np.isnan(displacement_mm)) + 1
    if missing.size:
        raise InputError(
            f"navigator.csv has no row for repetition {', '.join(map(str, missing))}.",
            remedy="Give one row per repetition of the images.",
            code="NAVIGATOR_LENGTH",
        )
    return NavigatorTrace(displacement_mm=displacement_mm, source="navigator.csv")


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
            for r in np.flatnonzero(np.abs(repetition_times_of_day_s - time_s) < _SAME_TIME_S) if np.isfinite(value) else ():
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
