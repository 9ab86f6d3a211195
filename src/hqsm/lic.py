"""Liver iron concentration: calibrations as data, statistics of a region, and the two together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hqsm.arrays import Mask
from hqsm.config.lic import LicParams
from hqsm.data import LiverIron, Regions, RoiStatistics, Susceptibility, WaterFat
from hqsm.fit_models import CONSTRAINED, FREE, NO_FAT, NOT_FITTED, TWO_ECHOES
from hqsm.roi import mean_of_readers, roi_statistics
from hqsm.units import BODY_TEMPERATURE_CELSIUS

CHI_IRON_PPM_PER_MG_ML = 1.30
"""Susceptibility of ferritin and haemosiderin iron at 37 degrees Celsius: Curie, 3.78 Bohr magnetons (Schenck 1992); SQUID takes 1.6."""
LIVER_DENSITY_G_PER_ML = 1.051
"""21 livers, cirrhotic ones included: 1.051 +- 0.013 g/mL."""
WET_TO_DRY = 3.33
"""Wet over dry weight (70 % water), the in-vivo convention."""
_KELVIN = 273.15
_OVER_SOFT_TISSUE_PPM = {"muscle": (0.0, 0.0), "medium": (0.0, 0.0), "aorta": (0.0, 0.05), "fat": (0.6, 0.3)}
"""Susceptibility of a reference over water-like tissue, and its SD: oxygenated blood has -0.04 ppm per 0.1 of haematocrit (Jain et al.,
MRM 2012;68:863), for fat 0.2 to 1.2 ppm are published. What the measured level of muscle errs by is in the susceptibility's own error."""


@dataclass(frozen=True, kw_only=True)
class LicCalibration:
    """LIC [mg/g dry] = intercept + slope * x, x being R2* [1/s] or susceptibility [ppm].

    ``slope_sd`` is relative; at x = ``centre`` the line's value errs by ``centre_sd_mg_g``, independently of the slope, which
    turns about it: 0 and 0 where nothing but the slope's error is known. ``field_strength_tesla`` is 0 where the calibration
    holds at any; ``highest_mg_g`` ends its range.
    A line from susceptibility belongs to the maps that it was made with: to their ``reference_tissue`` (empty: not known) and
    ``reconstruction_digest`` (empty: another program's or not known; None: it holds for any map that is right, whose reference
    tissue is in the line).
    """

    name: str
    slope: float
    intercept: float
    slope_sd: float
    field_strength_tesla: float
    highest_mg_g: float
    source: str
    reference_tissue: str = ""
    reconstruction_digest: str | None = ""
    centre: float = 0.0
    centre_sd_mg_g: float = 0.0

    def mismatch(self, reference_tissue: str, reconstruction_digest: str) -> tuple[str, ...]:
        """Codes of what a susceptibility map is that this line was not made for."""
        if self.reconstruction_digest is None:
            return ()
        codes = []
        if not self.reference_tissue:
            codes.append("CALIBRATION_REFERENCE_UNKNOWN")
        elif reference_tissue != self.reference_tissue:
            codes.append("CALIBRATION_OTHER_REFERENCE")
        if reconstruction_digest and reconstruction_digest != self.reconstruction_digest:
            codes.append("CALIBRATION_OTHER_RECONSTRUCTION")
        return tuple(codes)


