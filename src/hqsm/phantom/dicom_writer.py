"""Raw DICOM as scanners write it, from the standard and, where there are any, from real headers.

Siemens, GE and Philips classic follow real multi-echo series. Philips enhanced follows a real file of another kind;
Siemens XA, Canon, United Imaging and the vendor-neutral enhanced file follow the standard and the vendors' published
attributes: no public complex multi-echo series of theirs is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from hqsm.arrays import AnyArray
from hqsm.data import RepeatedMultiEcho
from hqsm.units import DAY_S, proton_frequency_hz

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_MAKERS = {
    "siemens": ("SIEMENS", "MAGNETOM Aera", "syngo MR E11"),
    "ge": ("GE MEDICAL SYSTEMS", "DISCOVERY MR750", "27 LX MR Software release"),
    "philips": ("Philips Medical Systems", "Achieva dStream", "5.7.1"),
    "canon": ("CANON_MEC", "Galan 3T", "V6.1SP3002*"),
    "uih": ("UIH", "uMR 770", "R002"),
    "neutral": ("Acme Imaging", "One", "1"),
}
ENHANCED_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
VENDORS = (
    "siemens",
    "ge",
    "ge-phase",
    "philips",
    "philips-real-imaginary",
    "canon",
    "uih",
    "siemens-xa",
    "philips-enhanced",
    "neutral-enhanced",
)
"""Everything that :func:`write_scan` can write."""


def uid(*words: object) -> str:
    """A UID that depends on nothing but its words (ITU-T X.667 form)."""
    return f"2.25.{int(hashlib.sha256(repr(words).encode()).hexdigest()[:30], 16)}"


def write_scan(
    folder: Path,
    echoes: RepeatedMultiEcho,
    *,
    vendor: str,
    identity: str,
    date: str,
    drop: tuple[str, int] | None = None,
) -> int:
    """Write every repetition, echo, slice and part of a scan in a vendor's convention; return the number of files.

    Parameters
    ----------
    folder
        Visit folder; files get meaningless names in nested folders.
    echoes
        The complex signal in this package's sign.
    vendor
        One of ``VENDORS``.
    identity
        Blind label of participant and session; UIDs follow from it.
    date
        YYYYMMDD.
    drop
        (part, echo index) that is left out: a broken export.
    """
    if vendor in _ENHANCED:
        return _write_enhanced(folder, echoes, vendor=vendor, identity=identity, date=date, drop=drop)
    makers = {
        "siemens": _siemens,
        "ge": _ge,
        "ge-phase": _ge_phase,
        "philips": _philips,
        "philips-real-imaginary": _philips_real_imaginary,
        "canon": _canon,
        "uih": _uih,
    }
    n_files = 0
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ echoes.grid.affine_mm
    spacing = echoes.grid.voxel_size_mm
    for image in makers[vendor](np.asarray(echoes.signal)):
        part, echo, repetition, k, pixels, series, extra = image
        if drop is not None and (part, echo) == drop:
            continue
        ds = Dataset()
        _common(ds, echoes, vendor, identity, date)
        ds.SeriesNumber = series
        ds.SeriesInstanceUID = uid(identity, "series", series)
        ds.SOPInstanceUID = uid(identity, part, echo, repetition, k)
        ds.InstanceNumber = k + 1
        ds.EchoTime = f"{1e3 * echoes.echo_times_s[echo]:.4f}"
        ds.EchoNumbers = echo + 1
        ds.AcquisitionNumber = repetition + 1
        ds.AcquisitionTime = _clock(echoes, repetition)
        ds.ImageOrientationPatient = [f"{v:.8g}" for v in (*affine_lps[:3, 0] / spacing[0], *affine_lps[:3, 1] / spacing[1])]
        position = affine_lps[:3, 3] + k * affine_lps[:3, 2]
        ds.ImagePositionPatient = [f"{v:.8g}" for v in position]
        ds.PixelSpacing = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"]
        ds.SliceThickness = f"{0.9 * spacing[2]:.6g}"  # a gap: thickness is not the distance of slices
        ds.SpacingBetweenSlices = f"{spacing[2]:.8g}"
        _pixels(ds, pixels)
        for name, value in extra.items():
            if isinstance(name, str):
                setattr(ds, name, value)
            else:
                ds.private_block(name[0], name[1], create=True).add_new(name[2], name[3], value)
        number = int(hashlib.sha256(ds.SOPInstanceUID.encode()).hexdigest()[:7], 16)
        _save(ds, folder / f"{number % 7:02d}" / f"I{number:09d}")
        n_files += 1
    return n_files


def _common(ds: Dataset, echoes: RepeatedMultiEcho, vendor: str, identity: str, date: str) -> None:
    maker, model, software = _MAKERS[vendor.partition("-")[0]]
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.Modality = "MR"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = maker, model, software
    ds.PatientName = ds.PatientID = identity.split("_", maxsplit=1)[0]
    ds.StudyInstanceUID = uid(identity, "study")
    ds.FrameOfReferenceUID = uid(identity, "frame")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = date
    ds.SeriesDescription = "liver_nav_mGRE"
    ds.ProtocolName = "liver_nav_mGRE"
    ds.MagneticFieldStrength = f"{echoes.field_strength_tesla:g}"
    frequency_hz = proton_frequency_hz(echoes.field_strength_tesla)
    ds.ImagingFrequency = f"{frequency_hz:.0f}" if vendor == "uih" else f"{frequency_hz / 1e6:.6f}"  # United Imaging writes Hz
    ds.FlipAngle, ds.RepetitionTime = "5", "14.5"
    ds.MRAcquisitionType, ds.ScanningSequence = "3D", "GR"
    ds.BodyPartExamined = "LIVER"


Image = tuple[str, int, int, int, AnyArray, int, dict[Any, Any]]


def _each(signal: AnyArray) -> Iterator[tuple[int, int, int]]:
    for repetition in range(signal.shape[4]):
        for echo in range(signal.shape[3]):
            for k in range(signal.shape[2]):
                yield repetition, echo, k


def _siemens(signal: AnyArray) -> Iterator[Image]:
    """Magnitude and phase in two series; phase 0..4095 with slope 2, intercept -4096."""
    scale = 4095 / np.abs(signal).max()
    for repetition, echo, k in _each(signal):
        s = signal[:, :, k, echo, repetition]
        magnitude = np.round(np.abs(s) * scale).astype(np.uint16)
        yield "magnitude", echo, repetition, k, magnitude, 6, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}
        phase = np.round((np.angle(s) / np.pi * 4096 + 4096) / 2).astype(np.int64) % 4096
        words = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "RescaleSlope": "2", "RescaleIntercept": "-4096"}
        yield "phase", echo, repetition, k, phase.astype(np.uint16), 7, words


def _ge(signal: AnyArray) -> Iterator[Image]:
    """Real, imaginary and magnitude in one series, told apart by (0043,102F); phase of the other sign, slices by pi."""
    scale = 12000 / np.abs(signal).max()
    for repetition, echo, k in _each(signal):
        s = np.conj(signal[:, :, k, echo, repetition]) * scale * (-1) ** k
        for code, part, values in ((0, "magnitude", np.abs(s)), (2, "real", s.real), (3, "imaginary", s.imag)):
            extra = {
                "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
                "TemporalPositionIdentifier": repetition + 1,
                (0x0043, "GEMS_PARM_01", 0x2F, "SS"): code,
            }
            yield part, echo, repetition, k, np.round(values).astype(np.int16), 9, extra


def _ge_phase(signal: AnyArray) -> Iterator[Image]:
    """Magnitude and phase in one series, told apart by (0043,102F) alone; phase in mrad, and no tag that says so."""
    scale = 12000 / np.abs(signal).max()
    for repetition, echo, k in _each(signal):
        s = np.conj(signal[:, :, k, echo, repetition]) * scale * (-1) ** k
        for code, part, values in ((0, "magnitude", np.abs(s)), (1, "phase", 1e3 * np.angle(s))):
            extra = {
                "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
                "TemporalPositionIdentifier": repetition + 1,
                (0x0043, "GEMS_PARM_01", 0x2F, "SS"): code,
            }
            yield part, echo, repetition, k, np.round(values).astype(np.int16), 9, extra


def _philips(signal: AnyArray) -> Iterator[Image]:
    """Magnitude and phase in one series; phase in milliradians by its rescale, magnitude with a private scale."""
    scale = 4095 / np.abs(signal).max()
    for repetition, echo, k in _each(signal):
        s = signal[:, :, k, echo, repetition]
        common = {"TemporalPositionIdentifier": repetition + 1}
        magnitude = np.round(np.abs(s) * scale).astype(np.uint16)
        words = {
            "ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
            "RescaleSlope": "1.25",
            "RescaleIntercept": "0",
            (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL"): 0.02,
        }
        yield "magnitude", echo, repetition, k, magnitude, 1301, {**common, **words}
        step = 2 * np.pi * 1e3 / 4095
        phase = np.clip(np.round((np.angle(s) * 1e3 + np.pi * 1e3) / step), 0, 4095).astype(np.uint16)
        words = {
            "ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"],
            "RescaleSlope": f"{step:.8g}",
            "RescaleIntercept": f"{-np.pi * 1e3:.8g}",
        }
        yield "phase", echo, repetition, k, phase, 1301, {**common, **words}


def _philips_real_imaginary(signal: AnyArray) -> Iterator[Image]:
    """Real and imaginary in one series: unsigned values with an intercept, and the private scale."""
    top = float(np.abs(signal).max())
    step = 2 * top / 4095
    for repetition, echo, k in _each(signal):
        s = signal[:, :, k, echo, repetition]
        for part, word, values in (("real", "R", s.real), ("imaginary", "I", s.imag)):
            extra = {
                "ImageType": ["ORIGINAL", "PRIMARY", f"{word}_FFE", word, "FFE"],
                "TemporalPositionIdentifier": repetition + 1,
                "RescaleSlope": f"{step:.10g}",
                "RescaleIntercept": f"{-top:.10g}",
                (0x2005, "Philips MR Imaging DD 001", 0x0E, "FL"): float(0.02 / step),
            }
            yield part, echo, repetition, k, np.clip(np.round((values + top) / step), 0, 4095).astype(np.uint16), 1401, extra


def _polar(signal: AnyArray, steps: int = 4096) -> Iterator[tuple[str, int, int, int, AnyArray]]:
    """Magnitude 0..4095 and phase in ``steps`` a turn from -pi, unsigned."""
    scale = 4095 / np.abs(signal).max()
    for repetition, echo, k in _each(signal):
        s = signal[:, :, k, echo, repetition]
        yield "magnitude", echo, repetition, k, np.round(np.abs(s) * scale).astype(np.uint16)
        turns = (np.angle(s) / np.pi + 1) / 2
        yield "phase", echo, repetition, k, (np.round(turns * steps).astype(np.int64) % steps).astype(np.uint16)


def _canon(signal: AnyArray) -> Iterator[Image]:
    """The part in ComplexImageComponent; phase in rad by its rescale; the repetition in TemporalPositionIndex."""
    for part, echo, repetition, k, values in _polar(signal):
        extra: dict[Any, Any] = {
            "ImageType": ["ORIGINAL", "PRIMARY", "GDC"],
            "ComplexImageComponent": part.upper(),
            "TemporalPositionIndex": repetition + 1,
        }
        if part == "phase":
            extra |= {"RescaleSlope": f"{2 * np.pi / 4096:.12g}", "RescaleIntercept": f"{-np.pi:.12g}"}
        yield part, echo, repetition, k, values, 10000 if part == "magnitude" else 10001, extra


def _uih(signal: AnyArray) -> Iterator[Image]:
    """Letters in the image type and ComplexImageComponent; 4096 steps of phase are one turn, in 16 bits and without rescale."""
    for part, echo, repetition, k, values in _polar(signal):
        letter = {"magnitude": "M", "phase": "P"}[part]
        words = ["ORIGINAL", "PRIMARY", letter, "UCA", "IF"]
        extra = {"ImageType": words, "ComplexImageComponent": part.upper(), "BitsStored": 16, "HighBit": 15}
        yield part, echo, repetition, k, values, 2 if part == "magnitude" else 3, extra


def _clock(echoes: RepeatedMultiEcho, repetition: int) -> str:
    """Acquisition time of a repetition as DICOM writes it."""
    seconds = echoes.repetition_times_of_day_s[repetition] % DAY_S
    return f"{int(seconds // 3600):02d}{int(seconds % 3600 // 60):02d}{seconds % 60:09.6f}"


# --- enhanced MR: many frames in a file, their attributes in functional groups --------------------------------------

_ENHANCED = {"siemens-xa", "philips-enhanced", "neutral-enhanced"}


def _group(**values: Any) -> list[Dataset]:
    """A functional group: a sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return [item]


