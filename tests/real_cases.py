"""Readers of the real cases that tests and pictures share, each from the folder of the real data."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.io

from hqsm.data import MultiEcho, VoxelGrid


def echoes_of(images: np.ndarray, echo_times_s: np.ndarray, tesla: float, size_mm: tuple[float, float, float]) -> MultiEcho:
    """Complex images (x, y, z, echo), the brightest 1000."""
    return MultiEcho(
        signal=images.astype(np.complex64) / np.abs(images).max() * 1000,
        echo_times_s=echo_times_s,
        field_strength_tesla=tesla,
        grid=VoxelGrid(shape=(images.shape[0], images.shape[1], images.shape[2]), affine_mm=np.diag([*size_mm, 1.0])),
    )


def challenge(folder: Path, name: str) -> MultiEcho:
    """A case of the ISMRM challenge of 2012."""
    stored = scipy.io.loadmat(folder / "ismrm2012_fatwater_cases" / f"{name}.mat")["imDataParams"][0, 0]
    images = np.asarray(stored["images"])
    images = images.reshape(*images.shape[:2], -1, images.shape[-1])
    return echoes_of(images, np.ravel(stored["TE"]).astype(float), float(np.ravel(stored["FieldStrength"])[0]), (1.5, 1.5, 5.0))


def phantom(folder: Path, name: str) -> MultiEcho:
    """A phantom of one slice."""
    stored = scipy.io.loadmat(folder / "bydder_pdff" / f"{name}.mat")
    times = np.ravel(stored["te"]).astype(float)
    times = times * 1e-3 if times.max() > 0.5 else times
    return echoes_of(np.squeeze(stored["data"])[:, :, None, :], times, float(np.ravel(stored["Tesla"])[0]), (1.0, 1.0, 5.0))


def philips_abdomen(folder: Path) -> tuple[MultiEcho, np.ndarray]:
    """Twelve echoes at 3 T (phases in milliradians), and the scanner's own map of R2* [1/s] (x, y, z)."""
    echoes, scanner = [], None
    for sidecar in (folder / "ukat_philips_r2star_12echo_nifti").glob("*.json"):
        facts = json.loads(sidecar.read_text())
        image = nib.load(sidecar.with_suffix(".nii.gz"))
        if "EchoTime" not in facts:
            scanner = np.asarray(image.dataobj)[..., 1]
        elif not sidecar.stem.endswith("_ph"):
            phase = nib.load(sidecar.with_name(sidecar.stem + "_ph.nii.gz"))
            echoes.append((facts["EchoTime"], np.asarray(image.dataobj, float) * np.exp(1e-3j * np.asarray(phase.dataobj, float))))
    echoes.sort(key=lambda echo: echo[0])
    assert scanner is not None
    images = np.stack([values for _, values in echoes], axis=-1)
    return echoes_of(images, np.array([time for time, _ in echoes]), 3.0, (3.0, 3.0, 5.0)), scanner
