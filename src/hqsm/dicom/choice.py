"""Which of a folder's series make the acquisition: the protocol with most complex echoes, then most images, then the last run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from hqsm.config.dicom import DicomParams
from hqsm.data import LAST_ECHO_S, SetAside
from hqsm.dicom.conventions import IMAGINARY, MAGNITUDE, PHASE, REAL
from hqsm.dicom.frames import Frame, slice_normal
from hqsm.dicom.strangers import SAME_TIME_S
from hqsm.errors import InputError

_ECHO_TOLERANCE_S = 20e-6
PAIRS = ((REAL, IMAGINARY), (MAGNITUDE, PHASE))


def _key(frame: Frame) -> tuple[Any, ...]:
    """What all images of one acquisition share."""
    return (*frame.protocol, frame.file.columns, frame.file.rows)


def choose(frames: list[Frame], params: DicomParams) -> tuple[list[Frame], list[tuple[Frame, SetAside]], tuple[str, ...]]:
    """The acquisition with most echoes, then most images, then the last one; the others are left aside with the reason."""
    groups: dict[tuple[Any, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_key(frame)].append(frame)
    aside: list[tuple[Frame, SetAside]] = []
    runs: list[list[Frame]] = []
    joined = 0
    twins: dict[tuple[Any, ...], tuple[Frame, Frame]] = {}
    for key, group in groups.items():
        found = _runs(_without_filtered_copies(group, aside))
        pair = _same_echo_twice(found) if len(found) > 1 else None
        if pair is not None:
            twins[key] = pair
        if params.repeated_series == "repetitions" and len(found) > 1:
            joined += len(found)
            found = [_as_repetitions(found)]
        runs += found
    ranked = sorted(runs, key=lambda run: (*_worth(run), not run[0].filters, _start(run)), reverse=True)
    chosen = ranked[0]
    if _key(chosen[0]) in twins:
        one, other = twins[_key(chosen[0])]
        raise InputError(
            f"{one.name} and {other.name} ({one.part}) have the same EchoTime, {1e3 * one.echo_time_s:g} ms, and were acquired together.",
            remedy="Correct EchoTime of one of them, or remove the series that is there twice.",
            code="ECHO_TIMES",
        )
    _refuse_times_of_another_unit(chosen)
    _refuse_what_is_not_complex(chosen, ranked)
    _refuse_two_days([run for run in ranked if run is chosen or _worth(run)[0] >= 2])
    chosen = _without_foreign_magnitudes(chosen, aside)
    n_echoes = len(distinct_echo_times_s(chosen))
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
    times = [(frame.day, frame.time_of_day_s) for frame in run if np.isfinite(frame.time_of_day_s)]
    return min(times, default=("", 0.0)), min(frame.series_number for frame in run)


def distinct_echo_times_s(frames: list[Frame]) -> list[float]:
    """Distinct echo times [s]; times that differ by rounding only are one, the commonest."""
    counts = Counter(frame.echo_time_s for frame in frames)
    groups: list[list[float]] = []
    for value in sorted(counts):
        if groups and value - groups[-1][0] <= _ECHO_TOLERANCE_S:
            groups[-1].append(value)
        else:
            groups.append([value])
    return [max(group, key=lambda value: counts[value]) for group in groups]


def nearest(among: list[float], values: Iterable[float]) -> dict[float, int]:
    """For each distinct value the index of the nearest one among a few."""
    return {value: min(range(len(among)), key=lambda k: abs(among[k] - value)) for value in set(values)}


def _parts_by_echo(frames: list[Frame]) -> dict[float, set[str]]:
    times = distinct_echo_times_s(frames)
    echo = nearest(times, (frame.echo_time_s for frame in frames))
    parts: dict[float, set[str]] = {time: set() for time in times}
    for frame in frames:
        parts[times[echo[frame.echo_time_s]]].add(frame.part)
    return parts


def _is_complex(parts: set[str]) -> bool:
    return any(set(pair) <= parts for pair in PAIRS)


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


def _same_echo_twice(runs: list[list[Frame]]) -> tuple[Frame, Frame] | None:
    """The first two frames, of series of one echo each, that are one part of one echo and place and of one moment; None where no two are.

    A scan that is repeated takes its time. Of two such series nothing tells which phase belongs to which magnitude, or that the
    time of one is wrong; a series that holds several echoes is a reconstruction of its own.
    """
    series: dict[str, list[Frame]] = defaultdict(list)
    for frame in (frame for run in runs for frame in run):
        series[frame.series_uid].append(frame)
    seen: dict[tuple[Any, ...], Frame] = {}
    for frames in series.values():
        if len(distinct_echo_times_s(frames)) > 1:
            continue
        for frame in frames:
            place = (frame.part, frame.echo_time_s, frame.temporal, *np.round(frame.position_mm, 1).tolist())
            other = seen.setdefault(place, frame)
            if other.series_uid != frame.series_uid and abs(other.time_of_day_s - frame.time_of_day_s) <= SAME_TIME_S:
                return other, frame
    return None


def _refuse_times_of_another_unit(chosen: list[Frame]) -> None:
    first_s, last_s = min(frame.echo_time_s for frame in chosen), max(frame.echo_time_s for frame in chosen)
    shortest_s, longest_s = LAST_ECHO_S
    if shortest_s <= last_s <= longest_s:
        return
    unit = "seconds" if last_s < shortest_s else "microseconds"
    raise InputError(
        f"EchoTime is {1e3 * first_s:g} to {1e3 * last_s:g} ms; these look like {unit}.",
        remedy="Write EchoTime (0018,0081) in milliseconds, as DICOM has it, or export the images again from the scanner.",
        code="ECHO_TIMES",
    )


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


def _refuse_two_days(runs: list[list[Frame]]) -> None:
    """Refuse runs that could each be the visit's acquisition, but were not made in one visit: the last one may be another visit's."""
    days = {date.fromisoformat(frame.day) for run in runs for frame in run if frame.day}
    if days and (max(days) - min(days)).days > 1:  # a scan may pass midnight
        raise InputError(
            f"The images were acquired on days {(max(days) - min(days)).days} days apart.",
            remedy="Put each visit into a folder of its own.",
            code="DICOM_TWO_VISITS",
        )


def _without_foreign_magnitudes(run: list[Frame], aside: list[tuple[Frame, SetAside]]) -> list[Frame]:
    """Leave aside series without one complex echo, whose echo times no complex echo has: combined echoes, other scans."""
    parts = _parts_by_echo(run)
    times = list(parts)
    complex_echo = {k for k, time in enumerate(times) if _is_complex(parts[time])}
    echo = nearest(times, (frame.echo_time_s for frame in run))
    partners = {frame.series_uid for frame in run if echo[frame.echo_time_s] in complex_echo}
    kept = []
    for frame in run:
        if frame.series_uid in partners:
            kept.append(frame)
        else:
            aside.append((frame, SetAside(name=frame.name, kind="other images", reason=f"{frame.part} only, at an echo time of its own")))
    return kept
