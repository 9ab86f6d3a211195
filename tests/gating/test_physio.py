import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from hqsm.errors import InputError
from hqsm.physio import parse_cmrr_log, parse_pmu, read_bids_physio, read_cmrr_dicom, read_respiratory_log


def pmu_text(samples: list[int], *, kind: str = "RESP", start_ms: int = 36_000_000, rate_hz: int = 400, recorder_ms: int = 1300) -> str:
    """A VE log as the scanner writes it: text among the samples, triggers, statistics below."""
    stop_ms = start_ms + round(1000 * (len(samples) - 1) / rate_hz)
    words = [str(v) for v in samples]
    words.insert(7, "5000")
    words.insert(5, "5002 uiHwRevision: 15, uiPartNbr: 32520 6002")
    return (
        f"1 2 20 2 5002 LOGVERSION_{kind}   1 6002 {' '.join(words)} 5003\n"
        f"RESP Freq Per: 12 5000\nLogStartMDHTime:  {start_ms}\nLogStopMDHTime:   {stop_ms}\n"
        f"LogStartMPCUTime: {start_ms + recorder_ms}\nLogStopMPCUTime:  {stop_ms + recorder_ms}\n6003\n"
    )


def expected_column(path: Path, column: int = 0) -> np.ndarray:
    return np.array([float(line.split("\t")[column]) for line in path.read_text().splitlines() if line.strip()])


def test_text_blocks_and_triggers_take_no_samples_place() -> None:
    samples = list(range(1000, 1400))
    log = parse_pmu(pmu_text(samples), "a.resp")
    assert log is not None
    np.testing.assert_array_equal(log.values, samples)
    assert log.times_of_day_s[0] == 36_000.0
    assert np.diff(log.times_of_day_s) == pytest.approx(1 / 400, rel=5e-3)
    assert log.clock_offset_s == pytest.approx(1.3)


def test_a_log_with_missing_samples_is_refused_with_both_numbers() -> None:
    text = pmu_text(list(range(1000, 1400))).replace(" 1100 ", " 5003 ")
    with pytest.raises(InputError, match=r"has 100 samples, but .* are 399"):
        parse_pmu(text, "a.resp")


def test_a_pulse_log_is_no_respiratory_log() -> None:
    assert parse_pmu(pmu_text(list(range(1000, 1400)), kind="PULS"), "a.resp") is None
    assert parse_pmu("1 2 40 280 1469 1393 5003\nLogStartMDHTime: 1\nLogStopMDHTime: 41\n", "a.resp") is None


def test_bids_physio_counts_from_midnight_or_from_the_first_repetition(tmp_path: Path) -> None:
    for start, relative in ((36_000.5, False), (-12.0, True)):
        (tmp_path / "x_physio.json").write_text(
            json.dumps({"Columns": ["cardiac", "respiratory"], "SamplingFrequency": 50, "StartTime": start})
        )
        (tmp_path / "x_physio.tsv.gz").write_bytes(gzip.compress(b"1\t5\n2\tn/a\n3\t7\n"))
        log = read_bids_physio(tmp_path / "x_physio.tsv.gz")
        assert log is not None
        np.testing.assert_array_equal(log.values, [5, np.nan, 7])
        np.testing.assert_allclose(log.times_of_day_s, start + np.array([0, 0.02, 0.04]))
        assert log.relative is relative


def test_of_several_logs_the_one_that_covers_the_repetitions_counts_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "early.resp").write_text(pmu_text(list(range(1000, 1400)), start_ms=30_000_000))
    (tmp_path / "right.resp").write_text(pmu_text(list(range(2000, 2400)), start_ms=36_000_000))
    (tmp_path / "broken.resp").write_text("1 2 20 2 17 18")
    (tmp_path / "image.dcm").write_bytes(bytes(1000))
    log, problems = read_respiratory_log(tmp_path, np.array([36_000.1, 36_000.5]))
    assert log is not None
    assert log.values[0] == 2000
    assert len(problems) == 1
    assert "broken.resp" in problems[0]


@pytest.mark.real_data
def test_the_vb_log_has_the_expected_values_and_fills_its_time(real_data_dir: Path) -> None:
    folder = real_data_dir / "siemens_physio_logs"
    log = parse_pmu((folder / "sample_VB15A.resp").read_text(), "sample_VB15A.resp")
    assert log is not None
    expected = expected_column(folder / "pmu_VB15A_respiratory.tsv")
    np.testing.assert_array_equal(log.values[: expected.size], expected)
    assert log.times_of_day_s[[0, -1]].tolist() == [57335.095, 60647.840]
    assert (log.values.size - 1) / (60647.840 - 57335.095) == pytest.approx(50, rel=1e-3)
    assert log.clock_offset_s == pytest.approx(57333.742 - 57335.095)


@pytest.mark.real_data
def test_the_ve_log_has_the_expected_values_after_its_last_text_block(real_data_dir: Path) -> None:
    # The reference converter drops the samples between LOGVERSION and the hardware's revision but keeps the start time,
    # so that its waveform is 0.5 s early. With them the log has 4063 samples for 10.155 s at 400 a second (4063 with both
    # ends); the pulse log of the same scanner obeys the same count.
    folder = real_data_dir / "siemens_physio_logs"
    log = parse_pmu((folder / "sample_VE11C.resp").read_text(), "sample_VE11C.resp")
    assert log is not None
    expected = expected_column(folder / "pmu_VE11C_respiratory.tsv")
    np.testing.assert_array_equal(log.values[205 : 205 + expected.size], expected)
    sidecar = json.loads((folder / "pmu_VE11C_respiratory.json").read_text())
    assert 1e3 * log.times_of_day_s[0] == sidecar["StartTime"]
    assert log.values.size == 4063
    assert (log.values.size - 1) / np.ptp(log.times_of_day_s) == pytest.approx(sidecar["SamplingFrequency"], rel=1e-3)
    assert parse_pmu((folder / "sample_VE11C.puls").read_text(), "sample_VE11C.puls") is None


@pytest.mark.real_data
def test_the_cmrr_dicom_and_log_have_the_expected_values(real_data_dir: Path) -> None:
    folder = real_data_dir / "siemens_physio_logs"
    log = read_cmrr_dicom(folder / "samplePhysioCMRR.dcm")
    assert log is not None
    expected = expected_column(folder / "dcm_respiratory.tsv")
    sidecar = json.loads((folder / "dcm_respiratory.json").read_text())
    position = np.round((log.times_of_day_s - log.times_of_day_s[0]) * sidecar["SamplingFrequency"]).astype(int)
    assert position[-1] == expected.size - 1
    np.testing.assert_array_equal(log.values, expected[position])
    text = parse_cmrr_log((folder / "Physio_RESP.log").read_text(), "Physio_RESP.log")
    assert text is not None
    assert text.values[:4].tolist() == [1728, 1808, 1872, 1960]
    assert text.times_of_day_s[0] == 21083488 * 2.5e-3
    assert parse_cmrr_log((folder / "Physio_PULS.log").read_text(), "Physio_PULS.log") is None
