"""A scan that passes midnight: its repetitions stay in order, and so do the clocks of everything beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from bids.test_bids_input import edit as edit_sidecar
from dicom.test_faults import edit, images
from dicom_scans import scan
from gating.test_dicom_attributes import AMPLITUDE_AT_REST, AMPLITUDE_PER_MM, CREATOR, POSITION_MM, classic, enhanced
from gating.test_physio import pmu_text
from gating.test_sources import bellows_log, breathing
from hqsm.bids import write_repetitions
from hqsm.bids_input import read_bids_visit
from hqsm.clock import past_midnight_s
from hqsm.config.dicom import DicomParams
from hqsm.config.gating import GatingParams
from hqsm.dicom.navigator import read_displacement_element
from hqsm.dicom.reader import read_visit
from hqsm.gating.respiratory import displacement_from_bellows
from hqsm.gating.window import end_expiration_drift_mm
from hqsm.phantom.dicom_writer import write_scan
from hqsm.physio import parse_cmrr_log, parse_pmu, read_amplitude, read_respiratory_log

DAY_S = 86_400.0
LATE_S = np.array([DAY_S - 6, DAY_S + 6])
"""The two repetitions of the small scan, 23:59:54 and 00:00:06."""


def test_times_of_day_go_on_at_midnight_in_whatever_order_they_come_and_stay_where_the_scan_does_not_pass_it() -> None:
    nan = float("nan")
    np.testing.assert_array_equal(past_midnight_s(np.array([5.0, 86_390.0, nan, 86_399.0, 12.0])), [86_405, 86_390, nan, 86_399, 86_412])
    for same in ([3.0, 4000.0], [36_000.0, 36_012.0], [86_000.0, 86_399.0], [nan, nan], []):
        np.testing.assert_array_equal(past_midnight_s(np.array(same)), same)


@pytest.mark.parametrize("dates", ["as scanned", "of the series", "blank"])
def test_repetitions_that_only_the_clock_tells_apart_are_in_order(tmp_path: Path, dates: str) -> None:
    made = replace(scan(), repetition_times_of_day_s=LATE_S)
    write_scan(tmp_path, made, vendor="siemens", identity="0001_01", date="20210301")

    def change(image: Dataset) -> None:
        for name in ("TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber"):
            if name in image:
                del image[name]
        if dates == "as scanned":
            image.AcquisitionDate = "20210301" if image.AcquisitionTime.startswith("23") else "20210302"
        elif dates == "blank":
            image.AcquisitionDate = image.SeriesDate = ""

    edit(list(images(tmp_path)), change)
    found = read_visit(tmp_path, DicomParams()).echoes
    np.testing.assert_allclose(found.repetition_times_of_day_s, LATE_S)
    first, second = (np.abs(found.signal[..., r]).mean() for r in range(2))
    assert second / first == pytest.approx(0.9, rel=0.01)


def test_the_clock_of_a_bids_scan_goes_on_too(tmp_path: Path) -> None:
    write_scan(tmp_path / "dicom", scan(), vendor="siemens", identity="0001_01", date="20210301")
    visit = read_visit(tmp_path / "dicom", DicomParams())
    anat = tmp_path / "bids" / "sub-01" / "ses-01" / "anat"
    write_repetitions(anat, "sub-01_ses-01", visit.echoes, visit.info)
    for path in anat.glob("*.json"):
        edit_sidecar(path, AcquisitionTime="23:59:54.0" if "_run-1_" in path.name else "00:00:06.0")
    found = read_bids_visit(anat.parent, DicomParams(repeated_series="repetitions")).echoes
    np.testing.assert_allclose(found.repetition_times_of_day_s, LATE_S)


def test_a_drift_over_midnight_is_the_drift_of_noon() -> None:
    """On a clock that falls back, the latest repetitions came first and a level of steady slope had two values."""
    times_s = 12.0 * np.arange(24)
    drift_mm = -8 * np.linspace(-0.5, 0.5, 24) + np.where(np.arange(24) % 3 == 2, -9.0, 0.0)
    wrapped = (DAY_S - 140 + times_s) % DAY_S
    assert end_expiration_drift_mm(drift_mm, past_midnight_s(wrapped)) == end_expiration_drift_mm(drift_mm, 43_200 + times_s)
    assert end_expiration_drift_mm(drift_mm, past_midnight_s(wrapped)) == pytest.approx(-8, abs=0.5)


@pytest.mark.parametrize("log_begins_s", [-30.0, 3.0])
def test_a_log_and_a_scan_meet_whichever_of_them_passes_midnight(log_begins_s: float) -> None:
    at_s = np.array([-20.0 if log_begins_s < 0 else 5.0]) + 7.3 * np.arange(1, 13)
    log_s = log_begins_s + np.arange(0, 140, 0.02)
    true_mm = breathing(at_s)
    log = bellows_log(breathing(log_s), log_s + (DAY_S if log_begins_s < 0 else 0))
    # the scanner's clock: on from the day before, or of the day that began
    for clock_s in (at_s + DAY_S, at_s):
        found = displacement_from_bellows(log, clock_s, true_mm, GatingParams(bellows_window_s=0.1))
        assert found.displacement_mm is not None
        assert np.sqrt(np.mean((found.displacement_mm - true_mm) ** 2)) < 0.5


def test_a_siemens_log_over_midnight_fills_its_time(tmp_path: Path) -> None:
    text = pmu_text(list(range(1000, 1400)), start_ms=86_399_500, recorder_ms=300)
    wrapped = text
    for late in ("86400498", "86400798"):
        wrapped = wrapped.replace(late, str(int(late) - 86_400_000))
    assert wrapped != text
    log = parse_pmu(wrapped, "a.resp")
    assert log is not None
    np.testing.assert_allclose(log.times_of_day_s[[0, -1]], [86_399.5, 86_400.498])
    assert log.clock_offset_s == pytest.approx(0.3)
    # of two logs the one that covers the repetitions counts, by a clock of the next day
    (tmp_path / "right.resp").write_text(wrapped)
    (tmp_path / "early.resp").write_text(pmu_text(list(range(2000, 2400)), start_ms=30_000_000))
    found, _ = read_respiratory_log(tmp_path, np.array([0.1, 0.3]))
    assert found is not None
    assert found.values[0] == 1000


def test_a_recorder_whose_clock_passed_midnight_before_the_scanners_is_not_a_day_off() -> None:
    log = parse_pmu(
        pmu_text(list(range(1000, 1400)), start_ms=86_398_000).replace("LogStartMPCUTime: 86399300", "LogStartMPCUTime: 300"), "a"
    )
    assert log is not None
    assert log.clock_offset_s == pytest.approx(2.3)


def test_ticks_of_a_cmrr_log_go_on_at_midnight() -> None:
    per_day = int(DAY_S / 2.5e-3)
    ticks = [per_day - 2, per_day - 1, 0, 1, 2]
    text = "LogDataType = RESP\n" + "\n".join(f"{tick} RESP {value}" for tick, value in zip(ticks, range(5), strict=True))
    log = parse_cmrr_log(text, "a.log")
    assert log is not None
    np.testing.assert_array_equal(log.values, range(5))
    np.testing.assert_allclose(log.times_of_day_s, DAY_S + 2.5e-3 * np.arange(-2, 3))


def test_an_element_of_a_header_after_midnight_belongs_to_its_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late_s = DAY_S - 20 + 7.3 * np.arange(6)
    monkeypatch.setattr("gating.test_dicom_attributes.TIMES_S", late_s % DAY_S)
    classic(tmp_path)
    found = read_displacement_element(tmp_path, f"0019,xx7A {CREATOR}", -0.1, late_s)
    assert found is not None
    assert np.isfinite(found.displacement_mm).all()


def test_the_amplitudes_of_a_scan_over_midnight_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late_s = DAY_S - 20 + 7.3 * np.arange(6)
    monkeypatch.setattr("gating.test_dicom_attributes.TIMES_S", late_s % DAY_S)
    enhanced(tmp_path)
    log = read_amplitude(tmp_path)
    assert log is not None
    np.testing.assert_allclose(log.times_of_day_s, late_s, atol=1e-3)
    np.testing.assert_allclose(log.values, AMPLITUDE_AT_REST - AMPLITUDE_PER_MM * POSITION_MM, atol=1e-4)


def test_a_log_that_counts_from_the_first_repetition_does_so_over_midnight() -> None:
    log = replace(bellows_log(np.zeros(2), np.array([0.0, 20.0])), relative=True)
    np.testing.assert_allclose(log.on_its_clock_s(LATE_S), [0, 12])
