"""What goes wrong with a visit's folder: how each fault is made, and the sentence a person reads."""

import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicom_scans import scan
from hqsm.config.dicom import DicomParams
from hqsm.data import VisitAcquisition
from hqsm.dicom.reader import read_visit
from hqsm.errors import InputError
from hqsm.phantom.dicom_writer import uid, write_scan

Make = Callable[[Path], object]


def siemens(folder: Path, name: str = "scan") -> Path:
    write_scan(folder / name, scan(), vendor="siemens", identity="0001_01", date="20210301")
    return folder / name


def images(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(folder.rglob("I*")):
        yield path, pydicom.dcmread(path)


def where(folder: Path, **wanted: object) -> list[tuple[Path, Dataset]]:
    """Images by series, echo (from 1), repetition (from 1) and slice (from 1)."""
    names = {"series": "SeriesNumber", "echo": "EchoNumbers", "repetition": "AcquisitionNumber", "slice": "InstanceNumber"}
    return [(p, d) for p, d in images(folder) if all(int(d[names[key]].value) == value for key, value in wanted.items())]


def edit(found: list[tuple[Path, Dataset]], change: Callable[[Dataset], object]) -> None:
    for path, image in found:
        change(image)
        image.save_as(path)


def delete(found: list[tuple[Path, Dataset]]) -> None:
    for path, _ in found:
        path.unlink()


def set_to(**values: object) -> Callable[[Dataset], None]:
    def change(image: Dataset) -> None:
        for name, value in values.items():
            setattr(image, name, value)

    return change


def brighter(image: Dataset) -> None:
    image.PixelData = (image.pixel_array + 1).tobytes()


def shifted(image: Dataset, along: str, by_mm: float) -> None:
    axis = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    direction = np.cross(*axis) if along == "normal" else axis[0]
    image.ImagePositionPatient = [f"{v:.8g}" for v in np.array(image.ImagePositionPatient, float) + by_mm * direction]


def halved(image: Dataset) -> None:
    image.PixelData = np.ascontiguousarray(image.pixel_array[::2, ::2]).tobytes()
    image.Rows, image.Columns = image.Rows // 2, image.Columns // 2
    image.PixelSpacing = [2 * v for v in image.PixelSpacing]


def copies(found: list[tuple[Path, Dataset]], folder: Path, change: Callable[[Dataset], object] = lambda image: None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, (_, image) in enumerate(found):
        change(image)
        image.save_as(folder / f"C{k:04d}")


def another_run(folder: Path, *, series: int, time: str, change: Callable[[Dataset], object] = lambda image: None) -> None:
    def rerun(image: Dataset) -> None:
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID + ".7"
        image.SeriesInstanceUID += ".7"
        image.SeriesNumber = int(image.SeriesNumber) + series
        image.AcquisitionTime = time
        change(image)

    copies(list(images(folder)), folder / "again", rerun)


def as_syntax(image: Dataset, syntax: str, path: Path) -> None:
    if syntax == RLELossless:
        image.compress(RLELossless)
    elif syntax == JPEG2000Lossless:
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image.PixelData = pydicom.encaps.encapsulate([bytes(image.PixelData)])
        image["PixelData"].is_undefined_length = True
    else:
        image.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
    plain = syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian)
    pydicom.dcmwrite(
        path,
        image,
        **({"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian} if plain else {}),
    )


def all_as(syntax: str) -> Make:
    def make(folder: Path) -> None:
        for path, image in images(siemens(folder)):
            as_syntax(image, syntax, path)

    return make


def ended(content: bytes, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write bytes as the data set of an otherwise whole DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = uid("hostile")
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.write(b"\0" * 128 + b"DICM")
        pydicom.filewriter.write_file_meta_info(handle, meta, enforce_standard=True)
        handle.write(content)


def deflate_bomb(folder: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 400_000_000)
    content = packer.compress(head) + b"".join(packer.compress(b"\0" * 4_000_000) for _ in range(100)) + packer.flush()
    ended(content, folder / "BOMB", DeflatedExplicitVRLittleEndian)


def deep_nesting(folder: Path) -> None:
    start = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ended(start * 5000, folder / "DEEP")


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def no_preamble(path: Path, image: Dataset) -> None:
    del image.file_meta
    image.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)


def many(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


REFUSED: dict[str, tuple[Make, str]] = {
    "an empty folder": (lambda f: None, r"The folder is empty\. Put the visit's raw DICOM here"),
    "nothing": (lambda f: f.joinpath("note.txt").write_text("x"), r"No DICOM image among 1 files\. Put the visit's raw DICOM here"),
    "archives only": (lambda f: f.joinpath("visit.zip").write_bytes(b"PK\x03\x04" + bytes(99)), r"among 1 files\. Unpack the archives"),
    "NIfTI": (lambda f: f.joinpath("e1.nii.gz").write_bytes(b"\x1f\x8b" + bytes(99)), r"among 1 files\. .* belong below bids/"),
    "one image missing": (
        lambda f: delete(where(siemens(f), series=7, echo=2, repetition=2, slice=4)),
        r"1 of 72 images are missing: slice 4 echo 2\.8 ms repetition 2 phase\.",
    ),
    "one part of a repetition missing": (
        lambda f: delete(where(siemens(f), series=6, repetition=2)),
        r"18 of 72 images are missing: slice 1 echo 1\.2 ms repetition 2 magnitude",
    ),
    "a slice missing everywhere": (
        lambda f: delete(where(siemens(f), slice=3)),
        r"Slices are 4 mm apart, but two of them 8 mm: a slice is missing",
    ),
    "slices of unequal spacing": (
        lambda f: edit(where(siemens(f), slice=6), lambda d: shifted(d, "normal", 1.5)),
        r"Slices are 4 mm apart, but two of them 5\.5 mm",
    ),
    "slices shifted in their plane": (
        lambda f: edit(where(siemens(f), slice=2), lambda d: shifted(d, "row", 3.0)),
        r"shifted against each other by up to 3 mm in their plane",
    ),
    "one identifier, two images": (
        lambda f: copies(where(siemens(f), series=6, echo=1, repetition=1, slice=1), f / "b", brighter),
        r"Two different images carry the same SOPInstanceUID",
    ),
    "one place, two images": (
        lambda f: copies(
            where(siemens(f), series=6, echo=1, repetition=1, slice=1), f / "b", lambda d: (brighter(d), set_to(SOPInstanceUID="1.2.3")(d))
        ),
        r"Slice 1, echo time 1\.2 ms, repetition 1, magnitude is there twice, with different pixels",
    ),
    "slices of two echo times": (
        lambda f: (siemens(f), [edit(where(f, echo=2, slice=k), set_to(EchoTime="3.1")) for k in (4, 5, 6)]),
        r"Slices differ in echo time: 2\.8 ms in 3, 3\.1 ms in 3",
    ),
    "magnitude and phase of two sizes": (
        lambda f: edit(where(siemens(f), series=7), halved),
        r"Magnitude and phase do not belong together: magnitude 10 x 8, phase 5 x 4",
    ),
    "two patients": (
        lambda f: edit(where(siemens(f), series=7), set_to(PatientID="0002", PatientName="0002")),
        r"The images belong to 2 different patients",
    ),
    "two visits": (
        lambda f: edit(where(siemens(f), series=7), set_to(AcquisitionDate="20220305", SeriesDate="20220305")),
        r"acquired on days 369 days apart",
    ),
    "two visits, each complete": (
        lambda f: another_run(siemens(f), series=10, time="120000", change=set_to(AcquisitionDate="20220305", SeriesDate="20220305")),
        r"acquired on days 369 days apart",
    ),
    "two visits of different protocols": (
        lambda f: another_run(
            siemens(f), series=10, time="120000", change=set_to(AcquisitionDate="20220305", SeriesDate="20220305", FlipAngle="25")
        ),
        r"acquired on days 369 days apart",
    ),
    "magnitude of one repetition, phase of another": (
        lambda f: (siemens(f), [delete(where(f, series=part, repetition=r)) for part, r in ((6, 1), (7, 2))]),
        r"were not acquired together: 12 s lie between them by AcquisitionTime",
    ),
    "phase of another scanner": (
        lambda f: edit(where(siemens(f), series=7), set_to(ManufacturerModelName="Avanto", MagneticFieldStrength="1.4")),
        r"Magnitude \(series 6 liver_nav_mGRE\) and phase \(series 7 liver_nav_mGRE\) are of two scanners: "
        r"they differ in ManufacturerModelName, MagneticFieldStrength\. Export both from one scan",
    ),
    "phase of another scanner of the same model": (
        lambda f: (siemens(f), [edit(where(f, series=part), set_to(DeviceSerialNumber=n)) for part, n in ((6, "166001"), (7, "166002"))]),
        r"are of two scanners: they differ in DeviceSerialNumber\.",
    ),
    "phase at another frequency": (
        lambda f: edit(where(siemens(f), series=7), set_to(ImagingFrequency="63.70")),
        r"are of two scanners: they differ in ImagingFrequency\.",
    ),
    "phase of another run that counts its repetitions alike": (
        lambda f: edit(where(siemens(f), series=7), set_to(AcquisitionTime="100730")),
        r"Magnitude \(series 6 .*\) and phase \(series 7 .*\) were not acquired together: 4\d\d s lie between them by AcquisitionTime",
    ),
    "a magnitude of one repetition missing, a phase of another": (
        lambda f: (siemens(f), [delete(where(f, series=part, repetition=r, slice=1)) for part, r in ((6, 1), (7, 2))]),
        r"6 of 72 images are missing: slice 1 echo 1\.2 ms repetition 1 magnitude",
    ),
    "magnitude only": (lambda f: delete(where(siemens(f), series=7)), r"3 echoes were found, but only magnitude images of them"),
    "phase of one echo only": (
        lambda f: (siemens(f), [delete(where(f, series=7, echo=k)) for k in (1, 3)]),
        r"phase \(or real and imaginary\) images of one of them only: a field-map series\?",
    ),
    "one echo": (lambda f: (siemens(f), [delete(where(f, echo=k)) for k in (2, 3)]), r"Every series has a single echo time"),
    "an echo time that stands in two series": (
        lambda f: (split_by_echo(siemens(f)), edit(where(f, echo=3), set_to(EchoTime=where(f, echo=2)[0][1].EchoTime))),
        r"have the same EchoTime, 2\.8 ms, and were acquired together\. Correct EchoTime of one of them",
    ),
    "echo times in seconds": (
        lambda f: edit(list(images(siemens(f))), lambda d: set_to(EchoTime=f"{float(d.EchoTime) / 1e3:g}")(d)),
        r"EchoTime is 0\.0012 to 0\.0044 ms; these look like seconds\. Write EchoTime \(0018,0081\) in milliseconds",
    ),
    "echo times in microseconds": (
        lambda f: edit(list(images(siemens(f))), lambda d: set_to(EchoTime=f"{float(d.EchoTime) * 1e3:g}")(d)),
        r"EchoTime is 1200 to 4400 ms; these look like microseconds",
    ),
    "compressed": (
        all_as(JPEG2000Lossless),
        r"of series 6 liver_nav_mGRE are compressed \(JPEG 2000 .*\)\. Decompress them first, for example: gdcmconv --raw IN OUT",
    ),
    "damaged run-length code": (
        lambda f: (all_as(RLELossless)(f), [cut(p, 0.9) for p, _ in list(where(f, series=6, echo=1, repetition=1, slice=1))]),
        r"(A run-length encoded image|The file) is damaged",
    ),
    "transfer broke off in an image": (
        lambda f: [cut(path, 0.97) for path, _ in where(siemens(f), series=7, echo=1, repetition=1, slice=2)],
        r"1 of 72 images are missing: slice 2 echo 1\.2 ms repetition 1 phase",
    ),
    "phase without a unit": (
        lambda f: edit(where(siemens(f), series=7), set_to(RescaleSlope="0.3", RescaleIntercept="-100", BitsStored=16)),
        r"The phase images of series 7 liver_nav_mGRE do not say what a stored value means",
    ),
    "no field strength": (
        lambda f: edit(list(images(siemens(f))), lambda d: [delattr(d, n) for n in ("MagneticFieldStrength", "ImagingFrequency")]),
        r"neither ImagingFrequency nor MagneticFieldStrength",
    ),
    "two field strengths": (
        lambda f: edit(list(images(siemens(f))), set_to(MagneticFieldStrength="3")),
        r"The header says 3 T, and an imaging frequency of 63\.8\d MHz, which is 1\.50 T",
    ),
    "unknown vendor": (
        lambda f: edit(list(images(siemens(f))), set_to(Manufacturer="Acme")),
        r"None of the images is an original .* of a known vendor \(found: unknown vendor\)",
    ),
    "secondary captures only": (
        lambda f: edit(list(images(siemens(f))), set_to(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")),
        r"None of the images .* \(found: secondary capture\)",
    ),
    "navigator too short": (
        lambda f: (siemens(f), f.joinpath("navigator.csv").write_text("repetition,displacement_mm\n1,0.2\n")),
        r"navigator\.csv has no row for repetition 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_is_refused_in_the_words_that_name_it(tmp_path: Path, name: str) -> None:
    make, sentence = REFUSED[name]
    make(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        read_visit(tmp_path, DicomParams())
    assert caught.value.remedy


def field_map(folder: Path) -> None:
    first = where(folder, series=6, echo=1, repetition=1)
    words = ["ORIGINAL", "PRIMARY", "P", "ND"]
    change = set_to(ImageType=words, SequenceName="*fm2d2r", SeriesNumber=12, SeriesInstanceUID="1.2.12", SeriesDescription="B0")
    copies(first, folder / "fm", lambda d: (change(d), set_to(SOPInstanceUID=d.SOPInstanceUID + ".5")(d)))


def normalised(folder: Path) -> None:
    def change(image: Dataset) -> None:
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]
        image.SeriesNumber, image.SeriesInstanceUID, image.SOPInstanceUID = 8, "1.2.8", image.SOPInstanceUID + ".8"
        brighter(image)

    copies(where(folder, series=6), folder / "norm", change)


def beside(folder: Path, number: int, change: Callable[[Dataset], object]) -> None:
    """A series of another kind, made from the magnitude of the first echo."""

    def other(image: Dataset) -> None:
        image.SeriesNumber, image.SeriesInstanceUID, image.SeriesDescription = number, f"1.2.{number}", "series"
        image.SOPInstanceUID = f"{image.SOPInstanceUID}.{number}"
        change(image)

    copies(where(folder, series=6, echo=1, repetition=1), folder / f"other{number}", other)


OTHERS: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "T2* map": (set_to(ImageType=["DERIVED", "PRIMARY", "M", "ND", "T2_STAR MAP"]), "x6: T2* or R2* map"),
    "R2* map": (set_to(ImageType=["DERIVED", "PRIMARY", "R2_STAR MAP", "ND"]), "x6: T2* or R2* map"),
    "field map in Hz": (set_to(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"], RescaleType="Hz"), "x6: field map"),
    "velocity map": (set_to(ImageType=["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P"]), "x6: velocity map"),
    "phase difference": (set_to(ImageType=["DERIVED", "PRIMARY", "P", "PHASE DIFFERENCE"]), "x6: phase difference"),
    "localizer": (set_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "ND"]), "x6: localizer"),
    "secondary capture": (set_to(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "x6: secondary capture"),
    "water image": (set_to(ImageType=["DERIVED", "PRIMARY", "DIXON", "WATER"]), "x6: fat-water image of the scanner"),
}


def counting_slices(folder: Path) -> None:
    edit(list(images(folder)), lambda d: set_to(AcquisitionNumber=6 * (int(d.AcquisitionNumber) - 1) + int(d.InstanceNumber))(d))


def past_midnight(folder: Path) -> None:
    """Nothing but date and clock tell the repetitions apart, and the second one begins after midnight."""
    for path, image in list(images(folder)):
        late = int(image.AcquisitionNumber) == 2
        image.AcquisitionDate, image.AcquisitionTime = ("20210302", "000004.5") if late else ("20210301", "235952.5")
        del image.AcquisitionNumber
        image.save_as(path)


def split_by_echo(folder: Path) -> None:
    edit(list(images(folder)), lambda d: set_to(SeriesInstanceUID=f"{d.SeriesInstanceUID}.{d.EchoNumbers}")(d))


def link_outside(folder: Path) -> None:
    outside = folder.parent.parent / f"{folder.parent.name}_outside"
    write_scan(outside, scan(), vendor="siemens", identity="0002_01", date="20210301")
    for path in sorted(outside.rglob("I*"))[:3]:
        os.symlink(path, folder / f"L{path.name}")


def file_order(folder: Path) -> None:
    """Names, instance numbers and nesting say nothing any more, slices come from head to feet."""
    rng = np.random.default_rng(5)
    found = list(images(folder))
    for (path, image), k in zip(found, rng.permutation(len(found)), strict=True):
        image.InstanceNumber = int(k) + 1
        image.save_as(folder / f"z{k}.bin")
        path.unlink()


READ: dict[str, tuple[Make, str]] = {
    "nothing at all": (siemens, ""),
    "exact copies": (
        lambda f: copies(where(siemens(f), series=6, echo=1), f / "b"),
        "12 files were exact copies of others and are ignored",
    ),
    "exact copies with new identifiers": (
        lambda f: copies(where(siemens(f), series=6, echo=1), f / "b", lambda d: set_to(SOPInstanceUID=d.SOPInstanceUID + ".9")(d)),
        "12 images were there twice under different identifiers and are ignored",
    ),
    "empty files": (lambda f: (siemens(f) / "E").write_bytes(b""), "empty files: not DICOM, zero bytes: the transfer failed"),
    "texts": (lambda f: (siemens(f) / "a.txt").write_text("Report"), "other files: not DICOM, no DICOM"),
    "archives": (lambda f: (siemens(f) / "a.gz").write_bytes(b"\x1f\x8b" + bytes(50)), "archives: not DICOM, packed: unpack it"),
    "NIfTI": (lambda f: (siemens(f) / "a.nii.gz").write_bytes(b"\x1f\x8b" + bytes(50)), "NIfTI images: not DICOM, a study that starts"),
    "DICOMDIR": (lambda f: ended(b"", siemens(f) / "DICOMDIR"), "DICOMDIR: index"),
    "a file cut off in its header": (
        lambda f: (copies(where(siemens(f), series=6, echo=1, slice=1, repetition=1), f / "b"), cut(f / "b" / "C0000", 0.3)),
        "damaged files: damaged, cut off before its pixel data: the transfer broke off",
    ),
    "links out of the folder": (lambda f: link_outside(siemens(f)), "links x3: not DICOM, links that lead out of the folder"),
    "deflate bomb": (lambda f: deflate_bomb(siemens(f)), "damaged files: damaged, inflates to more than dicom.largest_file_mb"),
    "deep nesting": (lambda f: deep_nesting(siemens(f)), "damaged files: damaged, sequences nested too deeply"),
    "implicit little endian": (all_as(ImplicitVRLittleEndian), ""),
    "big endian": (all_as(ExplicitVRBigEndian), ""),
    "run-length encoded": (all_as(RLELossless), ""),
    "deflated": (all_as(DeflatedExplicitVRLittleEndian), ""),
    "no preamble": (lambda f: [no_preamble(p, d) for p, d in list(images(siemens(f)))], ""),
    "no order of files, slices or instances": (lambda f: file_order(siemens(f)), ""),
    "every echo in a series of its own": (lambda f: split_by_echo(siemens(f)), ""),
    "every echo in a series of its own, and a run before": (
        lambda f: (split_by_echo(siemens(f)), another_run(f, series=20, time="080000")),
        "another acquisition, an earlier run of the same protocol",
    ),
    "phase without rescale tags": (
        lambda f: edit(where(siemens(f), series=7), lambda d: [delattr(d, n) for n in ("RescaleSlope", "RescaleIntercept")]),
        "",
    ),
    "phase of 16 bits without a unit, whose values fill a turn": (
        lambda f: edit(
            where(siemens(f), series=7),
            lambda d: ([delattr(d, n) for n in ("RescaleSlope", "RescaleIntercept")], set_to(BitsStored=16, HighBit=15)(d)),
        ),
        "The unit of the phase of series 7 liver_nav_mGRE is taken from its range",
    ),
    "acquisition numbers that count slices": (lambda f: counting_slices(siemens(f)), ""),
    "a scan that passes midnight": (lambda f: past_midnight(siemens(f)), ""),
    **{
        name: (lambda f, change=change: beside(siemens(f), 30, change), f"series 30 series {said}")  # type: ignore[misc]
        for name, (change, said) in OTHERS.items()
    },
    "normalised copies": (lambda f: normalised(siemens(f)), "x36: filtered copy, NORM: the unfiltered images are used"),
    "a field map": (lambda f: field_map(siemens(f)), "series 12 B0 x6: phase difference"),
    "an aborted run before": (
        lambda f: another_run(
            siemens(f),
            series=-4,
            time="080000",
            change=lambda d: set_to(NumberOfAverages="1")(d) if int(d.SeriesNumber) == 2 else brighter(d),
        ),
        "another acquisition, an earlier run of the same protocol; the last complete one is used",
    ),
    "the same scan with fewer echoes": (
        lambda f: (
            another_run(siemens(f), series=20, time="120000", change=set_to(FlipAngle="25")),
            delete([p for p in where_copies(f) if int(p[1].EchoNumbers) == 3]),
        ),
        "2 complex echoes; the acquisition with 3 is used",
    ),
    "an imaging frequency that is a filler": (lambda f: edit(list(images(siemens(f))), set_to(ImagingFrequency="1")), ""),
    "a localizer of another day": (
        lambda f: beside(siemens(f), 30, set_to(AcquisitionDate="20200101", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "ND"])),
        "localizer",
    ),
    "a magnitude of another day": (
        lambda f: beside(siemens(f), 30, set_to(AcquisitionDate="20200101", FlipAngle="25")),
        "another acquisition, magnitude only",
    ),
    "a presentation state": (
        lambda f: copies(where(siemens(f), series=6, echo=1, slice=1, repetition=1), f / "b", presentation_state),
        "presentation state, no image in it",
    ),
}


def where_copies(folder: Path) -> list[tuple[Path, Dataset]]:
    return [(path, pydicom.dcmread(path)) for path in sorted(folder.rglob("C*"))]


def presentation_state(image: Dataset) -> None:
    del image.PixelData
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.11.1"
    image.SOPInstanceUID = "1.2.3.4"
    image.ReferencedSeriesSequence = Sequence([Dataset()])


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> VisitAcquisition:
    folder = tmp_path_factory.mktemp("untouched")
    siemens(folder)
    return read_visit(folder, DicomParams())


@pytest.mark.parametrize("name", READ)
def test_a_mess_is_read_as_if_it_were_none_and_what_is_left_aside_is_named(tmp_path: Path, untouched: VisitAcquisition, name: str) -> None:
    make, said = READ[name]
    make(tmp_path)
    tracemalloc.start()
    visit = read_visit(tmp_path, DicomParams(largest_file_mb=50))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(visit.echoes.signal, untouched.echoes.signal)
    assert visit.echoes.grid.matches(untouched.echoes.grid, 1e-6)
    np.testing.assert_array_equal(visit.echoes.echo_times_s, untouched.echoes.echo_times_s)
    everything = [f"{item.name}: {item.kind}, {item.reason}" for item in visit.info.set_aside] + list(visit.info.notes)
    assert any(said in line for line in everything) or not said, everything
    assert bool(said) == bool(everything)
    assert peak_bytes < 120e6  # the bomb would be 400 MB


def test_runs_of_one_protocol_become_repetitions_where_the_study_says_so(tmp_path: Path, untouched: VisitAcquisition) -> None:
    another_run(siemens(tmp_path), series=10, time="120000")
    visit = read_visit(tmp_path, DicomParams(repeated_series="repetitions"))
    assert visit.echoes.n_repetitions == 4
    np.testing.assert_array_equal(visit.echoes.signal[..., :2], untouched.echoes.signal)
    np.testing.assert_array_equal(visit.echoes.signal[..., 2:], untouched.echoes.signal)
    assert visit.info.notes == ("2 runs of the protocol are taken as repetitions (dicom.repeated_series).",)


def test_the_later_of_two_complete_runs_is_used(tmp_path: Path, untouched: VisitAcquisition) -> None:
    def darker(image: Dataset) -> None:
        if int(image.SeriesNumber) == 16:
            image.PixelData = (image.pixel_array // 2).tobytes()

    another_run(siemens(tmp_path), series=10, time="120000", change=darker)
    visit = read_visit(tmp_path, DicomParams())
    ratio = np.abs(visit.echoes.signal) / np.abs(untouched.echoes.signal)
    assert np.median(ratio) == pytest.approx(0.5, abs=0.01)
    assert "run more than once; the last complete run is used (series 16 liver_nav_mGRE)" in visit.info.notes[0]


def test_a_phase_of_an_aborted_run_never_meets_the_magnitude_of_the_next(tmp_path: Path, untouched: VisitAcquisition) -> None:
    folder = siemens(tmp_path)
    another_run(folder, series=-5, time="080000", change=brighter)
    delete([found for found in where_copies(folder) if int(found[1].SeriesNumber) == 2])  # the early run has a magnitude only
    visit = read_visit(tmp_path, DicomParams())
    np.testing.assert_array_equal(visit.echoes.signal, untouched.echoes.signal)
    assert any(item.reason == "magnitude only" for item in visit.info.set_aside)


def test_nothing_of_a_person_is_in_a_refusal(tmp_path: Path) -> None:
    folder = siemens(tmp_path / "CANARY")
    edit(list(images(folder)), set_to(PatientName="CANARY^PHI", PatientID="MRN77", SeriesDescription="liver of canary"))
    shutil.copytree(folder, tmp_path / "two")
    edit(where(tmp_path / "two", series=7), set_to(RescaleSlope="0.3", BitsStored=16))
    with pytest.raises(InputError) as caught:
        read_visit(tmp_path / "two", DicomParams())
    assert "canary" not in str(caught.value).lower()
    assert "series 7 liver" in str(caught.value)
