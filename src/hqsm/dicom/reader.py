"""A visit folder of raw DICOM becomes one complex multi-echo acquisition, or a sentence that says why not.

Echoes are told apart by EchoTime, slices by ImagePositionPatient along the slice normal, repetitions by
TemporalPositionIdentifier or AcquisitionNumber; never by file names, file order or SliceThickness. The whole grid of
echo x slice x repetition x part must be there: what is missing is named.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.dicom import DicomParams
from hqsm.data import AcquisitionInfo, NavigatorTrace, RepeatedMultiEcho, SetAside, VisitAcquisition, VoxelGrid
from hqsm.dicom.conventions import (
    IMAGINARY,
    MAGNITUDE,
    PHASE,
    REAL,
    Convention,
    complex_from,
    convention_of,
)
from hqsm.dicom.guarded import READABLE, RLE, pixel_bytes, read_guarded, without_identity
from hqsm.dicom.navigator import read_navigator_csv
from hqsm.errors import InputError
from hqsm.intake.policy import plain_number
from hqsm.units import field_strength_from_frequency_tesla, milliseconds_to_s

_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_SLICE_TOLERANCE_MM = 0.02


@dataclass(frozen=True, eq=False, kw_only=True)
class Instance:
    """One image: its header without pixels' decoding, and what it is."""

    header: Any
    convention: Convention
    part: str
    echo_time_s: float
    repetition: int


def read_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    """Read a visit folder.

    Raises
    ------
    InputError
        If the folder holds no complex multi-echo acquisition, an incomplete one, two patients, or headers whose values
        cannot be used (``DICOM_DAMAGED``).
    """
    try:
        return _read_visit(folder, params)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError, NotImplementedError) as error:
        # what a header may contain has no end; the message of the exception can hold a value of it
        raise InputError(
            f"The headers hold values that cannot be used ({type(error).__name__}).",
            remedy="Export the visit again; if it stays, `hqsm inspect` the folder series by series.",
            code="DICOM_DAMAGED",
        ) from error


def _read_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    headers, aside, n_files, n_same = _headers(folder, params)
    if not headers:
        raise InputError(f"No DICOM image among {n_files} files.", remedy="Put the visit's raw DICOM here.", code="DICOM_NONE")
    patients = {(str(h.get("PatientID", "")), str(h.get("PatientName", ""))) for h in headers}
    if len(patients) > 1:
        raise InputError(
            f"The images belong to {len(patients)} different patients.",
            remedy="Keep one patient's images in this folder.",
            code="DICOM_TWO_PATIENTS",
        )
    instances = []
    for header in headers:
        made = _instance(header)
        if isinstance(made, Instance):
            instances.append(made)
        else:
            aside.append(made)
    chosen, others = _choose_acquisition(instances)
    aside += others
    with np.errstate(invalid="ignore", over="ignore"):
        signal, echo_times_s, grid, times = _assemble(chosen)
    if not np.isfinite(signal).all():
        raise InputError(
            "The images hold values that are no numbers (their rescale slope or intercept is infinite).",
            remedy="Export the visit again.",
            code="DICOM_DAMAGED",
        )
    first = chosen[0].header
    info = AcquisitionInfo(
        convention=chosen[0].convention.name,
        manufacturer=str(first.get("Manufacturer", "")),
        model=str(first.get("ManufacturerModelName", "")),
        software=_text(first.get("SoftwareVersions", "")),
        acquisition_date=_iso_date(str(first.get("AcquisitionDate", "") or first.get("SeriesDate", ""))),
        flip_angle_degrees=_number(first, "FlipAngle"),
        repetition_time_s=milliseconds_to_s(_number(first, "RepetitionTime")),
        imaging_frequency_mhz=_number(first, "ImagingFrequency"),
        n_files=n_files,
        set_aside=_summarised(aside),
        notes=(f"{n_same} files were exact copies of others and are ignored.",) if n_same else (),
        manifest=_manifest(chosen),
    )
    echoes = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=echo_times_s,
        field_strength_tesla=_field_strength_tesla(first),
        grid=grid,
        repetition_times_of_day_s=times,
    )
    return VisitAcquisition(echoes=echoes, info=info, navigator=_navigator(folder, echoes.n_repetitions))


