"""Edge: one DICOM dataset becomes a new one that holds what the allow-list names, and nothing else.

The new dataset starts empty: an attribute that nobody thought of is not carried along.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from hqsm.dicom.guarded import RLE
from hqsm.intake.policy import (
    PRIVATE,
    STANDARD,
    UNLISTED,
    Blinding,
    PrivateElement,
    known_version,
    known_word,
    known_words,
    plain_number,
    plain_time,
    shifted_date,
    shifted_datetime,
)

IMPLEMENTATION_UID = "2.25.302584914377150374938462311893150283211"
"""Any UID that no other program writes."""
_DEEPEST = 8
_BINARY = {"SS": "h", "US": "H", "SL": "i", "UL": "I", "FL": "f", "FD": "d"}
_METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113111", "Retain Safe Private Option"),
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who a dataset becomes.

    Attributes
    ----------
    participant
        Blind label without prefix.
    shift_days
        Whole days that are added to every date.
    """

    participant: str
    shift_days: int


def deidentified(source: Any, subject: Subject, blinding: Blinding, private: Iterable[PrivateElement] = PRIVATE) -> bytes:
    """The file of the de-identified dataset; the same input gives the same bytes.

    Parameters
    ----------
    source
        A dataset as :func:`hqsm.dicom.guarded.read_guarded` returns it, of a readable transfer syntax.
    subject, blinding
        Whose it becomes, and the study's secret.
    private
        The private elements that are kept.
    """
    rules = tuple(private)
    made = _reduced(source, subject, blinding, rules, 0)
    made.PatientName = made.PatientID = subject.participant
    # attributes that an MR image must have, though they may be empty (type 2)
    for name in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        setattr(made, name, "")
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "hqsm intake: allow-list"
    made.LongitudinalTemporalInformationModified = "MODIFIED"
    made.DeidentificationMethodCodeSequence = [_code(*method) for method in _METHODS]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    syntax = str(source.file_meta.TransferSyntaxUID)
    meta.TransferSyntaxUID = {RLE: RLELossless, str(ExplicitVRBigEndian): ExplicitVRBigEndian}.get(syntax, ExplicitVRLittleEndian)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    made.file_meta = meta
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _reduced(source: Any, subject: Subject, blinding: Blinding, private: tuple[PrivateElement, ...], depth: int) -> Dataset:
    made = Dataset()
    for tag in sorted(source.keys()):
        kind = None if tag.is_private else STANDARD.get(pydicom.datadict.keyword_for_tag(tag))
        if kind is None:
            continue
        keyword = pydicom.datadict.keyword_for_tag(tag)
        element = source[tag]
        if kind == "sequence":
            if depth < _DEEPEST and element.VR == "SQ":
                setattr(made, keyword, [_reduced(item, subject, blinding, private, depth + 1) for item in element.value])
        elif kind == "pixels":
            made.add_new(tag, "OW", _pixels(source))
            made["PixelData"].is_undefined_length = element.is_undefined_length
        else:
            value = _value(kind, element.value, subject, blinding)
            if value not in (None, [], ""):
                setattr(made, keyword, value)
    for rule in private:
        _keep_private(made, source, rule, subject, blinding, private, depth)
    return made


def _value(kind: str, value: Any, subject: Subject, blinding: Blinding) -> Any:
    """The kept form of a value, or None; a value of several parts keeps their number or goes as a whole."""
    if value is None:
        return None
    several = not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")
    parts = list(value) if several else [value]
    if kind == "pointer":
        return None if several else _pointer(value)
    made = [_part(kind, part, subject, blinding) for part in parts]
    if any(part is None for part in made):
        return None
    return made if several else made[0]


def _part(kind: str, value: Any, subject: Subject, blinding: Blinding) -> Any:
    text = str(value)
    if kind == "number":
        number = plain_number(text)
        return number if number is None or isinstance(value, str) else value
    if kind in ("uid", "code"):
        bare = text.strip()
        return (blinding.uid(bare) if kind == "uid" else blinding.code(bare)) if bare else None
    if kind == "class":
        return text if UID(text).name != text else None
    if kind == "date":
        return shifted_date(text, subject.shift_days) or None
    if kind == "datetime":
        return shifted_datetime(text, subject.shift_days) or None
    if kind == "time":
        return plain_time(text) or None
    return {"text": known_words, "version": known_version, "word": known_word}[kind](text)


def _pointer(tag: Any) -> Any:
    """A pointer to a standard attribute that is kept; a pointer to anything else would point to nothing."""
    return tag if pydicom.datadict.keyword_for_tag(tag) in STANDARD else None


def _keep_private(
    made: Dataset,
    source: Any,
    rule: PrivateElement,
    subject: Subject,
    blinding: Blinding,
    private: tuple[PrivateElement, ...],
    depth: int,
) -> None:
    try:
        element = source.private_block(rule.group, rule.creator)[rule.element]
    except KeyError:
        return
    if rule.vr == "SQ":
        if element.VR != "SQ" or depth >= _DEEPEST:
            return
        value: Any = [_reduced(item, subject, blinding, private, depth + 1) for item in element.value]
    else:
        value = _private_value(element.value, rule.vr)
    if value not in (None, [], ""):
        made.private_block(rule.group, rule.creator, create=True).add_new(rule.element, rule.vr, value)


def _private_value(value: Any, vr: str) -> Any:
    """Numbers of a private element, also where the export lost its representation and left bytes."""
    if isinstance(value, bytes) and vr in _BINARY:
        size = struct.calcsize(_BINARY[vr])
        if not value or len(value) % size or len(value) > 64 * size:
            return None
        value = list(struct.unpack(f"<{len(value) // size}{_BINARY[vr]}", value))
        value = value[0] if len(value) == 1 else value
    elif isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
        value = value[0] if len(value) == 1 else value
    parts = list(value) if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
    if vr == "CS":
        words = [known_word(part) for part in parts]
        return None if UNLISTED in words else (words if len(words) > 1 else words[0])
    numbers = [plain_number(part) for part in parts]
    if not numbers or any(number is None for number in numbers):
        return None
    if vr in _BINARY:
        kind = float if vr in {"FL", "FD"} else int
        converted = [kind(float(str(number))) for number in numbers]
        return converted if len(converted) > 1 else converted[0]
    return numbers if len(numbers) > 1 else numbers[0]


def _pixels(source: Any) -> bytes:
    """Pixel data; bits above BitsStored, where old scanners burnt overlays with names, are cleared."""
    content = bytes(source.PixelData)
    allocated, stored = int(source.get("BitsAllocated", 16)), int(source.get("BitsStored", 16))
    unsigned = int(source.get("PixelRepresentation", 0)) == 0
    syntax = str(source.file_meta.TransferSyntaxUID)
    if syntax == RLE or allocated != 16 or not 0 < stored < 16 or not unsigned or len(content) % 2:
        return content
    kind = np.dtype(">u2" if syntax == ExplicitVRBigEndian else "<u2")
    return (np.frombuffer(content, kind) & np.uint16((1 << stored) - 1)).astype(kind).tobytes()
