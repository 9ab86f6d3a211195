"""Visits that come as BIDS instead of DICOM: the same signal, or a sentence that says why not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hqsm.bids import read_echoes, write_echoes, write_repetitions
from hqsm.bids_input import read_bids_visit
from hqsm.config.dicom import DicomParams
from hqsm.data import MultiEcho, RepeatedMultiEcho, VisitAcquisition
from hqsm.dicom.reader import read_visit
from hqsm.errors import InputError
from hqsm.phantom.dicom_writer import write_scan
from privacy.canary import small_scan

PREFIX = "sub-0101_ses-01"


@pytest.fixture(scope="module")
def from_dicom(tmp_path_factory: pytest.TempPathFactory) -> VisitAcquisition:
    folder = tmp_path_factory.mktemp("dicom")
    write_scan(folder, small_scan(), vendor="siemens", identity="0101_01", date="20210301")
    return read_visit(folder, DicomParams())


@pytest.fixture
def anat(tmp_path: Path, from_dicom: VisitAcquisition) -> Path:
    """A session folder below bids/ with every repetition of a scan."""
    folder = tmp_path / "bids" / "sub-0101" / "ses-01" / "anat"
    write_repetitions(folder, PREFIX, from_dicom.echoes, from_dicom.info)
    return folder


def sidecars(anat: Path, part: str = "") -> list[Path]:
    return sorted(anat.glob(f"*{part}_MEGRE.json"))


def edit(path: Path, **values: object) -> None:
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts = {k: v for k, v in (facts | values).items() if v is not ...}
    path.write_text(json.dumps(facts), encoding="utf-8")


def same(found: RepeatedMultiEcho, wanted: RepeatedMultiEcho, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.signal, wanted.signal, atol=rtol * float(np.abs(wanted.signal).max()))
    np.testing.assert_allclose(found.echo_times_s, wanted.echo_times_s, atol=1e-9)
    assert found.grid.matches(wanted.grid, 1e-3)


def test_what_was_written_as_bids_is_read_as_it_was_in_the_dicom(anat: Path, from_dicom: VisitAcquisition) -> None:
    found = read_bids_visit(anat.parent, DicomParams())
    same(found.echoes, from_dicom.echoes)
    assert found.echoes.field_strength_tesla == pytest.approx(from_dicom.echoes.field_strength_tesla, rel=1e-6)
    assert found.info.convention == "bids"
    assert found.info.manufacturer == from_dicom.info.manufacturer


def test_repetitions_may_be_the_fourth_axis(tmp_path: Path, anat: Path, from_dicom: VisitAcquisition) -> None:
    joined = tmp_path / "bids" / "sub-0101" / "ses-02" / "anat"
    joined.mkdir(parents=True)
    for part in ("mag", "phase"):
        for echo in (1, 2, 3):
            images = [nib.load(anat / f"{PREFIX}_acq-ungated_run-{r}_echo-{echo}_part-{part}_MEGRE.nii.gz") for r in (1, 2)]
            stack = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=3)
            stem = f"sub-0101_ses-02_echo-{echo}_part-{part}_MEGRE"
            nib.save(nib.Nifti1Image(stack, images[0].affine), joined / f"{stem}.nii.gz")
            shutil.copy(anat / f"{PREFIX}_acq-ungated_run-1_echo-{echo}_part-{part}_MEGRE.json", joined / f"{stem}.json")
    same(read_bids_visit(joined.parent, DicomParams()).echoes, from_dicom.echoes)


def test_of_several_runs_the_last_counts_unless_they_are_said_to_be_repetitions(tmp_path: Path, from_dicom: VisitAcquisition) -> None:
    folder = tmp_path / "bids" / "sub-0101" / "ses-01" / "anat"
    for r in range(2):
        one = MultiEcho(
            signal=from_dicom.echoes.signal[..., r],
            echo_times_s=from_dicom.echoes.echo_times_s,
            field_strength_tesla=1.5,
            grid=from_dicom.echoes.grid,
        )
        write_echoes(folder, f"{PREFIX}_run-{r + 1}", one, from_dicom.info)
    last = read_bids_visit(folder.parent, DicomParams())
    np.testing.assert_allclose(last.echoes.signal[..., 0], from_dicom.echoes.signal[..., 1], atol=1e-2)
    assert any("the last one is used" in note for note in last.info.notes)
    same(read_bids_visit(folder.parent, DicomParams(repeated_series="repetitions")).echoes, from_dicom.echoes)


@pytest.mark.parametrize(("written", "day"), [("2021-03-01T10:00:00", "2021-03-01"), ("20210301", "2021-03-01"), ("unknown", "")])
def test_the_day_of_a_sidecar_is_a_day_or_none(anat: Path, written: str, day: str) -> None:
    for path in sidecars(anat):
        edit(path, AcquisitionDateTime=written)
    assert read_bids_visit(anat.parent, DicomParams()).info.acquisition_date == day


def test_sidecars_are_inherited_and_the_nearest_wins(anat: Path, from_dicom: VisitAcquisition) -> None:
    for path in sidecars(anat):
        edit(path, MagneticFieldStrength=..., EchoTime=...)
    root = anat.parents[2]
    (root / "MEGRE.json").write_text(json.dumps({"MagneticFieldStrength": 1.5, "EchoTime": 0.4}), encoding="utf-8")
    for echo, time in enumerate(from_dicom.echoes.echo_times_s, start=1):
        (root / f"echo-{echo}_MEGRE.json").write_text(json.dumps({"EchoTime": float(time)}), encoding="utf-8")
    same(read_bids_visit(anat.parent, DicomParams()).echoes, from_dicom.echoes)


@pytest.mark.parametrize(
    ("scale", "offset", "unit"),
    [(1.0, 0.0, "rad"), (1000.0, 0.0, None), (4096 / np.pi, 0.0, None), (180 / np.pi, 0.0, None), (2048 / np.pi, 2048.0, None)],
)
def test_the_unit_of_the_phase_is_stated_or_seen_from_its_range(
    anat: Path, from_dicom: VisitAcquisition, scale: float, offset: float, unit: str | None
) -> None:
    for path in sidecars(anat, "part-phase"):
        edit(path, Units=unit if unit else ...)
        image_path = path.with_name(path.name.replace(".json", ".nii.gz"))
        image = nib.load(image_path)
        phase = image.get_fdata(dtype=np.float32)
        # every image holds a whole turn, as noise around a body fills it
        phase[0, 0, :2], phase[0, 1, :2] = -np.pi * 0.9999, np.pi * 0.9995
        nib.save(nib.Nifti1Image(scale * phase + np.float32(offset), image.affine), image_path)
    found = read_bids_visit(anat.parent, DicomParams()).echoes.signal
    np.testing.assert_allclose(found[2:], from_dicom.echoes.signal[2:], atol=2e-3 * float(np.abs(found).max()))


def test_the_stated_sign_is_taken_and_a_ge_image_without_one_is_turned(anat: Path, from_dicom: VisitAcquisition) -> None:
    for path in sidecars(anat):
        edit(path, OffResonanceSign=-1)
    np.testing.assert_allclose(read_bids_visit(anat.parent, DicomParams()).echoes.signal, from_dicom.echoes.signal.conj(), atol=1e-2)
    # as converters leave GE: the opposite sign, and every other slice turned by pi
    alternating = np.where(np.arange(from_dicom.echoes.grid.shape[2]) % 2, -1, 1).astype(np.float32)[:, None, None]
    write_repetitions(anat, PREFIX, replace(from_dicom.echoes, signal=from_dicom.echoes.signal.conj() * alternating), from_dicom.info)
    for path in sidecars(anat):
        edit(path, OffResonanceSign=..., Manufacturer="GE MEDICAL SYSTEMS")
    found = read_bids_visit(anat.parent, DicomParams())
    same(found.echoes, from_dicom.echoes)
    assert any("GE images without OffResonanceSign" in note for note in found.info.notes)


def _remove(pattern: str) -> Callable[[Path], None]:
    def fault(anat: Path) -> None:
        for path in anat.glob(pattern):
            path.unlink()

    return fault


def _every_sidecar(**values: object) -> Callable[[Path], None]:
    def fault(anat: Path) -> None:
        for path in sidecars(anat):
            edit(path, **values)

    return fault


def _some_sidecars(words: str, **values: object) -> Callable[[Path], None]:
    """Those whose names hold the words state something else than the others, all of which name their scanner and time."""

    def fault(anat: Path) -> None:
        for path in sidecars(anat):
            edit(path, DeviceSerialNumber="1", ManufacturersModelName="Aera", AcquisitionTime="10:00:00.0")
            if words in path.name:
                edit(path, **values)

    return fault


def _image(change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> Callable[[Path], None]:
    def fault(anat: Path) -> None:
        path = anat / f"{PREFIX}_acq-ungated_run-1_echo-2_part-mag_MEGRE.nii.gz"
        nib.save(change(nib.load(path)), path)

    return fault


def _shifted(image: nib.Nifti1Image) -> nib.Nifti1Image:
    affine = image.affine.copy()
    affine[0, 3] += 1
    return nib.Nifti1Image(image.get_fdata(dtype=np.float32), affine)


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no image at all": (_remove("*.nii.gz"), "BIDS_NONE", "No MEGRE image"),
    "magnitude alone": (_remove("*part-phase*"), "DICOM_NO_PHASE", "only magnitude images"),
    "one phase image missing": (_remove("*run-2_echo-3_part-phase*"), "BIDS_MISSING", "phase of the echo at 4.4 ms, run 2"),
    "a single echo": (_remove("*echo-[23]*"), "DICOM_ONE_ECHO", "at least two are needed"),
    "no echo times": (_every_sidecar(EchoTime=...), "BIDS_ECHO_TIME", "no EchoTime"),
    "echo times in milliseconds": (_every_sidecar(EchoTime=2.8), "BIDS_ECHO_TIME", "between 0 and 0.5 s"),
    "two echoes of one time": (
        _some_sidecars("_echo-3", EchoTime=2.8e-3),
        "ECHO_TIMES",
        "Echoes 2 and 3 (magnitude) have the same EchoTime, 2.8 ms.",
    ),
    "two field strengths": (
        _every_sidecar(MagneticFieldStrength=3, ImagingFrequency=63.9),
        "DICOM_FIELD_STRENGTH",
        "says 3 T, and an imaging",
    ),
    "no field strength": (_every_sidecar(MagneticFieldStrength=...), "DICOM_FIELD_STRENGTH", "no MagneticFieldStrength"),
    "phase of another scanner": (
        _some_sidecars("_part-phase", DeviceSerialNumber="2", ManufacturersModelName="Avanto"),
        "BIDS_PARTS_DIFFER",
        "phase of the echo at 1.2 ms is of another scan than the magnitude: the sidecars differ in ManufacturerModelName, Device",
    ),
    "one echo of another scanner": (
        _some_sidecars("_echo-3", MagneticFieldStrength=2.89),
        "BIDS_PARTS_DIFFER",
        "magnitude of the echo at 4.4 ms is of another scan than the magnitude: the sidecars differ in MagneticFieldStrength.",
    ),
    "phase of another time": (
        _some_sidecars("_part-phase", AcquisitionTime="10:07:00.5"),
        "BIDS_PARTS_DIFFER",
        "differ in AcquisitionTime.",
    ),
    "another grid": (_image(_shifted), "BIDS_GRIDS_DIFFER", "different grids"),
    "another matrix": (_image(lambda i: nib.Nifti1Image(i.get_fdata(dtype=np.float32)[:-1], i.affine)), "BIDS_GRIDS_DIFFER", "grids"),
    "not a number": (_image(lambda i: nib.Nifti1Image(np.full(i.shape, np.nan, np.float32), i.affine)), "BIDS_NOT_FINITE", "no numbers"),
    "a damaged image": (lambda a: next(a.glob("*.nii.gz")).write_bytes(b"x") and None, "NIFTI_UNREADABLE", "cannot be read"),
    "a damaged sidecar": (lambda a: sidecars(a)[0].write_text("{") and None, "BIDS_SIDECAR", "not readable JSON"),
    "phase in an unknown unit": (_every_sidecar(Units="arbitrary"), "DICOM_PHASE_UNIT", "no whole turn"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_used_is_refused_in_words(anat: Path, name: str) -> None:
    fault, code, words = FAULTS[name]
    fault(anat)
    with pytest.raises(InputError) as caught:
        read_bids_visit(anat.parent, DicomParams())
    assert caught.value.code == code
    assert words in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    "values",
    [
        {"DeviceSerialNumber": ..., "ManufacturersModelName": ""},  # de-identified by halves
        {"ManufacturersModelName": " AERA ", "ImagingFrequency": 63.8701, "MagneticFieldStrength": 1.4939},
        {"AcquisitionTime": "10:00:00.5"},
        {"AcquisitionTime": ...},
    ],
)
def test_parts_of_one_scan_may_state_its_facts_in_other_words_or_not_at_all(anat: Path, values: dict[str, object]) -> None:
    for path in sidecars(anat):
        edit(path, ImagingFrequency=63.87, MagneticFieldStrength=1.5)
    _some_sidecars("_part-phase", **values)(anat)
    assert read_bids_visit(anat.parent, DicomParams()).echoes.n_repetitions == 2


def gated_of(visit: VisitAcquisition) -> MultiEcho:
    echoes = visit.echoes
    return MultiEcho(signal=2 * echoes.signal[..., 0], echo_times_s=echoes.echo_times_s, field_strength_tesla=1.5, grid=echoes.grid)


def test_gated_echoes_and_repetitions_lie_beside_each_other(anat: Path, from_dicom: VisitAcquisition) -> None:
    gated = gated_of(from_dicom)
    write_echoes(anat, PREFIX, gated, from_dicom.info)
    np.testing.assert_allclose(read_echoes(anat).signal, gated.signal, atol=1e-2)


def test_gated_echoes_of_one_echo_time_are_refused_by_the_names_of_their_files(anat: Path, from_dicom: VisitAcquisition) -> None:
    write_echoes(anat, PREFIX, gated_of(from_dicom), from_dicom.info)
    edit(anat / f"{PREFIX}_echo-3_part-mag_MEGRE.json", EchoTime=2.8e-3)
    words = r"_echo-2_part-mag_MEGRE\.json and .*_echo-3_part-mag_MEGRE\.json have the same EchoTime, 0\.0028 s"
    with pytest.raises(InputError, match=words) as caught:
        read_echoes(anat)
    assert caught.value.code == "ECHO_TIMES"


def test_a_gated_echo_of_another_grid_is_refused_by_the_name_of_its_file(anat: Path, from_dicom: VisitAcquisition) -> None:
    write_echoes(anat, PREFIX, gated_of(from_dicom), from_dicom.info)
    odd = anat / f"{PREFIX}_echo-2_part-phase_MEGRE.nii.gz"
    image = nib.load(odd)
    whole = image.get_fdata(dtype=np.float32)
    elsewhere = image.affine.copy()
    elsewhere[2, 3] += 1.0
    for values, affine in ((whole[1:], image.affine), (whole, elsewhere)):
        nib.save(nib.Nifti1Image(values, affine), odd)
        with pytest.raises(InputError, match=r"_echo-2_part-phase_MEGRE\.nii\.gz does not lie on the grid of .*_echo-1_part-mag"):
            read_echoes(anat)


def test_gated_echoes_without_a_field_strength_are_refused_by_the_name_of_the_file(anat: Path, from_dicom: VisitAcquisition) -> None:
    write_echoes(anat, PREFIX, gated_of(from_dicom), from_dicom.info)
    edit(anat / f"{PREFIX}_echo-1_part-mag_MEGRE.json", MagneticFieldStrength=...)
    with pytest.raises(InputError, match=r"_echo-1_part-mag_MEGRE\.json has no MagneticFieldStrength"):
        read_echoes(anat)
