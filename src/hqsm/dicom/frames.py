"""Files become frames: one image each, classic or enhanced, with what it is and where it lies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.data import SetAside
from hqsm.dicom.classification import kind_of_rest, other_than_complex
from hqsm.dicom.conventions import ENHANCED_MR, Convention, Scaling, convention_of, image_type
from hqsm.dicom.elements import GROUPS, TAGS, Elements, Value
from hqsm.dicom.files import ImageFile, series_name
from hqsm.intake.policy import known_version, known_words
from hqsm.units import milliseconds_to_s

_FILTERS = frozenset({"NORM", "DIS2D", "DIS3D", "FIL", "FILTERED", "FM3", "FM2"})
"""Words of the image type that mean: the same image, filtered or corrected afterwards."""

PHILIPS_FRAME = "Philips MR Imaging DD 005"
"""Creator of the sequence in which Philips keeps what the classic image of a frame would say."""
_OF_THE_FILE = frozenset({0x00080016, 0x00080018, 0x0020000E})
"""Storage class, instance and series: a vendor's per-frame copy names those of the classic images it would have made."""

_OWN = frozenset(
    TAGS[word]
    for word in (
        "SOPInstanceUID",
        "ImagePositionPatient",
        "AcquisitionDate",
        "AcquisitionNumber",
        "AcquisitionTime",
        "AcquisitionDateTime",
        "FrameAcquisitionDateTime",
        "TemporalPositionIdentifier",
        "TemporalPositionIndex",
    )
)
"""Attributes in which the frames of one series differ."""


