"""How each vendor codes a complex image: one small class per convention, chosen by evidence in the header.

``part`` says what an image is (magnitude, phase, real, imaginary), or None for something that is not part of a complex
acquisition; ``values`` decodes its pixels to base units (phase in rad); ``finish`` makes the complex volume agree with
this package's sign: phase grows with time where the local field is stronger than B0.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray

MAGNITUDE, PHASE, REAL, IMAGINARY = "magnitude", "phase", "real", "imaginary"
_GE_PARTS = {0: MAGNITUDE, 1: PHASE, 2: REAL, 3: IMAGINARY}


def image_type(header: Any) -> tuple[str, ...]:
    """ImageType as upper-case words; empty if absent."""
    value = header.get("ImageType")
    return tuple(str(word).upper() for word in value) if value else ()


def _rescaled(header: Any, pixels: AnyArray) -> AnyArray:
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


class Convention(Protocol):
    """What the reader asks of a vendor's convention."""

    name: str

    def applies(self, header: Any) -> bool:
        """Whether this convention coded the image."""

    def part(self, header: Any) -> str | None:
        """Which part of the complex image this is."""

    def values(self, header: Any, pixels: AnyArray, part: str) -> AnyArray:
        """Pixel values in base units."""

    def finish(self, signal: ComplexArray) -> ComplexArray:
        """The complex volume (x, y, slice) in this package's sign."""


class SiemensClassic:
    """Siemens: magnitude and phase in series of their own; phase 0..4095 is one turn, with or without rescale tags."""

    name = "siemens-classic"

    def applies(self, header: Any) -> bool:
        return "siemens" in str(header.get("Manufacturer", "")).lower()

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        if len(words) < 3 or words[0] != "ORIGINAL" or "NORM" in words:
            return None
        return {"M": MAGNITUDE, "P": PHASE, "R": REAL, "I": IMAGINARY}.get(words[2])

    def values(self, header: Any, pixels: AnyArray, part: str) -> AnyArray:
        if part != PHASE:
            return pixels.astype(np.float32)
        # 2/-4096 puts one turn on -4096..4094; sequences that leave the tags out mean the same raw values
        raw = _rescaled(header, pixels) if "RescaleSlope" in header else 2 * pixels.astype(np.float32) - 4096
        return raw * np.float32(np.pi / 4096)

    def finish(self, signal: ComplexArray) -> ComplexArray:
        return signal


class Ge:
    """GE: real, imaginary and magnitude told apart by (0043,102F); opposite phase sign; slices alternate by pi."""

    name = "ge"

    def applies(self, header: Any) -> bool:
        return str(header.get("Manufacturer", "")).lower().startswith("ge")

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        if words and words[0] == "DERIVED" and "SECONDARY" in words:
            return None
        element = header.get((0x0043, 0x102F))
        if element is None:
            return None
        value = element.value
        if isinstance(value, bytes):
            value = int.from_bytes(value[:2], "little")
        elif hasattr(value, "__len__") and not isinstance(value, str):
            value = value[0]
        return _GE_PARTS.get(int(value))

    def values(self, header: Any, pixels: AnyArray, part: str) -> AnyArray:
        values = pixels.astype(np.float32)
        return values * np.float32(np.pi / 4096) if part == PHASE else values

    def finish(self, signal: ComplexArray) -> ComplexArray:
        signal = np.conj(signal)
        # the slice transform leaves every other slice with the opposite sign; undone only where the data show it
        between = np.sum(signal[:, :, 1:] * np.conj(signal[:, :, :-1]), axis=(0, 1))
        if signal.shape[2] > 1 and np.mean(between.real < 0) > 0.5:
            signal = signal.copy()
            signal[:, :, 1::2] *= -1
        return signal


class PhilipsClassic:
    """Philips: magnitude and phase (or real and imaginary) in one series; phase in milliradians by its rescale."""

    name = "philips-classic"

    def applies(self, header: Any) -> bool:
        return "philips" in str(header.get("Manufacturer", "")).lower()

    def part(self, header: Any) -> str | None:
        words = image_type(header)
        if len(words) < 4 or words[0] != "ORIGINAL":
            return None
        return {"M": MAGNITUDE, "P": PHASE, "R": REAL, "I": IMAGINARY}.get(words[3])

    def values(self, header: Any, pixels: AnyArray, part: str) -> AnyArray:
        rescaled = _rescaled(header, pixels)
        if part == PHASE:
            return rescaled * np.float32(1e-3)
        scale = header.get((0x2005, 0x100E))
        value = float(scale.value) if scale is not None and not isinstance(scale.value, bytes) else 0.0
        # displayed value = stored * rescale; the floating value divides by slope * scale (Philips private)
        slope = float(header.get("RescaleSlope", 1) or 1)
        return rescaled / np.float32(slope * value) if value > 0 else rescaled

    def finish(self, signal: ComplexArray) -> ComplexArray:
        return signal


CONVENTIONS: tuple[Convention, ...] = (SiemensClassic(), Ge(), PhilipsClassic())


def convention_of(header: Any) -> Convention | None:
    """The first convention that applies; None for a vendor that is not known."""
    return next((convention for convention in CONVENTIONS if convention.applies(header)), None)


def complex_from(parts: dict[str, AnyArray]) -> ComplexArray | None:
    """Complex values from real and imaginary where both are there, else from magnitude and phase [rad]."""
    if REAL in parts and IMAGINARY in parts:
        return np.asarray(parts[REAL] + 1j * parts[IMAGINARY], np.complex64)
    if MAGNITUDE in parts and PHASE in parts:
        return np.asarray(parts[MAGNITUDE] * np.exp(1j * parts[PHASE]), np.complex64)
    return None
