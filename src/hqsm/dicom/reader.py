"""A visit folder of raw DICOM becomes one complex multi-echo acquisition, or a sentence that says why not.

Echoes are told apart by EchoTime, slices by ImagePositionPatient along the slice normal, repetitions by the first
attribute that gives every image a place of its own; never by file names, file order or SliceThickness. The whole grid
of echo x slice x repetition x part must be there: what is missing is named.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from hqsm.arrays import AnyArray, FloatArray
from hqsm.config.dicom import DicomParams
from hqsm.data import AcquisitionInfo, NavigatorTrace, RepeatedMultiEcho, SetAside, VisitAcquisition, VoxelGrid
from hqsm.dicom.conventions import IMAGINARY, MAGNITUDE, PHASE, REAL, Scaling, rescale, turn_of_range
from hqsm.dicom.files import FolderContent, look_through, read_pixels, stored_pixels
from hqsm.dicom.frames import Frame, Header, Leftover, frames_of, slice_normal
from hqsm.dicom.guarded import RLE
from hqsm.dicom.navigator import read_navigator_csv
from hqsm.errors import InputError
from hqsm.units import field_strength_from_frequency_tesla, milliseconds_to_s

_SLICE_TOLERANCE_MM = 0.02
_ECHO_TOLERANCE_S = 20e-6
_SAME_TIME_S = 0.5
"""Parts of one image are reconstructed from one acquisition; their times differ by rounding only."""
_PAIRS = ((REAL, IMAGINARY), (MAGNITUDE, PHASE))
Place = tuple[int, int, int, str]
"""Slice, echo and repetition from 0, and the part."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Acquisition:
    """The frames that are used, each in its place, and what was left aside on the way."""

    table: dict[Place, Frame]
    parts: tuple[str, str]
    echo_times_s: FloatArray
    positions_mm: FloatArray
    n_repetitions: int
    aside: list[tuple[Frame, SetAside]]
    notes: tuple[str, ...]

    @property
    def first(self) -> Frame:
        """The first slice of the first echo and repetition."""
        return self.table[0, 0, 0, self.parts[0]]


def read_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    """Read a visit folder.

    Raises
    ------
    InputError
        If the folder holds no complex multi-echo acquisition, an incomplete one, two patients, or headers whose values
        cannot be used (``DICOM_DAMAGED``).
    """
    with unusable_values_named():
        return _read_visit(folder, params)


@contextmanager
def unusable_values_named() -> Iterator[None]:
    """Whatever values of a header lead to becomes an :class:`InputError` that repeats none of them."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError, NotImplementedError) as error:
        # what a header may contain has no end; the message of the exception can hold a value of it
        raise InputError(
            f"The headers hold values that cannot be used ({type(error).__name__}).",
            remedy="Export the visit again; if it stays, `hqsm inspect` the folder series by series.",
            code="DICOM_DAMAGED",
        ) from error


def _read_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    content = look_through(folder, params)
    frames, rest = frames_of(content.images)
    with np.errstate(invalid="ignore", over="ignore"):  # a header may hold any number; what comes of it is checked
        acquisition = plan(content, frames, rest, params)
        signal, times_of_day_s, manifest = _assemble(acquisition, params)
    header = acquisition.first.header
    info = AcquisitionInfo(
        convention=acquisition.first.convention.name,
        manufacturer=header.text("Manufacturer"),
        model=header.text("ManufacturerModelName"),
        software=header.text("SoftwareVersions"),
        acquisition_date=_iso_date(acquisition.first.date),
        flip_angle_degrees=header.number("FlipAngle"),
        repetition_time_s=milliseconds_to_s(header.number("RepetitionTime")),
        imaging_frequency_mhz=_frequency_mhz(header),
        n_files=content.n_files,
        set_aside=summarised([*content.aside, *(left.aside for left in rest), *(item for _, item in acquisition.aside)]),
        notes=notes_of(content, acquisition),
        manifest=manifest,
    )
    echoes = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=acquisition.echo_times_s,
        field_strength_tesla=field_strength_tesla(header),
        grid=grid_of(acquisition),
        repetition_times_of_day_s=times_of_day_s,
    )
    return VisitAcquisition(echoes=echoes, info=info, navigator=read_navigator(folder, echoes.n_repetitions))


def notes_of(content: FolderContent, acquisition: Acquisition) -> tuple[str, ...]:
    """What a person should know about an acquisition that is used, one sentence each."""
    notes = list(acquisition.notes)
    if content.n_same:
        notes.insert(0, f"{content.n_same} files were exact copies of others and are ignored.")
    convention = acquisition.first.convention
    if not convention.sign_was_measured:
        notes.append(f"The sign of the phase is assumed for {convention.name}: see that fat and water are not exchanged.")
    return tuple(notes)


def read_navigator(folder: Path, n_repetitions: int) -> NavigatorTrace | None:
    """The visit's navigator.csv; None without one, or for a single repetition."""
    found = sorted(folder.rglob("navigator.csv"))
    if not found or n_repetitions == 1:
        return None
    if len(found) > 1:
        raise InputError(f"{len(found)} files named navigator.csv.", remedy="Keep the right one.", code="NAVIGATOR_MANY")
    return read_navigator_csv(found[0], n_repetitions)


