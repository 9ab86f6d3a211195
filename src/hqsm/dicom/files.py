"""Every file of a visit folder, looked at once: which are images, where their pixels lie, and what else is there.

Nothing is decoded here and no pixel is kept: a header costs kilobytes, and whatever a hostile file promises, no more
memory than ``largest_file_mb`` is spent on it. No attribute of a file ever becomes a path; DICOMDIR is not followed.
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

from hqsm.arrays import AnyArray
from hqsm.config.dicom import DicomParams
from hqsm.data import SetAside
from hqsm.dicom.guarded import DEFLATED, READABLE, RLE, read_guarded
from hqsm.errors import InputError
from hqsm.intake.policy import known_words, plain_number

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

_KEYWORDS = [
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ContentTime",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesDescription",
    "ProtocolName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "SpecificCharacterSet",
    "ComplexImageComponent",
    "ScanningSequence",
    "SequenceName",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EffectiveEchoTime",
    "ImagingFrequency",
    "TransmitterFrequency",
    "MagneticFieldStrength",
    "SpacingBetweenSlices",
    "SoftwareVersions",
    "FlipAngle",
    "DiffusionBValue",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "TriggerTime",
    "PixelBandwidth",
    "DeviceSerialNumber",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "InPlanePhaseEncodingDirection",
]
GE_RAW_TYPE = (0x0043, 0x102F)
PHILIPS_SCALE = (0x2005, 0x100E)
PHILIPS_FRAME = (0x2005, 0x140F)
_TAGS: list[Any] = [tag_for_keyword(word) for word in _KEYWORDS]
_TAGS += [0x0043102F, 0x2005100E, 0x00430010, 0x20050010, 0x20050014]
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ")
_SIDE_FILES = ("navigator.csv", "_physio.tsv.gz", "_physio.json")
_LONGEST_HEADER_BYTES = 64_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFile:
    """One DICOM file with pixels: its header, and where and how the pixels are stored.

    ``pixel_offset`` and ``pixel_bytes`` locate the value of PixelData in the file (after inflation for deflated files);
    ``pixel_bytes`` is -1 for encapsulated data.
    """

    path: Path
    header: Any
    syntax: str
    pixel_offset: int
    pixel_bytes: int
    n_frames: int
    rows: int
    columns: int
    dtype: np.dtype[Any]
    largest_mb: float

    @property
    def readable(self) -> bool:
        """Whether the transfer syntax is one that is read."""
        return self.syntax in READABLE


@dataclass(frozen=True, eq=False, kw_only=True)
class FolderContent:
    """What lies below a folder: images, other things by name, and how many files and exact copies there are."""

    images: list[ImageFile]
    aside: list[SetAside]
    n_files: int
    n_same: int


def look_through(folder: Path, params: DicomParams) -> FolderContent:
    """Read the header of every file below a folder.

    Raises
    ------
    InputError
        If two different images carry the same SOPInstanceUID.
    """
    images: list[ImageFile] = []
    aside: list[SetAside] = []
    by_uid: dict[str, ImageFile] = {}
    n_files = n_same = 0
    for path in _files_below(folder):
        if path.name.endswith(_SIDE_FILES):
            continue
        n_files += 1
        with warnings.catch_warnings():
            # what pydicom makes of a damaged header: the file is read or named as damaged, a log is no place for it
            warnings.simplefilter("ignore")
            made = _look_at(path, folder, params)
        if isinstance(made, SetAside):
            aside.append(made)
            continue
        uid = str(made.header.get("SOPInstanceUID", ""))
        if uid in by_uid:
            if stored_pixels(by_uid[uid]) != stored_pixels(made):
                raise InputError(
                    "Two different images carry the same SOPInstanceUID.",
                    remedy="Export the visit again: one of them is corrupt.",
                    code="DICOM_CONTRADICTION",
                )
            n_same += 1
            continue
        by_uid[uid] = made
        images.append(made)
    return FolderContent(images=images, aside=aside, n_files=n_files, n_same=n_same)


def _files_below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() or path.is_symlink():
                yield path


def _look_at(path: Path, folder: Path, params: DicomParams) -> ImageFile | SetAside:
    """The image in a file, or what the file is instead."""
    if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
        return SetAside(name="links", kind="not DICOM", reason="links that lead out of the folder are not followed")
    size = path.stat().st_size
    limit = int(params.largest_file_mb * 1e6)
    if size == 0:
        return SetAside(name="empty files", kind="not DICOM", reason="zero bytes: the transfer failed")
    if size > limit:
        return SetAside(name="large files", kind="file", reason="larger than dicom.largest_file_mb")
    try:
        with path.open("rb") as handle:
            head = handle.read(132)
            if head[:4].startswith(_ARCHIVES):
                return SetAside(name="archives", kind="not DICOM", reason="packed: unpack it and put its files here")
            return _read_header(path, handle, head, size, limit)
    except _Damaged as damage:
        return SetAside(name="damaged files", kind="damaged", reason=str(damage))
    except RecursionError:
        return SetAside(name="damaged files", kind="damaged", reason="sequences nested too deeply: damaged or hostile")
    except (ValueError, KeyError, NotImplementedError, OSError, AttributeError, TypeError, IndexError, EOFError, OverflowError):
        return SetAside(name="damaged files", kind="damaged", reason="the header cannot be read")


class _Damaged(Exception):
    """A file that starts as DICOM and does not end as DICOM; the text says how."""


def _read_header(path: Path, handle: BinaryIO, head: bytes, size: int, limit: int) -> ImageFile | SetAside:
    if head[128:132] == b"DICM":
        syntax, sop_class = _file_meta(handle)
    elif head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and size > 256:  # an old export without preamble
        handle.seek(0)
        syntax, sop_class = (EXPLICIT if head[4:6].isalpha() and head[4:6].isupper() else IMPLICIT), ""
    else:
        return SetAside(name="other files", kind="not DICOM", reason="no DICOM")
    if path.name.upper() == "DICOMDIR" or sop_class == "1.2.840.10008.1.3.10":
        return SetAside(name="DICOMDIR", kind="index", reason="an index of other files; it is not needed")
    source: BinaryIO = handle
    if syntax == DEFLATED:
        source = _inflated(handle, limit)
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
    found: list[Any] = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if int(tag) in _PIXEL_TAGS:
            found.append(length)
            return True
        return False

    header = read_dataset(source, syntax == IMPLICIT, syntax != BIG_ENDIAN, stop_when=at_pixels, specific_tags=list(_TAGS))
    if not found:
        sop_class = str(header.get("SOPClassUID", ""))
        if kind_of_class(sop_class) not in _CLASSES.values():
            raise _Damaged("cut off before its pixel data: the transfer broke off")
        return SetAside(name=series_name(header), kind=kind_of_class(sop_class), reason="no image in it")
    if source.tell() > _LONGEST_HEADER_BYTES:
        raise _Damaged("a header of more than 64 MB: damaged or hostile")
    if "SOPInstanceUID" not in header:
        raise _Damaged("an image without SOPInstanceUID")
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    bits = int(header.get("BitsAllocated", 16) or 16)
    n_frames = int(header.get("NumberOfFrames", 1) or 1)
    samples = int(header.get("SamplesPerPixel", 1) or 1)
    expected = rows * columns * n_frames * samples * bits // 8
    if expected <= 0 or expected > limit:
        raise _Damaged("an image of no size, or of more than dicom.largest_file_mb: damaged or hostile")
    encapsulated = syntax not in READABLE or syntax == RLE
    # the reader stands at the pixel element: tag 4, then VR 2 + 2 reserved + length 4 (explicit) or length 4 (implicit)
    offset = source.tell() + (8 if syntax == IMPLICIT else 12)
    if not encapsulated and min(found[0], size - offset) < expected:
        raise _Damaged("pixel data shorter than the header promises: the transfer broke off")
    kind = "i" if int(header.get("PixelRepresentation", 0) or 0) else "u"
    dtype = np.dtype(f"{'>' if syntax == BIG_ENDIAN else '<'}{kind}{max(bits // 8, 1)}")
    return ImageFile(
        path=path,
        header=header,
        syntax=syntax,
        pixel_offset=offset,
        pixel_bytes=-1 if encapsulated else expected,
        n_frames=n_frames,
        rows=rows,
        columns=columns,
        dtype=dtype,
        largest_mb=limit / 1e6,
    )


def _file_meta(handle: BinaryIO) -> tuple[str, str]:
    """Transfer syntax and SOP class of the file meta group (always explicit, little endian); leaves the handle behind it."""
    values: dict[int, str] = {}
    handle.seek(132)
    while True:
        start = handle.tell()
        element = handle.read(8)
        if len(element) < 8 or element[:2] != b"\x02\x00":
            handle.seek(start)
            break
        length = int.from_bytes(element[6:8], "little")
        if element[4:6] in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            length = int.from_bytes(handle.read(4), "little")
        if length > 1_000_000:
            raise _Damaged("a file header of more than 1 MB: damaged or hostile")
        value = handle.read(length)
        if element[4:6] == b"UI":
            values[int.from_bytes(element[2:4], "little")] = value.rstrip(b"\0 ").decode("ascii", "replace")
    return values.get(0x0010, IMPLICIT), values.get(0x0002, "")


def _inflated(handle: BinaryIO, limit: int) -> io.BytesIO:
    """The deflated part of a file, inflated up to ``limit`` bytes and not one more."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(handle.read(), limit)
    except zlib.error:
        raise _Damaged("the deflated data cannot be inflated: the transfer broke off") from None
    if inflater.unconsumed_tail:
        raise _Damaged("inflates to more than dicom.largest_file_mb: damaged or hostile")
    return io.BytesIO(content)