R2STAR_CALIBRATIONS: tuple[LicCalibration, ...] = (
    LicCalibration(
        name="hernando2023",
        slope=0.02603,
        intercept=-0.16,
        slope_sd=0.0265,
        field_strength_tesla=1.5,
        highest_mg_g=40,
        source="Hernando et al., Radiology 2023, doi 10.1148/radiol.213256: slope CI 0.02468-0.02738",
    ),
    LicCalibration(
        name="hernando2023",
        slope=0.01400,
        intercept=-0.03,
        slope_sd=0.03,
        field_strength_tesla=2.89,
        highest_mg_g=40,
        source="Hernando et al., Radiology 2023 (2.89 T line as cited; check before use)",
    ),
    LicCalibration(
        name="hernando2023",
        slope=0.01349,
        intercept=-0.03,
        slope_sd=0.0255,
        field_strength_tesla=3.0,
        highest_mg_g=40,
        source="Hernando et al., Radiology 2023: slope CI 0.01282-0.01417",
    ),
    LicCalibration(
        name="wood2005",
        slope=0.0254,
        intercept=0.202,
        slope_sd=0.05,
        field_strength_tesla=1.5,
        highest_mg_g=32.9,
        source="Wood et al., Blood 2005;106:1460, 22 biopsies 1.3-32.9 mg/g",
    ),
    LicCalibration(
        name="hankins2009",
        slope=0.02802,
        intercept=-0.455,
        slope_sd=0.05,
        field_strength_tesla=1.5,
        highest_mg_g=30,
        source="Hankins et al., Blood 2009;113:4853, 43 biopsies",
    ),
    LicCalibration(
        name="henninger2015",
        slope=0.024,
        intercept=0.277,
        slope_sd=0.11,
        field_strength_tesla=1.5,
        highest_mg_g=30,
        source="Henninger et al., RoeFo 2015, doi 10.1055/s-0034-1399318, 17 biopsies",
    ),
    LicCalibration(
        name="dassignies2018",
        slope=0.01754,
        intercept=-0.054,
        slope_sd=0.05,
        field_strength_tesla=3.0,
        highest_mg_g=7.3,
        source="d'Assignies et al., Eur Radiol 2018, doi 10.1007/s00330-017-5106-3, 105 biopsies; good below 7.3 mg/g",
    ),
)

# What their susceptibility is relative to stands in none of the three abstracts, which is all that was read: the fat of the skin may be
# bound in the first (Velikina et al., MRM 2023;90:385), muscle is what the third's group referenced its field maps to (Taylor et al., JMRI
# 2012;35:1125). A guess would make a LIC of the wrong maps; without one every LIC by them says that it is not known.
HQSM_CALIBRATIONS: dict[str, LicCalibration] = {
    "buelo2025": LicCalibration(
        name="buelo2025",
        slope=1 / 0.1125,
        intercept=0.0,
        slope_sd=0.09,
        field_strength_tesla=0,
        highest_mg_g=40,
        source="Buelo et al., MRM 2025;93:330: 0.102-0.123 ppm per mg/g by centre, another reconstruction; abstract names no reference",
    ),
    "lin2018": LicCalibration(
        name="lin2018",
        slope=1 / 0.140,
        intercept=-0.18 / 0.140,
        slope_sd=0.1,
        field_strength_tesla=0,
        highest_mg_g=25,
        source="Lin et al. 2018, PMC6030453: line through its four cut-offs, another reconstruction; abstract names no reference",
    ),
    "tipirneni2021": LicCalibration(
        name="tipirneni2021",
        slope=3.3,
        intercept=0.0,
        slope_sd=0.1,
        field_strength_tesla=1.5,
        highest_mg_g=30,
        source="Tipirneni-Sajja et al. 2021, 48 patients, ARMA-QSM, another reconstruction; abstract names no reference",
    ),
}


def physical_calibration(temperature_celsius: float, params: LicParams, reference_tissue: str = "muscle") -> LicCalibration:
    """LIC from first principles: chi = chi_0 + chi_Fe * density * LIC / k, with Curie's law in the temperature.

    chi_0 is what liver without iron has over the reference, and what neither is known by: for fat -0.6 ppm.
    """
    curie = (_KELVIN + BODY_TEMPERATURE_CELSIUS) / (_KELVIN + temperature_celsius)
    ppm_per_mg_g = CHI_IRON_PPM_PER_MG_ML * curie * LIVER_DENSITY_G_PER_ML / WET_TO_DRY
    reference_ppm, reference_sd_ppm = _OVER_SOFT_TISSUE_PPM.get(reference_tissue, (0.0, 0.0))
    no_iron_ppm = params.iron_free_liver_ppm - reference_ppm
    return LicCalibration(
        name="physical",
        slope=1 / ppm_per_mg_g,
        intercept=-no_iron_ppm / ppm_per_mg_g,
        slope_sd=params.physical_scale_sd,
        centre=no_iron_ppm,
        centre_sd_mg_g=float(np.hypot(params.iron_free_liver_sd_ppm, reference_sd_ppm)) / ppm_per_mg_g,
        field_strength_tesla=0,
        highest_mg_g=60,
        source="Schenck 1992 (iron), PMID 3579513 (density), 70 % water (wet to dry); liver without iron: Schenck 1996",
        reconstruction_digest=None,
    )


