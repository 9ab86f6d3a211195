"""Real images as converters leave them, named as BIDS: read with the unit, sign and order that their sidecars and values show."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hqsm.bids_input import read_bids_visit
from hqsm.config.dicom import DicomParams
from hqsm.data import RepeatedMultiEcho
from hqsm.errors import InputError

PHILIPS, SIEMENS = 1e-3, np.pi / 4096
"""Phase [rad] of one unit of what old converters wrote."""
SETS = {
    # folder, first number of the series of magnitudes and of phases, number of echoes, unit of the phase [rad]
    "Philips, 12 echoes numbered wrongly": ("ukat_philips_r2star_12echo_nifti", "01401", "01401", 12, PHILIPS),
    **{
        f"Philips, two echoes, {n:02d}": (f"ukat_b0_dualecho_3vendor_nifti/philips_{n:02d}", number, number, 2, PHILIPS)
        for n, number in zip(
            range(1, 13),
            ("01001", "01101", "01301", "00501", "00601", "00701", "00801", "00901", "01101", "01201", "02301", "02501"),
            strict=True,
        )
    },
    "Siemens, two echoes": ("ukat_b0_dualecho_3vendor_nifti/siemens_01", "0044", "0045", 2, SIEMENS),
    "Siemens 3D, two echoes": ("ukat_siemens_b0_3d_2echo_nifti", "00010", "00011", 2, SIEMENS),
}


def named(source: Path, session: Path, magnitude: str, phase: str) -> dict[float, dict[str, Path]]:
    """Copy a converter's images under BIDS names; their sources by echo time. A file without an echo time is a map."""
    found: dict[float, dict[str, Path]] = {}
    (session / "anat").mkdir(parents=True)
    for sidecar in sorted(source.glob("*.json")):
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        words = facts.get("ImageType", [])
        part = "phase" if {"P", "PHASE"} & set(words) else "mag"
        if "EchoTime" not in facts or not sidecar.name.startswith(phase if part == "phase" else magnitude) or {"R", "I"} & set(words):
            continue
        found.setdefault(facts["EchoTime"], {})[part] = Path(str(sidecar).replace(".json", ".nii.gz"))
    for k, parts in enumerate(reversed([found[t] for t in sorted(found)]), start=1):  # numbers that say nothing
        for part, path in parts.items():
            stem = session / "anat" / f"sub-1_ses-1_echo-{k}_part-{part}_MEGRE"
            shutil.copy(path, f"{stem}.nii.gz")
            shutil.copy(str(path).replace(".nii.gz", ".json"), f"{stem}.json")
    return found


def read(session: Path) -> RepeatedMultiEcho:
    return read_bids_visit(session, DicomParams()).echoes


@pytest.mark.real_data
@pytest.mark.parametrize("name", SETS)
def test_images_of_a_converter_are_read_as_the_complex_echoes_that_they_are(real_data_dir: Path, tmp_path: Path, name: str) -> None:
    folder, magnitude, phase, n_echoes, unit_rad = SETS[name]
    session = tmp_path / "bids" / "sub-1" / "ses-1"
    sources = named(real_data_dir / folder, session, magnitude, phase)
    echoes = read(session)
    np.testing.assert_allclose(echoes.echo_times_s, sorted(sources), atol=1e-9)
    assert (echoes.echo_times_s.size, echoes.field_strength_tesla) == (n_echoes, pytest.approx(2.95, abs=0.08))
    for k, time in enumerate(sorted(sources)):
        m, p = (nib.load(sources[time][part]) for part in ("mag", "phase"))
        assert echoes.grid.shape == m.shape
        np.testing.assert_allclose(echoes.grid.affine_mm, m.affine)
        wanted = np.asarray(m.dataobj, float) * np.exp(1j * unit_rad * np.asarray(p.dataobj, float))
        np.testing.assert_allclose(echoes.signal[..., k, 0], wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.real_data
def test_real_and_imaginary_images_equal_magnitude_and_phase_of_the_same_scan(real_data_dir: Path, tmp_path: Path) -> None:
    source = real_data_dir / "ukat_b0_dualecho_3vendor_nifti" / "philips_realimag_vs_phase"
    sessions = {kind: tmp_path / kind / "sub-1" / "ses-1" for kind in ("polar", "cartesian")}
    named(source, sessions["polar"], "01001", "01001")
    (sessions["cartesian"] / "anat").mkdir(parents=True)
    for end, part in (("real", "real"), ("imaginary", "imag")):
        for k in (1, 2):
            (path,) = source.glob(f"*_e{k}_{end}.nii.gz")
            stem = sessions["cartesian"] / "anat" / f"sub-1_ses-1_echo-{k}_part-{part}_MEGRE"
            shutil.copy(path, f"{stem}.nii.gz")
            shutil.copy(str(path).replace(".nii.gz", ".json"), f"{stem}.json")
    polar, cartesian = (read(session).signal for session in sessions.values())
    strong = np.abs(polar) > 0.1 * np.abs(polar).max()
    difference = np.angle(cartesian * np.conj(polar))[strong]
    assert abs(difference.mean()) < 0.005
    assert difference.std() < 0.01


@pytest.mark.real_data
def test_a_phase_in_an_arbitrary_unit_is_refused_and_not_guessed(real_data_dir: Path, tmp_path: Path) -> None:
    source = real_data_dir / "romeo_brain_3echo_nifti"
    anat = tmp_path / "bids" / "sub-1" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    for name, part in (("Mag", "mag"), ("Phase", "phase")):
        image = nib.load(source / f"{name}.nii.gz")
        values = np.asarray(image.dataobj, np.float32)
        for k in range(3):
            stem = anat / f"sub-1_ses-1_echo-{k + 1}_part-{part}_MEGRE"
            nib.save(nib.Nifti1Image(values[..., k], image.affine), f"{stem}.nii.gz")
            facts = {"EchoTime": 0.004 * (k + 1), "MagneticFieldStrength": 3}
            Path(f"{stem}.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(InputError, match=r"no unit in their sidecar, and their range -0\.0036\d+ to 0\.0036\d+ is no whole turn"):
        read(anat.parent)
