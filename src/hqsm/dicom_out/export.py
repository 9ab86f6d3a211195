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
from hqsm.lic import LicCalibration, r2star_calibration
from hqsm.nifti import load_mask, load_volume
from hqsm.stage import read_status
from hqsm.tables import read_frame


def export_visit(results: Path, participant_id: str, session_id: str, r2star_calibration_name: str, target: Path) -> int:
    """Write ``mr/<map>/*.dcm``, ``pm/<map>.dcm``, ``seg.dcm`` and ``sr.dcm`` of a visit; return the number of files.

    A visit that was rejected, or has no liver, gives what it has; nothing is written in place of a missing map. The numbers are those
    of lic.tsv: what the study withholds (another decision than to use the visit, a liver of an implausible volume) no archive gets.

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
    echoes, iron, regions = (read_status(work / f"{stage}.json") for stage in ("gated_echoes", "liver_iron", "regions"))
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
    if calibration is not None and R2STAR.suffix in volumes and "LIC_R2STAR_CONFOUNDED" not in iron.get("codes", []):
        volumes[LIC.suffix] = lic_map(calibration, volumes[R2STAR.suffix])
    date = str(echoes.get("acquisition_date") or "").replace("-", "")
    visit = Visit(participant_id=participant_id, session_id=session_id, date=date, field_strength_tesla=field_t, software=hqsm.__version__)
    row = _row(results / "tables" / "lic.tsv", participant_id, session_id)
    automatic = regions.get("mask_source") != "reader"
    return _write(visit, volumes, affine_mm, _masks(stem), row, target, automatic=automatic)


def lic_map(calibration: LicCalibration, r2star_per_s: FloatArray) -> FloatArray:
    """LIC of each voxel [mg/g dry]; NaN where it lies beyond the calibration's range, as in the tables."""
    lic_mg_g = calibration.intercept + calibration.slope * r2star_per_s
    inside: FloatArray = np.where(lic_mg_g <= calibration.highest_mg_g, lic_mg_g, np.nan).astype(np.float32)
    return inside


def _row(table: Path, participant_id: str, session_id: str) -> dict[str, Any] | None:
    """The visit's row of lic.tsv; None where it has none, or was excluded."""
    lic = read_frame(table, "lic")
    own = lic[(lic["participant_id"] == participant_id) & (lic["session_id"] == session_id) & lic["qc_status"].isin(["ok", "warning"])]
    return {str(name): value for name, value in own.iloc[0].items()} if len(own) else None


def _write(
    visit: Visit,
    volumes: dict[str, FloatArray],
    affine_mm: FloatArray,
    masks: dict[str, Mask],
    row: dict[str, Any] | None,
    target: Path,
    *,
    automatic: bool,
) -> int:
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
        segments = segmentation(visit, masks, sources, 300, automatic=automatic)
        keep(segments, "seg.dcm")
        if row is not None:
            keep(measurement_report(visit, row, segments, sources, 400), "sr.dcm")
    return n


def _masks(stem: Path) -> dict[str, Mask]:
    found = {}
    for name in ("liver", "vessel"):
        path = stem.with_name(f"{stem.name}_desc-{name}_mask.nii.gz")
        if path.is_file():
            found[name] = load_mask(path)
    return found
