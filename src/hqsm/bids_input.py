"""Edge: a visit that comes as BIDS MEGRE images, magnitude and phase (or real and imaginary), in place of DICOM.

Echo identity comes from ``EchoTime``, never from a file's number. Sidecars are inherited as BIDS says: a JSON file
higher up applies to every image whose name has all of its entities, and the nearest one wins.

Sign: an image whose sidecar says ``OffResonanceSign`` (+1: phase grows where the field is stronger; hqsm writes it) is
taken at its word; without it a GE image is taken as converters leave it, with the vendor's opposite sign and its
alternating slices, and every other one as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hqsm.arrays import AnyArray, FloatArray
from hqsm.bids import UNGATED
from hqsm.clock import past_midnight_s
from hqsm.config.dicom import DicomParams
from hqsm.data import AcquisitionInfo, RepeatedMultiEcho, SetAside, VisitAcquisition, VoxelGrid
from hqsm.dicom.conventions import Ge, turn_of_range
from hqsm.dicom.frames import iso_day
from hqsm.dicom.reader import agreed_field_strength_tesla, read_navigator, read_visit
from hqsm.dicom.strangers import TWO_RUNS_S, scanner_differences
from hqsm.errors import InputError
from hqsm.intake.policy import known_version, known_words
from hqsm.units import DAY_S

_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)+)MEGRE\.nii(\.gz)?\Z")
_PARTS = {"mag": "magnitude", "phase": "phase", "real": "real", "imag": "imaginary"}


@dataclass(frozen=True, eq=False, kw_only=True)
class BidsImage:
    """One MEGRE image: its file, its entities, what its sidecars say."""

    path: Path
    entities: dict[str, str]
    sidecar: dict[str, Any]
    part: str
    echo_time_s: float
    run: int


def read_study_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    """Read a visit's folder, by where it lies in the study: below ``bids/`` as BIDS, else as DICOM."""
    return read_bids_visit(folder, params) if folder.parts[0] == "bids" else read_visit(folder, params)


def read_bids_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    """Read one session of a BIDS dataset.

    Raises
    ------
    InputError
        If there is no complete complex multi-echo acquisition, an echo time or the field strength is missing, the grids
        differ, or the phase has no unit.
    """
    images, aside, n_files = _images(folder)
    chosen, more = _choose(images, params)
    scan = _arranged(chosen)
    first = scan.first
    signal, grid, manifest = _signal(scan, params)
    notes = list(more)
    _to_our_sign(signal, first.sidecar, notes)
    info = AcquisitionInfo(
        convention="bids",
        manufacturer=known_words(first.sidecar.get("Manufacturer", "")),
        model=known_words(first.sidecar.get("ManufacturersModelName", "")),
        software=known_version(first.sidecar.get("SoftwareVersions", "")),
        acquisition_date=iso_day(str(first.sidecar.get("AcquisitionDateTime", ""))),
        flip_angle_degrees=_number(first.sidecar, "FlipAngle"),
        repetition_time_s=_repetition_time_s(first.sidecar),
        imaging_frequency_mhz=_number(first.sidecar, "ImagingFrequency"),
        n_files=n_files,
        set_aside=tuple(aside),
        notes=tuple(notes),
        manifest=manifest,
    )
    n_repetitions = signal.shape[4]
    clock = np.full(n_repetitions, np.nan)
    if n_repetitions == len(scan.runs):
        clock = np.array([_time_of_day_s(scan.images[run, scan.times_s[0], scan.parts[0]].sidecar) for run in scan.runs])
    echoes = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=np.array(scan.times_s),
        field_strength_tesla=_field_strength_tesla(first.sidecar),
        grid=grid,
        repetition_times_of_day_s=past_midnight_s(clock),
    )
    return VisitAcquisition(echoes=echoes, info=info, navigator=read_navigator(folder, n_repetitions))


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """Every image of one acquisition, by run, echo time [s] and part."""

    images: dict[tuple[int, float, str], BidsImage]
    runs: list[int]
    times_s: list[float]
    parts: tuple[str, str]

    @property
    def first(self) -> BidsImage:
        """The first image, whose sidecar speaks for all."""
        return self.images[self.runs[0], self.times_s[0], self.parts[0]]


