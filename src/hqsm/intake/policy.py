"""What may stay of a DICOM header, and how identities, UIDs and dates become blind. No files, no DICOM library.

An allow-list, after the profiles of DICOM PS3.15 annex E (basic profile with the options Clean Descriptors, Retain
Longitudinal Temporal Information with Modified Dates, Retain Safe Private): an attribute that is not listed here is
dropped, a text that is kept is reduced to words of a known vocabulary, so that a name typed into any field is lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

LARGEST_SHIFT_DAYS = 3650
"""Dates move into the past by 1 to this many days."""

IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR image",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR image",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR image",
}
"""SOP classes that are filed. Others (secondary captures, dose sheets, reports) can show a name in their pixels."""


def _listed(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


STANDARD: dict[str, str] = {
    **_listed("uid", "SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID ConcatenationUID DimensionOrganizationUID"),
    **_listed("class", "SOPClassUID"),
    **_listed("date", "StudyDate SeriesDate AcquisitionDate ContentDate"),
    **_listed("datetime", "AcquisitionDateTime FrameAcquisitionDateTime FrameReferenceDateTime"),
    **_listed("time", "StudyTime SeriesTime AcquisitionTime ContentTime"),
    **_listed("text", "SeriesDescription Manufacturer ManufacturerModelName SequenceName PulseSequenceName ImagedNucleus"),
    **_listed("text", "ResonantNucleus RescaleType StackID"),
    **_listed("version", "SoftwareVersions"),
    **_listed("code", "DeviceSerialNumber"),
    **_listed("pointer", "DimensionIndexPointer FunctionalGroupPointer"),
    **_listed("pixels", "PixelData"),
    **_listed(
        "word",
        "ImageType FrameType Modality BodyPartExamined ScanningSequence SequenceVariant ScanOptions MRAcquisitionType "
        "PatientPosition PhotometricInterpretation InPlanePhaseEncodingDirection ComplexImageComponent AcquisitionContrast "
        "PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique RespiratoryMotionCompensationTechnique "
        "RespiratorySignalSource StartingRespiratoryPhase EndingRespiratoryPhase RespiratoryTriggerType GeometryOfKSpaceTraversal "
        "EchoPulseSequence SpoiledSequence MultipleSpinEcho PresentationLUTShape DimensionOrganizationType BurnedInAnnotation "
        "PositionMeasuringDeviceUsed QuantitativeImageFlag",
    ),
    **_listed(
        "number",
        "SeriesNumber AcquisitionNumber InstanceNumber TemporalPositionIdentifier TemporalPositionIndex NumberOfTemporalPositions "
        "TriggerTime EchoTime EffectiveEchoTime EchoNumbers EchoTrainLength RepetitionTime InversionTime FlipAngle NumberOfAverages "
        "ImagingFrequency TransmitterFrequency MagneticFieldStrength SliceThickness SpacingBetweenSlices PixelBandwidth "
        "NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView AcquisitionMatrix AcquisitionDuration SAR "
        "ReconstructionDiameter ChemicalShiftReference DiffusionBValue "
        "ImagePositionPatient ImageOrientationPatient PixelSpacing SliceLocation ImagesInAcquisition "
        "InStackPositionNumber FrameAcquisitionNumber DimensionIndexValues FrameAcquisitionDuration "
        "SamplesPerPixel Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation PlanarConfiguration "
        "RescaleIntercept RescaleSlope WindowCenter WindowWidth "
        "RealWorldValueIntercept RealWorldValueSlope RealWorldValueFirstValueMapped RealWorldValueLastValueMapped "
        "NominalRespiratoryTriggerDelayTime ActualRespiratoryTriggerDelayTime RespiratoryTriggerDelayThreshold "
        "RespiratoryIntervalTime NominalPercentageOfRespiratoryPhase StartingRespiratoryAmplitude EndingRespiratoryAmplitude",
    ),
    **_listed(
        "sequence",
        "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence "
        "PlaneOrientationSequence FrameContentSequence MREchoSequence MRTimingAndRelatedParametersSequence "
        "MRFOVGeometrySequence MRModifierSequence MRImagingModifierSequence MRAveragesSequence MRImageFrameTypeSequence "
        "PixelValueTransformationSequence FrameVOILUTSequence RealWorldValueMappingSequence MRPulseSequenceSequence "
        "RespiratorySynchronizationSequence DimensionOrganizationSequence DimensionIndexSequence TemporalPositionSequence "
        "MRMetaboliteMapSequence MRDiffusionSequence",
    ),
}
"""Keyword of every standard attribute that is kept, and how: see :mod:`hqsm.intake.deidentify`."""


@dataclass(frozen=True, kw_only=True)
class PrivateElement:
    """A private element that is kept: its creator, group, element within the creator's block, and value representation."""

    creator: str
    group: int
    element: int
    vr: str
    """A numeric representation (values are kept as numbers only), ``CS`` (known words only) or ``SQ``."""