def _manifest(instances: list[Instance]) -> tuple[tuple[str, str], ...]:
    """What a result can be traced to: each image by the hash of its UID, with the hash of its stored pixels."""
    lines = {
        (hashlib.sha256(str(i.header.SOPInstanceUID).encode()).hexdigest(), hashlib.sha256(i.header.PixelData).hexdigest())
        for i in instances
    }
    return tuple(sorted(lines))


def _navigator(folder: Path, n_repetitions: int) -> NavigatorTrace | None:
    found = sorted(folder.rglob("navigator.csv"))
    if not found or n_repetitions == 1:
        return None
    if len(found) > 1:
        raise InputError(f"{len(found)} files named navigator.csv.", remedy="Keep the right one.", code="NAVIGATOR_MANY")
    return read_navigator_csv(found[0], n_repetitions)


def _headers(folder: Path, params: DicomParams) -> tuple[list[Any], list[SetAside], int, int]:
    """Every readable image header below the folder; what else was there; how many files; how many exact copies."""
    headers: list[Any] = []
    aside: list[SetAside] = []
    by_uid: dict[str, str] = {}
    n_files = n_same = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name == "navigator.csv":
            continue
        n_files += 1
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            aside.append(SetAside(name="links", kind="link", reason="a link out of the visit's folder is not followed"))
            continue
        try:
            header = without_identity(read_guarded(path, params.largest_file_mb))
        except InputError as refused:
            if refused.code == "DICOM_TOO_LARGE":
                aside.append(SetAside(name="large file", kind="file", reason="larger than dicom.largest_file_mb"))
            elif refused.code == "DICOM_NOT":
                aside.append(SetAside(name="other files", kind="not DICOM", reason="no readable DICOM image"))
            else:
                aside.append(SetAside(name="refused files", kind=refused.code, reason=refused.problem))
            continue
        uid = str(header.get("SOPInstanceUID", ""))
        if not uid or "PixelData" not in header or _cut_off(header):
            aside.append(SetAside(name="other files", kind="no image", reason="DICOM without pixel data, or cut off"))
            continue
        digest = hashlib.sha256(header.PixelData).hexdigest()
        if uid in by_uid:
            if by_uid[uid] != digest:
                raise InputError(
                    "Two different images carry the same SOPInstanceUID.",
                    remedy="Export the visit again: one of them is corrupt.",
                    code="DICOM_CONTRADICTION",
                )
            n_same += 1
            continue
        by_uid[uid] = digest
        headers.append(header)
    return headers, aside, n_files, n_same


def _cut_off(header: Any) -> bool:
    """Whether uncompressed pixel data are shorter than the header promises: a transfer that broke off."""
    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    if syntax not in READABLE or syntax == RLE:
        return False
    return len(header.PixelData) < pixel_bytes(header)


def _instance(header: Any) -> Instance | SetAside:
    name = _series_name(header)
    if str(header.get("SOPClassUID", "")) != _MR_IMAGE:
        return SetAside(name=name, kind="not a classic MR image", reason="no single-frame MR image")
    convention = convention_of(header)
    if convention is None:
        maker = str(header.get("Manufacturer", "an unknown maker"))
        return SetAside(name=name, kind="unknown vendor", reason=f"no convention for {maker}")
    part = convention.part(header)
    if part is None:
        return SetAside(name=name, kind="derived or other", reason="not an original magnitude, phase, real or imaginary")
    echo_time_ms = _number(header, "EchoTime")
    if not echo_time_ms > 0 or "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
        return SetAside(name=name, kind="incomplete header", reason="no echo time or no position")
    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    if syntax and syntax not in READABLE:
        raise InputError(
            f"The images of {name} are compressed ({pydicom.uid.UID(syntax).name}).",
            remedy="Decompress them first, for example: gdcmconv --raw IN OUT.",
            code="DICOM_COMPRESSED",
        )
    repetition = header.get("TemporalPositionIdentifier") or header.get("AcquisitionNumber") or 1
    return Instance(
        header=header,
        convention=convention,
        part=part,
        echo_time_s=round(milliseconds_to_s(echo_time_ms), 7),
        repetition=int(repetition),
    )


def _series_name(header: Any) -> str:
    """Number and description of a series for people; the reader has reduced the description to known words."""
    number = plain_number(header.get("SeriesNumber", "")) or "?"
    return f"series {number} {_text(header.get('SeriesDescription', ''))}".strip()