def _arranged(chosen: list[BidsImage]) -> _Scan:
    """The images in their places; ``BIDS_MISSING`` where one is empty."""
    runs = sorted({image.run for image in chosen})
    times_s = sorted({image.echo_time_s for image in chosen})
    kinds = {image.part for image in chosen}
    parts = ("real", "imaginary") if {"real", "imaginary"} <= kinds else ("magnitude", "phase")
    images: dict[tuple[int, float, str], BidsImage] = {}
    for image in chosen:
        twin = images.setdefault((image.run, image.echo_time_s, image.part), image)
        if twin is not image:
            raise InputError(
                f"Echoes {' and '.join(sorted(str(i.entities.get('echo', '?')) for i in (twin, image)))} ({image.part}) have the same "
                f"EchoTime, {1e3 * image.echo_time_s:g} ms.",
                remedy="Correct EchoTime in the JSON beside one of the images, or remove the image that is there twice.",
                code="ECHO_TIMES",
            )
    missing = [
        f"{part} of the echo at {1e3 * t:g} ms{f', run {run}' if len(runs) > 1 else ''}"
        for run in runs
        for t in times_s
        for part in parts
        if (run, t, part) not in images
    ]
    if missing:
        raise InputError(
            f"{len(missing)} MEGRE images are missing: {'; '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}.",
            remedy="Convert the visit again, completely.",
            code="BIDS_MISSING",
        )
    scan = _Scan(images=images, runs=runs, times_s=times_s, parts=parts)
    _refuse_strangers(scan)
    return scan


def _refuse_strangers(scan: _Scan) -> None:
    """All images are of one scanner, and both parts of an echo of one time."""

    def header(image: BidsImage) -> dict[str, Any]:
        # the one key that BIDS spells otherwise
        return {**image.sidecar, "ManufacturerModelName": image.sidecar.get("ManufacturersModelName")}

    first = header(scan.first)
    for (run, t, part), image in scan.images.items():
        fields = scanner_differences(header(image).get, first.get)
        apart_s = abs(_time_of_day_s(image.sidecar) - _time_of_day_s(scan.images[run, t, scan.parts[0]].sidecar))
        if TWO_RUNS_S < apart_s < DAY_S - TWO_RUNS_S:
            fields.append("AcquisitionTime")
        if fields:
            raise InputError(
                f"The {part} of the echo at {1e3 * t:g} ms is of another scan than the {scan.parts[0]}: "
                f"the sidecars differ in {', '.join(fields)}.",
                remedy="Convert both from one scan.",
                code="BIDS_PARTS_DIFFER",
            )


def _signal(scan: _Scan, params: DicomParams) -> tuple[AnyArray, VoxelGrid, tuple[tuple[str, str], ...]]:
    """Complex signal (x, y, z, echo, repetition), its grid, and the digest of each image's name and file."""
    grid: VoxelGrid | None = None
    volumes: list[AnyArray] = []  # (x, y, z, echo, repetition) per run
    manifest = []
    for run in scan.runs:
        echoes = []
        for t in scan.times_s:
            halves = []
            for part in scan.parts:
                image = scan.images[run, t, part]
                values, here = _load(image.path, params)
                if grid is None:
                    grid = here
                if not here.matches(grid, 1e-2):
                    raise InputError(
                        f"The MEGRE images lie on different grids ({grid.shape} and {here.shape}, or different affines).",
                        remedy="Keep one acquisition, as it was reconstructed.",
                        code="BIDS_GRIDS_DIFFER",
                    )
                halves.append(_radians(values, image.sidecar) if part == "phase" else values)
                digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
                manifest.append((hashlib.sha256(image.path.name.encode()).hexdigest(), digest))
            if halves[0].shape != halves[1].shape:
                raise InputError("Magnitude and phase have different numbers of volumes.", remedy="Convert again.", code="BIDS_MISSING")
            echoes.append(halves[0] * np.exp(1j * halves[1]) if scan.parts[0] == "magnitude" else halves[0] + 1j * halves[1])
        counts = {echo.shape[3] for echo in echoes}
        if len(counts) > 1:
            raise InputError("The echoes have different numbers of volumes.", remedy="Convert the visit again.", code="BIDS_MISSING")
        volumes.append(np.stack(echoes, axis=3).astype(np.complex64))
    assert grid is not None
    return np.concatenate(volumes, axis=4), grid, tuple(sorted(manifest))


