"""Edge: an export of a hospital (a folder, a CD, a zip) becomes ``STUDY/dicom/sub-<P>/ses-<S>``.

No value of a header and no name of the export becomes a name in the study: a file is called after its blind UID.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from hqsm.config.intake import IntakeParams
from hqsm.dicom.guarded import READABLE, pixel_bytes, read_guarded
from hqsm.dicom.navigator import navigator_rows
from hqsm.errors import InputError
from hqsm.intake.deidentify import Subject, deidentified
from hqsm.intake.keys import Keys, Visit
from hqsm.intake.policy import IMAGE_CLASSES, PRIVATE, PrivateElement, plain_number
from hqsm.private_folder import private_file
from hqsm.table_cells import format_value

FILED, UNCHANGED, SKIPPED = "filed", "unchanged", "skipped"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of the source: its name there, and its bytes, or why it is not opened."""

    name: str
    content: bytes = b""
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file of the source. ``name`` is the hospital's and stays in the folder of keys."""

    name: str
    what: str
    visit: str = ""
    reason: str = ""


@dataclass
class _Scan:
    """What the first look at a file keeps: enough to decide where it belongs, not its pixels."""

    name: str
    site: str
    patient_id: str
    birth_date: str
    study_uid: str
    study_date: str


@dataclass
class Report:
    """The outcomes of one intake."""

    outcomes: list[Outcome] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people, without a name of the source: what was filed per visit, what was skipped and why."""
        filed = Counter((o.visit, o.what) for o in self.outcomes if o.what != SKIPPED)
        lines = [f"{visit}: {n} {what}" for (visit, what), n in sorted(filed.items())]
        skipped = Counter(o.reason for o in self.outcomes if o.what == SKIPPED)
        lines += [f"skipped {n}: {reason}" for reason, n in sorted(skipped.items())]
        return lines or ["The source is empty."]

    @property
    def n_contradictions(self) -> int:
        """Files that were refused because they contradict what is filed."""
        return sum(outcome.reason in (_CONTRADICTION, _ELSEWHERE) for outcome in self.outcomes)


_CONTRADICTION = "an image of the same UID with other content is filed already"
_ELSEWHERE = "filed already under another label: remove that folder, then take it in again"


def take_in(source: Path, study: Path, keys: Keys, params: IntakeParams, site: str) -> Report:
    """File every image of ``source`` that can be used.

    The source is read twice: first to learn who and when, so that sessions are numbered by date; then to file. A file
    that is there already with the same bytes is left alone; one with other bytes is never overwritten.

    Raises
    ------
    InputError
        If the source does not exist or is an archive that cannot be opened.
    """
    report = Report()
    scans: list[_Scan] = []
    for item in _items(source, params):
        scan = _first_look(item, params, site)
        if isinstance(scan, _Scan):
            scans.append(scan)
        elif scan is not None:
            report.outcomes.append(scan)
    scans = _without_mixed_persons(scans, report)
    visits = _assign(scans, keys)
    keys.save()
    by_name = {scan.name: visits[scan.patient_id, scan.study_uid] for scan in scans}
    private = PRIVATE + tuple(PrivateElement(**vars(extra)) for extra in params.private_elements)
    filed = {path.name: path.parent for path in sorted((study / "dicom").glob("sub-*/ses-*/*.dcm"))}
    for item in _items(source, params):
        visit = by_name.get(item.name)
        if visit is not None:
            report.outcomes.append(_file_image(item, visit, study, keys, params, private, filed))
        elif _is_navigator(item.name) and not item.refused:
            report.outcomes.append(_file_navigator(item, by_name, study))
    return report


def write_report(report: Report, keys: Keys) -> Path:
    """Write every outcome with the hospital's names into the folder of keys."""
    folder = keys.folder / "reports"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"intake_{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}Z.csv"
    with private_file(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["name", "outcome", "visit", "reason"])
        writer.writerows([o.name, o.what, o.visit, o.reason] for o in report.outcomes)
    return path