def _private(creator: str, group: int, elements: str) -> tuple[PrivateElement, ...]:
    pairs = (item.split(":") for item in elements.split())
    return tuple(PrivateElement(creator=creator, group=group, element=int(number, 16), vr=vr) for number, vr in pairs)


PRIVATE: tuple[PrivateElement, ...] = (
    *_private("GEMS_PARM_01", 0x0043, "2C:SS 2F:SS 83:DS"),
    *_private("GEMS_ACQU_01", 0x0019, "7D:DS 7E:SS A7:DS"),
    *_private("GEMS_RELA_01", 0x0021, "4F:SS"),
    *_private("Philips Imaging DD 001", 0x2001, "08:IS 0A:IS 14:SL 18:SL 1D:IS 22:FL 7B:IS 81:IS 9F:US"),
    *_private("Philips MR Imaging DD 001", 0x2005, "0D:FL 0E:FL 11:CS 30:FL 6E:CS"),
    *_private("Philips MR Imaging DD 005", 0x2005, "09:DS 0A:DS 0F:SQ"),
    *_private("SIEMENS MR HEADER", 0x0019, "0C:IS 28:FD"),
)
"""Safe private elements of the vendors' conventions. Free text and the CSA headers of Siemens are not among them."""

WORDS = frozenset(
    (
        "ORIGINAL DERIVED PRIMARY SECONDARY MIXED M P R I M_FFE M_SE M_IR M_PCA PHASE MAP|PHASE MAP|P_FFE R_FFE I_FFE FFE SE IR PCA|"
        "MAGNITUDE REAL IMAGINARY OTHER ND NORM DIS2D DIS3D DRB SUB MIP MPR FM FIELD_MAP|FIELD MAP|B0 B1 PROPELLER|"
        "T1 T2 T2_STAR T2STAR T2_STAR MAP|T2_STAR_MAP R2_STAR R2STAR R2_STAR MAP|T1_MAP T2_MAP WATER FAT IN_PHASE OUT_PHASE|"
        "W F IP OP OPP_PHASE FAT_FRACTION FF QUANTITATIVE PARALLEL FILTERED NONE UNKNOWN NORMAL MFSPLIT MOSAIC COMBINED|"
        "MR LIVER ABDOMEN KIDNEY SPLEEN HEART BRAIN HEAD PELVIS CHEST SPINE NECK WHOLEBODY PHANTOM UPPERABDOMEN|"
        "GR EP RM SK MTC SS TRSS SP MP OSP 1D 2D 3D PER RG CG PPG FC PFF PFP FS FAST_GEMS EDR_GEMS ACC_GEMS PFP FILTERED_GEMS|"
        "HFS HFP FFS FFP HFDL HFDR FFDL FFDR MONOCHROME1 MONOCHROME2 ROW COL COLUMN VOLUME SAMPLED DISTORTED|"
        "DIFFUSION FLOW_ENCODED FLUID_ATTENUATED PERFUSION PROTON_DENSITY STIR TAGGING TOF COLOR MONOCHROME TRUE_COLOR|"
        "BREATH_HOLD REALTIME GATING TRACKING PHASE_ORDERING PHASE_SCANNING RETROSPECTIVE CORRECTION|"
        "BELT NASAL_PROBE CO2_SENSOR NAVIGATOR MR_PHASE ECG BELLOWS EXPIRATION INSPIRATION MAXIMUM MINIMUM POSITIVE NEGATIVE|"
        "RECTILINEAR RADIAL SPIRAL GRADIENT SPIN BOTH YES NO Y N IDENTITY INVERSE TILED_FULL 3D_TEMPORAL U RIGID ADD"
    )
    .replace("|", " ")
    .split()
) | {"PHASE MAP", "T2_STAR MAP", "R2_STAR MAP", "FIELD MAP", "T2 MAP", "T1 MAP", "R2 MAP", "MIN IP", "CSA MPR"}
"""Coded words that are kept; every other word of a coded attribute becomes :data:`UNLISTED`."""
UNLISTED = "UNLISTED"