def plan(content: FolderContent, frames: list[Frame], rest: list[Leftover], params: DicomParams) -> Acquisition:
    """Decide which frames make the acquisition; no pixel is read.

    Raises
    ------
    InputError
        See :func:`read_visit`.
    """
    if not content.images:
        packed = any(item.name == "archives" for item in content.aside)
        raise InputError(
            f"No DICOM image among {content.n_files} files.",
            remedy="Unpack the archives." if packed else "Put the visit's raw DICOM here.",
            code="DICOM_NONE",
        )
    _one_patient(content)
    if not frames:
        found = ", ".join(sorted({left.aside.kind for left in rest}))
        raise InputError(
            "None of the images is an original magnitude, phase, real or imaginary image of a known vendor"
            + (f" (found: {found})." if found else "."),
            remedy="Export the multi-echo series with magnitude and phase.",
            code="DICOM_NO_ORIGINAL",
        )
    chosen, aside, notes = _choose(frames, params)
    _one_day(chosen)
    return _arrange(chosen, aside, notes)


def _one_patient(content: FolderContent) -> None:
    def identity(header: Any) -> str:
        number = str(header.get("PatientID", "") or "").strip().upper()
        return number or str(header.get("PatientName", "") or "").strip(" ^").upper()

    patients = {identity(image.header) for image in content.images} - {""}
    if len(patients) > 1:
        raise InputError(
            f"The images belong to {len(patients)} different patients.",
            remedy="Keep one patient's images in this folder.",
            code="DICOM_TWO_PATIENTS",
        )


def _one_day(frames: list[Frame]) -> None:
    days = set()
    for text in {frame.date for frame in frames}:
        try:
            days.add(date(int(text[:4]), int(text[4:6]), int(text[6:8])))
        except ValueError:
            continue
    if days and (max(days) - min(days)).days > 1:  # a scan may pass midnight
        raise InputError(
            f"The images were acquired on days {(max(days) - min(days)).days} days apart.",
            remedy="Put each visit into a folder of its own.",
            code="DICOM_TWO_VISITS",
        )


# --- which frames ---------------------------------------------------------------------------------------------------


def _key(frame: Frame) -> tuple[Any, ...]:
    """What all images of one acquisition share."""
    return (*frame.protocol, frame.file.columns, frame.file.rows)


