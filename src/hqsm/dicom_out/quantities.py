"""What is exported: each map with its code, its unit and the window it opens with.

Codes are those of DICOM PS3.16; liver iron concentration has none and carries a private one.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIVATE_SCHEME = "99HQSM"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One map: file suffix, code (value, scheme, meaning), unit (UCUM, meaning), window, and its column of lic.tsv."""

    suffix: str
    code: tuple[str, str, str]
    unit: tuple[str, str]
    window: tuple[float, float]
    column: str


R2STAR = Quantity(suffix="R2starmap", code=("126395", "DCM", "R2*"), unit=("/s", "per second"), window=(0.0, 600.0), column="r2star_per_s")
CHI = Quantity(
    suffix="Chimap",
    code=("126396", "DCM", "Magnetic Susceptibility"),
    unit=("[ppm]", "parts per million"),
    window=(-1.0, 5.0),
    column="chi_hqsm_ppm",
)
PDFF = Quantity(suffix="PDFF", code=("129100", "DCM", "Fat fraction"), unit=("%", "percent"), window=(0.0, 50.0), column="pdff_percent")
LIC = Quantity(
    suffix="LIC",
    code=("LIC", PRIVATE_SCHEME, "Liver Iron Concentration by R2*"),
    unit=("mg/g", "milligram per gram"),
    window=(0.0, 15.0),
    column="lic_r2star_mg_g",
)
LIC_HQSM = Quantity(
    suffix="LIC-hQSM",
    code=("LICQSM", PRIVATE_SCHEME, "Liver Iron Concentration by hQSM"),
    unit=("mg/g", "milligram per gram"),
    window=(0.0, 15.0),
    column="lic_hqsm_mg_g",
)
MAPS = (R2STAR, CHI, PDFF, LIC)
MEASURED = (R2STAR, CHI, PDFF, LIC, LIC_HQSM)
