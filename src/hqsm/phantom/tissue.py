"""What tissue is made of: proton density, fat fraction, R2* and susceptibility by label, with sources.

Susceptibility is relative to water-like soft tissue, in ppm; R2* is given at 1.5 T and scaled to the field strength.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHI_AIR_PPM = 9.4
"""Air against tissue: 0.36 - (-9.05) ppm (Schenck 1996)."""
CHI_FAT_PPM = 0.6
"""Subcutaneous fat against water-like tissue; published values spread from 0.2 to 1.2 ppm."""
CHI_IRON_PPM_PER_MG_ML = 1.30
"""Ferritin and haemosiderin iron at 37 degrees Celsius: Curie law with 3.78 Bohr magnetons (Schenck 1992)."""
LIVER_DENSITY_G_PER_ML = 1.051
"""21 livers, cirrhotic ones included: 1.051 +- 0.013 g/mL."""
WET_TO_DRY = 3.33
"""Wet over dry weight of liver in vivo (70 % water)."""


def liver_chi_ppm(lic_mg_g: float, temperature_celsius: float) -> float:
    """Susceptibility that liver iron adds [ppm]: chi_Fe * density * LIC_dry / k, Curie-scaled to the temperature."""
    curie = 310.15 / (273.15 + temperature_celsius)
    return CHI_IRON_PPM_PER_MG_ML * curie * LIVER_DENSITY_G_PER_ML * lic_mg_g / WET_TO_DRY


def liver_r2star_per_s(lic_mg_g: float, field_strength_tesla: float) -> float:
    """R2* of liver [1/s] by the inverse of Hernando et al., Radiology 2023 (1.5 T and 3 T)."""
    if field_strength_tesla < 2:
        return (lic_mg_g + 0.16) / 0.02603
    return (lic_mg_g + 0.03) / 0.01349


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """One tissue: proton density (liver = 100), fat share of it, R2* at 1.5 T [1/s], susceptibility [ppm]."""

    label: int
    name: str
    density: float
    fat_fraction: float
    r2star_per_s: float
    chi_ppm: float


TISSUES: tuple[Tissue, ...] = (
    Tissue(label=0, name="air", density=0, fat_fraction=0, r2star_per_s=0, chi_ppm=CHI_AIR_PPM),
    Tissue(label=1, name="subcutaneous_fat", density=110, fat_fraction=0.92, r2star_per_s=30, chi_ppm=CHI_FAT_PPM),
    Tissue(label=2, name="muscle", density=90, fat_fraction=0.02, r2star_per_s=30, chi_ppm=0.0),
    Tissue(label=3, name="visceral_fat", density=105, fat_fraction=0.75, r2star_per_s=35, chi_ppm=0.5),
    Tissue(label=4, name="bowel", density=95, fat_fraction=0.03, r2star_per_s=25, chi_ppm=0.0),
    Tissue(label=5, name="liver", density=100, fat_fraction=0.03, r2star_per_s=30, chi_ppm=0.0),
    Tissue(label=6, name="vessel", density=105, fat_fraction=0.0, r2star_per_s=20, chi_ppm=0.25),
    Tissue(label=7, name="spleen", density=105, fat_fraction=0.0, r2star_per_s=40, chi_ppm=0.05),
    Tissue(label=8, name="kidney", density=110, fat_fraction=0.02, r2star_per_s=25, chi_ppm=0.0),
    Tissue(label=9, name="aorta", density=100, fat_fraction=0.0, r2star_per_s=12, chi_ppm=-0.05),
    Tissue(label=10, name="vena_cava", density=100, fat_fraction=0.0, r2star_per_s=25, chi_ppm=0.25),
    Tissue(label=11, name="vertebra", density=85, fat_fraction=0.40, r2star_per_s=90, chi_ppm=-0.5),
    Tissue(label=12, name="lung", density=18, fat_fraction=0.0, r2star_per_s=250, chi_ppm=7.0),
    Tissue(label=13, name="gas", density=0, fat_fraction=0, r2star_per_s=0, chi_ppm=CHI_AIR_PPM),
    Tissue(label=14, name="stomach", density=100, fat_fraction=0.0, r2star_per_s=15, chi_ppm=0.0),
    Tissue(label=15, name="heart", density=95, fat_fraction=0.01, r2star_per_s=30, chi_ppm=0.0),
    Tissue(label=16, name="gel", density=110, fat_fraction=0.0, r2star_per_s=5, chi_ppm=0.0),
)
LABELS: dict[str, int] = {tissue.name: tissue.label for tissue in TISSUES}


def field_scaling(field_strength_tesla: float) -> float:
    """R2* of tissue without storage iron grows less than linearly with B0: factor against 1.5 T."""
    return float(np.sqrt(field_strength_tesla / 1.5))
