"""The few attributes that the reader needs, found in a file's bytes without decoding any other (PS3.5 section 7).

A scan repeats nearly the same header in thousands of files. So the elements of a data set are only walked over; the bytes of
those that are wanted are kept, equal ones once for a whole folder, and pydicom converts each distinct value when it is first
asked for. Sequences that are not wanted are stepped over without recursion, whatever their nesting claims.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any, BinaryIO

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import BaseTag

_KEYWORDS = """
    ImageType FrameType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate AcquisitionTime AcquisitionDateTime
    FrameAcquisitionDateTime Manufacturer ManufacturerModelName SeriesDescription PatientName PatientID SpecificCharacterSet
    ComplexImageComponent SequenceName RepetitionTime EchoTime EffectiveEchoTime ImagingFrequency TransmitterFrequency
    MagneticFieldStrength SpacingBetweenSlices SoftwareVersions FlipAngle DiffusionBValue StudyInstanceUID SeriesInstanceUID
    SeriesNumber AcquisitionNumber ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID TemporalPositionIdentifier
    TemporalPositionIndex NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored PixelRepresentation SamplesPerPixel
    SmallestImagePixelValue LargestImagePixelValue RescaleSlope RescaleIntercept RescaleType SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence DeviceSerialNumber
"""
_GROUPS = """
    MREchoSequence PlanePositionSequence FrameContentSequence MRImageFrameTypeSequence PixelValueTransformationSequence
    PixelMeasuresSequence PlaneOrientationSequence MRTimingAndRelatedParametersSequence MRImagingModifierSequence
    MRDiffusionSequence UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence
"""
GROUPS = tuple(_GROUPS.split())
"""Functional groups whose attributes are needed: of enhanced MR, and of files converted from classic ones (the last two)."""
TAGS = {word: int(tag_for_keyword(word) or 0) for word in (*_KEYWORDS.split(), *GROUPS)}
"""Every attribute that is kept."""
_PRIVATE = {0x0043: (0x2F,), 0x2005: (0x0E, 0x0F)}
"""Private elements that are kept, by the last byte of their number: their creators say in which block they stand."""
_WANTED = frozenset(TAGS.values())
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_CHARSET = 0x00080005
_US_OR_SS = frozenset({"SmallestImagePixelValue", "LargestImagePixelValue"})
"""Signed or not as the pixels are: implicit files do not say it."""
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 64
_LONGEST_HEADER_BYTES = 64_000_000
WINDOW_BYTES = 65_536
"""What is read of a file at once: the header of most, with the pixels of a small image."""


class Damaged(Exception):
    """A file that starts as DICOM and does not end as DICOM; the text says how."""


class Value:
    """The bytes of one element, and what pydicom makes of them, once it was asked."""

    __slots__ = ("_decoded", "_known", "_tag", "_values", "raw", "vr")

    def __init__(self, tag: int, vr: str | None, raw: bytes, values: Values) -> None:
        self.raw, self.vr, self._tag, self._values = raw, vr, tag, values
        self._known, self._decoded = False, None

    @property
    def decoded(self) -> Any:
        """The value as pydicom converts it; None where it is empty."""
        if not self._known:
            self._decoded, self._known = self._values.convert(self._tag, self.vr, self.raw), True
        return self._decoded


class Values:
    """Every distinct value of a folder's headers of one encoding, each kept and converted once."""

    def __init__(self, *, explicit: bool, little: bool, charset: bytes = b"") -> None:
        self.explicit, self.little, self.charset = explicit, little, charset
        self._known: dict[tuple[int, bytes | None, bytes], Value] = {}

    def of(self, tag: int, vr: bytes | None, raw: bytes) -> Value:
        """The one value with these bytes."""
        key = (tag, vr, raw)
        found = self._known.get(key)
        if found is None:
            name = vr.decode("ascii", "replace") if vr is not None and vr.isalpha() else None
            found = self._known[key] = Value(tag, name, raw, self)
        return found

    def convert(self, tag: int, vr: str | None, raw: bytes) -> Any:
        """What pydicom makes of an element's bytes."""
        element = RawDataElement(BaseTag(tag), vr, len(raw), raw, 0, vr is None, self.little)
        with warnings.catch_warnings():
            # what pydicom makes of a damaged value is either used or named as damaged; a log is no place for it
            warnings.simplefilter("ignore")
            return convert_raw_data_element(element, encoding=self._encodings).value

    @cached_property
    def _encodings(self) -> list[str]:
        element = RawDataElement(BaseTag(_CHARSET), "CS", len(self.charset), self.charset, 0, False, self.little)
        try:
            return list(convert_encodings(convert_raw_data_element(element).value or [default_encoding]))
        except (LookupError, ValueError):
            return [default_encoding]


