"""Every file of a visit folder, looked at once: which are images, where their pixels lie, and what else is there.

Nothing is decoded here and no pixel is kept: a header costs kilobytes, and whatever a hostile file promises, no more
memory than ``largest_file_mb`` is spent on it. No attribute of a file ever becomes a path; DICOMDIR is not followed.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom

from hqsm.arrays import AnyArray
from hqsm.config.dicom import DicomParams
from hqsm.data import SetAside
from hqsm.dicom.elements import WINDOW_BYTES, Damaged, Elements, Vocabulary, read_elements
from hqsm.dicom.guarded import DEFLATED, READABLE, RLE, read_guarded
from hqsm.errors import InputError
from hqsm.intake.policy import known_words, plain_number

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ")
_NIFTI = (".nii", ".nii.gz")
_PHYSIO = ("_physio.tsv.gz", "_physio.json")


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFile:
    """One DICOM file with pixels: its header, and where and how the pixels are stored.

    ``pixel_offset`` and ``pixel_bytes`` locate the value of PixelData in the file (after inflation for deflated files);
    ``pixel_bytes`` is -1 for encapsulated data.
    """

    path: Path
    header: Elements
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
        If two different images carry the same SOPInstanceUID, or a folder may not be opened.
    """
    images: list[ImageFile] = []
    aside: list[SetAside] = []
    by_uid: dict[bytes, ImageFile] = {}
    vocabulary = Vocabulary()
    n_files = n_same = 0
    for entry in _files_below(folder):
        name = entry.name.lower()
        if name == "navigator.csv" or name.endswith(_PHYSIO):
            continue
        n_files += 1
        made = _look_at(entry, folder, params, vocabulary)
        if isinstance(made, SetAside):
            aside.append(made)
            continue
        uid = made.header.raw("SOPInstanceUID")
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


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Files and links to files, in the order of their names; linked folders are not entered."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except PermissionError:
        raise InputError("A folder of the visit cannot be opened.", remedy="Give the right to read it.", code="DICOM_CLOSED") from None
    yield from (entry for entry in entries if entry.is_symlink() or entry.is_file(follow_symlinks=False))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path))


def _look_at(entry: os.DirEntry[str], folder: Path, params: DicomParams, vocabulary: Vocabulary) -> ImageFile | SetAside:
    """The image in a file, or what the file is instead."""
    path = Path(entry.path)
    if entry.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
        return SetAside(name="links", kind="not DICOM", reason="links that lead out of the folder are not followed")
    size = entry.stat().st_size
    limit = int(params.largest_file_mb * 1e6)
    if size == 0:
        return SetAside(name="empty files", kind="not DICOM", reason="zero bytes: the transfer failed")
    if size > limit:
        return SetAside(name="large files", kind="file", reason="larger than dicom.largest_file_mb")
    try:
        with path.open("rb", buffering=0) as handle:
            begun = handle.read(WINDOW_BYTES)
            if entry.name.lower().endswith("navigator.csv"):
                return SetAside(name="navigator files", kind="not used", reason="only one named navigator.csv is: rename it")
            if entry.name.lower().endswith(_NIFTI):
                return SetAside(name="NIfTI images", kind="not DICOM", reason="a study that starts from them has bids/ in place of dicom/")
            if begun.startswith(_ARCHIVES):
                return SetAside(name="archives", kind="not DICOM", reason="packed: unpack it and put its files here")
            return _read_header(path, handle, begun, size, limit, vocabulary)
    except Damaged as damage:
        return SetAside(name="damaged files", kind="damaged", reason=str(damage))
    except PermissionError:
        return SetAside(name="closed files", kind="damaged", reason="no right to read them")
    except (ValueError, KeyError, NotImplementedError, OSError, AttributeError, TypeError, IndexError, EOFError, OverflowError):
        return SetAside(name="damaged files", kind="damaged", reason="the header cannot be read")