def _images(folder: Path) -> tuple[list[BidsImage], list[SetAside], int]:
    """The session's MEGRE images, what else is there, and the number of files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images: list[BidsImage] = []
    others: Counter[str] = Counter()
    for path in files:
        if not path.name.endswith((".nii", ".nii.gz")):
            continue
        match = _NAME.match(path.name)
        if match is None or (path.is_symlink() and not path.resolve().is_relative_to(_root_of(folder).resolve())):
            suffix = re.sub(r"\.nii(\.gz)?\Z", "", path.name).rsplit("_", 1)[-1]
            others[known_words(suffix) or "other"] += 1
            continue
        entities = dict(pair.split("-", 1) for pair in match["entities"].strip("_").split("_"))
        sidecar = _sidecar(path, entities, _root_of(folder))
        part = _PARTS.get(entities.get("part", "mag"))
        if part is None:
            others["MEGRE"] += 1
            continue
        echo_time_s = _number(sidecar, "EchoTime")
        if not 0 < echo_time_s < 0.5:
            raise InputError(
                f"Echo {entities.get('echo', '?')} ({part}) has no EchoTime between 0 and 0.5 s in its sidecar.",
                remedy="Write EchoTime in seconds into the JSON beside the image.",
                code="BIDS_ECHO_TIME",
            )
        run = int(entities["run"]) if entities.get("run", "").isdigit() else 0
        images.append(BidsImage(path=path, entities=entities, sidecar=sidecar, part=part, echo_time_s=round(echo_time_s, 7), run=run))
    aside = [
        SetAside(name=f"{suffix} images x{n}", kind="other images", reason="no MEGRE magnitude, phase, real or imaginary")
        for suffix, n in sorted(others.items())
    ]
    if not images:
        raise InputError(
            f"No MEGRE image among {len(files)} files.",
            remedy="Name the echoes sub-<P>_ses-<S>_echo-<k>_part-mag_MEGRE.nii.gz and ..._part-phase_...",
            code="BIDS_NONE",
        )
    return images, aside, len(files)


def _root_of(folder: Path) -> Path:
    """The dataset that a session folder belongs to: the folder above ``sub-<P>``."""
    return next((parent.parent for parent in (folder, *folder.parents) if parent.name.startswith("sub-")), folder)


def _sidecar(path: Path, entities: dict[str, str], root: Path) -> dict[str, Any]:
    """The image's JSON with all that it inherits (BIDS inheritance principle); the nearest file wins."""
    merged: dict[str, Any] = {}
    folders = [folder for folder in (path.parent, *path.parent.parents) if folder == root or folder.is_relative_to(root)]
    for folder in reversed(folders):
        found = []
        for candidate in folder.glob("*MEGRE.json"):
            pairs = candidate.name.removesuffix("MEGRE.json").strip("_")
            wanted = dict(pair.split("-", 1) for pair in pairs.split("_") if "-" in pair)
            if all(entities.get(key) == value for key, value in wanted.items()):
                found.append((len(wanted), candidate))
        for _, candidate in sorted(found):
            if candidate.stat().st_size > 5_000_000:
                raise InputError("A sidecar of more than 5 MB.", remedy="Convert the visit again.", code="BIDS_SIDECAR")
            try:
                content = json.loads(candidate.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                raise InputError("A MEGRE sidecar is not readable JSON.", remedy="Convert the visit again.", code="BIDS_SIDECAR") from None
            if isinstance(content, dict):
                merged |= content
    return merged


def _choose(images: list[BidsImage], params: DicomParams) -> tuple[list[BidsImage], list[str]]:
    """The images of one acquisition: of several the one with most echoes, of several runs the last, or all as repetitions.

    Runs of an acquisition that calls itself ``acq-ungated``, as this package writes them, are repetitions in any case.
    """
    groups: dict[tuple[tuple[str, str], ...], list[BidsImage]] = defaultdict(list)
    for image in images:
        groups[tuple(sorted((k, v) for k, v in image.entities.items() if k not in {"echo", "part", "run"}))].append(image)
    ranked = sorted(groups.values(), key=lambda group: (_n_complex(group), len(group)), reverse=True)
    chosen, notes = ranked[0], []
    if len(ranked) > 1:
        label = "_".join(f"{k}-{v}" for k, v in chosen[0].entities.items() if k not in {"sub", "ses", "echo", "part", "run"})
        notes.append(f"{len(ranked)} MEGRE acquisitions; the one with most echoes is used ({known_words(label) or 'unnamed'}).")
    n_echoes = len({image.echo_time_s for image in chosen})
    if n_echoes < 2:
        raise InputError("Only one echo; at least two are needed.", remedy="Convert the multi-echo series.", code="DICOM_ONE_ECHO")
    if _n_complex(chosen) == 0:
        kinds = ", ".join(sorted({image.part for image in chosen}))
        raise InputError(f"{n_echoes} echoes, but only {kinds} images.", remedy="Add the part-phase images.", code="DICOM_NO_PHASE")
    runs = sorted({image.run for image in chosen})
    if len(runs) > 1 and params.repeated_series == "last" and chosen[0].entities.get("acq") != UNGATED:
        notes.append(f"{len(runs)} runs; the last one is used (dicom.repeated_series).")
        chosen = [image for image in chosen if image.run == runs[-1]]
    return chosen, notes


def _n_complex(group: list[BidsImage]) -> int:
    parts: dict[tuple[int, float], set[str]] = defaultdict(set)
    for image in group:
        parts[image.run, image.echo_time_s].add(image.part)
    return sum({"magnitude", "phase"} <= found or {"real", "imaginary"} <= found for found in parts.values())


def _load(path: Path, params: DicomParams) -> tuple[FloatArray, VoxelGrid]:
    """Values (x, y, z, repetition) and grid of a NIfTI image; what its header promises must fit the cap."""
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        if len(shape) not in (3, 4) or min(shape) < 1 or 4 * int(np.prod(shape)) > params.largest_file_mb * 1e6:
            raise InputError(f"A MEGRE image has the shape {shape}.", remedy="Convert the visit again.", code="BIDS_SHAPE")
        values = np.asarray(image.dataobj, dtype=np.float32)
        grid = VoxelGrid(shape=(shape[0], shape[1], shape[2]), affine_mm=np.asarray(image.affine, dtype=np.float64))
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the parser fail in any way; its message may hold its name
        raise InputError(
            f"A MEGRE image cannot be read ({type(error).__name__}).", remedy="Convert the visit again.", code="NIFTI_UNREADABLE"
        ) from None
    if not np.isfinite(values).all():
        raise InputError("A MEGRE image holds values that are no numbers.", remedy="Convert the visit again.", code="BIDS_NOT_FINITE")
    return values.reshape((*shape[:3], -1)), grid


def _radians(values: FloatArray, sidecar: dict[str, Any]) -> FloatArray:
    """Phase [rad] by the unit of the sidecar, else by the range that the values fill.

    Converters leave Siemens phase in -4096..4094 or 0..4095 steps and older Philips phase in milliradians.
    """
    unit = str(sidecar.get("Units", "")).lower()
    if unit in {"rad", "radian", "radians"}:
        return values
    low, high = float(values.min()), float(values.max())
    turn = turn_of_range(low, high)
    if turn is not None:
        return values * np.float32(turn[0]) + np.float32(turn[1])
    raise InputError(
        f"The phase images have no unit in their sidecar, and their range {low:g} to {high:g} is no whole turn.",
        remedy='Write "Units": "rad" into the sidecar of a phase in rad.',
        code="DICOM_PHASE_UNIT",
    )


def _to_our_sign(signal: AnyArray, sidecar: dict[str, Any], notes: list[str]) -> None:
    """Turn the complex volumes to the sign of this package, in place."""
    stated = sidecar.get("OffResonanceSign")
    if stated in (1, -1):
        if stated == -1:
            np.conjugate(signal, out=signal)
    elif str(sidecar.get("Manufacturer", "")).strip().lower().startswith("ge"):
        for r in range(signal.shape[4]):
            Ge().finish(signal[..., r])
        notes.append("GE images without OffResonanceSign: taken with GE's opposite phase sign.")


def _field_strength_tesla(sidecar: dict[str, Any]) -> float:
    nominal, frequency_mhz = _number(sidecar, "MagneticFieldStrength"), _number(sidecar, "ImagingFrequency")
    if nominal > 0:
        return agreed_field_strength_tesla(nominal, frequency_mhz)
    raise InputError("The sidecars have no MagneticFieldStrength.", remedy="Write it (in T) into the sidecar.", code="DICOM_FIELD_STRENGTH")


def _repetition_time_s(sidecar: dict[str, Any]) -> float:
    excitation = _number(sidecar, "RepetitionTimeExcitation")
    return excitation if np.isfinite(excitation) else _number(sidecar, "RepetitionTime")


def _number(sidecar: dict[str, Any], key: str) -> float:
    try:
        return float(sidecar[key])
    except (KeyError, TypeError, ValueError):
        return float("nan")


def _time_of_day_s(sidecar: dict[str, Any]) -> float:
    parts = str(sidecar.get("AcquisitionTime", "")).split(":")
    try:
        return 3600 * int(parts[0]) + 60 * int(parts[1]) + float(parts[2])
    except (ValueError, IndexError):
        return float("nan")