def r2star_calibration(name: str, field_strength_tesla: float) -> LicCalibration | None:
    """The named calibration nearest in field strength, within 0.1 T; None if it has no line there."""
    lines = [c for c in R2STAR_CALIBRATIONS if c.name == name]
    best = min(lines, key=lambda c: abs(c.field_strength_tesla - field_strength_tesla))
    return best if abs(best.field_strength_tesla - field_strength_tesla) <= 0.1 else None


def apply_calibration(calibration: LicCalibration, value: float, standard_error: float) -> tuple[float, float, float]:
    """LIC [mg/g dry] and its 95 % interval from the errors of the measurement, of the slope and of the line at its centre."""
    lic = calibration.intercept + calibration.slope * value
    of_slope = calibration.slope * (value - calibration.centre) * calibration.slope_sd
    half = 1.96 * np.linalg.norm([calibration.slope * standard_error, of_slope, calibration.centre_sd_mg_g])
    return float(lic), float(lic - half), float(lic + half)


def liver_iron(
    maps: WaterFat, chi: Susceptibility, regions: Regions, params: LicParams, *, temperature_celsius: float, reconstruction_digest: str = ""
) -> LiverIron:
    """Liver values of one visit by both methods. What cannot be measured is NaN with a code, never clipped.

    Where several readers drew the liver, a value is the mean of their medians; ``details["regions"]`` keeps each one's,
    those of the liver's parts and those of every reference tissue.

    ``reconstruction_digest`` names code and parameters of the susceptibility map; an empirical calibration holds for one.
    """
    codes: list[str] = []
    liver = regions.liver
    region_values = region_statistics(maps, chi, regions)
    r2star, susceptibility, pdff = (region_values["liver", "study", quantity] for quantity in QUANTITIES)
    nan3 = (float("nan"),) * 3
    calibration = r2star_calibration(params.r2star_calibration, maps.field_strength_tesla)
    # a voxel without any signal to fit is beyond the bound too
    censored_share = float((maps.censored | (maps.model == NOT_FITTED))[liver].mean()) if liver.any() else 0.0
    lic_r2star = nan3
    if "R2STAR_TWO_ECHOES" in maps.codes:
        codes.append("LIC_R2STAR_CONFOUNDED")
    elif censored_share > params.largest_censored_share:
        codes.append("R2STAR_CENSORED")
    elif calibration is None:
        codes.append("CALIBRATION_NO_FIELD_STRENGTH")
    elif np.isfinite(r2star.median):
        lic_r2star = apply_calibration(calibration, r2star.median, r2star.standard_error)
        if lic_r2star[0] > calibration.highest_mg_g:
            codes.append("LIC_BEYOND_CALIBRATION")
            lic_r2star = nan3
    from_chi = hqsm_calibration(params, temperature_celsius, chi.reference_name)
    mismatch = from_chi.mismatch(chi.reference_name, reconstruction_digest)
    codes.extend(mismatch)
    lic_hqsm = nan3
    referenced = chi.reference_name != "none"
    if np.isfinite(susceptibility.median) and referenced and "CALIBRATION_OTHER_REFERENCE" not in mismatch:
        lic_hqsm = apply_calibration(from_chi, susceptibility.median, _total_error(susceptibility.standard_error, chi.liver_se_ppm))
        if lic_hqsm[0] > from_chi.highest_mg_g:
            codes.append("LIC_BEYOND_CALIBRATION")
            lic_hqsm = nan3
    lowest = params.lowest_plausible_mg_g
    if min((v for v in (lic_hqsm[0], lic_r2star[0]) if np.isfinite(v)), default=lowest) < lowest:
        codes.append("LIC_IMPLAUSIBLE")
        lic_hqsm = lic_hqsm if lic_hqsm[0] >= lowest else nan3
        lic_r2star = lic_r2star if lic_r2star[0] >= lowest else nan3
    return LiverIron(
        chi_liver_ppm=susceptibility.median + chi.reference_chi_ppm,
        chi_reference_ppm=chi.reference_chi_ppm if referenced else float("nan"),
        chi_hqsm_ppm=susceptibility.median if referenced else float("nan"),
        lic_hqsm_mg_g=lic_hqsm[0],
        lic_hqsm_lo=lic_hqsm[1],
        lic_hqsm_hi=lic_hqsm[2],
        r2star_per_s=float("nan") if "R2STAR_CENSORED" in codes else r2star.median,
        lic_r2star_mg_g=lic_r2star[0],
        lic_r2star_lo=lic_r2star[1],
        lic_r2star_hi=lic_r2star[2],
        pdff_percent=pdff.median,
        liver_volume_ml=float(regions.liver_whole.sum()) * regions.grid.voxel_volume_ml,
        n_voxels=r2star.n_voxels,
        calibration_hqsm=from_chi.name,
        calibration_r2star=calibration.name if calibration else "none",
        codes=tuple(dict.fromkeys(codes)),
        details={
            "chi_iqr_ppm": susceptibility.iqr,
            "chi_se_ppm": _total_error(susceptibility.standard_error, chi.liver_se_ppm),
            "chi_regional_ppm": chi.liver_regional_ppm if "PHASE_FILTERED" not in maps.codes else float("nan"),
            "r2star_iqr_per_s": r2star.iqr,
            "censored_share": censored_share,
            "r2star_lower_bound_per_s": r2star_lower_bound_per_s(maps, liver) if "R2STAR_CENSORED" in codes else None,
            "excluded_share": r2star.excluded_share,
            "fit": fit_facts(maps, liver),
            "regions": _region_rows(region_values, regions) + _model_rows(maps, regions),
        },
    )


