"""A visit folder of raw DICOM becomes one complex multi-echo acquisition, or a sentence that says why not.

Echoes are told apart by EchoTime, slices by ImagePositionPatient along the slice normal, repetitions by the first
attribute that gives every image a place of its own; never by file names, file order or SliceThickness. The whole grid
of echo x slice x repetition x part must be there: what is missing is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hqsm.config.dicom import DicomParams
from hqsm.data import AcquisitionInfo, NavigatorTrace, RepeatedMultiEcho, SetAside, VisitAcquisition
from hqsm.dicom.arrangement import Acquisition, arrange, grid_of
from hqsm.dicom.choice import choose
from hqsm.dicom.files import FolderContent, look_through
from hqsm.dicom.frames import Frame, Header, Leftover, frames_of
from hqsm.dicom.navigator import read_navigator_csv
from hqsm.dicom.pixels import assemble
from hqsm.errors import InputError
from hqsm.units import field_strength_from_frequency_tesla, milliseconds_to_s


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


@contextmanager
def _damaged_files_named(content: FolderContent) -> Iterator[None]:
    """Where images are missing, say how many files could not be read: they are in the folder, and one looks for them in vain."""
    try:
        yield
    except InputError as error:
        unread = sum(item.kind == "damaged" or item.name == "empty files" for item in content.aside)
        if error.code not in {"DICOM_MISSING", "DICOM_NONE"} or not unread:
            raise
        words = "1 file is" if unread == 1 else f"{unread} files are"
        raise InputError(f"{error.problem} {words} damaged, empty or closed to you.", remedy=error.remedy, code=error.code) from error


def _read_visit(folder: Path, params: DicomParams) -> VisitAcquisition:
    content = look_through(folder, params)
    frames, rest = frames_of(content.images)
    # a header may hold any number; what comes of it is checked
    with np.errstate(invalid="ignore", over="ignore"), _damaged_files_named(content):
        acquisition = plan(content, frames, rest, params)
        signal, times_of_day_s, manifest = assemble(acquisition, params)
    header = acquisition.first.header
    info = AcquisitionInfo(
        convention=acquisition.first.convention.name,
        manufacturer=header.text("Manufacturer"),
        model=header.text("ManufacturerModelName"),
        software=header.text("SoftwareVersions"),
        acquisition_date=acquisition.first.day,
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
    found = sorted(path for path in folder.rglob("*.[cC][sS][vV]") if path.name.lower() == "navigator.csv")
    if not found or n_repetitions == 1:
        return None
    if len(found) > 1:
        raise InputError(f"{len(found)} files named navigator.csv.", remedy="Keep the right one.", code="NAVIGATOR_MANY")
    return read_navigator_csv(found[0].read_bytes(), n_repetitions)


def plan(content: FolderContent, frames: list[Frame], rest: list[Leftover], params: DicomParams) -> Acquisition:
    """Decide which frames make the acquisition; no pixel is read.

    Raises
    ------
    InputError
        See :func:`read_visit`.
    """
    if not content.n_files:
        raise InputError("The folder is empty.", remedy="Put the visit's raw DICOM here.", code="DICOM_NONE")
    if not content.images:
        kinds = {item.name for item in content.aside}
        remedy = "Put the visit's raw DICOM here."
        if "NIfTI images" in kinds:
            remedy += " NIfTI images with their sidecars belong below bids/ in place of dicom/."
        raise InputError(
            f"No DICOM image among {content.n_files} files.",
            remedy="Unpack the archives." if "archives" in kinds else remedy,
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
    chosen, aside, notes = choose(frames, params)
    return arrange(chosen, aside, notes)


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


def _frequency_mhz(header: Header) -> float:
    """Imaging frequency [MHz]; United Imaging writes it in Hz."""
    frequency = header.number("ImagingFrequency")
    if not frequency > 0:
        frequency = header.number("TransmitterFrequency")
    return frequency / 1e6 if frequency > 1e5 else frequency


_PROTONS_MHZ = (5.0, 500.0)
"""Imaging frequencies that a scanner of people can have for protons; one beyond is in another unit, or a filler."""


def agreed_field_strength_tesla(nominal_tesla: float, frequency_mhz: float) -> float:
    """B0 from the imaging frequency, which agrees with the nominal strength where it can be one of protons; else the nominal one [T].

    Either may be NaN or 0 where it is not stated.

    Raises
    ------
    InputError
        Where they contradict each other: LIC by R2* would be another one by a factor.
    """
    if not frequency_mhz > 0:
        return nominal_tesla
    exact = field_strength_from_frequency_tesla(frequency_mhz)
    if not nominal_tesla > 0 or abs(exact - nominal_tesla) < 0.15 * nominal_tesla:
        return exact
    if _PROTONS_MHZ[0] < frequency_mhz < _PROTONS_MHZ[1]:
        raise InputError(
            f"The header says {nominal_tesla:g} T, and an imaging frequency of {frequency_mhz:.4g} MHz, which is {exact:.2f} T.",
            remedy="Correct MagneticFieldStrength or ImagingFrequency, whichever was overwritten; export the visit again.",
            code="DICOM_FIELD_STRENGTH",
        )
    return nominal_tesla


def field_strength_tesla(header: Header) -> float:
    """B0 [T]: see :func:`agreed_field_strength_tesla`."""
    frequency, nominal = _frequency_mhz(header), header.number("MagneticFieldStrength")
    if nominal > 100:
        nominal /= 1e4  # gauss
    if frequency > 0 or nominal > 0:
        return agreed_field_strength_tesla(nominal, frequency)
    raise InputError(
        "The header has neither ImagingFrequency nor MagneticFieldStrength.",
        remedy="Keep these attributes when the images are de-identified.",
        code="DICOM_FIELD_STRENGTH",
    )


def summarised(aside: list[SetAside]) -> tuple[SetAside, ...]:
    """Each kind of thing once, with how many there were."""
    counts = Counter((item.name, item.kind, item.reason) for item in aside)
    return tuple(
        SetAside(name=f"{name} x{n}" if n > 1 else name, kind=kind, reason=reason) for (name, kind, reason), n in sorted(counts.items())
    )
