"""Edge: a visit's results as DICOM, for the archive of a hospital (docs/dicom_export.md)."""