def _write_enhanced(folder: Path, echoes: RepeatedMultiEcho, *, vendor: str, identity: str, date: str, drop: tuple[str, int] | None) -> int:
    """Siemens XA: a file per part, echo and repetition; Philips and the vendor-neutral one: a file for everything."""
    files: dict[tuple[Any, ...], list[tuple[str, int, int, int, AnyArray]]] = {}
    for frame in _polar(np.asarray(echoes.signal)):
        part, echo, repetition, _, _ = frame
        if (part, echo) != drop:
            key = (part, echo, repetition) if vendor == "siemens-xa" else ()
            files.setdefault(key, []).append(frame)
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ echoes.grid.affine_mm
    spacing = [float(v) for v in echoes.grid.voxel_size_mm]
    for key, frames in files.items():
        ds = Dataset()
        _common(ds, echoes, vendor, identity, date)
        del ds.ImagingFrequency, ds.FlipAngle, ds.RepetitionTime  # they stand in the functional groups
        ds.SOPClassUID = ENHANCED_MR_STORAGE
        ds.SeriesNumber = 5 if not key or key[0] == "magnitude" else 6
        ds.SeriesInstanceUID = uid(identity, "series", ds.SeriesNumber)
        ds.SOPInstanceUID = uid(identity, key, "enhanced")
        ds.InstanceNumber = 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "MIXED", "NONE"]
        if key:
            ds.AcquisitionNumber = key[2] + 1
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M" if key[0] == "magnitude" else "P", "NONE"]
        shared = Dataset()
        shared.PixelMeasuresSequence = _group(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=0.9 * spacing[2])
        axes = [*affine_lps[:3, 0] / spacing[0], *affine_lps[:3, 1] / spacing[1]]
        shared.PlaneOrientationSequence = _group(ImageOrientationPatient=[f"{v:.8g}" for v in axes])
        shared.MRTimingAndRelatedParametersSequence = _group(RepetitionTime="14.5", FlipAngle="5")
        frequency_mhz = proton_frequency_hz(echoes.field_strength_tesla) / 1e6
        shared.MRImagingModifierSequence = _group(TransmitterFrequency=frequency_mhz)
        ds.SharedFunctionalGroupsSequence = [shared]
        # frames of the real files come in no order that a reader may lean on
        order = np.random.default_rng(len(frames)).permutation(len(frames))
        frames = [frames[i] for i in order]
        ds.PerFrameFunctionalGroupsSequence = [_frame_groups(echoes, vendor, date, affine_lps, frame) for frame in frames]
        _pixels(ds, frames[0][4])
        ds.NumberOfFrames = len(frames)
        ds.BitsStored, ds.HighBit = 12, 11
        ds.PixelData = b"".join(np.ascontiguousarray(frame[4].T).tobytes() for frame in frames)
        _save(ds, folder / f"E{int(hashlib.sha256(repr(key).encode()).hexdigest()[:6], 16):08d}")
    return len(files)


