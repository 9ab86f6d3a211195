"""Fuzzing of what comes from outside: the DICOM reader, intake, the records, the configuration.

Any input gives a result or a named error (``HqsmError``); anything else fails the test with the input that did it. The number of
inputs is ``HQSM_FUZZ_EXAMPLES`` per target; a small number runs with every test, the nightly run raises it.
"""

import contextlib
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hqsm.config.dicom import DicomParams
from hqsm.config.intake import IntakeParams
from hqsm.config.records import RecordsParams
from hqsm.config.study import load_config
from hqsm.dicom.guarded import read_guarded
from hqsm.dicom.reader import read_visit
from hqsm.dicom.survey import as_text, survey
from hqsm.errors import HqsmError
from hqsm.intake.filing import take_in
from hqsm.intake.keys import open_keys
from hqsm.phantom.dicom_writer import VENDORS, write_scan
from hqsm.records.reading import read_records
from hqsm.study_config import read_config
from privacy.canary import small_scan

EXAMPLES = int(os.environ.get("HQSM_FUZZ_EXAMPLES", "0"))


def fuzz(few: int, many: int):  # type: ignore[no-untyped-def]
    """Settings of a target: ``few`` inputs by default, ``many`` times HQSM_FUZZ_EXAMPLES/100 in the nightly run."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=max(1, many * EXAMPLES // 100) if EXAMPLES else few,
        deadline=None,
        suppress_health_check=checks,
        derandomize=not EXAMPLES,
        database=None,
    )


@functools.cache
def scan_files(vendor: str) -> list[bytes]:
    """The files of a small scan of a vendor."""
    folder = Path(tempfile.mkdtemp())
    try:
        write_scan(folder, small_scan(), vendor=vendor, identity="a_1", date="20210301")
        return [path.read_bytes() for path in sorted(folder.rglob("[IE][0-9]*"))]
    finally:
        shutil.rmtree(folder)


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """A few edits of a file: bytes overwritten, cut out, put in, or the file cut off; most of them within the header."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "write", "cut", "insert", "end"]),
                st.one_of(st.integers(128, 1400), st.integers(0, 4000), st.integers(0, 60_000)),
                st.one_of(
                    st.binary(min_size=1, max_size=12),
                    st.sampled_from([b"\xff" * 4, b"SQ\0\0\xff\xff\xff\xff", b"UN", b"1e999", b"\\" * 9]),
                ),
            ),
            min_size=1,
            max_size=5,
        )
    )


