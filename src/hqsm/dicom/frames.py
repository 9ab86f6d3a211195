"""Files become frames: one image each, classic or enhanced, with what it is and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from hqsm.arrays import FloatArray
from hqsm.data import SetAside
from hqsm.dicom.classification import kind_of_rest, other_than_complex
from hqsm.dicom.conventions import ENHANCED_MR, Convention, Scaling, convention_of, image_type
from hqsm.dicom.files import PHILIPS_FRAME, ImageFile, series_name
from hqsm.intake.policy import known_version, known_words
from hqsm.units import milliseconds_to_s

_FILTERS = frozenset({"NORM", "DIS2D", "DIS3D", "FIL", "FILTERED", "FM3", "FM2"})
"""Words of the image type that mean: the same image, filtered or corrected afterwards."""

_OF_THE_FILE = {0x00080016, 0x00080018, 0x0020000E}
"""Storage class, instance and series: a vendor's per-frame copy names those of the classic images it would have made."""


class Header:
    """Attributes of one frame: those of the frame, then those that all frames share, then those of the file."""

    def __init__(self, *layers: Any) -> None:
        self._layers = layers

    def get(self, key: Any, default: Any = None) -> Any:
        """Value of a keyword, or element of a tag, from the first layer that has it."""
        for layer in self._layers:
            value = layer.get(key)
            if value is not None:
                return value
        return default

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
    unit of a phase image; ``temporal`` and ``acquisition_number`` are -1 where they are absent.
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
    temporal: int
    acquisition_number: int
    time_of_day_s: float
    date: str


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
    for file in files:
        for index, header in enumerate(_headers(file)):
            try:
                made = _frame(file, index, header)
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
    shared = _flat(top.get("SharedFunctionalGroupsSequence"), 0)
    per_frame = top.get("PerFrameFunctionalGroupsSequence")
    for index in range(file.n_frames):
        yield Header(_flat(per_frame, index), shared, top)


def _flat(sequence: Any, index: int) -> Dataset:
    """The attributes of one item's functional groups, side by side; the standard goes before a vendor's own copy."""
    flat = Dataset()
    if sequence is None or index >= len(sequence):
        return flat
    item = sequence[index]
    own = item.get(PHILIPS_FRAME)
    groups = [own.value] if own is not None else []
    groups += [element.value for element in item if element.VR == "SQ" and not element.tag.is_private]
    for group in groups:
        if group and isinstance(group[0], Dataset):
            flat.update({tag: group[0][tag] for tag in group[0].keys() if tag not in _OF_THE_FILE})  # noqa: SIM118
    return flat


def _frame(file: ImageFile, index: int, header: Header) -> Frame | SetAside:
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
    position, orientation, spacing = (header.get(key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    if not echo_time_ms > 0 or not position or not orientation or not spacing:
        return SetAside(name=name, kind="incomplete header", reason="no echo time, position, orientation or pixel spacing")
    if len(position) != 3 or len(orientation) != 6 or len(spacing) != 2 or int(file.header.get("SamplesPerPixel", 1) or 1) != 1:
        return SetAside(name=name, kind="incomplete header", reason="position, orientation or pixel spacing of the wrong length")
    temporal = header.number("TemporalPositionIndex")
    if not temporal > 0:
        temporal = header.number("TemporalPositionIdentifier")
    number, acquisition = header.number("SeriesNumber"), header.number("AcquisitionNumber")
    date = next((str(v) for v in (header.get("AcquisitionDate"), header.get("AcquisitionDateTime"), header.get("SeriesDate")) if v), "")
    return Frame(
        file=file,
        index=index,
        header=header,
        convention=convention,
        part=part,
        scaling=convention.scaling(header, part),
        echo_time_s=round(milliseconds_to_s(echo_time_ms), 7),
        position_mm=(float(position[0]), float(position[1]), float(position[2])),
        orientation=tuple(float(v) for v in orientation),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        series_uid=str(header.get("SeriesInstanceUID", "")),
        series_number=int(number) if np.isfinite(number) else 0,
        name=name,
        filters=frozenset(image_type(header)) & _FILTERS,
        temporal=int(temporal) if temporal > 0 else -1,
        acquisition_number=int(acquisition) if np.isfinite(acquisition) else -1,
        time_of_day_s=_time_of_day_s(header),
        date=date[:8],
    )


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
