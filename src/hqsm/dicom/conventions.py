"""How each vendor codes a complex image: one small class per convention, chosen by evidence in the header.

``part`` says what an image is (magnitude, phase, real, imaginary), or None for something that is not part of a complex
acquisition; ``scaling`` gives the straight line from stored values to base units (phase in rad); ``finish`` turns the
complex volumes to this package's sign: phase grows with time where the local field is stronger than B0.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hqsm.arrays import ComplexArray

MAGNITUDE, PHASE, REAL, IMAGINARY = "magnitude", "phase", "real", "imaginary"
ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
"""Enhanced MR Image Storage and Legacy Converted Enhanced MR Image Storage."""
_GE_PARTS = {0: MAGNITUDE, 1: PHASE, 2: REAL, 3: IMAGINARY}
_LETTERS = {"M": MAGNITUDE, "P": PHASE, "R": REAL, "I": IMAGINARY}
_WORDS = {"MAGNITUDE": MAGNITUDE, "PHASE": PHASE, "REAL": REAL, "IMAGINARY": IMAGINARY, "PHASE MAP": PHASE}
_HALF_TURNS = (np.pi, 1e3 * np.pi, 180.0, 4096.0)
"""What half a turn is in the units that are in use: rad, mrad, degrees, and 4096 steps."""
Scaling = tuple[float, float]


def image_type(header: Any) -> tuple[str, ...]:
    """FrameType or ImageType as upper-case words; empty if both are absent."""
    value = header.get("FrameType") or header.get("ImageType")
    if not value:
        return ()
    return tuple(str(word).upper().strip() for word in ([value] if isinstance(value, str) else value))


def _number(header: Any, name: str, default: float) -> float:
    value = header.get(name)
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def rescale(header: Any) -> Scaling:
    """Rescale slope and intercept; 1 and 0 where they are absent."""
    return _number(header, "RescaleSlope", 1.0) or 1.0, _number(header, "RescaleIntercept", 0.0)


def stored_range(header: Any) -> tuple[float, float]:
    """Smallest and largest value that the stored bits can hold."""
    bits = int(_number(header, "BitsStored", 16))
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if _number(header, "PixelRepresentation", 0) else (0.0, 2.0**bits - 1)


def phase_scaling(header: Any) -> Scaling | None:
    """Line from stored values to phase [rad], by the evidence of the header; None where it has none.

    In this order: the unit that RescaleType names; rescale tags that put the stored range on half a turn to either
    side (pi rad, 3142 mrad, 180 degrees, 4096 steps); 12 unsigned bits without rescale, which are one turn; smallest
    and largest pixel value at half a turn to either side.
    """
    slope, intercept = rescale(header)
    unit = str(header.get("RescaleType") or "").strip().lower()
    named = {"rad": 1.0, "radian": 1.0, "radians": 1.0, "mrad": 1e-3, "deg": np.pi / 180, "degree": np.pi / 180, "degrees": np.pi / 180}
    if unit in named:
        return slope * named[unit], intercept * named[unit]
    low, high = stored_range(header)
    if (slope, intercept) != (1.0, 0.0):
        for half_turn in _HALF_TURNS:
            ends = (abs(slope * low + intercept), abs(slope * high + intercept))
            if all(abs(end - half_turn) < 0.015 * half_turn for end in ends):
                return slope * np.pi / half_turn, intercept * np.pi / half_turn
        return None
    if (low, high) == (0.0, 4095.0):
        return np.pi / 2048, -np.pi
    least, greatest = _number(header, "SmallestImagePixelValue", np.nan), _number(header, "LargestImagePixelValue", np.nan)
    for half_turn in _HALF_TURNS[1:]:
        if all(abs(end - half_turn) < 0.015 * half_turn for end in (-least, greatest)):
            return np.pi / half_turn, 0.0
    return None


def turn_of_range(low: float, high: float) -> Scaling | None:
    """Line to phase [rad] of values that fill one turn, as the noise of many images does; None where they do not.

    ``low`` and ``high`` are the smallest and largest value of all images of a series: half a turn to either side, or 0..4095.
    """
    if low >= 0 and 0.95 * 4095 < high <= 4095:
        return np.pi / 2048, -np.pi
    for half_turn in _HALF_TURNS:
        if all(0.95 * half_turn < end <= 1.015 * half_turn for end in (-low, high)):
            return np.pi / half_turn, 0.0
    return None


def part_by_component(header: Any) -> str | None:
    """Part by ComplexImageComponent (0008,9208), which the standard defines."""
    return _WORDS.get(str(header.get("ComplexImageComponent") or "").upper())


def part_by_words(header: Any) -> str | None:
    """Part by the third and fourth word of the image type: a letter, or the word in full."""
    words = image_type(header)
    if words[:1] == ("DERIVED",):
        return None
    return next((_LETTERS.get(word) or _WORDS[word] for word in words[2:5] if word in _LETTERS or word in _WORDS), None)


def _maker(header: Any) -> str:
    return str(header.get("Manufacturer") or "").strip().lower()


class Convention(Protocol):
    """What the reader asks of a vendor's convention."""

    name: str
    sign_was_measured: bool
    """Whether the sign of the phase was confirmed on real data of this vendor."""

    def applies(self, header: Any) -> bool:
        """Whether this convention coded the image."""

    def part(self, header: Any) -> str | None:
        """Which part of the complex image this is."""

    def scaling(self, header: Any, part: str) -> Scaling | None:
        """Slope and offset from stored values to base units; None where the header does not tell."""

    def finish(self, signal: ComplexArray) -> None:
        """Turn one repetition (x, y, slice, echo) to this package's sign, in place."""