class Vocabulary:
    """The values of a folder's headers, by encoding and character set."""

    def __init__(self) -> None:
        self._by_encoding: dict[tuple[bool, bool, bytes], Values] = {}

    def values(self, *, explicit: bool, little: bool, charset: bytes = b"") -> Values:
        """Where the values of this encoding are kept."""
        key = (explicit, little, charset)
        if key not in self._by_encoding:
            self._by_encoding[key] = Values(explicit=explicit, little=little, charset=charset)
        return self._by_encoding[key]


class Elements:
    """The wanted attributes of a data set, or of an item of a sequence."""

    __slots__ = ("_found", "_items", "_vocabulary", "explicit", "little")

    def __init__(self, found: dict[int, Value], vocabulary: Vocabulary, *, explicit: bool, little: bool) -> None:
        self._found, self._vocabulary, self._items = found, vocabulary, dict[int, list[Elements]]()
        self.explicit, self.little = explicit, little

    def __contains__(self, keyword: str) -> bool:
        return TAGS[keyword] in self._found

    def get(self, keyword: str, default: Any = None) -> Any:
        """Value of a keyword; the default where the data set does not have it, None where it is empty."""
        value = self._found.get(TAGS[keyword])
        if value is None:
            return default
        if keyword in _US_OR_SS and value.vr is None and len(value.raw) == 2:
            return int.from_bytes(value.raw, "little" if self.little else "big", signed=bool(self.get("PixelRepresentation")))
        return value.decoded

    def raw(self, keyword: str) -> bytes:
        """Bytes of a value without padding; empty where it is absent."""
        value = self._found.get(TAGS[keyword])
        return b"" if value is None else value.raw.rstrip(b"\0 ")

    def merged(self, others: list[Elements], without: frozenset[int]) -> Elements:
        """Attributes of these elements and of others as one, the last that has an attribute counting."""
        found = dict(self._found)
        for other in others:
            found |= {tag: value for tag, value in other._found.items() if tag not in without}
        return Elements(found, self._vocabulary, explicit=self.explicit, little=self.little)

    def all_but(self, tags: frozenset[int]) -> Iterator[Value]:
        """Every value but those of some tags; the same object wherever a folder's headers say the same."""
        return (value for tag, value in self._found.items() if tag not in tags)

    def private(self, group: int, creator: str, number: int, vr: str) -> Any:
        """Value of a private element of a creator, whichever block it reserved; None without it.

        Where the creators were taken away with the person's data, the block in which the vendor's scanners write counts.
        """
        tag = self._private_tag(group, creator, number)
        value = self._found.get(tag)
        if value is None:
            return None
        # implicit files and some archives do not know the representation of a private element
        return value.decoded if value.vr not in (None, "UN") else self._values().convert(tag, vr, value.raw)

    def _private_tag(self, group: int, creator: str, number: int) -> int:
        here = [(tag & 0xFFFF, value) for tag, value in self._found.items() if tag >> 16 == group]
        blocks = {place: str(value.decoded).strip() for place, value in here if place < 0x100}
        block = next((block for block, name in blocks.items() if name == creator), None)
        if block is None:
            orphans = (place for place, _ in here if place > 0xFF and place & 0xFF == number and place >> 8 not in blocks)
            return group << 16 | next(orphans, 0)
        return group << 16 | block << 8 | number

    def items(self, keyword: str) -> list[Elements]:
        """Items of a sequence; none where it is absent."""
        return self._items_of(TAGS[keyword])

    def private_items(self, group: int, creator: str, number: int) -> list[Elements]:
        """Items of a private sequence."""
        return self._items_of(self._private_tag(group, creator, number))

    def _items_of(self, tag: int) -> list[Elements]:
        if tag not in self._items:
            value = self._found.get(tag)
            self._items[tag] = [] if value is None else list(self._read_items(value))
        return self._items[tag]

    def _read_items(self, value: Value) -> Iterator[Elements]:
        explicit = self.explicit and value.vr != "UN"  # a sequence of unknown representation is implicit (PS3.5 6.2.2)
        window = _Window.over(value.raw)
        head = struct.Struct(f"{'<' if self.little else '>'}HHL")
        position = 0
        while position + 8 <= len(value.raw):
            group, number, length = head.unpack_from(value.raw, position)
            if group << 16 | number != _ITEM:
                return
            position += 8
            end = len(value.raw) if length == _UNDEFINED else min(position + length, len(value.raw))
            found, _, position = _walk(window, position, end, self._vocabulary, self._values(), explicit=explicit)
            yield Elements(found, self._vocabulary, explicit=explicit, little=self.little)
            if length != _UNDEFINED:
                position = end

    def _values(self) -> Values:
        charset = self._found.get(_CHARSET)
        return self._vocabulary.values(explicit=self.explicit, little=self.little, charset=b"" if charset is None else charset.raw)