def r2star_lower_bound_per_s(maps: WaterFat, region: Mask) -> float:
    """What the median R2* [1/s] of a region is at least: of its voxels' values, of bounds where censored, of 0 where nothing is known."""
    values = maps.r2star_per_s[region]
    return float(np.median(np.where(np.isfinite(values), values, np.nan_to_num(maps.r2star_bound_per_s[region]))))


def _total_error(of_region: float, of_inversion: float) -> float:
    """Standard error of the liver's susceptibility [ppm]: texture in the region, and the inversion's; NaN, as LIC's bounds, without it."""
    return float(np.hypot(of_region, of_inversion))


def fit_facts(maps: WaterFat, region: Mask) -> dict[str, float]:
    """How a region's voxels were fitted: share of each model, of low swap margin, and of two first fields that disagree."""
    n = max(int(region.sum()), 1)
    facts = {f"model_{name}": float((maps.model[region] == number).sum() / n) for name, number in MODELS.items()}
    if maps.convergence is not None:
        facts["not_converged"] = float((maps.convergence[region] > 1).sum() / n)
    if maps.swap_margin is not None:
        facts["swap_margin_low"] = float((maps.swap_margin[region] < _LOW_SWAP_MARGIN).sum() / n)
    if maps.field_difference_hz is not None and np.isfinite(maps.field_difference_hz[region]).any():
        half_way_hz = _HALF_OF_FAT_HZ_AT_1T5 * maps.field_strength_tesla / 1.5
        facts["first_fields_disagree"] = float((np.abs(maps.field_difference_hz[region]) > half_way_hz).sum() / n)
    return facts


MODELS = {"not_fitted": NOT_FITTED, "water_fat": FREE, "fat_constrained": CONSTRAINED, "no_fat": NO_FAT, "two_echoes": TWO_ECHOES}
_LOW_SWAP_MARGIN = 2.0
_HALF_OF_FAT_HZ_AT_1T5 = 110.0
QUANTITIES = ("r2star_per_s", "chi_ppm", "pdff_percent")
_RegionValues = dict[tuple[str, str, str], RoiStatistics]
"""By region, reader and quantity; the reader ``study`` is the study's value."""


