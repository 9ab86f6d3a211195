"""Reading a large visit, beside dcm2niix on the same files in the same run: `dicom_reader.py FOLDER` (made once, about 0.3 GB).

Prints wall times, their ratio and the reader's peak memory over the size of its arrays. dcm2niix converts and writes; it checks
neither that every image is there nor that the parts belong together.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hqsm.data import RepeatedMultiEcho, VoxelGrid
from hqsm.phantom.dicom_writer import write_scan

SHAPE, N_ECHOES, N_REPETITIONS = (128, 104, 40), 6, 10
_READ = """
import resource, sys, time
from pathlib import Path
from hqsm.config.dicom import DicomParams
from hqsm.dicom.reader import read_visit
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
signal = read_visit(Path(sys.argv[1]), DicomParams()).echoes.signal
seconds = time.perf_counter() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 / signal.nbytes)
"""


def make(folder: Path) -> None:
    """A visit of 4,800 files: 10 repetitions, 6 echoes, magnitude and phase, 40 slices."""
    rng = np.random.default_rng(0)
    signal = np.empty((*SHAPE, N_ECHOES, N_REPETITIONS), np.complex64)
    for r in range(N_REPETITIONS):
        signal[..., r] = 100 * (rng.standard_normal((*SHAPE, N_ECHOES)) + 1j * rng.standard_normal((*SHAPE, N_ECHOES)))
    echoes = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=1.2e-3 + 1.6e-3 * np.arange(N_ECHOES),
        field_strength_tesla=1.5,
        grid=VoxelGrid(shape=SHAPE, affine_mm=np.diag([3.0, 3.0, 5.0, 1.0])),
        repetition_times_of_day_s=36000 + 20.0 * np.arange(N_REPETITIONS),
    )
    write_scan(folder, echoes, vendor="siemens", identity="0101_01", date="20210301")


def main(folder: Path) -> None:
    if not folder.is_dir():
        make(folder)
    print(f"{sum(path.is_file() for path in folder.rglob('*'))} files")
    ours, theirs, memory = [], [], 0.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", _READ, str(folder)], check=True, capture_output=True, text=True)
        seconds, memory = (float(text) for text in done.stdout.split())
        ours.append(seconds)
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            command = [str(Path(sys.executable).parent / "dcm2niix"), "-z", "n", "-o", out, str(folder)]
            subprocess.run(command, check=True, capture_output=True)
            theirs.append(time.perf_counter() - start)
    print(f"reader {min(ours):.2f} s, dcm2niix {min(theirs):.2f} s, ratio {min(ours) / min(theirs):.2f}; peak memory {memory:.2f} x arrays")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