def _items(source: Path, params: IntakeParams) -> Iterator[Item]:
    """Every file of a folder or zip in the order of its names; links are not followed, caps are kept."""
    largest = int(params.largest_file_mb * 1e6)
    if source.is_dir():
        for root, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = Path(root, name)
                label = path.relative_to(source).as_posix()
                if path.is_symlink() or not path.is_file():
                    yield Item(name=label, refused="a link or special file, not followed")
                elif path.stat().st_size > largest:
                    yield Item(name=label, refused="larger than intake.largest_file_mb")
                else:
                    yield Item(name=label, content=path.read_bytes())
        return
    if not source.is_file() or not zipfile.is_zipfile(source):
        raise InputError("The source is neither a folder nor a zip archive.", remedy="Name the export.", code="INTAKE_SOURCE")
    try:
        with zipfile.ZipFile(source) as archive:
            members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)
            if len(members) > params.most_files:
                raise InputError(f"The archive has {len(members)} files.", remedy="Raise intake.most_files.", code="INTAKE_SOURCE")
            seen: Counter[str] = Counter()
            for member in members:
                seen[member.filename] += 1  # an archive can hold two files of one name: they are two items
                item = _member(archive, member, largest)
                n = seen[member.filename]
                yield item if n == 1 else replace(item, name=f"{item.name} (no. {n} of this name)")
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise InputError(f"The archive is damaged ({type(error).__name__}).", remedy="Export it again.", code="INTAKE_SOURCE") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, largest: int) -> Item:
    if member.flag_bits & 1:
        return Item(name=member.filename, refused="encrypted; unpack the archive first")
    if (member.external_attr >> 16) & 0o170000 == 0o120000:
        return Item(name=member.filename, refused="a link or special file, not followed")
    try:
        with archive.open(member) as handle:
            content = handle.read(largest + 1)  # the size in the archive's index may lie
    except Exception as error:  # a damaged member can fail in many ways (zlib, lzma, CRC, unknown method)
        return Item(name=member.filename, refused=f"damaged in the archive ({type(error).__name__})")
    if len(content) > largest:
        return Item(name=member.filename, refused="larger than intake.largest_file_mb")
    return Item(name=member.filename, content=content)


def _is_navigator(name: str) -> bool:
    last = PurePosixPath(name).name.lower()
    return last == "navigator.csv" or last.endswith(("_physio.tsv.gz", "_physio.json"))


def _first_look(item: Item, params: IntakeParams, site: str) -> _Scan | Outcome | None:
    def skipped(reason: str) -> Outcome:
        return Outcome(name=item.name, what=SKIPPED, reason=reason)

    if item.refused:
        return skipped(item.refused)
    if _is_navigator(item.name):
        return None
    if PurePosixPath(item.name).name.upper() == "DICOMDIR":
        return skipped("a DICOMDIR index: the files are found without it")
    if zipfile.is_zipfile(io.BytesIO(item.content)):
        return skipped("an archive inside the source: unpack it and take it in by itself")
    try:
        header = read_guarded(item.content, params.largest_file_mb)
        if str(header.get("SOPClassUID", "")) not in IMAGE_CLASSES:
            return skipped("no MR image (a report, a screen capture or raw data can carry a name)")
        if "PixelData" not in header:
            return skipped("an MR object without pixels")
        if str(header.file_meta.get("TransferSyntaxUID", "")) not in READABLE:
            return skipped("compressed; decompress it at the site first (gdcmconv --raw IN OUT)")
        if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
            return skipped("its pixels are marked to hold burnt-in text")
        if str(header.file_meta.TransferSyntaxUID) in READABLE[:3] and len(header.PixelData) < pixel_bytes(header):
            return skipped("cut off: fewer pixels than the header promises")
        patient_id = _patient_of(header)
        study_uid = str(header.get("StudyInstanceUID", "") or "").strip()
        if not patient_id:
            return skipped("no PatientID: nobody knows whose it is")
        if not study_uid or not str(header.get("SOPInstanceUID", "") or "").strip():
            return skipped("no UID of study or image")
        return _Scan(
            name=item.name,
            site=site,
            patient_id=patient_id,
            birth_date=str(header.get("PatientBirthDate", "") or "").strip(),
            study_uid=study_uid,
            study_date=str(header.get("StudyDate", "") or header.get("AcquisitionDate", "") or "").strip()[:8],
        )
    except InputError as refused:
        return skipped({"DICOM_NOT": "no DICOM"}.get(refused.code, refused.problem))
    except Exception as error:  # a value of the header that cannot be converted; its message may repeat it
        return skipped(f"damaged header ({type(error).__name__})")


def _patient_of(header: Any) -> str:
    return str(header.get("PatientID", "") or "").strip().upper()


def _without_mixed_persons(scans: list[_Scan], report: Report) -> list[_Scan]:
    """Leave out a PatientID under which two birth dates occur: two persons, or a typing error that somebody must see."""
    births: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        if scan.birth_date:
            births[scan.patient_id].add(scan.birth_date)
    mixed = {patient_id for patient_id, dates in births.items() if len(dates) > 1}
    for scan in scans:
        if scan.patient_id in mixed:
            reason = "two birth dates under one PatientID: two persons, or a typing error"
            report.outcomes.append(Outcome(name=scan.name, what=SKIPPED, reason=reason))
    return [scan for scan in scans if scan.patient_id not in mixed]


def _assign(scans: list[_Scan], keys: Keys) -> dict[tuple[str, str], Visit]:
    """The blind visit of each study, in the order of their dates (a new study of an old date comes last all the same)."""
    studies = {(scan.patient_id, scan.study_uid): scan for scan in reversed(scans)}
    ordered = sorted(studies.values(), key=lambda s: (s.patient_id, s.study_date or "99999999", s.study_uid))
    return {(s.patient_id, s.study_uid): keys.visit(s.site, s.patient_id, s.study_uid, s.study_date) for s in ordered}


