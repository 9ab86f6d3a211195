"""Maps as secondary MR series that every archive shows: one image per slice, 16 bits with a rescale slope."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from hqsm.arrays import FloatArray
from hqsm.dicom_out.quantities import Quantity

_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_NOTHING = -32768
"""Stored where a voxel has no value."""
_LARGEST = 32767


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Who and when, blind: labels with their prefixes and the shifted date (YYYYMMDD, or empty)."""

    participant_id: str
    session_id: str
    date: str
    field_strength_tesla: float
    software: str

    def uid(self, *parts: object) -> str:
        """The same parts give the same UID (PS3.5 B.2: 2.25 and a 128-bit number)."""
        text = "/".join(["hqsm", self.participant_id, self.session_id, *(str(p) for p in parts)])
        return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def lps(affine_mm: FloatArray) -> FloatArray:
    """A RAS+ affine in DICOM's LPS+ coordinates."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_mm


def mr_series(visit: Visit, quantity: Quantity, volume: FloatArray, affine_mm: FloatArray, number: int) -> list[Dataset]:
    """A map (x, y, z) as one MR image per slice; columns run along x, rows along y.

    Values are ``stored * RescaleSlope`` in the quantity's unit; where there is none the stored value is PixelPaddingValue.
    """
    affine = lps(affine_mm)
    size = np.linalg.norm(affine[:3, :3], axis=0)
    finite = volume[np.isfinite(volume)]
    largest = float(np.abs(finite).max()) if finite.size else 1.0
    slope = float(f"{max(largest, 1e-6) / _LARGEST:.9g}")
    with np.errstate(invalid="ignore"):
        stored = np.where(np.isfinite(volume), np.clip(np.rint(volume / slope), -_LARGEST, _LARGEST), _NOTHING).astype(np.int16)
    made = []
    for k in range(volume.shape[2]):
        image = _image(visit, quantity, number)
        image.SOPInstanceUID = visit.uid("mr", quantity.suffix, k)
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID = UID(_MR_STORAGE)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.InstanceNumber = k + 1
        image.ImagePositionPatient = [_decimal(v) for v in affine[:3, 3] + k * affine[:3, 2]]
        image.ImageOrientationPatient = [_decimal(v) for v in (affine[:3, :2] / size[:2]).T.ravel()]
        image.PixelSpacing = [_decimal(size[1]), _decimal(size[0])]
        image.SliceThickness = _decimal(size[2])
        image.SpacingBetweenSlices = _decimal(size[2])
        image.Rows, image.Columns = volume.shape[1], volume.shape[0]
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = _decimal(slope), "0", "US"
        image.PixelData = stored[:, :, k].T.tobytes()
        made.append(image)
    return made


def _image(visit: Visit, quantity: Quantity, number: int) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = _MR_STORAGE
    image.ImageType = ["DERIVED", "SECONDARY", "QUANTITATIVE", quantity.suffix.upper().replace("-", "_")[:16]]
    image.StudyDate = image.SeriesDate = image.ContentDate = image.AcquisitionDate = visit.date
    image.StudyTime = image.SeriesTime = image.ContentTime = image.AcquisitionTime = "000000"
    image.Modality = "MR"
    image.Manufacturer, image.ManufacturerModelName, image.SoftwareVersions = "hQSM", "hqsm", visit.software
    image.DeviceSerialNumber = "0"
    image.PatientName, image.PatientID = f"{visit.participant_id}^", visit.participant_id
    image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "blind identifiers, shifted dates"
    image.StudyID = visit.session_id[:16]
    image.StudyInstanceUID = visit.uid("study")
    image.SeriesInstanceUID = visit.uid("mr", quantity.suffix)
    image.FrameOfReferenceUID = visit.uid("frame")
    image.PositionReferenceIndicator = ""
    image.StudyDescription = "hQSM liver iron"
    image.SeriesDescription = f"{quantity.code[2]} [{quantity.unit[0].strip('[]')}]"
    image.SeriesNumber = number
    image.BodyPartExamined, image.PatientPosition = "LIVER", "HFS"
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "GR", "SP", "", "3D"
    image.RepetitionTime = image.EchoTime = image.EchoTrainLength = None
    image.MagneticFieldStrength = _decimal(visit.field_strength_tesla)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.add_new("PixelPaddingValue", "SS", _NOTHING)
    low, high = quantity.window
    image.WindowCenter, image.WindowWidth = _decimal((low + high) / 2), _decimal(high - low)
    return image


def _decimal(value: float) -> str:
    """A number as DICOM's decimal string of at most 16 characters."""
    text = f"{float(value):.10g}"
    return text if len(text) <= 16 else f"{float(value):.8e}"


def save(dataset: Dataset, path: str) -> None:
    """Write one file; equal content gives equal bytes."""
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
