"""Physical constants with their source, and every unit conversion of the package as a named function.

Base units are s, Hz, ppm, mm, T, 1/s and mg/g (dry weight). Anything else is converted once, at the edge,
by a function of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hqsm.arrays import FloatArray

PROTON_GYROMAGNETIC_RATIO_HZ_PER_TESLA = 42.577478518e6
"""Shielded value differs by 26 ppm; CODATA 2018 of the free proton [Hz/T]."""

IRON_MOLAR_MASS_UG_PER_UMOL = 55.845
"""Standard atomic weight of iron (IUPAC 2021) [ug/umol]."""

BODY_TEMPERATURE_CELSIUS = 37.0

DAYS_PER_YEAR = 365.25
DAY_S = 86400.0


def milliseconds_to_s(milliseconds: float) -> float:
    """DICOM echo and repetition times (ms) to seconds."""
    return float(milliseconds) / 1e3


def proton_frequency_hz(field_strength_tesla: float) -> float:
    """Larmor frequency of water protons [Hz]."""
    return PROTON_GYROMAGNETIC_RATIO_HZ_PER_TESLA * field_strength_tesla


def field_strength_from_frequency_tesla(imaging_frequency_mhz: float) -> float:
    """B0 [T] from DICOM ImagingFrequency (0018,0084) [MHz]; exact where MagneticFieldStrength is rounded (2.89 T)."""
    return imaging_frequency_mhz * 1e6 / PROTON_GYROMAGNETIC_RATIO_HZ_PER_TESLA


def hz_to_ppm(field_hz: FloatArray, field_strength_tesla: float) -> FloatArray:
    """Off-resonance [Hz] as a relative field [ppm of B0]."""
    return field_hz / (proton_frequency_hz(field_strength_tesla) * 1e-6)


def ppm_to_hz(field_ppm: FloatArray, field_strength_tesla: float) -> FloatArray:
    """Relative field [ppm of B0] as off-resonance [Hz]."""
    return field_ppm * (proton_frequency_hz(field_strength_tesla) * 1e-6)


def umol_per_g_to_mg_per_g(umol_per_g: float) -> float:
    """Iron concentration [umol/g] to [mg/g]: 100 umol/g = 5.5845 mg/g."""
    return umol_per_g * IRON_MOLAR_MASS_UG_PER_UMOL / 1e3


def ug_per_g_to_mg_per_g(ug_per_g: float) -> float:
    """Iron concentration [ug/g] to [mg/g]."""
    return ug_per_g / 1e3


def mg_to_g(milligrams: float) -> float:
    """Mass [mg] to [g]."""
    return milligrams / 1e3


def mm3_to_ml(cubic_millimetres: float) -> float:
    """Volume [mm3] to [mL]."""
    return cubic_millimetres / 1e3


def percent_to_fraction(percent: float) -> float:
    """Percent to a fraction of one."""
    return percent / 100.0


def g_per_dl_to_g_per_ml(grams_per_decilitre: float) -> float:
    """Haemoglobin [g/dL] to [g/mL]."""
    return grams_per_decilitre / 100.0
