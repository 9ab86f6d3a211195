"""Edge: respiratory waveforms that lie beside the images: BIDS physio, Siemens PMU, CMRR logs and CMRR DICOM.

Times are seconds since midnight on the scanner's clock, as AcquisitionTime of the images is. Siemens names its clocks MDH
(the measurement's, which the images carry) and MPCU (the recording unit's); CMRR counts ticks of 2.5 ms since midnight.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.clock import past_midnight_s
from hqsm.config.gating import GatingParams
from hqsm.data import RespiratoryLog, RespiratoryRecord
from hqsm.dicom.conventions import ENHANCED_MR
from hqsm.dicom.guarded import read_guarded
from hqsm.dicom.navigator import read_displacement_element, read_respiratory_amplitude
from hqsm.errors import InputError

_LARGEST_MB = 512.0
"""Cap of a file, packed or not [MB]."""
_TICK_S = 2.5e-3
_NON_IMAGE = b"1.3.12.2.1107.5.9.1"
"""Siemens CSA non-image storage: the SOP class of CMRR's physiology DICOM, in the file's first bytes."""
_RESP_HEADER = ("1", "2", "20", "2")
"""How a VB respiratory log begins; a pulse log begins 1 2 40 280."""
_RATE_TOLERANCE = 0.05
_LATEST_RELATIVE_START_S = 1800.0
"""A BIDS StartTime before half past midnight counts from the first repetition, not from midnight: nobody scans then."""


def read_respiratory_record(folder: Path, repetition_times_of_day_s: FloatArray, params: GatingParams) -> RespiratoryRecord:
    """Everything about breathing in a visit folder besides navigator.csv; nothing for a single repetition."""
    if repetition_times_of_day_s.size < 2:
        return RespiratoryRecord()
    log, problems = read_respiratory_log(folder, repetition_times_of_day_s)
    amplitude = read_amplitude(folder)
    header = None
    if params.displacement_element:
        scale = params.displacement_element_mm_per_unit
        header = read_displacement_element(folder, params.displacement_element, scale, repetition_times_of_day_s)
    return RespiratoryRecord(log=log, header=header, amplitude=amplitude, problems=problems)


def read_respiratory_log(folder: Path, repetition_times_of_day_s: FloatArray) -> tuple[RespiratoryLog | None, tuple[str, ...]]:
    """The respiratory log of a visit folder, and a sentence for each that could not be read.

    Of several logs the one that covers most repetitions counts; of equal ones BIDS physio comes first.
    """
    logs: list[RespiratoryLog] = []
    problems: list[str] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            log = _read_any(path)
        except InputError as error:
            problems.append(str(error))
            continue
        if log is not None:
            logs.append(log)
    logs.sort(key=lambda log: log.kind != "bids-physio")
    return max(logs, key=lambda log: _covered(log, repetition_times_of_day_s), default=None), tuple(problems)


def read_amplitude(folder: Path) -> RespiratoryLog | None:
    """The standard respiratory amplitude of a visit's enhanced images, one sample a repetition; None where none is stated."""
    stated: dict[float, list[float]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        with path.open("rb") as handle:
            start = handle.read(512)
        enhanced = any(storage.encode() in start for storage in ENHANCED_MR)
        for time_s, value in read_respiratory_amplitude(path) if enhanced else ():
            stated.setdefault(round(time_s, 3), []).append(value)
    if len(stated) < 2:
        return None
    times_s = past_midnight_s(np.array(list(stated)))
    values = np.array([float(np.mean(found)) for found in stated.values()])
    order = np.argsort(times_s)
    return RespiratoryLog(times_of_day_s=times_s[order], values=values[order], kind="dicom-amplitude")


def _covered(log: RespiratoryLog, times_of_day_s: FloatArray) -> int:
    times_s = log.on_its_clock_s(times_of_day_s)
    return int(((times_s >= log.times_of_day_s[0]) & (times_s <= log.times_of_day_s[-1])).sum())


def _read_any(path: Path) -> RespiratoryLog | None:
    """What kind of log a file is by its name or first bytes; None for anything else."""
    name = path.name.lower()
    if name.endswith(("_physio.tsv.gz", "_physio.tsv")):
        return read_bids_physio(path)
    if name.endswith(".resp"):
        return parse_pmu(path.read_text(encoding="latin-1"), path.name)
    if name.endswith(".log") and "resp" in name:
        return parse_cmrr_log(path.read_text(encoding="latin-1"), path.name)
    with path.open("rb") as handle:
        if _NON_IMAGE in handle.read(512):
            return read_cmrr_dicom(path)
    return None


def read_bids_physio(path: Path) -> RespiratoryLog | None:
    """A BIDS ``*_physio.tsv.gz`` with its sidecar; None if it has no ``respiratory`` column.

    ``StartTime`` counts from midnight, or from the first repetition where it is negative or small.
    """
    sidecar = Path(re.sub(r"\.tsv(\.gz)?$", ".json", str(path)))
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        columns, rate_hz, start_s = list(facts["Columns"]), float(facts["SamplingFrequency"]), float(facts["StartTime"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path.name} has no sidecar with Columns, SamplingFrequency and StartTime.",
            remedy="Put the .json of the same name beside it.",
            code="PHYSIO_SIDECAR",
        ) from None
    if "respiratory" not in columns or not rate_hz > 0:
        return None
    try:
        raw = _inflated(path) if path.suffix == ".gz" else path.read_bytes()
        cells = [line.split("\t") for line in raw.decode("ascii").splitlines() if line.strip()]
        k = columns.index("respiratory")
        values = np.array([np.nan if row[k].strip().lower() in {"n/a", "nan"} else float(row[k]) for row in cells])
    except (OSError, EOFError, UnicodeDecodeError, ValueError, IndexError):
        raise InputError(f"{path.name} is not a table of {len(columns)} columns.", remedy="Export it again.", code="PHYSIO_TABLE") from None
    return _log(path.name, start_s + np.arange(values.size) / rate_hz, values, "bids-physio", relative=start_s < _LATEST_RELATIVE_START_S)


def parse_pmu(text: str, name: str) -> RespiratoryLog | None:
    """A Siemens PMU ``.resp`` log (VB and VE); None for another signal than respiration.

    The first line holds the samples. ``5002 ... 6002`` encloses text, wherever it stands (VE puts LOGVERSION first and the
    hardware's revision some 200 samples later); 5000 and 6000 mark triggers, 5003 the end. Neither text nor marks take a
    sample's place: the samples that remain fill the time from LogStartMDHTime to LogStopMDHTime exactly (50 a second in
    VB, 400 in VE), which is checked.
    """
    first, _, rest = text.partition("\n")
    information = re.findall(r"\b5002\b(.*?)\b6002\b", first)
    words = re.sub(r"\b5002\b.*?\b6002\b", " ", first).split()
    kind = re.search(r"LOGVERSION_([A-Z]+)|Logging ([A-Z]+) signal", " ".join(information))
    signal = next(g for g in kind.groups() if g) if kind else "RESP" if tuple(words[:4]) == _RESP_HEADER else ""
    if signal != "RESP":
        return None
    rate = re.search(r"SAMPLES_PER_SECOND = ([0-9]+)", " ".join(information))
    rate_hz = float(rate[1]) if rate else 400.0 if kind else 50.0
    try:
        numbers = [int(word) for word in words[4:]]
        clock_ms = {key: int(value) for key, value in re.findall(r"^(Log(?:Start|Stop)(?:MDH|MPCU)Time):\s*(\d+)", rest, re.MULTILINE)}
        start_ms, stop_ms = clock_ms["LogStartMDHTime"], clock_ms["LogStopMDHTime"]
    except (ValueError, KeyError):
        raise InputError(f"{name} is cut off, or no Siemens PMU log.", remedy="Export it again.", code="PHYSIO_PMU") from None
    if 5003 in numbers:
        numbers = numbers[: numbers.index(5003)]
    values = np.array([v for v in numbers if v < 5000], dtype=np.float64)
    start_s, stop_s = past_midnight_s(np.array([start_ms, stop_ms]) / 1e3)
    duration_s = float(stop_s - start_s)
    if not duration_s > 0 or abs(values.size / (rate_hz * duration_s) - 1) > _RATE_TOLERANCE:
        raise InputError(
            f"{name} has {values.size} samples, but {duration_s:g} s at {rate_hz:g} samples a second are {duration_s * rate_hz:.0f}.",
            remedy="Export it again: samples are missing.",
            code="PHYSIO_PMU",
        )
    clocks_s = past_midnight_s(np.array([start_ms, clock_ms.get("LogStartMPCUTime", np.nan)]) / 1e3)
    times_s = np.linspace(start_s, stop_s, values.size)
    return _log(name, times_s, values, "siemens-pmu", clock_offset_s=float(clocks_s[1] - clocks_s[0]))


def _inflated(path: Path) -> bytes:
    """What a gzip file holds, up to the cap; a file that goes on beyond it is no record of breathing."""
    with gzip.open(path) as handle:
        content = handle.read(int(_LARGEST_MB * 1e6) + 1)
    if len(content) > _LARGEST_MB * 1e6:
        raise InputError("A physiological file inflates beyond the cap.", remedy="Take it away.", code="PHYSIO_EMPTY")
    return content


def parse_cmrr_log(text: str, name: str, kind: str = "cmrr-log") -> RespiratoryLog | None:
    """A CMRR ``Physio_RESP.log``: lines of tick, channel, value; None for another signal than respiration."""
    if not re.search(r"^LogDataType\s*=\s*RESP", text, re.MULTILINE):
        return None
    rows = re.findall(r"^\s*(\d+)\s+RESP\s+(-?\d+)", text, re.MULTILINE)
    times_s = past_midnight_s(_TICK_S * np.array([int(tick) for tick, _ in rows], dtype=np.float64))
    return _log(name, times_s, np.array([float(value) for _, value in rows]), kind)


def read_cmrr_dicom(path: Path) -> RespiratoryLog | None:
    """The respiratory log inside a CMRR physiology DICOM, element (7FE1,1010); None if there is none.

    The element holds AcquisitionNumber rows of equal length for each log: its length and its name's length as 32-bit
    numbers, the name, and from byte 1024 on the text.
    """
    try:
        header = read_guarded(path, _LARGEST_MB)
        blob = bytes(header[0x7FE1, 0x1010].value)
        n_logs = len(blob) // int(header.AcquisitionNumber) // 1024
        size = len(blob) // n_logs
    except (InputError, KeyError, AttributeError, TypeError, ValueError, ZeroDivisionError, OSError):
        return None
    for start in range(0, n_logs * size, size):
        length = int.from_bytes(blob[start : start + 4], "little")
        text = blob[start + 1024 : start + 1024 + length].decode("latin-1")
        log = parse_cmrr_log(text, "the CMRR physiology DICOM", "cmrr-dicom")
        if log is not None:
            return log
    return None


def _log(
    name: str, times_s: FloatArray, values: FloatArray, kind: str, *, clock_offset_s: float = float("nan"), relative: bool = False
) -> RespiratoryLog:
    """The noun, or a sentence; a sample whose time was given before is left out."""
    later = np.concatenate([[True], np.diff(np.maximum.accumulate(times_s)) > 0]) if times_s.size else np.zeros(0, bool)
    if later.sum() < 2:
        raise InputError(f"{name} holds no waveform.", remedy="Export it again, or take it away.", code="PHYSIO_EMPTY")
    return RespiratoryLog(times_of_day_s=times_s[later], values=values[later], kind=kind, clock_offset_s=clock_offset_s, relative=relative)
