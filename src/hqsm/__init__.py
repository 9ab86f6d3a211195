"""Hepatic iron from multi-echo MRI: raw DICOM in, liver iron concentration and its annual change out."""

__version__ = "0.1.0"
