"""Each chosen frame in its place: the whole grid of echo x slice x repetition x part is there, or what is missing is named.

Slices are told apart by ImagePositionPatient along the slice normal, repetitions by the first attribute that gives
every image a place of its own; never by file names, file order or SliceThickness.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pydicom

from hqsm.arrays import FloatArray
from hqsm.clock import past_midnight_s
from hqsm.data import SetAside, VoxelGrid
from hqsm.dicom.choice import PAIRS, distinct_echo_times_s, nearest
from hqsm.dicom.conventions import Scaling, rescale, turn_of_range
from hqsm.dicom.files import read_pixels
from hqsm.dicom.frames import Frame, slice_normal
from hqsm.dicom.strangers import SAME_TIME_S, TWO_RUNS_S, scanner_differences
from hqsm.errors import InputError
from hqsm.units import DAY_S

_SLICE_TOLERANCE_MM = 0.02
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


def arrange(frames: list[Frame], aside: list[tuple[Frame, SetAside]], notes: tuple[str, ...]) -> Acquisition:
    """Give every frame its slice, echo, repetition and part; refuse holes, doubles and uneven slices."""
    parts = max(PAIRS, key=lambda pair: min(sum(f.part == part for f in frames) for part in pair))
    for frame in frames:
        if frame.part not in parts:
            aside.append((frame, SetAside(name=frame.name, kind="not needed", reason=f"{parts[0]} and {parts[1]} are used")))
    frames = [frame for frame in frames if frame.part in parts]
    frames, notes = _with_phase_units(frames, notes)
    _refuse_the_undecodable(frames)
    times = distinct_echo_times_s(frames)
    positions = _slice_positions(frames)
    normal = slice_normal(frames[0])
    along = (np.array([frame.position_mm for frame in frames]) @ normal).tolist()
    slices, echo = nearest(positions.tolist(), along), nearest(times, (frame.echo_time_s for frame in frames))
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
    # not by the header's day, which may be the series' own or blank
    return [float(time_s) for time_s in past_midnight_s(np.array([frame.time_of_day_s for frame in frames])).round(3)]


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
    """Two parts of one place are of one scanner, and joined by the clock; a repetition's number makes up for a rough clock only."""
    for (k, echo, r, part), one in table.items():
        if part != parts[0]:
            continue
        other = table[k, echo, r, parts[1]]
        fields = scanner_differences(one.header.get, other.header.get)
        if fields:
            raise InputError(
                f"{parts[0].capitalize()} ({one.name}) and {parts[1]} ({other.name}) are of two scanners: "
                f"they differ in {', '.join(fields)}.",
                remedy="Export both from one scan.",
                code="DICOM_PARTS_DIFFER",
            )
        same_number = one.temporal == other.temporal and one.acquisition_number == other.acquisition_number
        apart_s = abs((one.time_of_day_s - other.time_of_day_s + DAY_S / 2) % DAY_S - DAY_S / 2)
        if apart_s > (TWO_RUNS_S if same_number else SAME_TIME_S):
            raise InputError(
                f"{parts[0].capitalize()} ({one.name}) and {parts[1]} ({other.name}) were not acquired together: "
                f"{apart_s:.3g} s lie between them by AcquisitionTime.",
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
