"""Slope, intercept and scatter of the liver's susceptibility against truth, by method.

python benchmarks/qsm/accuracy.py --set develop --methods total-field pdf+medi
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import visits

from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.errors import ProcessingError
from hqsm.susceptibility import estimate


def line(true: np.ndarray, got: np.ndarray) -> tuple[float, float, float]:
    slope, intercept = np.polyfit(true, got, 1)
    return slope, intercept, float(np.sqrt(np.mean((got - slope * true - intercept) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(visits.SETS), default="develop")
    parser.add_argument("--methods", nargs="+", default=[SusceptibilityParams().method])
    parser.add_argument("--reference", default="muscle")
    parser.add_argument("--only", nargs="*", default=None, help="names of cases")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hqsm-benchmark")
    options = parser.parse_args()
    cases = [c for c in visits.SETS[options.set]() if options.only is None or c.name in options.only]
    for method in options.methods:
        params = replace(SusceptibilityParams(), method=method, reference=options.reference)
        true, got, se, seconds = [], [], [], []
        print(f"\n{method}, reference {options.reference}, set {options.set}")
        print("case         T  slices    tilt | true   measured  error    SE | by reference               dice   s     codes")
        for case in cases:
            visit = visits.load(case, options.cache)
            start = time.process_time()
            try:
                chi = estimate(visit.maps, visit.regions, params, specimen=case.specimen)
            except ProcessingError as error:
                print(f"{case.name:<12} {error}")
                continue
            seconds.append(time.process_time() - start)
            liver = visit.regions.liver_for_susceptibility
            value = float(np.nanmedian(chi.chi_ppm[liver])) if liver.any() else np.nan
            error_ppm = chi.liver_se_ppm
            levels = {k: f"{value + chi.reference_chi_ppm - v:.2f}" for k, v in chi.all_references_ppm.items()}
            truth_liver = np.isin(visit.truth.labels, (5, 6))
            both = visit.regions.liver_whole & truth_liver
            dice = 2 * both.sum() / max(visit.regions.liver_whole.sum() + truth_liver.sum(), 1)
            print(
                f"{case.name:<12}{case.tesla:3.1f} {case.shape[2]:3d}x{case.voxel_mm[2]:<4g}{case.tilt_degrees:6.1f} |"
                f"{visit.truth.liver_chi_ppm:6.3f} {value:8.3f} {value - visit.truth.liver_chi_ppm:+7.3f} {error_ppm:6.3f} | "
                f"{levels!s:<28} {dice:.2f} {seconds[-1]:5.1f}  {' '.join(chi.codes)}",
                flush=True,
            )
            if np.isfinite(value):
                true.append(visit.truth.liver_chi_ppm)
                got.append(value)
                se.append(error_ppm)
        t, g, e = np.array(true), np.array(got), np.array(se)
        for name, chosen in (("up to 2 ppm", t < 2.2), ("all", t < 99)):
            if chosen.sum() > 2:
                slope, intercept, scatter = line(t[chosen], g[chosen])
                covered = np.mean(np.abs(g - t)[chosen] < 1.96 * e[chosen])
                print(
                    f"  {name:<12} n {chosen.sum():2d}  slope {slope:.3f}  intercept {intercept:+.3f} ppm  scatter {scatter:.3f} ppm"
                    f"  RMSE {np.sqrt(np.mean((g - t)[chosen] ** 2)):.3f}  covered {100 * covered:.0f} %"
                )
        print(f"  errors over standard error: SD {np.sqrt(np.mean(((g - t) / e) ** 2)):.2f}  CPU {np.mean(seconds):.1f} s")


if __name__ == "__main__":
    main()