def _key(instance: Instance) -> tuple[Any, ...]:
    """What all images of one acquisition share: frame of reference, matrix, spacing, orientation, repetition time."""
    h = instance.header
    orientation = tuple(round(float(v), 3) for v in h.ImageOrientationPatient)
    spacing = tuple(round(float(v), 4) for v in h.PixelSpacing)
    tr = round(_number(h, "RepetitionTime"), 2)
    return (str(h.get("FrameOfReferenceUID", "")), int(h.Rows), int(h.Columns), spacing, orientation, tr)


def _choose_acquisition(instances: list[Instance]) -> tuple[list[Instance], list[SetAside]]:
    """The acquisition with most echoes, then most images; the others are left aside by name."""
    groups: dict[tuple[Any, ...], list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[_key(instance)].append(instance)
    if not groups:
        raise InputError(
            "None of the images is an original magnitude, phase, real or imaginary image of a known vendor.",
            remedy="Export the multi-echo series with magnitude and phase.",
            code="DICOM_NO_ORIGINAL",
        )

    def worth(group: list[Instance]) -> tuple[int, int]:
        complete = {t for t in {i.echo_time_s for i in group} if _has_phase({i.part for i in group if i.echo_time_s == t})}
        return len(complete), len(group)

    ranked = sorted(groups.values(), key=worth, reverse=True)
    chosen = ranked[0]
    n_complex, _ = worth(chosen)
    n_echoes = len({i.echo_time_s for i in chosen})
    if n_echoes < 2:
        raise InputError(
            "Every series has a single echo time; at least two echoes are needed.",
            remedy="Export the multi-echo series.",
            code="DICOM_ONE_ECHO",
        )
    if n_complex == 0:
        raise InputError(
            f"{n_echoes} echoes were found, but only {', '.join(sorted({i.part for i in chosen}))} images of them.",
            remedy="Export the phase (or real and imaginary) images too.",
            code="DICOM_NO_PHASE",
        )
    aside = [
        SetAside(
            name=_series_name(i.header),
            kind="another acquisition",
            reason=f"{len({j.echo_time_s for j in group})} echoes; the one with most echoes and images is used",
        )
        for group in ranked[1:]
        for i in group
    ]
    return chosen, aside


def _has_phase(parts: set[str]) -> bool:
    return {REAL, IMAGINARY} <= parts or {MAGNITUDE, PHASE} <= parts


def _assemble(instances: list[Instance]) -> tuple[AnyArray, FloatArray, VoxelGrid, FloatArray]:
    """Complex signal (x, y, z, echo, repetition), echo times [s], grid, acquisition times [s since midnight]."""
    echo_times = sorted({i.echo_time_s for i in instances})
    repetitions = sorted({i.repetition for i in instances})
    parts_seen = {i.part for i in instances}
    wanted = (REAL, IMAGINARY) if {REAL, IMAGINARY} <= parts_seen else (MAGNITUDE, PHASE)
    normal, positions = _slice_positions(instances)
    table: dict[tuple[int, float, int, str], Instance] = {}
    for i in instances:
        if i.part in wanted:
            key = (_slice_of(i, normal, positions), i.echo_time_s, i.repetition, i.part)
            if key in table:
                raise InputError(
                    f"Slice {key[0] + 1}, echo time {1e3 * key[1]:g} ms, repetition {key[2]}, {key[3]} is there twice.",
                    remedy="Remove the double series, or the one that is not wanted.",
                    code="DICOM_DOUBLE",
                )
            table[key] = i
    missing = [
        f"slice {s + 1} echo {1e3 * t:g} ms repetition {r} {p}"
        for r in repetitions
        for t in echo_times
        for p in wanted
        for s in range(len(positions))
        if (s, t, r, p) not in table
    ]
    if missing:
        total = len(repetitions) * len(echo_times) * len(wanted) * len(positions)
        raise InputError(
            f"{len(missing)} of {total} images are missing: {'; '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}.",
            remedy="Export the visit again, completely.",
            code="DICOM_MISSING",
        )
    first = next(iter(table.values())).header
    shape = (int(first.Columns), int(first.Rows), len(positions))
    signal = np.empty((*shape, len(echo_times), len(repetitions)), np.complex64)
    convention = instances[0].convention
    for r, repetition in enumerate(repetitions):
        for e, echo_time in enumerate(echo_times):
            volume = np.empty(shape, np.complex64)
            for s in range(len(positions)):
                values = {}
                for part in wanted:
                    instance = table[s, echo_time, repetition, part]
                    pixels = instance.header.pixel_array
                    values[part] = convention.values(instance.header, pixels, part).T
                made = complex_from(values)
                assert made is not None
                volume[:, :, s] = made
            signal[..., e, r] = convention.finish(volume)
    times = np.array([_time_of_day_s(table[0, echo_times[0], r, wanted[0]].header) for r in repetitions])
    return signal, np.array(echo_times), _grid(first, normal, positions, instances), times


def _slice_positions(instances: list[Instance]) -> tuple[FloatArray, FloatArray]:
    """Slice normal (LPS) and the sorted positions of the slices along it [mm], evenly spaced or refused."""
    row, column = np.array(instances[0].header.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    along = np.array([float(np.dot(np.array(i.header.ImagePositionPatient, float), normal)) for i in instances])
    ordered = np.sort(along)
    starts = np.concatenate([[True], np.diff(ordered) > _SLICE_TOLERANCE_MM])
    positions = ordered[starts]
    counts = Counter(np.round(np.diff(positions), 2).tolist())
    if len(positions) > 2 and len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        worst = max(counts, key=lambda gap: abs(gap - usual))
        if abs(worst - usual) > 0.1 * usual:
            raise InputError(
                f"Slices are {usual:g} mm apart, but two of them {worst:g} mm: a slice is missing or does not belong.",
                remedy="Export the visit again, completely.",
                code="DICOM_SLICE_GAP",
            )
    return normal, positions


def _slice_of(instance: Instance, normal: FloatArray, positions: FloatArray) -> int:
    along = float(np.dot(np.array(instance.header.ImagePositionPatient, float), normal))
    return int(np.argmin(np.abs(positions - along)))


def _grid(first: Any, normal: FloatArray, positions: FloatArray, instances: list[Instance]) -> VoxelGrid:
    """Affine of the voxel indices (column, row, slice) in RAS+ world coordinates, from position and orientation."""
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    row_spacing, column_spacing = (float(v) for v in first.PixelSpacing)
    n = len(positions)
    spacing = float(positions[-1] - positions[0]) / (n - 1) if n > 1 else float(first.get("SpacingBetweenSlices", 1) or 1)
    origin = next(np.array(i.header.ImagePositionPatient, float) for i in instances if _slice_of(i, normal, positions) == 0)
    affine = np.eye(4)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = normal * spacing
    affine[:3, 3] = origin
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return VoxelGrid(shape=(int(first.Columns), int(first.Rows), n), affine_mm=lps_to_ras @ affine)


def _field_strength_tesla(header: Any) -> float:
    """B0 from the imaging frequency where it agrees with the nominal strength, else the nominal strength."""
    frequency, nominal = _number(header, "ImagingFrequency"), _number(header, "MagneticFieldStrength")
    if nominal > 100:
        nominal /= 1e4  # gauss
    if frequency > 0:
        exact = field_strength_from_frequency_tesla(frequency)
        if not nominal > 0 or abs(exact - nominal) < 0.15 * nominal:
            return exact
    if nominal > 0:
        return nominal
    raise InputError(
        "The header has neither ImagingFrequency nor MagneticFieldStrength.",
        remedy="Keep these attributes when the images are de-identified.",
        code="DICOM_FIELD_STRENGTH",
    )


def _number(header: Any, name: str) -> float:
    value = header.get(name)
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _text(value: Any) -> str:
    return " ".join(str(value).replace("\\", " ").split())[:64]


def _iso_date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if len(value) >= 8 and value[:8].isdigit() else ""


def _time_of_day_s(header: Any) -> float:
    value = str(header.get("AcquisitionTime", ""))
    try:
        return 3600 * int(value[:2]) + 60 * int(value[2:4]) + float(value[4:])
    except ValueError:
        return float("nan")


def _summarised(aside: list[SetAside]) -> tuple[SetAside, ...]:
    """Each kind of thing once, with how many there were."""
    counts = Counter((item.name, item.kind, item.reason) for item in aside)
    return tuple(
        SetAside(name=f"{name} x{n}" if n > 1 else name, kind=kind, reason=reason) for (name, kind, reason), n in sorted(counts.items())
    )
