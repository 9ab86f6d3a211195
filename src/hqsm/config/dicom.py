"""Parameters of the DICOM reader."""

from __future__ import annotations

from hqsm.config.base import parameters


@parameters
class DicomParams:
    """How raw DICOM is read."""

    largest_file_mb: float = 512.0
    """Files larger than this are left aside: no single image of a multi-echo series is so large."""
