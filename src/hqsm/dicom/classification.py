"""What a series is that is no part of a complex acquisition: its name in plain words, by evidence in the header."""

from __future__ import annotations

from typing import Any

from hqsm.dicom.conventions import ENHANCED_MR
from hqsm.dicom.files import kind_of_class

MR_IMAGES = ("1.2.840.10008.5.1.4.1.1.4", *ENHANCED_MR)

_KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("localizer", frozenset({"LOCALIZER", "SCOUT"})),
    ("field map", frozenset({"B0 MAP", "B0", "FIELD_MAP", "FIELDMAP", "FIELD MAP", "B0_MAP"})),
    (
        "T2* or R2* map",
        frozenset({"T2_STAR MAP", "T2_STAR", "T2STAR", "T2* MAP", "T2STAR_MAP", "R2_STAR MAP", "R2_STAR", "R2* MAP"}),
    ),
    ("T1 or T2 map", frozenset({"T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "R1 MAP", "R2 MAP"})),
    ("velocity map", frozenset({"VELOCITY MAP", "VELOCITY_MAP", "VELOCITY", "V", "FLOW"})),
    ("phase difference", frozenset({"PHASE DIFFERENCE", "PHASE_DIFFERENCE", "PHASEDIFF", "PHASE SUB", "SUBTRACTION"})),
    ("diffusion image", frozenset({"DIFFUSION", "ADC", "FA", "TRACEW", "TRACE", "TENSOR"})),
    (
        "fat-water image of the scanner",
        frozenset({"WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "FAT_FRACTION", "FAT_FRAC", "W", "F", "IP", "OP", "FF"}),
    ),
    ("susceptibility-weighted image", frozenset({"SWI", "MNIP", "MINIP", "SWAN"})),
    ("projection or reformat", frozenset({"PROJECTION IMAGE", "MIP", "MPR", "CSA MPR", "CSA 3D EDITOR", "MIP_SUM", "REFORMATTED"})),
)
_DESCRIPTIONS = (("localizer", ("localizer", "localiser", "scout", "survey", "3-plane", "3 plane", "loc_")),)


def other_than_complex(header: Any) -> str | None:
    """Name of what an image is, if it can be no part of a complex acquisition: a map, a localizer, a capture."""
    sop_class = str(header.get("SOPClassUID") or "")
    if sop_class not in MR_IMAGES:
        return kind_of_class(sop_class)
    words = {
        str(word).upper().strip()
        for name in ("FrameType", "ImageType")
        for value in [header.get(name) or ()]
        for word in ([value] if isinstance(value, str) else value)
    }
    for kind, known in _KINDS:
        if words & known:
            return kind
    # Siemens' product field map stores the difference of its echoes as a phase image of the second one
    if "P" in words and str(header.get("SequenceName") or "").lower().startswith("*fm2d"):
        return "phase difference"
    if float(header.get("DiffusionBValue") or 0) > 0:
        return "diffusion image"
    if str(header.get("RescaleType") or "").strip().lower() == "hz":
        return "field map"
    return None


def kind_of_rest(header: Any) -> str:
    """Name of an MR image that no convention takes for a part of a complex acquisition."""
    text = str(header.get("SeriesDescription") or "").lower()
    for kind, known in _DESCRIPTIONS:
        if any(word in text for word in known):
            return kind
    value = header.get("FrameType") or header.get("ImageType") or ()
    return "derived image" if "DERIVED" in {str(word).upper() for word in value} else "image of no stated part"
