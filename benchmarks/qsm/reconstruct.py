"""One of our methods on one visit, as a process of its own so that its time and memory can be read.

python reconstruct.py INPUT.pkl METHOD OUT.f64

INPUT holds maps, regions and specimen (:meth:`visits.Visit.pickled_input`), and not the visit, which would load the simulator as well.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from hqsm.config.susceptibility import SusceptibilityParams
from hqsm.susceptibility import estimate


def main() -> None:
    with Path(sys.argv[1]).open("rb") as pickled:
        maps, regions, specimen = pickle.load(pickled)
    params = replace(SusceptibilityParams(), method=sys.argv[2])
    chi = estimate(maps, regions, params, specimen=specimen)
    chi.chi_ppm.astype(np.float64).ravel(order="F").tofile(sys.argv[3])


if __name__ == "__main__":
    main()