class _Standard:
    """What the standard itself says; conventions override where their vendor differs."""

    name = "vendor-neutral"
    sign_was_measured = False

    def applies(self, header: Any) -> bool:
        return part_by_component(header) is not None

    def part(self, header: Any) -> str | None:
        return None if image_type(header)[:1] == ("DERIVED",) else part_by_component(header)

    def scaling(self, header: Any, part: str) -> Scaling | None:
        return phase_scaling(header) if part == PHASE else rescale(header)

    def finish(self, signal: ComplexArray) -> None:
        return None


class VendorNeutral(_Standard):
    """Any maker whose images carry ComplexImageComponent and a phase scale that the header explains."""


class SiemensClassic(_Standard):
    """Siemens: magnitude and phase in series of their own; phase 0..4095 is one turn, with or without rescale tags."""

    name = "siemens-classic"
    sign_was_measured = True

    def applies(self, header: Any) -> bool:
        return "siemens" in _maker(header)

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        return _LETTERS.get(words[2]) if len(words) > 2 and words[0] == "ORIGINAL" else None

    def scaling(self, header: Any, part: str) -> Scaling | None:
        # 2/-4096 puts one turn on -4096..4094; sequences that leave the tags out mean the same stored values
        if part == PHASE and (stored_range(header) == (0.0, 4095.0) or rescale(header) == (2.0, -4096.0)):
            return np.pi / 2048, -np.pi
        return super().scaling(header, part)


class SiemensXa(SiemensClassic):
    """Siemens XA, enhanced: one file per volume; the part stands in ComplexImageComponent and in the frame type."""

    name = "siemens-xa"
    sign_was_measured = False

    def applies(self, header: Any) -> bool:
        return "siemens" in _maker(header) and str(header.get("SOPClassUID", "")) in ENHANCED_MR

    def part(self, header: Any) -> str | None:
        if image_type(header)[:1] == ("DERIVED",):
            return None
        return super().part(header) or part_by_component(header)


class Ge(_Standard):
    """GE: real, imaginary and magnitude told apart by (0043,102F); opposite phase sign; slices alternate by pi."""

    name = "ge"
    sign_was_measured = True

    def applies(self, header: Any) -> bool:
        return _maker(header).startswith("ge")

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        if words[:1] == ("DERIVED",) and "SECONDARY" in words:
            return None
        value = header.private(0x0043, "GEMS_PARM_01", 0x2F, "SS")
        if value is not None and not isinstance(value, int | str):
            value = next(iter(value), None)
        if value is not None:
            return _GE_PARTS.get(int(value))
        return part_by_component(header) or part_by_words(header)

    def finish(self, signal: ComplexArray) -> None:
        np.conjugate(signal, out=signal)
        # the slice transform leaves every other slice with the opposite sign; undone only where the data show it,
        # once for all echoes, by the first echo, which has the most signal
        first = signal[..., 0]
        if first.shape[2] > 1 and np.sum(first[:, :, 1:] * np.conj(first[:, :, :-1])).real < 0:
            signal[:, :, 1::2] *= -1


class PhilipsClassic(_Standard):
    """Philips: magnitude and phase (or real and imaginary) in one series; phase in milliradians by its rescale."""

    name = "philips-classic"
    sign_was_measured = True

    def applies(self, header: Any) -> bool:
        return "philips" in _maker(header)

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        return _LETTERS.get(words[3]) if len(words) > 3 and words[0] == "ORIGINAL" else None

    def scaling(self, header: Any, part: str) -> Scaling | None:
        if part == PHASE:
            return phase_scaling(header)
        slope, intercept = rescale(header)
        value = header.private(0x2005, "Philips MR Imaging DD 001", 0x0E, "FL")
        scale = float(value) if value else 0.0
        # displayed value = stored * rescale; the floating value divides it by slope * scale (Philips private)
        return (1 / scale, intercept / (slope * scale)) if scale > 0 else (slope, intercept)


class PhilipsEnhanced(PhilipsClassic):
    """Philips enhanced: all echoes and parts are frames of one file; the private scale stands in each frame."""

    name = "philips-enhanced"

    def applies(self, header: Any) -> bool:
        return "philips" in _maker(header) and str(header.get("SOPClassUID", "")) in ENHANCED_MR

    def part(self, header: Any) -> str | None:
        if image_type(header)[:1] == ("DERIVED",):
            return None
        return part_by_component(header) or part_by_words(header)


class Canon(_Standard):
    """Canon and Toshiba: the part by ComplexImageComponent, or by the words of the image type."""

    name = "canon"

    def applies(self, header: Any) -> bool:
        return _maker(header).startswith(("canon", "toshiba"))

    def part(self, header: Any) -> str | None:
        return super().part(header) or part_by_words(header)


class UnitedImaging(Canon):
    """United Imaging: ComplexImageComponent also in classic images, letters in the image type; frequency in Hz."""

    name = "united-imaging"

    def applies(self, header: Any) -> bool:
        return _maker(header).startswith(("uih", "united imaging"))


CONVENTIONS: tuple[Convention, ...] = (
    SiemensXa(),
    SiemensClassic(),
    Ge(),
    PhilipsEnhanced(),
    PhilipsClassic(),
    Canon(),
    UnitedImaging(),
    VendorNeutral(),
)


def convention_of(header: Any) -> Convention | None:
    """The first convention that applies; None for a vendor that is not known and does not say what its images are."""
    return next((convention for convention in CONVENTIONS if convention.applies(header)), None)
