"""A DICOM file from anywhere, read with bounded memory and time.

Every file that cannot be used is an :class:`hqsm.errors.InputError`, whatever is wrong with it; no message repeats a value
of the header. What a file may claim is checked before anything is allocated for it.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config as pydicom_config
from pydicom import filereader
from pydicom.errors import InvalidDicomError

from hqsm.errors import InputError

DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)
READABLE = (*UNCOMPRESSED, RLE)
"""Transfer syntaxes that need no decoder written in C: uncompressed, deflated and RLE."""
_RLE_RATIO = 64
"""Two bytes of RLE stand for at most 128 (PS3.5 annex G)."""

# pydicom warns about odd values and repeats them: they must not reach a log
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
pydicom_config.logger.disabled = True


def read_guarded(source: Path | bytes, largest_mb: float) -> Any:
    """Read a file's dataset, or refuse it.

    Parameters
    ----------
    source
        A path, or the bytes of a file.
    largest_mb
        Cap of the file, of its inflated form and of its decoded pixels [MB].

    Raises
    ------
    InputError
        ``DICOM_TOO_LARGE``, ``DICOM_NOT`` (not a DICOM file), ``DICOM_BOMB`` (inflates or decodes beyond the cap),
        ``DICOM_TOO_DEEP`` (nested beyond what can be read) or ``DICOM_DAMAGED``.
    """
    largest = int(largest_mb * 1e6)
    with _named_errors():
        content = _bytes_of(source, largest)
        if content[128:132] != b"DICM":
            raise InputError("The file is no DICOM file.", code="DICOM_NOT")
        _refuse_bomb(content, largest)
        dataset = pydicom.dcmread(io.BytesIO(content))
        _refuse_giant(dataset, largest)
    return dataset


@contextmanager
def _named_errors() -> Iterator[None]:
    """Whatever the parser raises becomes an :class:`InputError` without a value of the header."""
    try:
        yield
    except InputError:
        raise
    except InvalidDicomError:
        raise InputError("The file is no DICOM file.", code="DICOM_NOT") from None
    except RecursionError:
        raise InputError("The header is nested too deeply: damaged or hostile.", remedy="Export it again.", code="DICOM_TOO_DEEP") from None
    except Exception as error:  # a hostile file can make the parser fail in any way; its message may hold a value
        raise InputError(
            f"The file is damaged ({type(error).__name__} while it was read).", remedy="Export it again.", code="DICOM_DAMAGED"
        ) from None


def _bytes_of(source: Path | bytes, largest: int) -> bytes:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > largest:
        raise InputError(
            f"The file has {size / 1e6:.0f} MB.", remedy="Raise dicom.largest_file_mb if it is an image.", code="DICOM_TOO_LARGE"
        )
    return source if isinstance(source, bytes) else source.read_bytes()


def _refuse_bomb(content: bytes, largest: int) -> None:
    """A deflated dataset is inflated once under a cap before the parser may inflate it without one."""
    stream = io.BytesIO(content)
    filereader.read_preamble(stream, False)
    meta = filereader._read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") == DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        size, rest = 0, stream.read()
        while rest and not inflater.eof:
            size += len(inflater.decompress(rest, 1 << 22))
            rest = inflater.unconsumed_tail
            if size > largest:
                raise InputError("The file inflates beyond the cap.", remedy="Export it uncompressed.", code="DICOM_BOMB")


def _refuse_giant(dataset: Any, largest: int) -> None:
    """The pixels that the header promises fit the cap, and RLE does not promise more than its bytes can hold."""
    if "PixelData" not in dataset:
        return
    promised = pixel_bytes(dataset)
    stored = len(dataset.PixelData)
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if promised > largest or (syntax == RLE and promised > _RLE_RATIO * stored + 1024):
        raise InputError("The header promises more pixels than the file can hold.", remedy="Export it again.", code="DICOM_BOMB")


def pixel_bytes(dataset: Any) -> int:
    """Bytes of the decoded pixels according to the header."""
    values = [int(dataset.get(name, 1) or 1) for name in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    if any(value < 0 for value in values):
        raise InputError("The header has a negative dimension.", remedy="Export it again.", code="DICOM_DAMAGED")
    total = int(dataset.get("BitsAllocated", 16) or 16)
    for value in values:
        total *= value
    return total // 8
