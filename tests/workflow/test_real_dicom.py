"""Real DICOM of three vendors, laid out as a study, through the whole workflow."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from conftest import unpack
from hqsm.archive import load_noun
from hqsm.commands.run import run_workflow
from hqsm.data import Regions
from masks.conftest import check_leak

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

SETS = {
    "siemens": "siemens_e11_gre_6echo_magphase_dicom",
    "ge": "ukat_ge_mr750_b0_3d_2echo_dicom",
    "philips": "philips_classic_2echo_magphase_dicom",
}
# GE stores the phase with the opposite sense; the other two increase with the field
PHASE_SIGN = {"siemens": 1, "ge": -1, "philips": 1}


@pytest.fixture(scope="module")
def study(real_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "study"
    for participant, name in SETS.items():
        visit = folder / "dicom" / f"sub-{participant}" / "ses-01"
        visit.mkdir(parents=True)
        unpack(real_data_dir / name / "dicom.tar.xz", visit)
    assert run_workflow(folder, ["--quiet", "all"]) == 0
    return folder


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each visit converted by dcm2niix, an independent reader."""
    out = tmp_path_factory.mktemp("reference")
    for participant in SETS:
        (out / participant).mkdir()
        command = [str(Path(sys.executable).parent / "dcm2niix"), "-z", "n", "-f", "x", "-o", str(out / participant)]
        subprocess.run([*command, str(study / "dicom" / f"sub-{participant}")], check=True, capture_output=True)
    return out


def converted(reference: Path, participant: str, echo: int, part: str) -> nib.Nifti1Image:
    """The reference image of one echo and part, turned to RAS, by its sidecar and never by its name."""
    for path in sorted((reference / participant).glob("*.json")):
        side = json.loads(path.read_text(encoding="utf-8"))
        kinds = set(side["ImageType"])
        if side.get("EchoNumber", 1) == echo and part in kinds:
            return nib.as_closest_canonical(nib.load(path.with_suffix(".nii")))
    raise AssertionError(f"no {part} of echo {echo} of {participant}")


def reference_phase(reference: Path, participant: str, echo: int) -> np.ndarray:
    if participant == "ge":
        real, imaginary = (np.asarray(converted(reference, participant, echo, p).dataobj, float) for p in ("REAL", "IMAGINARY"))
        return np.angle(real + 1j * imaginary)
    phase = np.asarray(converted(reference, participant, echo, "PHASE").dataobj, float)
    return phase * (2 * np.pi / 4096) if participant == "siemens" else phase


def result(study: Path, participant: str, name: str, kind: str = "maps") -> nib.Nifti1Image:
    stem = f"sub-{participant}_ses-01_{name}.nii.gz"
    return nib.as_closest_canonical(nib.load(study / "results" / kind / f"sub-{participant}" / "ses-01" / "anat" / stem))


def rows(study: Path, table: str) -> dict[str, dict[str, str]]:
    with (study / "results" / "tables" / f"{table}.tsv").open(encoding="utf-8", newline="") as handle:
        return {row["participant_id"]: row for row in csv.DictReader(handle, delimiter="\t")}


@pytest.mark.parametrize("participant", SETS)
def test_the_gated_echoes_equal_the_reference_conversion_voxel_by_voxel(study: Path, reference: Path, participant: str) -> None:
    for echo in (1, 2):
        ours = result(study, participant, f"echo-{echo}_part-mag_MEGRE", "bids")
        theirs = converted(reference, participant, echo, "MAGNITUDE")
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=0.02)
        a, b = np.asarray(ours.dataobj, float), np.asarray(theirs.dataobj, float)
        scale = np.sum(a * b) / np.sum(b * b)
        # GE's stored magnitude is corrected for gradient warp and intensity apart from its real and imaginary parts
        bound = {"siemens": 1e-3, "ge": 0.02, "philips": 1e-3}[participant]
        assert np.linalg.norm(a - scale * b) < bound * np.linalg.norm(a)


@pytest.mark.parametrize("participant", SETS)
def test_the_field_has_the_sign_that_the_vendor_defines(study: Path, reference: Path, participant: str) -> None:
    """Phase gained between two echoes, wrapped, against the field of our map over the same time, wrapped."""
    sides = [json.loads(p.read_text(encoding="utf-8")) for p in (reference / participant).glob("*.json")]
    times = {int(side.get("EchoNumber", 1)): float(side["EchoTime"]) for side in sides}
    gained = reference_phase(reference, participant, 2) - reference_phase(reference, participant, 1)
    if participant == "ge":
        assert np.std(gained) > 0  # slice alternation is the same in both echoes and cancels
    field = np.asarray(result(study, participant, "fieldmap").dataobj, float)
    magnitude = np.asarray(converted(reference, participant, 2, "MAGNITUDE").dataobj, float)
    inside = np.isfinite(field) & (magnitude > 0.3 * np.percentile(magnitude, 99))
    turn = 2 * np.pi * field * (times[2] - times[1])

    def agreement(sign: int) -> float:
        return float(np.median(np.abs(np.angle(np.exp(1j * (sign * gained - turn))[inside]))))

    assert agreement(PHASE_SIGN[participant]) < 0.15
    assert agreement(-PHASE_SIGN[participant]) > 2 * agreement(PHASE_SIGN[participant]) + 0.1


def test_echo_times_and_field_strength_are_those_of_the_headers(study: Path, reference: Path) -> None:
    for participant in SETS:
        wanted = {round(float(json.loads(p.read_text(encoding="utf-8"))["EchoTime"]), 7) for p in (reference / participant).glob("*.json")}
        anat = study / "results" / "bids" / f"sub-{participant}" / "ses-01" / "anat"
        found = [json.loads(p.read_text(encoding="utf-8")) for p in anat.glob("*_part-phase_MEGRE.json")]
        assert {round(side["EchoTime"], 7) for side in found} == wanted
        assert all(2.8 < side["MagneticFieldStrength"] < 3.1 for side in found)


def test_two_echoes_give_field_and_susceptibility_but_say_that_there_is_no_fat(study: Path) -> None:
    visits, liver = rows(study, "visits"), rows(study, "lic")
    for participant in ("ge", "philips"):
        codes = visits[f"sub-{participant}"]["codes"].split()
        assert "TWO_ECHOES_NO_FAT" in codes
        assert liver[f"sub-{participant}"]["pdff_percent"] == "n/a"
        assert not np.isfinite(np.asarray(result(study, participant, "PDFF").dataobj)).any()
    assert "TWO_ECHOES_NO_FAT" not in visits["sub-siemens"]["codes"].split()
    for participant in SETS:
        for name in ("fieldmap", "Chimap", "R2starmap"):
            assert np.isfinite(np.asarray(result(study, participant, name).dataobj)).mean() > 0.02


def test_the_last_slices_of_a_real_liver_hold_no_muscle_beside_the_spine(study: Path) -> None:
    found = load_noun(study / "results/work/sub-ge_ses-01/regions.npz", Regions)
    check_leak(found, ((112, 126), (68, 122), (13, 16)), ((58, 86), (84, 110), (3, 12)))


def test_no_name_of_a_person_or_place_reaches_the_results(study: Path) -> None:
    for path in (study / "results").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        for keyword in ("PatientName", "PatientID", "InstitutionName", "InstitutionAddress", "OperatorsName", "AccessionNumber"):
            assert keyword not in text, path
