"""What is in a folder of DICOM, series by series, and what of it would be used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hqsm.config.dicom import DicomParams
from hqsm.data import SetAside
from hqsm.dicom.arrangement import Acquisition, grid_of
from hqsm.dicom.files import look_through
from hqsm.dicom.frames import Frame, Header, Leftover, frames_of
from hqsm.dicom.reader import field_strength_tesla, notes_of, plan, summarised, unusable_values_named
from hqsm.errors import InputError

COLUMNS = ("series", "vendor", "images", "echoes ms", "parts", "repetitions", "matrix", "spacing mm", "plane", "use")


@dataclass(frozen=True, eq=False, kw_only=True)
class Survey:
    """A folder's series as rows of text, what is no image, and the acquisition or the sentence that refuses it."""

    rows: tuple[tuple[str, ...], ...]
    """One row per series, in the order of ``COLUMNS``."""
    others: tuple[SetAside, ...]
    used: tuple[str, ...]
    """Facts of the acquisition that would be used; empty where there is none."""
    notes: tuple[str, ...]
    refusal: str
    """Why the folder cannot be a visit; empty where it can."""
    identifiers: tuple[str, ...]
    """Whose images these are: for the eyes of the site alone."""


def survey(folder: Path, params: DicomParams) -> Survey:
    """Look through a folder as the reader does, without decoding a pixel; never raises for what is in it."""
    try:
        content = look_through(folder, params)
    except InputError as error:
        return Survey(rows=(), others=(), used=(), notes=(), refusal=str(error), identifiers=())
    frames, rest = frames_of(content.images)
    refusal, used, notes = "", tuple[str, ...](), tuple[str, ...]()
    acquisition: Acquisition | None = None
    try:
        with np.errstate(invalid="ignore", over="ignore"), unusable_values_named():
            acquisition = plan(content, frames, rest, params)
            used, notes = _facts(acquisition), notes_of(content, acquisition)
    except InputError as error:
        refusal = str(error)
    people = {
        (str(image.header.get("PatientID", "")), str(image.header.get("PatientName", "")), str(image.header.get("StudyDate", "")))
        for image in content.images
    }
    return Survey(
        rows=_rows(frames, rest, acquisition),
        others=summarised(content.aside),
        used=used,
        notes=notes,
        refusal=refusal,
        identifiers=tuple(f"patient {number or '-'}, name {name or '-'}, study of {day or '-'}" for number, name, day in sorted(people)),
    )


def _facts(acquisition: Acquisition) -> tuple[str, ...]:
    grid, first = grid_of(acquisition), acquisition.first
    return (
        f"convention    {first.convention.name} ({first.header.text('Manufacturer')} {first.header.text('ManufacturerModelName')})",
        f"parts         {acquisition.parts[0]} and {acquisition.parts[1]}",
        f"echo times    {_milliseconds(acquisition.echo_times_s)} ms",
        f"repetitions   {acquisition.n_repetitions}",
        f"field         {field_strength_tesla(first.header):.3f} T",
        f"grid          {' x '.join(map(str, grid.shape))} voxels of {' x '.join(f'{d:g}' for d in grid.voxel_size_mm.round(3))} mm, "
        f"{_plane(first)}",
    )


def _rows(frames: list[Frame], rest: list[Leftover], acquisition: Acquisition | None) -> tuple[tuple[str, ...], ...]:
    series: dict[str, list[Frame | Leftover]] = defaultdict(list)
    everything: list[Frame | Leftover] = [*frames, *rest]
    for item in everything:
        series[item.series_uid].append(item)
    used = set() if acquisition is None else {id(frame) for frame in acquisition.table.values()}
    reasons = {} if acquisition is None else {id(frame): item for frame, item in acquisition.aside}
    made = []
    for members in series.values():
        images = [item for item in members if isinstance(item, Frame)]
        header = members[0].header
        n_used = sum(id(frame) in used for frame in images)
        why = Counter(
            f"{item.kind}: {item.reason}"
            for item in [reasons.get(id(frame)) for frame in images] + [m.aside for m in members if isinstance(m, Leftover)]
            if item is not None
        )
        verdict = ([f"used ({n_used})" if why or n_used < len(members) else "used"] if n_used else []) + [
            f"{text}{f' ({n})' if n < len(members) else ''}" for text, n in why.most_common()
        ]
        if not n_used and 0 < sum(why.values()) < len(members):
            verdict.append(f"refused ({len(members) - sum(why.values())})")
        row = (
            images[0].name if images else next(m.aside.name for m in members if isinstance(m, Leftover)),
            images[0].convention.name if images else (header.text("Manufacturer") or "?")[:20],
            str(len(members)),
            _milliseconds(sorted({frame.echo_time_s for frame in images})) or "-",
            ", ".join(sorted({frame.part for frame in images})) or "-",
            _repetitions(images, acquisition),
            _matrix(header, images),
            _spacing(header),
            _plane(images[0]) if images else "-",
            "; ".join(verdict) or "refused",
        )
        made.append((header.number("SeriesNumber"), row))
    return tuple(row for _, row in sorted(made, key=lambda pair: (np.nan_to_num(pair[0], nan=1e9), pair[1])))


def _repetitions(images: list[Frame], acquisition: Acquisition | None) -> str:
    if not images:
        return "-"
    if acquisition is not None:
        mine = {id(frame) for frame in images}
        found = {r for (_, _, r, _), frame in acquisition.table.items() if id(frame) in mine}
        if found:
            return str(len(found))
    places = Counter((frame.echo_time_s, frame.part, frame.position_mm) for frame in images)
    return str(max(places.values()))


def _matrix(header: Header, images: list[Frame]) -> str:
    slices = f" x {len({frame.position_mm for frame in images})}" if images else ""
    return f"{header.get('Columns', '?')} x {header.get('Rows', '?')}{slices}"


def _spacing(header: Header) -> str:
    spacing = header.get("PixelSpacing")
    try:
        return " x ".join(f"{float(v):.3g}" for v in spacing) if spacing else "-"
    except (TypeError, ValueError):
        return "?"


def _plane(frame: Frame) -> str:
    """Name of the image plane: the nearest of the three, oblique beyond 5 degrees from it."""
    row, column = np.array(frame.orientation, float).reshape(2, 3)
    normal = np.abs(np.cross(row, column))
    axis = int(np.argmax(normal))
    oblique = normal[axis] < np.cos(np.radians(5)) * np.linalg.norm(normal)
    return ("oblique " if oblique else "") + ("sagittal", "coronal", "axial")[axis]


def _milliseconds(times_s: Iterable[float]) -> str:
    times = [f"{1e3 * time:.4g}" for time in times_s]
    return ", ".join(times)


def as_text(found: Survey) -> str:
    """The survey as an aligned table and a few lines below it."""
    table = [COLUMNS, *found.rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table] if found.rows else []
    if found.others:
        lines += ["", *(f"no image      {item.name}: {item.kind}, {item.reason}" for item in found.others)]
    lines += ["", *found.used] if found.used else []
    lines += [f"note          {note}" for note in found.notes]
    if found.refusal:
        lines += ["", f"not usable    {found.refusal}"]
    return "\n".join(lines).lstrip("\n") + "\n"