class Header:
    """Attributes of one frame: those of the frame, then those that all frames share, then those of the file."""

    def __init__(self, *layers: Elements) -> None:
        self._layers = layers

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of a keyword from the first layer that has it."""
        for layer in self._layers:
            value = layer.get(keyword)
            if value is not None:
                return value
        return default

    def private(self, group: int, creator: str, number: int, vr: str) -> Any:
        """Value of a private element from the first layer that has it; None without it."""
        for layer in self._layers:
            value = layer.private(group, creator, number, vr)
            if value is not None:
                return value
        return None

    def all_but(self, tags: frozenset[int]) -> tuple[Value, ...]:
        """Every value but those of some tags: two headers with the same values say the same."""
        return tuple(value for layer in self._layers for value in layer.all_but(tags))

    def number(self, key: str) -> float:
        """A number; NaN where it is absent or none."""
        value = self.get(key)
        if value is not None and hasattr(value, "__len__") and not isinstance(value, str):
            value = value[0] if len(value) else None
        try:
            return float(value)
        except (TypeError, ValueError):
            return float("nan")

    def text(self, key: str) -> str:
        """A value as one line for people, reduced to words and version numbers that name nobody."""
        value = self.get(key, "")
        words = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        reduce = known_version if key == "SoftwareVersions" else known_words
        return " ".join(" ".join(reduce(word) for word in words).split())[:64]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Frame:
    """One image that is part of a complex acquisition, or could be.

    ``position_mm`` and ``orientation`` are DICOM's (LPS); ``scaling`` is None where the header does not explain the
    unit of a phase image; ``protocol`` is what all images of one acquisition share (study, frame of reference, spacing,
    orientation, TR, flip angle); ``temporal`` and ``acquisition_number`` are -1 where they are absent.
    """

    file: ImageFile
    index: int
    header: Header
    convention: Convention
    part: str
    scaling: Scaling | None
    echo_time_s: float
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    series_uid: str
    series_number: int
    name: str
    filters: frozenset[str]
    protocol: tuple[Any, ...]
    temporal: int
    acquisition_number: int
    time_of_day_s: float
    day: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Leftover:
    """An image that is no part of a complex acquisition, with the header that says so."""

    header: Header
    aside: SetAside
    series_uid: str


def frames_of(files: list[ImageFile]) -> tuple[list[Frame], list[Leftover]]:
    """Every frame of the files, and the images that can be no part of a complex acquisition."""
    frames: list[Frame] = []
    rest: list[Leftover] = []
    known: dict[tuple[Value, ...], dict[str, Any] | SetAside] = {}
    for file in files:
        for index, header in enumerate(_headers(file)):
            try:
                made = _frame(file, index, header, known)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, ArithmeticError):
                made = SetAside(name=series_name(file.header), kind="damaged", reason="a value of its header cannot be read")
            if isinstance(made, Frame):
                frames.append(made)
            else:
                rest.append(Leftover(header=header, aside=made, series_uid=str(header.get("SeriesInstanceUID", ""))))
    return frames, rest


def _headers(file: ImageFile) -> Iterator[Header]:
    """One header per frame; the functional groups of an enhanced file are laid flat."""
    top = file.header
    if str(top.get("SOPClassUID", "")) not in ENHANCED_MR:
        for _ in range(file.n_frames):
            yield Header(top)
        return
    shared = [_flat(item) for item in top.items("SharedFunctionalGroupsSequence")[:1]]
    per_frame = top.items("PerFrameFunctionalGroupsSequence")
    for index in range(file.n_frames):
        yield Header(*(_flat(item) for item in per_frame[index : index + 1]), *shared, top)


def _flat(item: Elements) -> Elements:
    """The attributes of one item's functional groups, side by side; the standard goes before a vendor's own copy."""
    groups = item.private_items(0x2005, PHILIPS_FRAME, 0x0F)[:1]
    for name in GROUPS:
        groups += item.items(name)[:1]
    return item.merged(groups, without=_OF_THE_FILE)


def _frame(file: ImageFile, index: int, header: Header, known: dict[tuple[Value, ...], dict[str, Any] | SetAside]) -> Frame | SetAside:
    key = header.all_but(_OWN)
    common = known.get(key)
    if common is None:
        common = known[key] = _common(header)
    if isinstance(common, SetAside):
        return common
    position = header.get("ImagePositionPatient")
    if not position or len(position) != 3:
        return SetAside(name=common["name"], kind="incomplete header", reason="no position, or one of the wrong length")
    temporal = header.number("TemporalPositionIndex")
    if not temporal > 0:
        temporal = header.number("TemporalPositionIdentifier")
    acquisition = header.number("AcquisitionNumber")
    days = (iso_day(str(header.get(name) or "")) for name in ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate"))
    return Frame(
        file=file,
        index=index,
        header=header,
        position_mm=(float(position[0]), float(position[1]), float(position[2])),
        temporal=int(temporal) if temporal > 0 else -1,
        acquisition_number=int(acquisition) if np.isfinite(acquisition) else -1,
        time_of_day_s=_time_of_day_s(header),
        day=next(filter(None, days), ""),
        **common,
    )


def _common(header: Header) -> dict[str, Any] | SetAside:
    """Facts that the frames of a series share, worked out once for all whose headers differ in nothing but ``_OWN``."""
    name = series_name(header)
    kind = other_than_complex(header)
    if kind is not None:
        return SetAside(name=name, kind=kind, reason="not part of a complex multi-echo acquisition")
    convention = convention_of(header)
    if convention is None:
        maker = header.text("Manufacturer") or "an unnamed maker"
        return SetAside(name=name, kind="unknown vendor", reason=f"no convention for {maker}, and no ComplexImageComponent")
    part = convention.part(header)
    if part is None:
        return SetAside(name=name, kind=kind_of_rest(header), reason="not an original magnitude, phase, real or imaginary image")
    echo_time_ms = header.number("EffectiveEchoTime")
    if not echo_time_ms > 0:
        echo_time_ms = header.number("EchoTime")
    orientation, spacing = header.get("ImageOrientationPatient"), header.get("PixelSpacing")
    if not echo_time_ms > 0 or not orientation or not spacing:
        return SetAside(name=name, kind="incomplete header", reason="no echo time, orientation or pixel spacing")
    if len(orientation) != 6 or len(spacing) != 2 or int(header.get("SamplesPerPixel", 1) or 1) != 1:
        return SetAside(name=name, kind="incomplete header", reason="orientation or pixel spacing of the wrong length, or colours")
    axes, spacing_mm = tuple(float(v) for v in orientation), (float(spacing[0]), float(spacing[1]))
    filters = frozenset(image_type(header)) & _FILTERS
    number = header.number("SeriesNumber")
    return {
        "convention": convention,
        "part": part,
        "scaling": convention.scaling(header, part),
        "echo_time_s": round(milliseconds_to_s(echo_time_ms), 7),
        "orientation": axes,
        "spacing_mm": spacing_mm,
        "series_uid": str(header.get("SeriesInstanceUID", "")),
        "series_number": int(number) if np.isfinite(number) else 0,
        "name": name,
        "filters": filters,
        "protocol": (
            str(header.get("StudyInstanceUID") or ""),
            str(header.get("FrameOfReferenceUID") or ""),
            tuple(round(v, 3) for v in spacing_mm),
            tuple(round(v, 3) for v in axes),
            round(header.number("RepetitionTime"), 1),
            round(header.number("FlipAngle"), 1),
            filters & {"DIS2D", "DIS3D"},
        ),
    }


@lru_cache(maxsize=1024)
def iso_day(text: str) -> str:
    """The day that a date or date and time begins with, as YYYY-MM-DD; empty where it is none, as 00000000 of an anonymised header."""
    found = re.match(r"(\d{4})[-./]?(\d\d)[-./]?(\d\d)", text.strip(), re.ASCII)
    try:
        return date(*map(int, found.groups())).isoformat() if found else ""
    except ValueError:
        return ""


def _time_of_day_s(header: Header) -> float:
    """Seconds since midnight at which a frame was acquired; NaN where the header is silent."""
    for name, start in (("FrameAcquisitionDateTime", 8), ("AcquisitionTime", 0), ("AcquisitionDateTime", 8)):
        text = str(header.get(name) or "")[start:].replace(":", "")
        try:
            return 3600 * int(text[:2]) + 60 * int(text[2:4] or 0) + float(text[4:].split("+")[0].split("-")[0] or 0)
        except ValueError:
            continue
    return float("nan")


def slice_normal(frame: Frame) -> FloatArray:
    """(3,) unit vector across the image plane, in DICOM's LPS frame."""
    row, column = np.array(frame.orientation, float).reshape(2, 3)
    normal: FloatArray = np.cross(row, column)
    return normal
