"""One of our methods on one visit, as a process of its own so that its time and memory can be read.

python reconstruct.py VISIT.pkl METHOD OUT.f64
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
    visit = pickle.loads(Path(sys.argv[1]).read_bytes())
    params = replace(SusceptibilityParams(), method=sys.argv[2])
    chi = estimate(visit.maps, visit.regions, params, specimen="in_vitro" if visit.case.explant else "in_vivo")
    chi.chi_ppm.astype(np.float64).ravel(order="F").tofile(sys.argv[3])


if __name__ == "__main__":
    main()
