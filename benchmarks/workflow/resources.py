"""What each stage of a visit needs: `python benchmarks/workflow/resources.py` prints memory and time by the size of the visit.

Simulated visits of three sizes go through the whole workflow, each job with its own imports; a file of each job says what it took.
The numbers in workflow/rules (``memory_mb(base, per MB)``, ``runtime_min``) come from here, with room to spare.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path

from hqsm import fork_server
from hqsm.commands.run import run_workflow
from hqsm.phantom import cohort
from hqsm.run_state import STAGES

SIZES = {
    "tiny": ((72, 56, 20), (5.0, 5.0, 8.4), 3),
    "demo": ((96, 76, 24), (3.75, 3.75, 7.0), 5),
    "clinical": ((192, 152, 32), (1.9, 1.9, 5.2), 5),
}


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    options = parser.parse_args()
    os.environ[fork_server.ADDRESS] = "off"
    print("| size of the visit | stage | memory [MB] | CPU seconds |\n|---|---|---|---|")
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            study = Path(folder) / "study"
            cohort._SIZES["tiny"] = SIZES[name]
            cohort.simulate_study(study, participants=1, visits=1, size="tiny", with_bad_visit=False, processes=1, progress=lambda _: None)
            megabytes = _megabytes(study / "dicom")
            if run_workflow(study, ["--cores", "1", "--quiet", "all"]):
                raise SystemExit("the run failed")
            for stage in STAGES:
                path = next((study / "results" / "work" / "benchmarks" / stage).glob("*.tsv"))
                with path.open(encoding="utf-8", newline="") as handle:
                    row = next(csv.DictReader(handle, delimiter="\t"))
                print(f"| {name}, {megabytes:.0f} MB | {stage} | {float(row['max_rss_mb']):.0f} | {float(row['cpu_s']):.0f} |", flush=True)
            sizes = {part: _megabytes(study / "results" / part) for part in ("bids", "maps", "work", "qc")}
            share = sum(sizes.values()) / (sizes["bids"] + sizes["maps"])
            words = ", ".join(f"{part} {size:.1f}" for part, size in sizes.items())
            print(f"| {name}, {megabytes:.0f} MB | disk [MB]: {words}; all are {share:.2f} times the images | | |", flush=True)


if __name__ == "__main__":
    main()
