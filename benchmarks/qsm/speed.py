"""CPU seconds and memory of one visit's susceptibility, field to referenced map with its standard error, by voxel size.

python benchmarks/qsm/speed.py    the last line says by how much 20 s and 1000 MB are missed

Each is 160 x 160 x 64 voxels of a simulated abdomen (fitted by ourselves, automatic masks), in a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import visits
from peers import HERE, timed
from verdict import verdict

from hqsm.config.susceptibility import SusceptibilityParams

_CPU_S, _MEMORY_MB = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=SusceptibilityParams().method)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hqsm-benchmark")
    options = parser.parse_args()
    costs = []
    sys.stdout.write("voxel [mm]       CPU s   memory MB   liver - truth [ppm]\n")
    for case in visits.speed():
        visit = visits.load(case, options.cache)
        with tempfile.TemporaryDirectory(prefix="hqsm-speed-") as folder:
            pickled, out = Path(folder) / "input.pkl", Path(folder) / "chi.f64"
            pickled.write_bytes(visit.pickled_input())
            command = [sys.executable, str(HERE / "reconstruct.py"), str(pickled), options.method, str(out)]
            cost = timed(command, Path(folder) / "log")
            costs.append((cost["cpu_s"], cost["memory_mb"]))
            chi = np.fromfile(out).reshape(visit.truth.chi_ppm.shape, order="F")
        error = float(np.nanmedian(chi[visit.regions.liver_for_susceptibility])) - visit.truth.liver_chi_ppm
        sys.stdout.write(f"{case.name[1:]:<14}{cost['cpu_s']:8.1f}{cost['memory_mb']:10.0f}{error:+12.3f}\n")
        sys.stdout.flush()
    cpu_s, memory_mb = (max(values) for values in zip(*costs, strict=True))
    sys.stdout.write(f"most CPU, {_CPU_S} s: {verdict(cpu_s, 0, _CPU_S, 's', 1)}; most memory, {_MEMORY_MB} MB: ")
    sys.stdout.write(f"{verdict(memory_mb, 0, _MEMORY_MB, 'MB', 0)}\n")


if __name__ == "__main__":
    main()
