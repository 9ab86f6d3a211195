"""Hostile input: each case refused or neutralised, with a named error, in bounded memory."""

import contextlib
import io
import re
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from hqsm.config.dicom import DicomParams
from hqsm.config.intake import IntakeParams
from hqsm.config.records import RecordsParams
from hqsm.dicom.guarded import read_guarded
from hqsm.dicom.reader import read_visit
from hqsm.errors import ConfigError, HqsmError, InputError
from hqsm.intake.filing import FILED, take_in
from hqsm.intake.keys import open_keys
from hqsm.phantom.dicom_writer import write_scan
from hqsm.records.reading import read_records
from hqsm.report.page import page, render
from hqsm.study import discover
from hqsm.study_config import read_config
from hqsm.tables import read_frame, write_rows
from hqsm.workflow_folder import REPOSITORY
from privacy.canary import small_scan


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One good image in a folder of its own."""
    write_scan(tmp_path / "scan", small_scan(), vendor="siemens", identity="a_1", date="20210301")
    path = min((tmp_path / "scan").rglob("I[0-9]*"))
    target = tmp_path / "one" / "image"
    target.parent.mkdir()
    return path.rename(target)


def changed(image: Path, change: Callable[[Dataset], None]) -> bytes:
    dataset = pydicom.dcmread(image)
    change(dataset)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def refused(content: bytes, largest_mb: float = 8.0) -> str:
    with pytest.raises(InputError) as caught:
        read_guarded(content, largest_mb)
    return caught.value.code


def test_a_deflate_bomb_is_refused_before_it_is_inflated(image: Path) -> None:
    content = image.read_bytes()
    dataset = pydicom.dcmread(image)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert read_guarded(buffer.getvalue(), 8.0).PixelData == pydicom.dcmread(image).PixelData  # deflate as such is readable
    stream = io.BytesIO(buffer.getvalue())
    pydicom.filereader.read_preamble(stream, False)
    pydicom.filereader._read_file_meta_info(stream)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = struct.pack("<HH2sHI", 0x0019, 0x1010, b"OB", 0, 400_000_000)
    bomb = buffer.getvalue()[: stream.tell()] + packer.compress(element)
    for _ in range(400):
        bomb += packer.compress(bytes(1_000_000))
    bomb += packer.flush()
    assert len(bomb) < 1_000_000 < len(content) * 1000
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert refused(bomb) == "DICOM_BOMB"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("undefined_length", [True, False])
def test_five_thousand_nested_sequences_are_refused(image: Path, undefined_length: bool) -> None:
    depth = 5000
    nested = b""
    for _ in range(depth):
        if undefined_length:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + nested + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
            nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    meta = changed(image, lambda ds: [delattr(ds, e.keyword) for e in list(ds) if e.keyword])
    content = meta + nested
    with contextlib.suppress(InputError):
        read_guarded(content, 8.0)
    folder = image.parent / "visit"
    folder.mkdir()
    (folder / "deep").write_bytes(content)
    with pytest.raises(InputError):
        read_visit(folder, DicomParams())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("giant rows", lambda ds: (setattr(ds, "Rows", 65535), setattr(ds, "Columns", 65535))),
        ("giant frames", lambda ds: setattr(ds, "NumberOfFrames", "2147483647")),
        ("giant samples", lambda ds: (setattr(ds, "SamplesPerPixel", 65535), setattr(ds, "Rows", 65535))),
        ("negative frames", lambda ds: setattr(ds, "NumberOfFrames", "-5")),
    ],
)
def test_giant_and_negative_dimensions_are_refused(image: Path, name: str, change: Callable[[Dataset], None]) -> None:
    assert refused(changed(image, change)) in {"DICOM_BOMB", "DICOM_DAMAGED"}, name


def test_rle_cannot_promise_more_than_its_bytes_hold(image: Path) -> None:
    def bomb(ds: Dataset) -> None:
        ds.file_meta.TransferSyntaxUID = RLELossless
        ds.Rows = ds.Columns = 1800  # 6.5 MB of pixels from a few bytes, under the cap
        ds.PixelData = pydicom.encaps.encapsulate([b"\x01\0\0\0" + bytes(60) + b"\0\0"])
        ds["PixelData"].is_undefined_length = True

    assert refused(changed(image, bomb)) == "DICOM_BOMB"


def test_a_larger_file_than_the_cap_is_not_opened(image: Path) -> None:
    assert refused(image.read_bytes() + bytes(9_000_000)) == "DICOM_TOO_LARGE"


def test_a_file_cut_at_any_place_is_an_image_or_a_named_error(image: Path, tmp_path: Path) -> None:
    content = image.read_bytes()
    outcomes = set()
    folder = tmp_path / "visit"
    folder.mkdir()
    for end in range(0, len(content), 7):
        (folder / "cut").write_bytes(content[:end])
        with pytest.raises(InputError) as caught:  # one image is no scan, whole or cut
            read_visit(folder, DicomParams())
        outcomes.add(caught.value.code)
    assert outcomes <= {"DICOM_NONE", "DICOM_ONE_ECHO", "DICOM_DAMAGED", "DICOM_NO_ORIGINAL"}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", ["nan", "0", "0"]),
        ("ImagePositionPatient", ["1e308", "1e308", "1e308"]),
        ("ImageOrientationPatient", ["0", "0", "0", "0", "0", "0"]),
        ("ImageOrientationPatient", ["1", "0"]),
        ("PixelSpacing", ["0", "0"]),
        ("PixelSpacing", ["-1", "-1"]),
        ("PixelSpacing", None),
        ("Rows", 0),
        ("BitsAllocated", 7),
        ("SeriesNumber", "<script>"),
        ("AcquisitionNumber", "0x12"),
        ("EchoTime", "1e-320"),
        ("AcquisitionTime", "25h"),
        ("AcquisitionDate", "../../../"),
        ("ImageType", None),
        ("Manufacturer", "SIEMENS<script>alert(1)</script>"),
        ("MagneticFieldStrength", "1e30"),
        ("RescaleSlope", "inf"),
    ],
)
def test_a_contradictory_header_in_every_image_is_read_or_refused_by_name(tmp_path: Path, keyword: str, value: object) -> None:
    write_scan(tmp_path, small_scan(), vendor="siemens", identity="a_1", date="20210301")
    for path in tmp_path.rglob("I[0-9]*"):
        dataset = pydicom.dcmread(path)
        if keyword not in dataset:
            continue
        element = dataset[keyword]
        raw = value if value is None or isinstance(value, int) else "\\".join(value) if isinstance(value, list) else value
        with pydicom.config.disable_value_validation():
            dataset[keyword] = pydicom.DataElement(element.tag, "LO" if isinstance(raw, str) else element.VR, raw, already_converted=True)
            dataset.save_as(path, implicit_vr=False, little_endian=True)
    try:
        visit = read_visit(tmp_path, DicomParams())
    except HqsmError:
        return
    assert "<" not in repr(visit.info)
    assert ".." not in repr(visit.info)


@pytest.mark.parametrize("number", ["../../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "=cmd|' /C calc'!A0", "<script>", "x" * 64])
def test_no_header_value_and_no_name_in_an_archive_becomes_a_path(tmp_path: Path, number: str) -> None:
    source = tmp_path / "export"
    write_scan(source, small_scan(), vendor="siemens", identity="a_1", date="20210301")
    for path in sorted(source.rglob("I[0-9]*"))[:3]:
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            dataset.PatientID = dataset.PatientName = dataset.StudyID = number
            dataset.StudyInstanceUID = dataset.SOPInstanceUID = f"{number}.{path.name}"[-64:] if len(number) < 64 else path.name
            dataset.save_as(path)
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # three files of one name
        for path in sorted(source.rglob("I[0-9]*"))[:3]:
            handle.write(path, "../../../outside")
    before = {p for p in tmp_path.rglob("*") if "study" not in p.parts and "keys" not in p.parts}
    report = take_in(archive, tmp_path / "study", open_keys(tmp_path / "keys", tmp_path / "study"), IntakeParams(), "")
    assert {o.what for o in report.outcomes} == {FILED}
    written = [p.relative_to(tmp_path / "study").as_posix() for p in (tmp_path / "study").rglob("*") if p.is_file()]
    assert all(re.fullmatch(r"dicom/sub-HQ[A-Z2-7]{8}/ses-\d\d/\d+\.dcm", name) for name in written)
    assert {p for p in tmp_path.rglob("*") if not {"study", "keys"} & set(p.relative_to(tmp_path).parts)} >= before - {tmp_path / "study"}
    assert not (tmp_path.parent / "outside").exists()


def test_links_out_of_the_study_are_not_followed(tmp_path: Path) -> None:
    write_scan(tmp_path / "elsewhere", small_scan(), vendor="siemens", identity="a_1", date="20210301")
    study = tmp_path / "study"
    visit = study / "dicom" / "sub-1" / "ses-1"
    visit.mkdir(parents=True)
    for k, path in enumerate(sorted((tmp_path / "elsewhere").rglob("I[0-9]*"))):
        (visit / f"l{k}").symlink_to(path)
    (visit / "endless").symlink_to("/dev/zero")
    (visit / "loop").symlink_to(visit)
    (study / "dicom" / "sub-2").symlink_to(tmp_path / "elsewhere")
    (study / "dicom" / "sub-3").mkdir()
    (study / "dicom" / "sub-3" / "ses-1").symlink_to(tmp_path / "elsewhere")
    index, _ = discover(study)
    assert [(v.participant, v.n_files) for v in index.visits] == [("1", 0)]
    assert [name for name, reason in index.unusable if "link" in reason] == ["sub-2", "sub-3/ses-1"]
    with pytest.raises(InputError, match="No DICOM image"):
        read_visit(visit, DicomParams())
    report = take_in(visit, tmp_path / "out", open_keys(tmp_path / "keys", tmp_path / "out"), IntakeParams(), "")
    assert not [o for o in report.outcomes if o.what == FILED]


@pytest.mark.parametrize("kind", ["bomb", "lying size", "encrypted", "not a zip", "nested"])
def test_hostile_archives(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
        handle.writestr("a", bytes(60_000_000) if kind == "bomb" else b"abc" * 1000)
        if kind == "nested":
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as second:
                second.writestr("b", b"x")
            handle.writestr("inner.zip", inner.getvalue())
    content = archive.read_bytes()
    if kind == "lying size":
        content = content.replace(struct.pack("<I", 3000), struct.pack("<I", 3))
    elif kind == "encrypted":
        content = content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    elif kind == "not a zip":
        content = b"Rar!" + content[4:100]
    archive.write_bytes(content)
    keys = open_keys(tmp_path / "keys", tmp_path / "study")
    if kind == "not a zip":
        with pytest.raises(InputError):
            take_in(archive, tmp_path / "study", keys, IntakeParams(), "")
        return
    report = take_in(archive, tmp_path / "study", keys, IntakeParams(largest_file_mb=1.0), "")
    assert report.outcomes
    assert not [o for o in report.outcomes if o.what == FILED]


def test_markup_in_any_value_is_escaped_and_pages_may_load_nothing() -> None:
    shown = page("<script>alert(1)</script>", render("{{ v }}", v='"><img src=x onerror=alert(1)>'), "<b>")
    assert "<script>alert" not in shown
    assert "<img src=x" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "default-src 'none'" in shown
    assert "script-src 'unsafe-inline'" not in shown
    assert shown.count("<script") <= 1  # the page's own, named by its hash


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_cell_of_a_table_is_a_formula(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lic.tsv"
    write_rows(path, "lic", [{"participant_id": text, "qc_codes": text, "lic_hqsm_mg_g": -1.5}])
    cells = path.read_text(encoding="utf-8").splitlines()[1].split("\t")
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or (cell.startswith("-") and cell != "-1.5")]
    assert read_frame(path, "lic")["lic_hqsm_mg_g"][0] == -1.5  # numbers stay numbers


YAML = {
    "yte": '__use_yte__: true\n?open("HACKED","w").write("1"): 1\n',
    "yte escaped": '"__use\\x5fyte__": true\n?open("HACKED","w").write("1"): 1\n',
    "python tag": '!!python/object/apply:os.system ["touch HACKED"]\n',
    "tag inside": 'study:\n  name: !!python/name:os.system ""\n',
    "laughs": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "deep": "study: " + "[" * 5000 + "]" * 5000 + "\n",
    "NO": "study:\n  name: NO\n",
    "0012": "records:\n  site_ml_per_unit: {0012: 200}\n",
    "octal name": "study:\n  name: 0012\n",
    "list": "- a\n- b\n",
    "binary": "study:\n  name: !!binary aGVsbG8=\n",
    "infinite": "gating:\n  window_mm: .inf\n",
    "number as word": "gating:\n  window_mm: 1e3x\n",
    "two documents": "study:\n  name: a\n---\nstudy:\n  name: b\n",
}


@pytest.mark.parametrize("trick", sorted(YAML))
def test_a_tricky_configuration_is_refused_in_a_sentence_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trick: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(YAML[trick], encoding="utf-8")
    with pytest.raises(ConfigError):
        read_config(tmp_path / "config.yaml")
    assert not (tmp_path / "HACKED").exists()


def test_snakemake_itself_runs_nothing_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "dicom" / "sub-1" / "ses-1").mkdir(parents=True)
    (tmp_path / "dicom" / "sub-1" / "ses-1" / "a").write_bytes(b"x")
    (tmp_path / "config.yaml").write_text(YAML["yte"].replace("HACKED", str(tmp_path / "HACKED")), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path), "-n"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "would run code from the configuration" in done.stderr
    assert not (tmp_path / "HACKED").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b'"' * 5000,
        b"participant_id," + b"a," * 100_000,
        b"\xff\xfe\x00",
        b"participant_id,group\n" + b"x" * 300_000 + b",healthy\n",
        b"participant_id,group\n=cmd|' /C calc'!A0,healthy\n../../x,healthy\n<script>,healthy\n",
        "participant_id,group,site\n0012,thalassemia,NO\n٣,healthy,x\n".encode(),
    ],
)
def test_hostile_records_are_findings_or_a_named_error(tmp_path: Path, content: bytes) -> None:
    for table in ("participants", "visits", "transfusions"):
        (tmp_path / f"{table}.csv").write_bytes(content)
    try:
        records = read_records(tmp_path, RecordsParams())
    except HqsmError:
        return
    shown = " ".join(f.sentence() for f in records.findings) + " ".join(records.participants.get("participant_id", []))
    assert not any(word in shown for word in ("<script", "cmd|", "../"))