def _read_header(path: Path, handle: Any, begun: bytes, size: int, limit: int, vocabulary: Vocabulary) -> ImageFile | SetAside:
    start = 0
    if begun[128:132] == b"DICM":
        syntax, sop_class, start = _file_meta(begun)
    elif begun[:2] == b"\x08\x00" and begun[3:4] == b"\x00" and size > 256:  # an old export without preamble
        syntax, sop_class = (EXPLICIT if begun[4:6].isalpha() and begun[4:6].isupper() else IMPLICIT), ""
    else:
        return SetAside(name="other files", kind="not DICOM", reason="no DICOM")
    if path.name.upper() == "DICOMDIR" or sop_class == "1.2.840.10008.1.3.10":
        return SetAside(name="DICOMDIR", kind="index", reason="an index of other files; it is not needed")
    source = handle
    if syntax == DEFLATED:
        source, begun = _inflated(handle, start, limit), b""
        start, size = 0, len(source.getbuffer())
    header, pixels = read_elements(source, start, size, vocabulary, explicit=syntax != IMPLICIT, little=syntax != BIG_ENDIAN, begun=begun)
    if pixels is None:
        sop_class = str(header.get("SOPClassUID", ""))
        if kind_of_class(sop_class) not in _CLASSES.values():
            raise Damaged("cut off before its pixel data: the transfer broke off")
        return SetAside(name=series_name(header), kind=kind_of_class(sop_class), reason="no image in it")
    if "SOPInstanceUID" not in header:
        raise Damaged("an image without SOPInstanceUID")
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    bits = int(header.get("BitsAllocated", 16) or 16)
    n_frames = int(header.get("NumberOfFrames", 1) or 1)
    samples = int(header.get("SamplesPerPixel", 1) or 1)
    expected = rows * columns * n_frames * samples * bits // 8
    if expected <= 0 or expected > limit:
        raise Damaged("an image of no size, or of more than dicom.largest_file_mb: damaged or hostile")
    encapsulated = syntax not in READABLE or syntax == RLE
    offset, stated = pixels
    if not encapsulated and min(stated, size - offset) < expected:
        raise Damaged("pixel data shorter than the header promises: the transfer broke off")
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


def _file_meta(begun: bytes) -> tuple[str, str, int]:
    """Transfer syntax and SOP class of the file meta group (always explicit, little endian), and where the data set begins."""
    values: dict[int, str] = {}
    position = 132
    while begun[position : position + 2] == b"\x02\x00" and position + 12 <= len(begun):
        number, vr, length = struct.unpack_from("<H2sH", begun, position + 2)
        position += 8
        if vr in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            length = int.from_bytes(begun[position : position + 4], "little")
            position += 4
        if position + length > len(begun):
            raise Damaged("a file header of more than 64 kB, or cut off in it: damaged or hostile")
        if vr == b"UI":
            values[number] = begun[position : position + length].rstrip(b"\0 ").decode("ascii", "replace")
        position += length
    return values.get(0x0010, IMPLICIT), values.get(0x0002, ""), position


def _inflated(handle: BinaryIO, start: int, limit: int) -> io.BytesIO:
    """The deflated part of a file, inflated up to ``limit`` bytes and not one more."""
    handle.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(handle.read(), limit)
    except zlib.error:
        raise Damaged("the deflated data cannot be inflated: the transfer broke off") from None
    if inflater.unconsumed_tail:
        raise Damaged("inflates to more than dicom.largest_file_mb: damaged or hostile")
    return io.BytesIO(content)


def stored_pixels(image: ImageFile) -> bytes:
    """The stored pixels, as they are: what decides whether two files hold the same image."""
    if image.pixel_bytes < 0:
        return bytes(read_guarded(image.path, image.largest_mb).PixelData)
    with image.path.open("rb", buffering=0) as handle:
        if image.syntax == DEFLATED:
            _, _, start = _file_meta(handle.read(WINDOW_BYTES))
            inflated = _inflated(handle, start, image.pixel_offset + image.pixel_bytes + 1_000_000)
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