def stored_pixels(image: ImageFile) -> bytes:
    """The stored pixels, as they are: what decides whether two files hold the same image."""
    if image.pixel_bytes < 0:
        return bytes(read_guarded(image.path, image.largest_mb).PixelData)
    with image.path.open("rb") as handle:
        if image.syntax == DEFLATED:
            _file_meta(handle)
            inflated = _inflated(handle, image.pixel_offset + image.pixel_bytes + 1_000_000)
            return inflated.getvalue()[image.pixel_offset : image.pixel_offset + image.pixel_bytes]
        handle.seek(image.pixel_offset)
        return handle.read(image.pixel_bytes)


def read_pixels(image: ImageFile) -> AnyArray:
    """Stored values (frame, row, column) of an image.

    Raises
    ------
    InputError
        If the transfer syntax is not one that is read, or the run-length code is damaged.
    """
    shape = (image.n_frames, image.rows, image.columns)
    if not image.readable:
        raise InputError(
            f"The images are compressed ({pydicom.uid.UID(image.syntax).name}).",
            remedy="Decompress them first, for example: gdcmconv --raw IN OUT.",
            code="DICOM_COMPRESSED",
        )
    if image.syntax != RLE:
        return np.frombuffer(stored_pixels(image), image.dtype, count=int(np.prod(shape))).reshape(shape)
    try:
        values = read_guarded(image.path, image.largest_mb).pixel_array
    except (ValueError, RuntimeError, AttributeError, KeyError, NotImplementedError, EOFError, IndexError):
        raise InputError(
            "A run-length encoded image is damaged.", remedy="Export the visit again, completely.", code="DICOM_DAMAGED"
        ) from None
    return np.asarray(values).reshape(shape)


def series_name(header: Any) -> str:
    """Number and description of a series for people, the description reduced to words that name nobody."""
    number = plain_number(header.get("SeriesNumber", "")) or "?"
    return f"series {number} {known_words(header.get('SeriesDescription', '') or '')}".strip()


_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.88": "report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.104": "encapsulated document",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.3.12.2.1107.5.9.1": "raw data",
}


def kind_of_class(sop_class: str) -> str:
    """What a storage class is called, for those that are no MR image."""
    best = max((uid for uid in _CLASSES if sop_class == uid or sop_class.startswith(f"{uid}.")), key=len, default="")
    return _CLASSES.get(best, "not an MR image")
