"""One visit's susceptibility by several methods, from the same maps, masks and reference tissue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hqsm.config.susceptibility import Method, SusceptibilityParams
from hqsm.data import Regions, RoiStatistics, Susceptibility, WaterFat
from hqsm.lic import region_statistics
from hqsm.susceptibility import estimate


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method finds: its map, the liver in it [ppm], and the seconds of processor time it took."""

    method: Method
    susceptibility: Susceptibility
    liver: RoiStatistics
    cpu_s: float

    @property
    def chi_hqsm_ppm(self) -> float:
        """Liver minus reference tissue; NaN without one."""
        return self.liver.median if self.susceptibility.reference_name != "none" else float("nan")

    def row(self) -> dict[str, object]:
        """The values of the table ``susceptibility_methods``, by column, without the visit."""
        chi = self.susceptibility
        return {
            "method": self.method,
            "chi_hqsm_ppm": self.chi_hqsm_ppm,
            "chi_iqr_ppm": self.liver.iqr,
            "n_voxels": self.liver.n_voxels,
            "reference_tissue": chi.reference_name,
            **{f"chi_minus_{name}_ppm": self._relative_to(name) for name in ("muscle", "aorta", "fat")},
            "iterations": " ".join(str(n) for n, _, _ in chi.solutions.values()),
            "converged": int(all(converged for _, _, converged in chi.solutions.values())),
            "cpu_s": self.cpu_s,
            "qc_codes": " ".join(chi.codes),
        }

    def _relative_to(self, tissue: str) -> float:
        chi = self.susceptibility
        return self.liver.median + chi.reference_chi_ppm - chi.all_references_ppm.get(tissue, float("nan"))


def compare_methods(
    maps: WaterFat, regions: Regions, params: SusceptibilityParams, methods: Sequence[Method], *, specimen: str
) -> list[MethodResult]:
    """Every method's result, in the given order; ``params`` holds the settings of all of them."""
    results = []
    for method in methods:
        start = time.process_time()
        chi = estimate(maps, regions, replace(params, method=method), specimen=specimen)
        seconds = time.process_time() - start
        liver = region_statistics(maps, chi, regions)["liver", "study", "chi_ppm"]
        results.append(MethodResult(method=method, susceptibility=chi, liver=liver, cpu_s=seconds))
    return results
