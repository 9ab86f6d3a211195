"""The published way: remove the background field, then invert what is left. Any removal goes with any inversion."""

from __future__ import annotations

from hqsm.arrays import FloatArray, Mask
from hqsm.background_field import lbv, pdf, vsharp
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import LocalField, Solution, TotalField
from hqsm.inversion import medi, tikhonov, tkd


def invert(total: TotalField, magnitude: FloatArray, params: SusceptibilityParams) -> tuple[FloatArray, Mask, dict[str, Solution]]:
    """Susceptibility [ppm] (x, y, z), the voxels where the method gives one, and how each stage converged.

    Parameters
    ----------
    total
        Total field [ppm].
    magnitude
        (x, y, z) image whose edges MEDI's map may have, any unit.
    params
        ``method`` names both stages: ``pdf+medi``.
    """
    removal, inversion = params.method.split("+")
    local, removed = _local_field(removal, total, params)
    inverted = _inverted(inversion, local, magnitude, params)
    return inverted.x, local.mask, {"background_field": removed, "inversion": inverted}


def _local_field(removal: str, total: TotalField, params: SusceptibilityParams) -> tuple[LocalField, Solution]:
    if removal == "pdf":
        return pdf.remove_background(total, params.pdf, padding_mm=params.padding_mm)
    if removal == "lbv":
        return lbv.remove_background(total, params.lbv)
    return vsharp.remove_background(total, params.v_sharp)


def _inverted(inversion: str, local: LocalField, magnitude: FloatArray, params: SusceptibilityParams) -> Solution:
    if inversion == "tkd":
        return tkd.invert(local, params.tkd, padding_mm=params.padding_mm)
    if inversion == "tikhonov":
        return tikhonov.invert(local, params.tikhonov, padding_mm=params.padding_mm)
    return medi.invert(local, magnitude, params.medi, padding_mm=params.padding_mm)
