"""A planted identity, and a search for it in every byte: plain, UTF-16, gzip, zip, base64, one inside another."""

from __future__ import annotations

import base64
import binascii
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from conftest import make_grid
from hqsm.data import RepeatedMultiEcho
from hqsm.phantom.dicom_writer import write_clutter, write_scan

NAME, NUMBER, BIRTH, ACCESSION = "Zanzibarova^Quillon", "MRN7734501Q", "19840713", "ACC55190233X"
HOSPITAL, PHYSICIAN, COMMENT = "Krallenstein General", "Wobbelmeyer^Xandra", "mother Jolanthe Pfefferminz called"
WORDS = (
    *("zanzibarova", "quillon", "7734501", "19840713", "1984-07-13", "55190233", "krallenstein"),
    *("wobbelmeyer", "xandra", "jolanthe", "pfefferminz"),
)
"""What must not be found, in lower case."""


def small_scan() -> RepeatedMultiEcho:
    """Three echoes, two repetitions, six slices of 10 x 8 voxels that all differ."""
    grid = make_grid("oblique", (10, 8, 6))
    t = np.array([1.2, 2.8, 4.4]) * 1e-3
    i, j, k = np.indices(grid.shape)
    field = 40 + 2.0 * i - 1.5 * j + 3 * k
    signal = (50 + 3 * i + 2 * j + 5 * k)[..., None] * np.exp(2j * np.pi * field[..., None] * t)
    both = np.stack([signal, 0.9 * signal * np.exp(0.5j)], axis=-1).astype(np.complex64)
    return RepeatedMultiEcho(
        signal=both, echo_times_s=t, field_strength_tesla=1.5, grid=grid, repetition_times_of_day_s=np.array([36000.0, 36012.0])
    )


def write_export(folder: Path, *, vendor: str = "siemens", identity: str = "a_1", date: str = "20210301") -> Path:
    """A scan with clutter as a hospital exports it, the identity planted everywhere, also in the names."""
    inner = folder / NAME.replace("^", "_") / f"{NUMBER} {HOSPITAL}"
    write_scan(inner / "export", small_scan(), vendor=vendor, identity=identity, date=date)
    write_clutter(inner, small_scan(), vendor=vendor, identity=identity, date=date)
    (inner / "navigator.csv").write_text("repetition,displacement_mm\n1,0.2\n2,0.4\n", encoding="utf-8")
    plant_folder(folder)
    return folder


def plant_folder(folder: Path) -> int:
    """Plant the identity in every DICOM file below a folder; say in how many."""
    n = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            dataset = pydicom.dcmread(path)
        except Exception:
            continue
        plant(dataset)
        dataset.save_as(path)
        n += 1
    return n


def plant(dataset: Dataset) -> None:
    """Put the identity into standard, private and nested elements, some of which the reader looks at."""
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, NUMBER, BIRTH
    dataset.AccessionNumber, dataset.InstitutionName, dataset.ReferringPhysicianName = ACCESSION, HOSPITAL, PHYSICIAN
    dataset.OperatorsName, dataset.PatientComments, dataset.ImageComments = PHYSICIAN, COMMENT, f"{COMMENT} {NAME}"
    dataset.StudyDescription, dataset.OtherPatientIDs = f"liver {NAME}", NUMBER
    dataset.SeriesDescription = f"{dataset.get('SeriesDescription', '')}_{NAME}_{NUMBER}"
    dataset.ProtocolName = f"qsm {NAME}"
    dataset.StationName, dataset.DeviceSerialNumber = "KRALLENSTEIN1", ACCESSION
    dataset.SoftwareVersions = [str(dataset.get("SoftwareVersions", "")), NAME]
    dataset.ManufacturerModelName = f"{dataset.get('ManufacturerModelName', '')} {HOSPITAL}"
    dataset.ImageType = [*dataset.get("ImageType", []), "QUILLON"]
    dataset.SequenceName = "xandra2d"
    item = Dataset()
    item.PatientName, item.ScheduledProcedureStepDescription, item.PatientBirthDate = NAME, COMMENT, BIRTH
    deeper = Dataset()
    deeper.RequestAttributesSequence = [item]
    dataset.RequestAttributesSequence = [item, deeper]
    dataset.ReferencedImageSequence = [deeper]
    dataset.add_new(0x00291010, "OB", f"CSA {NAME} {NUMBER}".encode())
    dataset.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x2C, "LO", NAME)  # a listed element with a name instead of a number
    block.add_new(0x80, "LO", NUMBER)
    dataset.private_block(0x0099, NAME, create=True).add_new(0x01, "LT", COMMENT)
    dataset.preamble = NAME.encode().ljust(128, b"\0")


def forms(word: str) -> tuple[bytes, ...]:
    """A word as it may lie in bytes."""
    return word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be")


def found_in(content: bytes, depth: int = 0) -> set[str]:
    """The planted words in bytes, and in whatever is packed in them."""
    lower = content.lower()
    found = {word for word in WORDS if any(form in lower for form in forms(word))}
    if depth < 4:
        for inner in unpacked(content):
            found |= found_in(inner, depth + 1)
    return found


def unpacked(content: bytes) -> Iterator[bytes]:
    """What gzip, zip and zlib members and base64 runs hold, wherever they begin."""
    if content[:2] == b"\x1f\x8b":
        try:  # a piece that was cut off gives what it holds
            yield zlib.decompressobj(wbits=31).decompress(content)
        except zlib.error:
            return
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                yield member.filename.encode()
                yield archive.read(member)
    if content[:8] == b"\x89PNG\r\n\x1a\n":  # compressed text chunks
        for start in re.finditer(rb"zTXt|iTXt", content):
            with_zlib = content[start.end() :].split(b"\0", 2)[-1]
            try:
                yield zlib.decompressobj().decompress(with_zlib[1:])
            except zlib.error:
                continue
    for match in re.finditer(rb"[A-Za-z0-9+/_-]{16,}={0,2}", content):
        run = match[0].rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        if len(run) > 4_000_000:
            continue
        for offset in range(4):  # a run may begin with letters that do not belong to it
            piece = run[offset:]
            piece = piece[:-1] if len(piece) % 4 == 1 else piece
            try:
                yield base64.b64decode(piece + b"=" * (-len(piece) % 4))
            except binascii.Error:
                continue


def leaks(root: Path, *, names: bool = True) -> dict[str, set[str]]:
    """Every file below ``root`` (and its name) that holds a planted word."""
    found = {}
    for path in sorted(root.rglob("*")):
        words = found_in(str(path.relative_to(root)).encode()) if names else set()
        if path.is_file() and not path.is_symlink():
            words |= found_in(path.read_bytes())
        if words:
            found[str(path.relative_to(root))] = words
    return found
