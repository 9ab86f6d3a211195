"""The lean walk over a header finds what pydicom finds, once, and in bounded memory."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from conftest import make_grid, unpack
from dicom_scans import scan
from hqsm.config.dicom import DicomParams
from hqsm.data import RepeatedMultiEcho
from hqsm.dicom import files
from hqsm.dicom.elements import TAGS, Damaged, Elements, Vocabulary, read_elements
from hqsm.dicom.files import look_through
from hqsm.dicom.reader import read_visit
from hqsm.phantom.dicom_writer import VENDORS, write_scan


def encoded(ds: Dataset, *, explicit: bool, little: bool = True) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = not explicit, little
    write_dataset(buffer, ds)
    return buffer.getvalue()


def read(content: bytes, *, explicit: bool = True, little: bool = True) -> Elements:
    return read_elements(io.BytesIO(content), 0, len(content), Vocabulary(), explicit=explicit, little=little)[0]


def plain(value: object) -> object:
    if isinstance(value, str | int | float | None):
        return value
    return [plain(item) for item in value] if hasattr(value, "__iter__") and not isinstance(value, bytes) else str(value)


def same_as_pydicom(folder: Path) -> int:
    found = look_through(folder, DicomParams()).images
    sequences = {tag for word, tag in TAGS.items() if word.endswith("Sequence")}
    for image in found[:: max(1, len(found) // 24)]:
        theirs = pydicom.dcmread(image.path, stop_before_pixels=True, force=True)
        for word, tag in TAGS.items():
            if tag not in sequences:
                assert plain(image.header.get(word, "absent")) == plain(theirs.get(word, "absent")), word
        for word in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            for ours, item in zip(image.header.items(word), theirs.get(word, ()), strict=True):
                for name, tag in TAGS.items():
                    if tag in sequences and name in item:
                        (group,) = ours.items(name)
                        for key in TAGS:
                            if TAGS[key] not in sequences:
                                assert plain(group.get(key, "absent")) == plain(item[name][0].get(key, "absent")), key
        with image.path.open("rb") as handle:
            handle.seek(image.pixel_offset)
            assert handle.read(max(image.pixel_bytes, 0)) == (pydicom.dcmread(image.path).PixelData[: max(image.pixel_bytes, 0)])
    return len(found)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_attribute_of_every_vendor_is_what_pydicom_reads(tmp_path: Path, vendor: str) -> None:
    write_scan(tmp_path, scan(), vendor=vendor, identity="0001_01", date="20210301")
    assert same_as_pydicom(tmp_path) > 0


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        "siemens_e11_gre_6echo_magphase_dicom",
        "ukat_ge_mr750_b0_3d_2echo_dicom",
        "philips_classic_2echo_magphase_dicom",
        "philips_enh_fieldmap_hz_dicom",
        "vendor_id_negatives",
    ],
)
def test_every_attribute_of_real_headers_is_what_pydicom_reads(real_data_dir: Path, tmp_path: Path, name: str) -> None:
    folder = real_data_dir / name
    if (folder / "dicom.tar.xz").is_file():
        unpack(folder / "dicom.tar.xz", tmp_path)
        folder = tmp_path
    assert same_as_pydicom(folder) > 0


@st.composite
def nested(draw: st.DrawFn, depth: int = 0) -> Dataset:
    """A data set with sequences in sequences, of defined and undefined length, and private elements of any size."""
    ds = Dataset()
    if draw(st.booleans()):
        ds.SeriesDescription = draw(st.text("abc", max_size=8))
    if draw(st.booleans()):
        ds.add_new(0x00091001, draw(st.sampled_from(["UN", "OB"])), b"x" * draw(st.integers(0, 70_000)))
    if depth < 3:
        for tag in draw(st.sets(st.sampled_from([0x00081140, 0x00400260, 0x00209221]))):
            items = draw(st.lists(nested(depth + 1), max_size=2))
            ds.add_new(tag, "SQ", items)
            ds[tag].is_undefined_length = draw(st.booleans())
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    return ds


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(ds=nested(), explicit=st.booleans(), little=st.booleans())
def test_sequences_of_any_nesting_are_stepped_over(ds: Dataset, explicit: bool, little: bool) -> None:
    little = little or not explicit
    ds.SOPInstanceUID, ds.Rows, ds.ImagePositionPatient = "1.2.3", 17, [1.5, -2, 3]
    ds.add_new(0x7FE00010, "OW", bytes(6))
    content = encoded(ds, explicit=explicit, little=little)
    found, pixels = read_elements(io.BytesIO(content), 0, len(content), Vocabulary(), explicit=explicit, little=little)
    assert (found.get("SOPInstanceUID"), found.get("Rows"), list(found.get("ImagePositionPatient"))) == ("1.2.3", 17, [1.5, -2, 3])
    assert found.get("SeriesDescription", "absent") == ds.get("SeriesDescription", "absent")
    assert pixels == (len(content) - 6, 6)


def test_a_header_in_the_wrong_syntax_is_still_read() -> None:
    ds = Dataset()
    ds.SOPInstanceUID, ds.EchoTime = "1.2.3", "2.5"
    for explicit in (True, False):
        assert read(encoded(ds, explicit=explicit), explicit=not explicit).get("EchoTime") == 2.5


def test_text_is_read_in_the_character_set_of_its_own_file() -> None:
    texts = {}
    for charset, encoding in (("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8"), ("NONE SUCH ", "ascii")):
        content = struct.pack("<HH2sH", 8, 5, b"CS", len(charset)) + charset.encode()
        text = "für".encode(encoding, "ignore").ljust(4)
        content += struct.pack("<HH2sH", 8, 0x103E, b"LO", len(text)) + text
        texts[charset] = read(content).get("SeriesDescription")
    assert texts == {"ISO_IR 100": "für", "ISO_IR 192": "für", "NONE SUCH ": "fr"}


@pytest.mark.parametrize("block", [0x10, 0x2B])
def test_a_private_element_is_found_in_whichever_block_its_creator_reserved(block: int) -> None:
    ds = Dataset()
    ds.add_new(0x2005 << 16 | 0x11 if block == 0x10 else 0x20050010, "LO", "Another creator")
    ds.add_new(0x2005 << 16 | block, "LO", "Philips MR Imaging DD 001")
    ds.add_new(0x2005 << 16 | block << 8 | 0x0E, "FL", 0.25)
    ds.add_new((0x2005110E if block == 0x10 else 0x2005100E), "FL", 99.0)
    for explicit in (True, False):
        assert read(encoded(ds, explicit=explicit), explicit=explicit).private(0x2005, "Philips MR Imaging DD 001", 0x0E, "FL") == 0.25


def test_a_private_element_whose_creator_was_taken_away_is_found_in_its_usual_place() -> None:
    ds = Dataset()
    ds.add_new(0x0043102F, "SS", 3)
    assert read(encoded(ds, explicit=False), explicit=False).private(0x0043, "GEMS_PARM_01", 0x2F, "SS") == 3


@pytest.mark.parametrize("depth", [65, 100_000])
def test_deep_nesting_is_refused_without_recursion(depth: int) -> None:
    start = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(Damaged, match="nested too deeply"):
        read(start * depth)


def test_equal_values_of_a_folder_are_kept_and_converted_once(tmp_path: Path) -> None:
    write_scan(tmp_path, scan(), vendor="siemens", identity="0001_01", date="20210301")
    images = look_through(tmp_path, DicomParams()).images
    makers = {id(next(v for v in image.header.all_but(frozenset()) if v.raw.startswith(b"SIEMENS"))) for image in images}
    assert len(images) == 72
    assert len(makers) == 1


def large() -> RepeatedMultiEcho:
    rng = np.random.default_rng(1)
    shape = (128, 104, 8)
    signal = rng.standard_normal((*shape, 3, 2)) + 1j * rng.standard_normal((*shape, 3, 2))
    return RepeatedMultiEcho(
        signal=signal.astype(np.complex64),
        echo_times_s=np.array([1.2, 2.8, 4.4]) * 1e-3,
        field_strength_tesla=1.5,
        grid=make_grid("axial", shape),
        repetition_times_of_day_s=np.array([36000.0, 36012.0]),
    )


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips-enhanced"])
def test_a_visit_is_read_in_less_than_three_times_its_arrays_and_each_header_once(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_files = write_scan(tmp_path, large(), vendor=vendor, identity="0001_01", date="20210301")
    n_read = 0

    def counted(*args: object, **options: object) -> object:
        nonlocal n_read
        n_read += 1
        return read_elements(*args, **options)

    monkeypatch.setattr(files, "read_elements", counted)
    tracemalloc.start()
    visit = read_visit(tmp_path, DicomParams())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_read == n_files
    assert peak < 2 * visit.echoes.signal.nbytes