def _frame_groups(
    echoes: RepeatedMultiEcho, vendor: str, date: str, affine_lps: AnyArray, frame: tuple[str, int, int, int, AnyArray]
) -> Dataset:
    part, echo, repetition, k = frame[:4]
    groups = Dataset()
    groups.MREchoSequence = _group(EffectiveEchoTime=float(1e3 * echoes.echo_times_s[echo]))
    groups.PlanePositionSequence = _group(ImagePositionPatient=[f"{v:.8g}" for v in affine_lps[:3, 3] + k * affine_lps[:3, 2]])
    groups.FrameContentSequence = _group(
        FrameAcquisitionDateTime=date + _clock(echoes, repetition), StackID="1", InStackPositionNumber=k + 1
    )
    letter = {"magnitude": "M", "phase": "P"}[part]
    word = letter if vendor == "siemens-xa" else "NONE"
    groups.MRImageFrameTypeSequence = _group(FrameType=["ORIGINAL", "PRIMARY", word, "NONE"], ComplexImageComponent=part.upper())
    if vendor == "siemens-xa":
        slope, intercept, unit = (1.0, 0.0, "US") if part == "magnitude" else (2.0, -4096.0, "US")
    elif vendor == "philips-enhanced":
        slope, intercept, unit = (1.25, 0.0, "normalized") if part == "magnitude" else (2e3 * np.pi / 4096, -1e3 * np.pi, "mrad")
    else:
        slope, intercept, unit = (0.5, 0.0, "US") if part == "magnitude" else (360 / 4096, -180.0, "deg")
    groups.PixelValueTransformationSequence = _group(RescaleSlope=f"{slope:.12g}", RescaleIntercept=f"{intercept:.12g}", RescaleType=unit)
    if vendor == "philips-enhanced":
        own = Dataset()
        own.SOPClassUID = MR_IMAGE_STORAGE
        own.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE" if part == "magnitude" else "PHASE MAP", letter, "FFE"]
        own.TemporalPositionIdentifier = repetition + 1
        own.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.02)
        for block in range(1, 5):  # the real files have this sequence in the fifth block
            groups.private_block(0x2005, f"Philips MR Imaging DD 00{block}", create=True)
        groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [own])
    elif vendor == "neutral-enhanced":
        groups.FrameContentSequence[0].TemporalPositionIndex = repetition + 1
    return groups