def _choose(frames: list[Frame], params: DicomParams) -> tuple[list[Frame], list[tuple[Frame, SetAside]], tuple[str, ...]]:
    """The acquisition with most echoes, then most images, then the last one; the others are left aside with the reason."""
    groups: dict[tuple[Any, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_key(frame)].append(frame)
    aside: list[tuple[Frame, SetAside]] = []
    runs: list[list[Frame]] = []
    joined = 0
    for group in groups.values():
        found = _runs(_without_filtered_copies(group, aside))
        if params.repeated_series == "repetitions" and len(found) > 1:
            joined += len(found)
            found = [_as_repetitions(found)]
        runs += found
    ranked = sorted(runs, key=lambda run: (*_worth(run), not run[0].filters, _start(run)), reverse=True)
    chosen = ranked[0]
    _refuse_what_is_not_complex(chosen, ranked)
    chosen = _without_foreign_magnitudes(chosen, aside)
    n_echoes = len(_echo_times(chosen))
    notes = []
    for run in ranked[1:]:
        reason = _why_not(run, chosen, n_echoes)
        aside += [(frame, SetAside(name=frame.name, kind="another acquisition", reason=reason)) for frame in run]
        if _worth(run) == _worth(chosen):
            notes.append(f"The protocol was run more than once; the last complete run is used ({chosen[0].name}).")
    if joined:
        notes.append(f"{joined} runs of the protocol are taken as repetitions (dicom.repeated_series).")
    if any("NORM" in frame.filters for frame in chosen):
        notes.append("Only intensity-normalised magnitude images (NORM) are there; the noise is not uniform.")
    return chosen, aside, tuple(dict.fromkeys(notes))


def _start(run: list[Frame]) -> tuple[tuple[str, float], int]:
    """When a run began, by date, time of day, and series number."""
    times = [(frame.date, frame.time_of_day_s) for frame in run if np.isfinite(frame.time_of_day_s)]
    return min(times, default=("", 0.0)), min(frame.series_number for frame in run)


def _echo_times(frames: list[Frame]) -> list[float]:
    """Distinct echo times [s]; times that differ by rounding only are one, the commonest."""
    counts = Counter(frame.echo_time_s for frame in frames)
    groups: list[list[float]] = []
    for value in sorted(counts):
        if groups and value - groups[-1][0] <= _ECHO_TOLERANCE_S:
            groups[-1].append(value)
        else:
            groups.append([value])
    return [max(group, key=lambda value: counts[value]) for group in groups]


def _nearest(among: list[float], values: Iterable[float]) -> dict[float, int]:
    """For each distinct value the index of the nearest one among a few."""
    return {value: min(range(len(among)), key=lambda k: abs(among[k] - value)) for value in set(values)}


def _parts_by_echo(frames: list[Frame]) -> dict[float, set[str]]:
    times = _echo_times(frames)
    echo = _nearest(times, (frame.echo_time_s for frame in frames))
    parts: dict[float, set[str]] = {time: set() for time in times}
    for frame in frames:
        parts[times[echo[frame.echo_time_s]]].add(frame.part)
    return parts


def _is_complex(parts: set[str]) -> bool:
    return any(set(pair) <= parts for pair in _PAIRS)


def _worth(run: list[Frame]) -> tuple[int, int]:
    return sum(_is_complex(parts) for parts in _parts_by_echo(run).values()), len(run)


def _why_not(run: list[Frame], chosen: list[Frame], n_echoes: int) -> str:
    n_complex, n_images = _worth(run)
    if n_complex == 0:
        return f"{' and '.join(sorted({frame.part for frame in run}))} only"
    if n_complex < n_echoes:
        return f"{n_complex} complex echoes; the acquisition with {n_echoes} is used"
    if n_images < len(chosen):
        return f"{n_images} images; the acquisition with {len(chosen)} is used"
    return "an earlier run of the same protocol; the last complete one is used"


def _without_filtered_copies(group: list[Frame], aside: list[tuple[Frame, SetAside]]) -> list[Frame]:
    """Per part the plain images where they are there; filtered copies (NORM and others) are left aside."""
    kept = []
    fewest = {
        part: min(len(frame.filters - {"DIS2D", "DIS3D"}) for frame in group if frame.part == part) for part in {f.part for f in group}
    }
    for frame in group:
        if len(frame.filters - {"DIS2D", "DIS3D"}) == fewest[frame.part]:
            kept.append(frame)
        else:
            words = ", ".join(sorted(frame.filters))
            aside.append((frame, SetAside(name=frame.name, kind="filtered copy", reason=f"{words}: the unfiltered images are used")))
    return kept


def _runs(group: list[Frame]) -> list[list[Frame]]:
    """Series that were acquired together: a series that repeats images of a run, or lies elsewhere, starts a new one.

    Series are taken in the order of their acquisition times, so that each phase series meets its own magnitude.
    """
    series: dict[str, list[Frame]] = defaultdict(list)
    for frame in group:
        series[frame.series_uid].append(frame)
    normal = slice_normal(group[0])

    def places(frames: list[Frame]) -> set[tuple[Any, ...]]:
        along = (np.array([frame.position_mm for frame in frames]) @ normal).round(1).tolist()
        return {(f.part, f.echo_time_s, f.temporal, place) for f, place in zip(frames, along, strict=True)}

    runs: list[tuple[set[tuple[Any, ...]], list[Frame]]] = []
    for frames in sorted(series.values(), key=_start):
        here = places(frames)
        where = {place[-1] for place in here}
        for taken, members in reversed(runs):
            there = {place[-1] for place in taken}
            if not here & taken and 2 * len(where & there) >= min(len(where), len(there)):
                taken |= here
                members += frames
                break
        else:
            runs.append((here, list(frames)))
    return [members for _, members in runs]


def _as_repetitions(runs: list[list[Frame]]) -> list[Frame]:
    """Runs of one protocol as repetitions of one scan, in the order of their times."""
    return [
        replace(frame, temporal=1000 * (k + 1) + max(frame.temporal, 0)) for k, run in enumerate(sorted(runs, key=_start)) for frame in run
    ]


def _refuse_what_is_not_complex(chosen: list[Frame], runs: list[list[Frame]]) -> None:
    parts = _parts_by_echo(chosen)
    n_complex = sum(_is_complex(found) for found in parts.values())
    if n_complex >= 2:
        return
    everything = {frame.part for run in runs for frame in run}
    words = ", ".join(sorted({frame.part for frame in chosen}))
    if len(parts) >= 2 and n_complex == 1:
        raise InputError(
            f"{len(parts)} echoes were found, but phase (or real and imaginary) images of one of them only: a field-map series?",
            remedy="Export the multi-echo series with the phase of every echo.",
            code="DICOM_NO_PHASE",
        )
    if len(parts) < 2 and not any(len(_parts_by_echo(run)) > 1 for run in runs):
        raise InputError(
            "Every series has a single echo time; at least two echoes are needed.",
            remedy="Export the multi-echo series.",
            code="DICOM_ONE_ECHO",
        )
    if _is_complex(everything):
        sizes = sorted({(f"{run[0].file.columns} x {run[0].file.rows}", run[0].part) for run in runs if len(_parts_by_echo(run)) > 1})
        raise InputError(
            "Magnitude and phase do not belong together: " + ", ".join(f"{part} {size}" for size, part in sizes) + ".",
            remedy="Export both from the same reconstruction, with one matrix and one geometry.",
            code="DICOM_PARTS_DIFFER",
        )
    raise InputError(
        f"{len(parts)} echoes were found, but only {words} images of them.",
        remedy="Export the phase (or real and imaginary) images too.",
        code="DICOM_NO_PHASE",
    )


def _without_foreign_magnitudes(run: list[Frame], aside: list[tuple[Frame, SetAside]]) -> list[Frame]:
    """Leave aside series without one complex echo, whose echo times no complex echo has: combined echoes, other scans."""
    parts = _parts_by_echo(run)
    times = list(parts)
    complex_echo = {k for k, time in enumerate(times) if _is_complex(parts[time])}
    echo = _nearest(times, (frame.echo_time_s for frame in run))
    partners = {frame.series_uid for frame in run if echo[frame.echo_time_s] in complex_echo}
    kept = []
    for frame in run:
        if frame.series_uid in partners:
            kept.append(frame)
        else:
            aside.append((frame, SetAside(name=frame.name, kind="other images", reason=f"{frame.part} only, at an echo time of its own")))
    return kept


# --- each frame in its place ----------------------------------------------------------------------------------------


def _arrange(frames: list[Frame], aside: list[tuple[Frame, SetAside]], notes: tuple[str, ...]) -> Acquisition:
    """Give every frame its slice, echo, repetition and part; refuse holes, doubles and uneven slices."""
    parts = max(_PAIRS, key=lambda pair: min(sum(f.part == part for f in frames) for part in pair))
    for frame in frames:
        if frame.part not in parts:
            aside.append((frame, SetAside(name=frame.name, kind="not needed", reason=f"{parts[0]} and {parts[1]} are used")))
    frames = [frame for frame in frames if frame.part in parts]
    frames, notes = _with_phase_units(frames, notes)
    _refuse_the_undecodable(frames)
    times = _echo_times(frames)
    positions = _slice_positions(frames)
    normal = slice_normal(frames[0])
    along = (np.array([frame.position_mm for frame in frames]) @ normal).tolist()
    slices, echo = _nearest(positions.tolist(), along), _nearest(times, (frame.echo_time_s for frame in frames))
    spot = [(slices[place], echo[frame.echo_time_s], frame.part) for place, frame in zip(along, frames, strict=True)]
    repetition, n_same = _repetitions(frames, spot, times)
    table: dict[Place, Frame] = {}
    for frame, (k, e, part), r in zip(frames, spot, repetition, strict=True):
        if r >= 0:
            table[k, e, r, part] = frame
    n_repetitions = max(repetition) + 1
    _refuse_holes(table, times, len(positions), n_repetitions, parts)
    _refuse_strangers(table, parts)
    if n_same:
        notes = (*notes, f"{n_same} images were there twice under different identifiers and are ignored.")
    return Acquisition(
        table=table,
        parts=parts,
        echo_times_s=np.array(times),
        positions_mm=positions,
        n_repetitions=n_repetitions,
        aside=aside,
        notes=notes,
    )


def _with_phase_units(frames: list[Frame], notes: tuple[str, ...]) -> tuple[list[Frame], tuple[str, ...]]:
    """Phase images whose headers state no unit get it from the range that the values of their series fill, if they fill a turn."""
    silent: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        if frame.scaling is None and frame.file.readable:
            silent[frame.series_uid].append(frame)
    known: dict[str, Scaling] = {}
    for series_uid, members in silent.items():
        low, high = np.inf, -np.inf
        for file in {id(frame.file): frame.file for frame in members}.values():
            pixels = read_pixels(file)
            for frame in members:
                if frame.file is file:
                    slope, intercept = rescale(frame.header)
                    ends = (slope * float(pixels[frame.index].min()) + intercept, slope * float(pixels[frame.index].max()) + intercept)
                    low, high = min(low, *ends), max(high, *ends)
        turn = turn_of_range(low, high)
        if turn is not None:
            known[series_uid] = turn
            notes = (*notes, f"The unit of the phase of {members[0].name} is taken from its range, {low:g} to {high:g}: one turn.")

    def with_unit(frame: Frame) -> Frame:
        slope, intercept = rescale(frame.header)
        factor, offset = known[frame.series_uid]
        return replace(frame, scaling=(slope * factor, intercept * factor + offset))

    return [with_unit(frame) if frame.scaling is None and frame.series_uid in known else frame for frame in frames], notes


def _refuse_the_undecodable(frames: list[Frame]) -> None:
    for frame in frames:
        if not frame.file.readable:
            raise InputError(
                f"The images of {frame.name} are compressed ({pydicom.uid.UID(frame.file.syntax).name}).",
                remedy="Decompress them first, for example: gdcmconv --raw IN OUT.",
                code="DICOM_COMPRESSED",
            )
        if frame.scaling is None:
            raise InputError(
                f"The phase images of {frame.name} do not say what a stored value means: no unit, no rescale to one turn.",
                remedy="Export them with their rescale tags, or as real and imaginary images.",
                code="DICOM_PHASE_UNIT",
            )


def _repetitions(frames: list[Frame], spot: list[tuple[int, int, str]], times: list[float]) -> tuple[list[int], int]:
    """Repetition of each frame from 0 (-1: an exact copy), by the first evidence that gives each a place of its own."""
    moments = _moments_s(frames)
    evidence: list[list[tuple[float, ...]]] = [
        [() for _ in frames],
        [(frame.temporal,) for frame in frames],
        [(frame.temporal, frame.acquisition_number) for frame in frames],
    ]
    n_distinct = [len(set(zip(spot, values, strict=True))) for values in evidence]
    if max(n_distinct) == len(frames):
        values = evidence[n_distinct.index(len(frames))]
        return _numbered_by_slice(values, spot) or _numbered(values), 0
    by_spot: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for k, place in enumerate(spot):
        by_spot[place].append(k)
    even = len({len(members) for members in by_spot.values()}) == 1
    if even and all(np.isfinite(moments)) and all(len({moments[k] for k in members}) == len(members) for members in by_spot.values()):
        # nothing but the clock tells them apart, and a slice or an echo may have a time of its own: the r-th of each place
        found = [0] * len(frames)
        for members in by_spot.values():
            for r, k in enumerate(sorted(members, key=lambda k: moments[k])):
                found[k] = r
        return found, 0
    return _without_copies(frames, spot, _numbered(evidence[n_distinct.index(max(n_distinct))]), times)


def _moments_s(frames: list[Frame]) -> list[float]:
    """When each frame was acquired [s], to the ms, on a clock that goes on at midnight; NaN where its header is silent."""
    days: list[int] = []
    for frame in frames:
        try:
            days.append(date(int(frame.date[:4]), int(frame.date[4:6]), int(frame.date[6:8])).toordinal())
        except ValueError:
            days.append(0)
    return [round(86400 * (day - min(days)) + frame.time_of_day_s, 3) for day, frame in zip(days, frames, strict=True)]


def _numbered_by_slice(values: list[tuple[float, ...]], spot: list[tuple[int, int, str]]) -> list[int]:
    """Repetitions where a number counts slices as well (each slice has numbers of its own, the same for its echoes and parts).

    None of them where that is not so: then a number stands for a repetition, and one that an image lacks is a hole.
    """
    by_slice: dict[int, dict[tuple[int, str], set[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(set))
    for (k, echo, part), value in zip(spot, values, strict=True):
        by_slice[k][echo, part].add(value)
    own = {k: next(iter(places.values())) for k, places in by_slice.items()}
    if any(found != own[k] for k, places in by_slice.items() for found in places.values()) or len({len(v) for v in own.values()}) > 1:
        return []
    if sum(len(numbers) for numbers in own.values()) != len(set().union(*own.values())):
        return []
    order = {k: sorted(numbers) for k, numbers in own.items()}
    return [order[k].index(value) for (k, _, _), value in zip(spot, values, strict=True)]


def _numbered(values: list[tuple[float, ...]]) -> list[int]:
    numbers = {value: r for r, value in enumerate(sorted(set(values)))}
    return [numbers[value] for value in values]


def _without_copies(
    frames: list[Frame], spot: list[tuple[int, int, str]], repetition: list[int], times: list[float]
) -> tuple[list[int], int]:
    """Frames that share a place: exact copies are dropped, anything else is a double that only a person can resolve."""
    found, n_same = [], 0
    seen: dict[tuple[int, int, str, int], Frame] = {}
    for frame, (k, echo, part), r in zip(frames, spot, repetition, strict=True):
        other = seen.setdefault((k, echo, part, r), frame)
        if other is frame:
            found.append(r)
            continue
        if not np.array_equal(read_pixels(other.file)[other.index], read_pixels(frame.file)[frame.index]):
            raise InputError(
                f"Slice {k + 1}, echo time {1e3 * times[echo]:g} ms, repetition {r + 1}, {part} is there twice, with different pixels.",
                remedy="Remove the double images, or the series that is not wanted.",
                code="DICOM_DOUBLE",
            )
        n_same += 1
        found.append(-1)
    return found, n_same


def _refuse_holes(table: dict[Place, Frame], times: list[float], n_slices: int, n_repetitions: int, parts: tuple[str, str]) -> None:
    missing = [
        (k, echo, r, part)
        for r in range(n_repetitions)
        for echo in range(len(times))
        for part in parts
        for k in range(n_slices)
        if (k, echo, r, part) not in table
    ]
    if not missing:
        return
    by_echo = [{k for (k, e, _, _) in table if e == echo} for echo in range(len(times))]
    for echo in range(1, len(times)):
        one, other = by_echo[echo - 1], by_echo[echo]
        if one and other and not one & other:
            raise InputError(
                f"Slices differ in echo time: {1e3 * times[echo - 1]:g} ms in {len(one)}, {1e3 * times[echo]:g} ms in {len(other)}.",
                remedy="The slices are of two scans: keep one.",
                code="DICOM_MIXED_ECHO_TIMES",
            )
    total = n_repetitions * len(times) * len(parts) * n_slices
    words = [f"slice {k + 1} echo {1e3 * times[echo]:g} ms repetition {r + 1} {part}" for k, echo, r, part in missing[:3]]
    raise InputError(
        f"{len(missing)} of {total} images are missing: {'; '.join(words)}{' ...' if len(missing) > 3 else ''}.",
        remedy="Export the visit again, completely.",
        code="DICOM_MISSING",
    )


def _refuse_strangers(table: dict[Place, Frame], parts: tuple[str, str]) -> None:
    """Two parts of one place that neither the repetition's number nor the clock joins are of two acquisitions."""
    for (k, echo, r, part), one in table.items():
        if part != parts[0]:
            continue
        other = table[k, echo, r, parts[1]]
        same_number = one.temporal == other.temporal and one.acquisition_number == other.acquisition_number
        apart_s = abs(one.time_of_day_s - other.time_of_day_s)
        if not same_number and apart_s > _SAME_TIME_S:
            raise InputError(
                f"{parts[0].capitalize()} and {parts[1]} were not acquired together: {apart_s:.3g} s lie between them.",
                remedy="Export both parts of every repetition.",
                code="DICOM_PARTS_DIFFER",
            )


def _slice_positions(frames: list[Frame]) -> FloatArray:
    """Sorted positions of the slices along their normal [mm]: evenly spaced and above each other, or refused."""
    normal = slice_normal(frames[0])
    corners = np.array([frame.position_mm for frame in frames])
    along = corners @ normal
    order = np.argsort(along)
    ordered = along[order]
    positions: FloatArray = ordered[np.concatenate([[True], np.diff(ordered) > _SLICE_TOLERANCE_MM])]
    gaps = np.diff(positions)
    if len(positions) > 2:
        usual = float(Counter(np.round(gaps, 2).tolist()).most_common(1)[0][0])
        worst = float(gaps[np.argmax(np.abs(gaps - usual))])
        if abs(worst - usual) > 0.1 * usual:
            raise InputError(
                f"Slices are {usual:g} mm apart, but two of them {worst:g} mm: a slice is missing or does not belong.",
                remedy="Export the visit again, completely.",
                code="DICOM_SLICE_GAP",
            )
    if len(positions) > 1:
        # corners must lie on the normal through the first one; a stack that is sheared or fanned has no single affine
        offset = corners - corners[order[0]] - np.outer(along - ordered[0], normal)
        if np.abs(offset).max() > 0.1 * min(frames[0].spacing_mm):
            raise InputError(
                f"The slices are shifted against each other by up to {np.abs(offset).max():.2g} mm in their plane.",
                remedy="Export the original, unsheared slices.",
                code="DICOM_SHEARED",
            )
    return positions


def grid_of(acquisition: Acquisition) -> VoxelGrid:
    """Affine of the voxel indices (column, row, slice) in RAS+ world coordinates, from position and orientation."""
    first = acquisition.first
    row, column = np.array(first.orientation, float).reshape(2, 3)
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    row_spacing, column_spacing = first.spacing_mm
    positions = acquisition.positions_mm
    n = len(positions)
    between = first.header.number("SpacingBetweenSlices")
    spacing = float(positions[-1] - positions[0]) / (n - 1) if n > 1 else (between if between > 0 else 1.0)
    affine = np.eye(4)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = np.cross(row, column) * spacing
    affine[:3, 3] = first.position_mm
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return VoxelGrid(shape=(first.file.columns, first.file.rows, n), affine_mm=lps_to_ras @ affine)


# --- pixels ---------------------------------------------------------------------------------------------------------


def _assemble(acquisition: Acquisition, params: DicomParams) -> tuple[AnyArray, FloatArray, tuple[tuple[str, str], ...]]:
    """Complex signal (x, y, z, echo, repetition), the repetitions' acquisition times [s since midnight], and the manifest.

    The two parts are written into the real and imaginary halves of the one array that is returned, file by file; magnitude
    and phase are then multiplied out in place, so that the peak is little more than the result. The manifest is what a
    result can be traced to: each file by the hash of its UID, with the hash of its stored pixels.
    """
    first = acquisition.first
    n_echoes, n_slices = len(acquisition.echo_times_s), len(acquisition.positions_mm)
    # slices are contiguous as they come from the files; the transposed view has the package's axis order
    store = np.empty((acquisition.n_repetitions, n_echoes, n_slices, first.file.rows, first.file.columns), np.complex64)
    halves = {acquisition.parts[0]: store.real, acquisition.parts[1]: store.imag}
    by_file: dict[int, list[tuple[Place, Frame]]] = defaultdict(list)
    for place, frame in acquisition.table.items():
        by_file[id(frame.file)].append((place, frame))
    manifest = set()
    for members in by_file.values():
        file = members[0][1].file
        pixels = read_pixels(file)
        stored = stored_pixels(file) if file.syntax == RLE else pixels.data
        uid = file.header.raw("SOPInstanceUID")
        manifest.add((hashlib.sha256(uid).hexdigest(), hashlib.sha256(stored).hexdigest()))
        for (k, echo, r, part), frame in members:
            assert frame.scaling is not None
            slope, offset = frame.scaling
            half = halves[part][r, echo, k]
            np.multiply(pixels[frame.index], np.float32(slope), out=half, casting="unsafe")
            half += np.float32(offset)
    for r in range(acquisition.n_repetitions):
        if acquisition.parts == (MAGNITUDE, PHASE):
            for image in store[r].reshape(-1, first.file.rows, first.file.columns):  # one at a time: it stays in the cache
                magnitude, phase = image.real.copy(), image.imag.copy()
                image.real, image.imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
        repetition = store[r].transpose(3, 2, 1, 0)
        first.convention.finish(repetition)
        if first.convention.name in params.reverse_phase_of:
            np.conjugate(repetition, out=repetition)
        if not np.isfinite(store[r]).all():
            raise InputError(
                "The images hold values that are no numbers (their rescale slope or intercept is infinite).",
                remedy="Export the visit again.",
                code="DICOM_DAMAGED",
            )
    times = np.array([acquisition.table[0, 0, r, acquisition.parts[0]].time_of_day_s for r in range(acquisition.n_repetitions)])
    return store.transpose(4, 3, 2, 1, 0), times, tuple(sorted(manifest))


# --- facts of the header --------------------------------------------------------------------------------------------


def _frequency_mhz(header: Header) -> float:
    """Imaging frequency [MHz]; United Imaging writes it in Hz."""
    frequency = header.number("ImagingFrequency")
    if not frequency > 0:
        frequency = header.number("TransmitterFrequency")
    return frequency / 1e6 if frequency > 1e5 else frequency


def field_strength_tesla(header: Header) -> float:
    """B0 from the imaging frequency where it agrees with the nominal strength, else the nominal strength [T]."""
    frequency, nominal = _frequency_mhz(header), header.number("MagneticFieldStrength")
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


def _iso_date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if len(value) >= 8 and value[:8].isdigit() else ""


def summarised(aside: list[SetAside]) -> tuple[SetAside, ...]:
    """Each kind of thing once, with how many there were."""
    counts = Counter((item.name, item.kind, item.reason) for item in aside)
    return tuple(
        SetAside(name=f"{name} x{n}" if n > 1 else name, kind=kind, reason=reason) for (name, kind, reason), n in sorted(counts.items())
    )
