"""Displacement from the images' headers: a private element of the study's choice, and the standard amplitude of enhanced MR."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gating.test_sources import moving_object
from hqsm.config.gating import GatingParams
from hqsm.dicom.guarded import read_guarded
from hqsm.dicom.navigator import read_displacement_element
from hqsm.errors import InputError
from hqsm.gating.gate import gate
from hqsm.intake.deidentify import Subject, deidentified
from hqsm.intake.policy import Blinding
from hqsm.physio import read_amplitude, read_respiratory_record

POSITION_MM = np.array([0.0, -0.5, -9.0, 0.4, -6.0, -12.0])
TIMES_S = 36_000.0 + 7.3 * np.arange(6)
CREATOR = "ACME NAVIGATOR"
AMPLITUDE_AT_REST, AMPLITUDE_PER_MM = 4.0, 6.5


def clock(time_s: float) -> str:
    return f"{int(time_s // 3600):02d}{int(time_s % 3600 // 60):02d}{time_s % 60:09.6f}"


def empty(storage: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    return made


def classic(folder: Path, block: int = 0x10) -> None:
    """One file a repetition and echo, the navigator's position in a private block that may lie anywhere, towards the feet."""
    for r, time_s in enumerate(TIMES_S):
        for echo in range(2):
            made = empty("1.2.840.10008.5.1.4.1.1.4")
            made.AcquisitionTime = clock(time_s)
            for other in range(0x10, block):
                made.private_block(0x0019, f"OTHER {other}", create=True)
            made.private_block(0x0019, CREATOR, create=True).add_new(0x7A, "DS", str(-10 * POSITION_MM[r]))
            made.save_as(folder / f"{r}_{echo}.dcm", enforce_file_format=True)


def enhanced(folder: Path, *, amplitude: bool = True) -> None:
    """All repetitions and echoes in one file, the amplitude growing with inspiration as a belt's does."""
    made = empty("1.2.840.10008.5.1.4.1.1.4.1")
    made.SharedFunctionalGroupsSequence, frames = Sequence([Dataset()]), []
    for r, time_s in enumerate(TIMES_S):
        for _ in range(2):
            item, content, breath = Dataset(), Dataset(), Dataset()
            content.FrameAcquisitionDateTime = "20210304" + clock(time_s)
            middle = AMPLITUDE_AT_REST - AMPLITUDE_PER_MM * POSITION_MM[r]
            if amplitude:
                breath.StartingRespiratoryAmplitude, breath.EndingRespiratoryAmplitude = middle - 1, middle + 1
                breath.StartingRespiratoryPhase = breath.EndingRespiratoryPhase = "EXPIRATION"
            breath.RespiratoryCyclePosition = "END_RESPIR"
            item.FrameContentSequence, item.RespiratorySynchronizationSequence = Sequence([content]), Sequence([breath])
            item.private_block(0x2005, CREATOR, create=True).add_new(0x01, "FL", float(POSITION_MM[r]))
            frames.append(item)
    made.PerFrameFunctionalGroupsSequence, made.NumberOfFrames = Sequence(frames), len(frames)
    made.save_as(folder / "enhanced.dcm", enforce_file_format=True)


@pytest.mark.parametrize("block", [0x10, 0x13])
def test_a_private_element_is_found_by_its_creator_and_scaled(tmp_path: Path, block: int) -> None:
    classic(tmp_path, block)
    found = read_displacement_element(tmp_path, f"0019,xx7A {CREATOR}", -0.1, TIMES_S)
    assert found is not None
    assert found.source == "dicom"
    np.testing.assert_allclose(found.displacement_mm, POSITION_MM)
    assert read_displacement_element(tmp_path, "0019,xx7A SOMEONE ELSE", -0.1, TIMES_S) is None
    assert read_displacement_element(tmp_path, f"0019,xx7A {CREATOR}", 1.0, TIMES_S + 3600) is None


def test_a_private_element_of_a_frame_is_found(tmp_path: Path) -> None:
    enhanced(tmp_path)
    found = read_displacement_element(tmp_path, f"2005,xx01 {CREATOR}", 1.0, TIMES_S)
    assert found is not None
    np.testing.assert_allclose(found.displacement_mm, POSITION_MM)


def test_two_values_of_one_repetition_are_refused(tmp_path: Path) -> None:
    classic(tmp_path)
    made = empty("1.2.840.10008.5.1.4.1.1.4")
    made.AcquisitionTime = clock(TIMES_S[2])
    made.private_block(0x0019, CREATOR, create=True).add_new(0x7A, "DS", "17")
    made.save_as(tmp_path / "more.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="2 different values in the images of repetition 3"):
        read_displacement_element(tmp_path, f"0019,xx7A {CREATOR}", 1.0, TIMES_S)


def test_the_standard_amplitude_takes_its_millimetres_from_the_images(tmp_path: Path) -> None:
    enhanced(tmp_path)
    record = read_respiratory_record(tmp_path, TIMES_S, GatingParams())
    assert record.amplitude is not None
    np.testing.assert_allclose(record.amplitude.values, AMPLITUDE_AT_REST - AMPLITUDE_PER_MM * POSITION_MM, atol=1e-4)
    report = gate(moving_object(POSITION_MM), None, GatingParams(bellows_window_s=0.1), record)[1]
    assert (report.source, report.second_source) == ("dicom", "images")
    assert report.accepted.tolist() == [True, True, False, True, False, False]
    assert np.polyfit(POSITION_MM, report.displacement_mm, 1)[0] == pytest.approx(1, abs=0.05)
    assert any("Scale of the bellows signal from the images" in note for note in report.notes)
    # where the images show no motion nothing says what it is worth, and that is said
    still = gate(moving_object(np.zeros(6)), None, GatingParams(bellows_window_s=0.1), record)[1]
    assert "GATING_BELLOWS_SCALE_ASSUMED" in still.codes


def test_the_amplitude_survives_the_intake(tmp_path: Path) -> None:
    enhanced(tmp_path)
    path = tmp_path / "enhanced.dcm"
    before = read_amplitude(tmp_path)
    source = read_guarded(path, 10)
    path.write_bytes(deidentified(source, Subject(participant="P1", shift_days=-40), Blinding(secret=b"1" * 32)))
    after = read_amplitude(tmp_path)
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after.values, before.values, rtol=1e-5)
    np.testing.assert_allclose(after.times_of_day_s, before.times_of_day_s)


def test_a_class_of_the_breath_is_no_displacement(tmp_path: Path) -> None:
    enhanced(tmp_path, amplitude=False)
    assert read_amplitude(tmp_path) is None
    assert (
        gate(moving_object(POSITION_MM), None, GatingParams(), read_respiratory_record(tmp_path, TIMES_S, GatingParams()))[1].source
        == "images"
    )