def _pixels(ds: Dataset, pixels: AnyArray) -> None:
    """Pixels (x, y) as rows and columns, 16 bits."""
    stored = np.ascontiguousarray(pixels.T)
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 12 if stored.dtype == np.uint16 and stored.max(initial=0) < 4096 else 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype == np.int16)
    ds.PixelData = stored.tobytes()


def _save(ds: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid("implementation"))
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def write_clutter(folder: Path, echoes: RepeatedMultiEcho, *, vendor: str, identity: str, date: str) -> None:
    """What else lies in a scanner's export: a localizer, a vendor's map, a text file, an empty and a cut-off file."""
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ echoes.grid.affine_mm
    magnitude = np.abs(np.asarray(echoes.signal[:, :, echoes.grid.shape[2] // 2, 0, 0]))
    image = np.round(magnitude / magnitude.max() * 1000).astype(np.uint16)
    for series, description, words in (
        (1, "localizer", ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]),
        (90, "T2star_map", ["DERIVED", "PRIMARY", "T2_STAR MAP", "ND"]),
    ):
        ds = Dataset()
        _common(ds, echoes, vendor, identity, date)
        ds.SeriesDescription, ds.SeriesNumber, ds.ImageType = description, series, words
        ds.SeriesInstanceUID = uid(identity, "series", series)
        ds.SOPInstanceUID = uid(identity, description)
        ds.FrameOfReferenceUID = uid(identity, "frame", description)
        ds.EchoTime, ds.InstanceNumber = "4.0", 1
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [f"{v:.8g}" for v in affine_lps[:3, 3]]
        ds.PixelSpacing, ds.SliceThickness = ["4", "4"], "8"
        _pixels(ds, image)
        _save(ds, folder / "misc" / f"S{series:03d}" / "0001")
    (folder / "misc" / "README.TXT").write_text("exported\n", encoding="utf-8")
    (folder / "misc" / "EMPTY").write_bytes(b"")
    whole = (folder / "misc" / "S001" / "0001").read_bytes()
    (folder / "misc" / "CUT").write_bytes(whole[: len(whole) // 3])
