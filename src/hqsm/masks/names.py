"""Labels that the pipeline knows, and how people write them."""

from __future__ import annotations

import difflib
import re

from hqsm.errors import InputError

KNOWN = (
    "liver",
    "liver-roi",
    "right-lobe",
    *(f"segment-{n}" for n in range(1, 9)),
    "vessel",
    "reference-fat",
    "reference-aorta",
    "reference-muscle",
    "reference-medium",
)
_ALIASES = {
    "vessels": "vessel",
    "hepatic-vessel": "vessel",
    "hepatic-vessels": "vessel",
    "liver-vessels": "vessel",
    "roi": "liver-roi",
    "right-liver-lobe": "right-lobe",
    "subcutaneous-fat": "reference-fat",
    "aorta": "reference-aorta",
    "muscle": "reference-muscle",
    "paraspinal-muscle": "reference-muscle",
    "medium": "reference-medium",
}
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8}


def known_name(written: str, file: str) -> str | None:
    """The pipeline's name of a label; None for a label of something else (a spleen, a lesion).

    Raises
    ------
    InputError
        ``MASK_LABEL`` for a name so near to a known one that it must be a slip.
    """
    name = re.sub(r"[\s_]+", "-", written.strip().lower())
    name = _ALIASES.get(name, name)
    segment = re.fullmatch(r"(?:liver-|couinaud-)?segment-?([1-8]|[iv]{1,4})", name)
    if segment:
        number = _ROMAN.get(segment[1]) or (int(segment[1]) if segment[1].isdigit() else None)
        return f"segment-{number}" if number else None
    if name in KNOWN:
        return name
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
    if near:
        raise InputError(f"{file} has a label {written!r}.", remedy=f"Did you mean {near[0]}?", code="MASK_LABEL")
    return None