_SCANNERS = """
siemens healthineers philips ge medical systems healthcare canon toshiba hitachi fujifilm uih united imaging bruker brucker
magnetom aera avanto skyra prisma fit verio vida sola lumina altea trio tim espree symphony sonata terra biograph mmr amira
discovery signa mr750 mr750w mr450 mr450w premier architect artist pioneer voyager hdxt hdx excite optima creator hero
ingenia achieva dstream intera elition ambition panorama evolution vantage titan galan orian elan centurian umr omega
syngo mr lx xa ve numaris software release
"""
_MEASURED = """
liver hepatic abdomen abdominal spleen explant phantom kidney heart breath hold breathhold bh free breathing fb fbnav nav navigator
navi gated gating trigger triggered resp respiratory pace echo echoes multi multiecho dual dualecho single gre megre mgre me mecho
gradient recalled ffe flash fl2d fl3d vibe star dixon mdixon mdixonquant quant ideal idealiq iq lava flex lavaflex spgr fspgr
fse tse haste ssfse trufi trufisp fiesta bffe swi swan swip qsm hqsm susceptibility chi chimap r2star r2 t2star t2 t2w t1 t1w pdw pd
r2s t2s b0 b1 fieldmap field map maps mapping water fat wat fatfraction fraction ff pdff inphase outphase in out phase opp op ip
mag magnitude pha real imag imaginary image images raw norm nd iron lic ferriscan loc localizer localiser localizers scout
survey calibration calib ref reference shim coil asset sense cal ax axial tra transversal transverse cor coronal sag sagittal obl
oblique iso isotropic highres lowres low high res resolution short long te tr fa ms mm bipolar monopolar uni hz rad normalized us dwi
diffusion adc moco mip mpr sub derived corrected filtered unfiltered pre post contrast dyn dynamic series scan repeat rep run test
part left right head foot seg segment rs wip 1h
"""
VOCABULARY = frozenset((_SCANNERS + _MEASURED).split())
"""Words that are kept of a text: makers, models, anatomy, physics."""
_LABELLED_NUMBER = re.compile(
    r"^([0-9]|(te|tr|fa|bw|xa|ve|vb|dv|e|p|g|s|r|t|b|v|x)[0-9]{1,2}[a-z]?|[0-9]{1,2}(ms|mm|hz|deg|e|ch)|(fl)?[23]d[0-9]?)$"
)
_VERSION = re.compile(r"^[A-Za-z]{0,2}[0-9]{1,2}(\.[0-9]{1,2}){0,3}[A-Za-z]?$")
_SPACES = re.compile(r"[\s_]+(?=[\s_]|$)|^[\s_]+")


def known_words(text: object) -> str:
    """The words of a text that the vocabulary knows, with their separators; a name or number of a person is not among them.

    ``liver_nav_DOE_JANE_mGRE`` becomes ``liver_nav_mGRE``.
    """
    shown = re.sub(r"[^\W_]+", lambda match: match[0] if _is_known(match[0].lower()) else "", str(text)[:256])
    shown = re.sub(r"[^A-Za-z0-9 ._*:+()-]", " ", shown)
    shown = re.sub(r"([._*:+()-])[._*:+() -]*(?=[._*:+()-])", r"\1", _SPACES.sub("", shown))
    return " ".join(shown.split()).strip(" ._:-")[:64]


