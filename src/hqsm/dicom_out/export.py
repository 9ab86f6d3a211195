"""From a visit's files under ``results/`` to its DICOM objects."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

import hqsm
from hqsm.arrays import FloatArray, Mask
from hqsm.dicom_out.objects import measurement_report, parametric_map, segmentation
from hqsm.dicom_out.quantities import CHI, LIC, MAPS, PDFF, R2STAR
from hqsm.dicom_out.series import Visit, mr_series, save
from hqsm.errors import InputError
from hqsm.lic import r2star_calibration
from hqsm.nifti import load_mask, load_volume
from hqsm.stage import read_status


def export_visit(results: Path, participant_id: str, session_id: str, r2star_calibration_name: str, target: Path) -> int:
    """Write ``mr/<map>/*.dcm``, ``pm/<map>.dcm``, ``seg.dcm`` and ``sr.dcm`` of a visit; return the number of files.

    A visit that was rejected, or has no liver, gives what it has; nothing is written in place of a missing map.

    Raises
    ------
    InputError
        ``DICOM_EXPORT_LIBRARY`` without highdicom.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise InputError(
            "The export to DICOM needs the library highdicom, which is not installed.",
            remedy="pip install 'hqsm[dicom]'.",
            code="DICOM_EXPORT_LIBRARY",
        ) from error
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    work = results / "work" / f"{participant_id}_{session_id}"
    echoes, iron = read_status(work / "gated_echoes.json"), read_status(work / "liver_iron.json")
    if echoes["failed"]:
        return 0
    stem = results / "maps" / participant_id / session_id / "anat" / f"{participant_id}_{session_id}"
    volumes: dict[str, FloatArray] = {}
    affine_mm: FloatArray | None = None
    for quantity in (R2STAR, CHI, PDFF):
        path = stem.with_name(f"{stem.name}_{quantity.suffix}.nii.gz")
        if path.is_file():
            volumes[quantity.suffix], grid = load_volume(path)
            affine_mm = grid.affine_mm
    if affine_mm is None:
        return 0
    field_t = float(echoes["field_strength_tesla"])
    calibration = r2star_calibration(r2star_calibration_name, field_t)
    if calibration is not None and R2STAR.suffix in volumes:
        volumes[LIC.suffix] = (calibration.slope * volumes[R2STAR.suffix] + calibration.intercept).astype(np.float32)
    date = str(echoes.get("acquisition_date") or "").replace("-", "")
    visit = Visit(participant_id=participant_id, session_id=session_id, date=date, field_strength_tesla=field_t, software=hqsm.__version__)
    return _write(visit, volumes, affine_mm, _masks(stem), iron, target)


def _write(visit: Visit, volumes: dict[str, FloatArray], affine_mm: FloatArray, masks: dict[str, Mask], iron: Any, target: Path) -> int:
    n = 0

    def keep(dataset: Any, name: str) -> None:
        nonlocal n
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(dataset, str(path))
        n += 1

    sources: list[Any] = []
    for number, quantity in enumerate(MAPS, start=1):
        if quantity.suffix not in volumes:
            continue
        series = mr_series(visit, quantity, volumes[quantity.suffix], affine_mm, 100 + number)
        for k, image in enumerate(series, start=1):
            keep(image, f"mr/{quantity.suffix}/{k:04d}.dcm")
        sources = sources or series
        keep(parametric_map(visit, quantity, volumes[quantity.suffix], sources, 200 + number), f"pm/{quantity.suffix}.dcm")
    if masks.get("liver") is not None and masks["liver"].any():
        automatic = "MASK_AUTOMATIC" in iron.get("codes", []) or iron.get("row", {}).get("mask_source") != "reader"
        segments = segmentation(visit, masks, sources, 300, automatic=automatic)
        keep(segments, "seg.dcm")
        if not iron["failed"] and "row" in iron:
            keep(measurement_report(visit, iron["row"], segments, sources, 400), "sr.dcm")
    return n


def _masks(stem: Path) -> dict[str, Mask]:
    found = {}
    for name in ("liver", "vessel"):
        path = stem.with_name(f"{stem.name}_desc-{name}_mask.nii.gz")
        if path.is_file():
            found[name] = load_mask(path)
    return found