class _Window:
    """A part of a file that moves forward with the walk, so that no more of it is in memory than is looked at."""

    def __init__(self, source: BinaryIO | None, size: int, data: bytes = b"") -> None:
        self._source, self.size = source, size
        self.start, self.data = 0, data

    @classmethod
    def over(cls, data: bytes) -> _Window:
        """All of some bytes."""
        return cls(None, len(data), data)

    @property
    def stop(self) -> int:
        """Where the part ends in the file."""
        return self.start + len(self.data)

    def move(self, position: int, n_bytes: int) -> None:
        """Make the part begin at a position and hold so many bytes, or what there is of them."""
        if self._source is not None:
            self._source.seek(position)
            self.start, self.data = position, self._source.read(max(n_bytes, WINDOW_BYTES))


def read_elements(
    source: BinaryIO, start: int, size: int, vocabulary: Vocabulary, *, explicit: bool, little: bool, begun: bytes = b""
) -> tuple[Elements, tuple[int, int] | None]:
    """The wanted attributes of a data set, and position and stated length of its pixels; None where there are none.

    Parameters
    ----------
    source
        The file, or its inflated content.
    start, size
        Where the data set begins, and where the file ends [bytes].
    begun
        The first bytes of the file, where they were read before.

    Raises
    ------
    Damaged
        Where the header is longer than any can be, or its sequences are nested deeper than any are.
    """
    window = _Window(source, size, begun)
    if len(begun) < start + 8:
        window.move(start, WINDOW_BYTES)
    vr = window.data[start - window.start + 4 : start - window.start + 6]
    if len(vr) == 2:  # some writers name the wrong syntax
        explicit = vr.isalpha() and vr.isupper()
    values = vocabulary.values(explicit=explicit, little=little)
    found, pixels, _ = _walk(window, start, size, vocabulary, values, explicit=explicit)
    return Elements(found, vocabulary, explicit=explicit, little=little), pixels