def _is_known(token: str) -> bool:
    # a bare number of two digits or more is not kept: it can be a piece of a date or of a hospital's number
    return token in VOCABULARY or (token.isascii() and bool(_LABELLED_NUMBER.match(token)))


def known_version(text: object) -> str:
    """A software version: version numbers and words of the vocabulary; ``syngo MR E11``, ``5.7.1``."""
    words = re.split(r"[\s_:\\]+", str(text)[:256])
    kept = [word for word in words if word.isascii() and (word.lower() in VOCABULARY or _VERSION.match(word))]
    return " ".join(kept)[:64]


def known_word(value: object) -> str:
    """A coded word if it is listed, else :data:`UNLISTED`."""
    word = str(value).strip().upper()
    return word if word in WORDS else UNLISTED


def plain_number(value: object) -> str | None:
    """A number as it was written, or None for anything else (text, infinity, more than 32 characters)."""
    text = str(value).strip()
    return text if len(text) <= 32 and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text, re.ASCII) else None


@dataclass(frozen=True, kw_only=True)
class Blinding:
    """The study's secret applied: every answer depends on the secret and the question alone.

    HMAC-SHA-256 (RFC 2104): without the secret nobody can test a guessed name or number against a blind one.
    """

    secret: bytes

    def __repr__(self) -> str:
        return "Blinding(secret=...)"

    def _digest(self, *words: str) -> bytes:
        return hmac.new(self.secret, "\0".join(words).encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def participant(self, site: str, patient_id: str) -> str:
        """Blind label of a person: ``HQ`` and eight letters or digits (40 bits)."""
        return "HQ" + base64.b32encode(self._digest("participant", site, patient_id)[:5]).decode("ascii")

    def shift_days(self, site: str, patient_id: str) -> int:
        """Whole days to add to each of a person's dates: -1 to -:data:`LARGEST_SHIFT_DAYS`, so that no date lies ahead."""
        return -1 - int.from_bytes(self._digest("shift", site, patient_id)[:8], "big") % LARGEST_SHIFT_DAYS

    def uid(self, uid: str) -> str:
        """Blind UID of the form of ITU-T X.667 (``2.25.`` and 128 bits)."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def code(self, text: str) -> str:
        """Blind code of a device: the same device has the same code within a study."""
        return self._digest("device", text).hex()[:12]


def shifted_date(text: str, days: int) -> str:
    """A DICOM date YYYYMMDD moved by whole days; empty where it is no date."""
    moved = _moved(text, days)
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}" if moved else ""


def shifted_datetime(text: str, days: int) -> str:
    """A DICOM date and time whose date is moved by whole days; time and offset from UTC stay."""
    match = re.fullmatch(r"(\d{8})(\d{0,6}(?:\.\d{1,6})?)([+-]\d{4})?\s*", text, re.ASCII)
    moved = shifted_date(match[1], days) if match else ""
    return f"{moved}{match[2]}{match[3] or ''}" if match and moved else ""


def plain_time(text: str) -> str:
    """A DICOM time of day, or empty text."""
    text = text.strip()
    return text if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text, re.ASCII) else ""


def _moved(text: str, days: int) -> date | None:
    match = re.fullmatch(r"(\d{4})[.]?(\d{2})[.]?(\d{2})", text.strip(), re.ASCII)
    try:
        return date(*map(int, match.groups())) + timedelta(days=days) if match else None
    except (ValueError, OverflowError):
        return None


def next_session(taken: Iterable[str]) -> str:
    """The next free session label: ``01``, ``02`` ... after the highest number that was given."""
    numbers = [int(label) for label in taken if label.isascii() and label.isdigit()]
    return f"{max(numbers, default=0) + 1:02d}"
