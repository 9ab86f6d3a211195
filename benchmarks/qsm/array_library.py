"""The default inversion and its standard error with another array library beside numpy: seconds, and by how much the maps differ.

python benchmarks/qsm/array_library.py cupy|torch|array_api_strict    a GPU's library where there is a GPU

The visits are those of speed.py, 160 x 160 x 64 voxels. Times are wall clock, second of two runs; what runs on the host in both is in both.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import visits

from hqsm.array_library import ToLibrary
from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.data import Susceptibility
from hqsm.inversion import total_field
from hqsm.susceptibility import estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="name of the module")
    parser.add_argument("--only", nargs="+", help="visits by name, e.g. s2.2x1.8x2.7")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hqsm-benchmark")
    options = parser.parse_args()
    library = to_library(options.library)
    sys.stdout.write(f"voxel [mm]    numpy s  {options.library} s   difference of the liver: largest voxel, mean, standard error [ppm]\n")
    for case in visits.speed():
        if options.only and case.name not in options.only:
            continue
        visit = visits.load(case, options.cache)
        here, here_s = estimated(visit, np.asarray)
        there, there_s = estimated(visit, library)
        liver = visit.regions.liver_for_susceptibility
        largest = float(np.nanmax(np.abs(there.chi_ppm - here.chi_ppm)[liver]))
        mean = float(np.nanmean(there.chi_ppm[liver]) - np.nanmean(here.chi_ppm[liver]))
        error = there.liver_se_ppm - here.liver_se_ppm
        sys.stdout.write(f"{case.name[1:]:<12}{here_s:9.1f}{there_s:9.1f}   {largest:.4f} {mean:+.5f} {error:+.5f}\n")
        sys.stdout.flush()


def to_library(name: str) -> ToLibrary:
    """From numpy to the library's arrays, on its GPU if it has one."""
    module = importlib.import_module(name)
    if name == "torch" and module.cuda.is_available():
        return functools.partial(module.asarray, device="cuda")
    return module.asarray


def estimated(visit: visits.Visit, library: ToLibrary) -> tuple[Susceptibility, float]:
    """The estimate by a library, and its seconds once everything is compiled."""
    inversion = functools.partial(total_field.Inversion, library=library)
    with mock.patch.object(total_field, "Inversion", inversion):
        for _ in range(2):
            start = time.perf_counter()
            chi = estimate(visit.maps, visit.regions, SusceptibilityParams(), specimen=visit.case.specimen)
            seconds = time.perf_counter() - start
    return chi, seconds


if __name__ == "__main__":
    main()