def damaged(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    made = bytearray(content)
    for kind, place, data in edits:
        if kind == "write":
            made[place : place + len(data)] = data
        elif kind == "cut":
            del made[place : place + len(data)]
        elif kind == "insert":
            made[place:place] = data
        else:
            del made[place:]
    return bytes(made)


@fuzz(400, 5000)
@given(vendor=st.sampled_from(["siemens", "ge", "philips"]), edits=damage())
def test_one_damaged_file(vendor: str, edits: list[tuple[str, int, bytes]]) -> None:
    with contextlib.suppress(HqsmError):
        read_guarded(damaged(scan_files(vendor)[0], edits), 8.0)


@fuzz(16, 400)
@given(vendor=st.sampled_from(VENDORS), edits=damage(), everywhere=st.booleans(), which=st.integers(0, 71))
@example(vendor="siemens", edits=[("write", 337, bytes(8))], everywhere=False, which=0)  # an element without representation
def test_a_visit_with_damage_in_one_file_or_in_all(vendor: str, edits: list[tuple[str, int, bytes]], everywhere: bool, which: int) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        files = scan_files(vendor)
        for k, content in enumerate(files):
            (folder / f"{k}").write_bytes(damaged(content, edits) if everywhere or k == which % len(files) else content)
        with contextlib.suppress(HqsmError):
            read_visit(folder, DicomParams(largest_file_mb=8.0))
        assert as_text(survey(folder, DicomParams(largest_file_mb=8.0)))
        (folder / "source").mkdir()
        for k in range(min(4, len(files))):
            (folder / f"{k}").rename(folder / "source" / f"{k}")
        with contextlib.suppress(HqsmError):
            take_in(
                folder / "source", folder / "study", open_keys(folder / "keys", folder / "study"), IntakeParams(largest_file_mb=8.0), ""
            )
    finally:
        shutil.rmtree(folder)


CELLS = st.one_of(
    st.sampled_from(
        ["", "0012", "sub-0101", "ses-01", "2021-03-01", "01/02/2021", "1,5", "1e999", "-0", "NaN", "mL", "=1+1", "thalassemia"]
    ),
    st.text(max_size=12),
)
HEADERS = {
    "participants": "participant_id,group,site,birth_year,sex",
    "visits": "participant_id,session_id,visit_date,weight_kg,visit_type",
    "transfusions": "participant_id,tx_id,date,amount,unit,hct_pct",
    "chelation": "participant_id,rx_id,start,stop,product,dose,dose_unit,per",
}


@fuzz(40, 1500)
@given(
    rows=st.fixed_dictionaries({name: st.lists(st.lists(CELLS, max_size=9), max_size=6) for name in HEADERS}),
    raw=st.one_of(st.none(), st.binary(max_size=300)),
    separator=st.sampled_from([",", ";", "\t"]),
)
def test_any_records(rows: dict[str, list[list[str]]], raw: bytes | None, separator: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        for name, header in HEADERS.items():
            lines = [header.replace(",", separator), *(separator.join(cells) for cells in rows[name])]
            (folder / f"{name}.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        if raw is not None:
            (folder / "transfusions.csv").write_bytes(raw)
        with contextlib.suppress(HqsmError):
            read_records(folder, RecordsParams())
    finally:
        shutil.rmtree(folder)


PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["hamilton-liver-6", "1e3", "NO"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
BLOCKS = st.sampled_from(
    ["study", "blinding", "dicom", "gating", "fatwater", "liver", "susceptibility", "lic", "records", "statistics", "x"]
)
KEYS = st.one_of(st.sampled_from(["window_mm", "name", "method", "redcap", "tables", "n_slices", "site_ml_per_unit"]), st.text(max_size=6))


@fuzz(60, 3000)
@given(raw=st.dictionaries(st.one_of(BLOCKS, st.integers(0, 2)), st.one_of(PLAIN, st.dictionaries(KEYS, PLAIN, max_size=3)), max_size=4))
def test_any_configuration(raw: dict[str, object]) -> None:
    with contextlib.suppress(HqsmError):
        load_config(raw)
    path = Path(tempfile.mkdtemp()) / "config.yaml"
    try:
        path.write_text(json.dumps(raw, default=str), encoding="utf-8")  # JSON is YAML, more or less
        with contextlib.suppress(HqsmError):
            read_config(path)
    finally:
        shutil.rmtree(path.parent)


@fuzz(150, 3000)
@given(text=st.one_of(st.text(alphabet="abc:-[]{}&*!?|>%@`'\"\n \t#,0_y", max_size=60), st.binary(max_size=60)))
def test_any_text_as_configuration(text: str | bytes) -> None:
    path = Path(tempfile.mkdtemp()) / "config.yaml"
    try:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(HqsmError):
            read_config(path)
    finally:
        shutil.rmtree(path.parent)


@pytest.mark.nightly
@pytest.mark.skipif(bool(EXAMPLES), reason="this is the nightly run itself")
def test_the_nightly_run_of_this_file(request: pytest.FixtureRequest) -> None:
    if "nightly" not in str(request.config.option.markexpr):
        pytest.skip("asked for by: pytest -m nightly")
    import subprocess
    import sys

    environment = {**os.environ, "HQSM_FUZZ_EXAMPLES": os.environ.get("HQSM_NIGHTLY_EXAMPLES", "100")}
    command = [sys.executable, "-m", "pytest", str(Path(__file__)), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-4000:]