def _walk(
    window: _Window, position: int, end: int, vocabulary: Vocabulary, values: Values, *, explicit: bool
) -> tuple[dict[int, Value], tuple[int, int] | None, int]:
    """Wanted elements from a position on, to the pixels, to the end of the item, or to the end; and where that was."""
    order = "<" if values.little else ">"
    implicit_head, explicit_head = struct.Struct(f"{order}HHL").unpack_from, struct.Struct(f"{order}HH2sH").unpack_from
    length_of = struct.Struct(f"{order}L").unpack_from
    found: dict[int, Value] = {}
    first, data, start, stop = position, window.data, window.start, window.stop
    while position + 8 <= end:
        if position + 12 > stop:
            if stop < window.size:
                window.move(position, 12)
                data, start, stop = window.data, window.start, window.stop
            if position + 8 > stop:
                break
        here = position - start
        vr: bytes | None = None
        if explicit:
            group, number, vr, length = explicit_head(data, here)
            if vr in _LONG:
                if position + 12 > stop:
                    break
                length = length_of(data, here + 8)[0]
                position += 12
            else:
                if not b"AA" <= vr <= b"ZZ":  # some writers fall back to implicit within an explicit file
                    group, number, length = implicit_head(data, here)
                    vr = None
                position += 8
        else:
            group, number, length = implicit_head(data, here)
            position += 8
        tag = group << 16 | number
        if tag in PIXELS:
            return found, (position, length), position
        if tag in (_ITEM_END, _SEQUENCE_END):
            return found, None, position
        if position - first > _LONGEST_HEADER_BYTES:
            raise Damaged("a header of more than 64 MB: damaged or hostile")
        wanted = tag in _WANTED or (group in _PRIVATE and (number < 0x100 or number & 0xFF in _PRIVATE[group]))
        if length == _UNDEFINED:
            after = _end_of_sequence(window, position, end, order, explicit=explicit and vr != b"UN")
            length, next_position = after - 8 - position, after
            data, start, stop = window.data, window.start, window.stop
        else:
            next_position = position + length
        if wanted:
            if length > _LONGEST_HEADER_BYTES:
                raise Damaged("a header of more than 64 MB: damaged or hostile")
            if next_position > end:
                break
            if position < start or position + length > stop:
                window.move(position, length + 12)
                data, start, stop = window.data, window.start, window.stop
                if position + length > stop:
                    break
            raw = data[position - start : position - start + length]
            if tag == _CHARSET:
                values = vocabulary.values(explicit=values.explicit, little=values.little, charset=raw)
            found[tag] = values.of(tag, vr, raw)
        position = next_position
    return found, None, position


def _end_of_sequence(window: _Window, position: int, end: int, order: str, *, explicit: bool) -> int:
    """Where a sequence of undefined length ends, behind its delimiter; nested ones are counted, not entered.

    Raises
    ------
    Damaged
        Where the nesting is deeper than that of any real file, or the sequence does not end.
    """
    implicit_head, explicit_head = struct.Struct(f"{order}HHL").unpack_from, struct.Struct(f"{order}HH2sH").unpack_from
    length_of = struct.Struct(f"{order}L").unpack_from
    within = [explicit]  # for each open sequence: whether its elements state their representation
    first = position
    while position + 8 <= end:
        if not window.start <= position <= window.stop - 12 and not (position >= window.start and window.stop >= window.size):
            window.move(position, 12)
        here = position - window.start
        if here + 8 > len(window.data):
            break
        group, number, length = implicit_head(window.data, here)
        tag = group << 16 | number
        position += 8
        if tag == _ITEM:
            position += 0 if length == _UNDEFINED else length
        elif tag == _SEQUENCE_END:
            within.pop()
            if not within:
                return position
        elif tag != _ITEM_END:
            vr = b""
            if within[-1]:
                _, _, vr, short = explicit_head(window.data, here)
                if vr in _LONG:
                    if here + 12 > len(window.data):
                        break
                    length = length_of(window.data, here + 8)[0]
                    position += 4
                elif b"AA" <= vr <= b"ZZ":
                    length = short
            if length == _UNDEFINED:
                within.append(within[-1] and vr != b"UN")
                if len(within) > _DEEPEST:
                    raise Damaged("sequences nested too deeply: damaged or hostile")
            else:
                position += length
        if position - first > _LONGEST_HEADER_BYTES:
            break
    raise Damaged("cut off before its pixel data: the transfer broke off")