def region_statistics(maps: WaterFat, chi: Susceptibility, regions: Regions) -> _RegionValues:
    """Every region's R2* [1/s], susceptibility [ppm] and fat fraction [%], by region, reader and quantity."""
    # of a field that a filter went over the susceptibility is near zero, whatever the iron
    chi_ppm = np.full_like(chi.chi_ppm, np.nan) if "PHASE_FILTERED" in maps.codes else chi.chi_ppm
    volumes = {
        "r2star_per_s": (maps.r2star_per_s, maps.r2star_se_per_s),
        "chi_ppm": (chi_ppm, None),
        "pdff_percent": (maps.pdff_percent, maps.pdff_se_percent),
    }
    away = np.ones_like(regions.liver)
    if regions.near_gas is not None and regions.liver_for_susceptibility.sum() < regions.liver.sum():
        away = ~regions.near_gas
    # where the signal is gone after the first echo the field is the model's, not measured
    if (regions.liver & away & ~maps.censored).any():
        away = away & ~maps.censored
    found: _RegionValues = {}

    def read(region: str, reader: str, mask: Mask, *, near_gas: bool) -> None:
        for quantity, (values, errors) in volumes.items():
            chosen = mask & away if quantity == "chi_ppm" and not near_gas else mask
            found[region, reader, quantity] = roi_statistics(values, chosen, errors)

    read("liver", "study", regions.liver, near_gas=False)
    for reader, mask in regions.readings.items():
        read("liver", reader, mask, near_gas=False)
    for quantity in QUANTITIES:
        readings = [found["liver", reader, quantity] for reader in regions.readings if "." not in reader]
        if readings:
            found["liver", "study", quantity] = mean_of_readers(readings)
    for name, mask in regions.parts.items():
        read(name, "study", mask, near_gas=False)
    for name, mask in regions.references.items():
        read(f"reference-{name}", "study", mask, near_gas=True)
    return found


def _region_rows(values: _RegionValues, regions: Regions) -> list[dict[str, Any]]:
    """Rows of liver_regions.tsv without the visit's name; what was left out of the liver comes last, by cause."""
    rows: list[dict[str, Any]] = [
        {
            "region": region,
            "reader": reader,
            "quantity": quantity,
            "median": value.median,
            "trimmed_mean": value.trimmed_mean,
            "iqr": value.iqr,
            "std_error": value.standard_error,
            "n_voxels": value.n_voxels,
            "excluded_share": value.excluded_share,
        }
        for (region, reader, quantity), value in values.items()
    ]
    rows += [{"region": "liver", "reader": pair, "quantity": "dice", "median": value} for pair, value in regions.overlaps.items()]
    n = int(regions.liver_whole.sum())
    for cause, share in regions.shares.items():
        rows.append({"region": "liver", "reader": "study", "quantity": f"left_out_{cause}", "n_voxels": n, "excluded_share": share})
    return rows


def _model_rows(maps: WaterFat, regions: Regions) -> list[dict[str, Any]]:
    """Rows of liver_regions.tsv that say how each region was fitted: shares, 0..1, in the column ``median``."""
    masks = {"liver": regions.liver, **regions.parts, **{f"reference-{name}": mask for name, mask in regions.references.items()}}
    return [
        {"region": region, "reader": "study", "quantity": quantity, "median": share, "n_voxels": int(mask.sum())}
        for region, mask in masks.items()
        for quantity, share in fit_facts(maps, mask).items()
    ]


def hqsm_calibration(params: LicParams, temperature_celsius: float, reference_tissue: str = "muscle") -> LicCalibration:
    """The line from susceptibility that the configuration names; the physical one for the reference tissue of the map."""
    if params.hqsm_calibration == "physical":
        return physical_calibration(temperature_celsius, params, reference_tissue)
    if params.hqsm_calibration == "own":
        return LicCalibration(
            name="own",
            slope=params.own_slope_mg_g_per_ppm,
            intercept=params.own_intercept_mg_g,
            slope_sd=params.own_slope_relative_sd,
            field_strength_tesla=0,
            highest_mg_g=60,
            source=params.own_source,
            centre=params.own_centre_ppm,
            centre_sd_mg_g=params.own_centre_sd_mg_g,
            reference_tissue=params.own_reference_tissue,
            reconstruction_digest=params.own_reconstruction_digest,
        )
    return HQSM_CALIBRATIONS[params.hqsm_calibration]
