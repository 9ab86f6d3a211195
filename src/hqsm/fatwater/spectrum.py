"""Fat spectra as data, and the signal of fat over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import ComplexArray, FloatArray
from hqsm.units import BODY_TEMPERATURE_CELSIUS, proton_frequency_hz

WATER_PPM = 4.7
"""Chemical shift of water at 37 degrees Celsius; the spectra below are given on this scale [ppm]."""
WATER_SHIFT_PPM_PER_CELSIUS = -0.01
"""Water moves towards fat when it warms; fat stays (Hernando et al., MRM 2014;72:464)."""


@dataclass(frozen=True, kw_only=True)
class FatSpectrum:
    """Peaks of fat: chemical shifts [ppm] with water at 4.7 ppm, relative amplitudes, and where they come from."""

    shifts_ppm: tuple[float, ...]
    amplitudes: tuple[float, ...]
    source: str


_NINE_PEAKS = (0.90, 1.30, 1.60, 2.02, 2.24, 2.75, 4.20, 5.19, 5.29)
SPECTRA: dict[str, FatSpectrum] = {
    "hamilton-liver-6": FatSpectrum(
        shifts_ppm=(0.90, 1.30, 2.10, 2.75, 4.20, 5.30),
        amplitudes=(0.088, 0.700, 0.120, 0.006, 0.039, 0.047),
        source="Hamilton et al., NMR Biomed 2011;24:784, peaks merged to six",
    ),
    "hamilton-liver-9": FatSpectrum(
        shifts_ppm=_NINE_PEAKS,
        amplitudes=(0.088, 0.642, 0.058, 0.062, 0.058, 0.006, 0.039, 0.010, 0.037),
        source="Hamilton et al., NMR Biomed 2011;24:784",
    ),
    "ren-marrow-9": FatSpectrum(
        shifts_ppm=_NINE_PEAKS,
        amplitudes=(0.090, 0.584, 0.060, 0.085, 0.060, 0.015, 0.040, 0.010, 0.057),
        source="Ren et al., J Lipid Res 2008;49:2055, tibial marrow",
    ),
    "ren-subcutaneous-9": FatSpectrum(
        shifts_ppm=_NINE_PEAKS,
        amplitudes=(0.089, 0.593, 0.059, 0.081, 0.059, 0.015, 0.039, 0.010, 0.055),
        source="Ren et al., J Lipid Res 2008;49:2055, subcutaneous fat",
    ),
}


def bydder_spectrum(double_bonds: float) -> FatSpectrum:
    """Triglyceride with a number of double bonds (Bydder et al., MRI 2011;29:1041): chain length and methylene bonds follow it."""
    chain = 16.8 + 0.25 * double_bonds
    methylene = 0.093 * double_bonds**2
    protons = (
        9.0,
        6 * (chain - 4) - 8 * double_bonds + 2 * methylene,
        6.0,
        4 * (double_bonds - methylene),
        6.0,
        2 * methylene,
        4.0,
        1.0,
        2 * double_bonds,
    )
    return FatSpectrum(shifts_ppm=_NINE_PEAKS, amplitudes=protons, source=f"Bydder et al., MRI 2011;29:1041, {double_bonds} double bonds")


SPECTRA["bydder-2.5"] = bydder_spectrum(2.5)
SPECTRA["philips-7"] = FatSpectrum(
    shifts_ppm=(0.90, 1.30, 1.59, 2.03, 2.25, 2.77, 5.31),
    amplitudes=(0.085, 0.625, 0.071, 0.095, 0.066, 0.016, 0.042),
    source="seven-peak model of a vendor",
)


def spectrum_of(name: str, double_bonds: float) -> FatSpectrum:
    """The spectrum of that name; ``bydder`` is that of a number of double bonds."""
    return bydder_spectrum(double_bonds) if name == "bydder" else SPECTRA[name]


def fat_signal(
    spectrum: FatSpectrum,
    echo_times_s: FloatArray,
    field_strength_tesla: float,
    temperature_celsius: float = BODY_TEMPERATURE_CELSIUS,
    water_shift_ppm: float = 0.0,
) -> ComplexArray:
    """Signal c(t) of unit fat against on-resonance water, (echo,) complex128; c(0) = 1.

    Water lies where the temperature puts it, and ``water_shift_ppm`` beyond.
    """
    water_ppm = WATER_PPM + water_shift_ppm + WATER_SHIFT_PPM_PER_CELSIUS * (temperature_celsius - BODY_TEMPERATURE_CELSIUS)
    offsets_hz = (np.array(spectrum.shifts_ppm) - water_ppm) * proton_frequency_hz(field_strength_tesla) * 1e-6
    amplitudes = np.array(spectrum.amplitudes)
    signal: ComplexArray = np.exp(2j * np.pi * np.outer(echo_times_s, offsets_hz)) @ (amplitudes / amplitudes.sum())
    return signal