def visit_folder(study: Path, visit: Visit) -> Path:
    """Where a visit's images lie; its labels were checked when the crosswalk was read."""
    return study / "dicom" / f"sub-{visit.participant}" / f"ses-{visit.session}"


def _label(visit: Visit) -> str:
    return f"sub-{visit.participant}/ses-{visit.session}"


def _file_image(
    item: Item, visit: Visit, study: Path, keys: Keys, params: IntakeParams, private: tuple[PrivateElement, ...], filed: dict[str, Path]
) -> Outcome:
    try:
        header = read_guarded(item.content, params.largest_file_mb)
        if (_patient_of(header), str(header.StudyInstanceUID).strip()) != (visit.patient_id, visit.study_instance_uid):
            return Outcome(name=item.name, what=SKIPPED, reason="changed while it was taken in")
        subject = Subject(participant=visit.participant, shift_days=visit.shift_days)
        made = deidentified(header, subject, keys.blinding, private)
        name = keys.blinding.uid(str(header.SOPInstanceUID).strip()).removeprefix("2.25.") + ".dcm"
    except Exception as error:  # a value that cannot be written again; its message may repeat it
        return Outcome(name=item.name, what=SKIPPED, reason=f"damaged header ({type(error).__name__})")
    folder = visit_folder(study, visit)
    if filed.setdefault(name, folder) != folder:
        return Outcome(name=item.name, what=SKIPPED, visit=_label(visit), reason=_ELSEWHERE)
    what = _place(folder / name, made)
    if what == SKIPPED:
        return Outcome(name=item.name, what=SKIPPED, visit=_label(visit), reason=_CONTRADICTION)
    return Outcome(name=item.name, what=what, visit=_label(visit))


def _place(path: Path, content: bytes) -> str:
    """Write a file as a whole; one that is there is compared and never overwritten."""
    if path.exists():
        return UNCHANGED if path.read_bytes() == content else SKIPPED
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return FILED


def _file_navigator(item: Item, by_name: dict[str, Visit], study: Path) -> Outcome:
    """A navigator file belongs to the one visit whose images share its folder, or the nearest folder above that has any."""
    visit = None
    for parent in PurePosixPath(item.name).parents:
        prefix = "" if str(parent) == "." else f"{parent}/"
        found = {_label(v): v for name, v in by_name.items() if name.startswith(prefix)}
        if found:
            visit = next(iter(found.values())) if len(found) == 1 else None
            break
    if visit is None:
        return Outcome(name=item.name, what=SKIPPED, reason="a navigator file, but the images beside it are of several visits or none")
    last = PurePosixPath(item.name).name.lower()
    try:
        name, content = _plain_navigator(last, item.content)
    except (InputError, ValueError, KeyError, TypeError, EOFError, OSError, RecursionError, csv.Error):
        return Outcome(name=item.name, what=SKIPPED, visit=_label(visit), reason="a navigator file that is not made of numbers")
    what = _place(visit_folder(study, visit) / name, content)
    reason = "another navigator file is filed for this visit" if what == SKIPPED else ""
    return Outcome(name=item.name, what=what, visit=_label(visit), reason=reason)


_LARGEST_NAVIGATOR = 64_000_000


def _plain_navigator(name: str, content: bytes) -> tuple[str, bytes]:
    """A navigator file with nothing but its numbers; ValueError where it holds anything else."""
    if name == "navigator.csv":
        lines = ["repetition,displacement_mm"]
        lines += [f"{repetition},{format_value(displacement_mm)}" for _, repetition, displacement_mm in navigator_rows(content)]
        return name, ("\n".join(lines) + "\n").encode()
    if name.endswith(".json"):
        facts: Any = json.loads(content)
        kept: dict[str, Any] = {key: float(_number(facts[key])) for key in ("SamplingFrequency", "StartTime")}
        columns = [str(column) for column in facts["Columns"]]
        kept["Columns"] = [c if c in {"respiratory", "cardiac", "trigger", "time"} else f"column{k}" for k, c in enumerate(columns)]
        return "navigator_physio.json", (json.dumps(kept, sort_keys=True) + "\n").encode()
    with gzip.open(io.BytesIO(content)) as handle:
        text = handle.read(_LARGEST_NAVIGATOR + 1)
    if len(text) > _LARGEST_NAVIGATOR:
        raise ValueError("inflates beyond the cap")
    rows_of_text = [line.split("\t") for line in text.decode("ascii").splitlines()]
    plain = "".join("\t".join("n/a" if cell == "n/a" else _number(cell) for cell in row) + "\n" for row in rows_of_text)
    return "navigator_physio.tsv.gz", gzip.compress(plain.encode(), mtime=0)


def _number(value: object) -> str:
    number = plain_number(value)
    if number is None:
        raise ValueError("not a number")
    return number
