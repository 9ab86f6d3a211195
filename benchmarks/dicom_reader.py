"""Reading a large visit, beside dcm2niix on the same files in the same run: `dicom_reader.py FOLDER` (made once, about 0.3 GB).

Prints wall times, their ratio and the reader's peak memory over the size of its arrays. dcm2niix converts and writes; it checks
neither that every image is there nor that the parts belong together.
"""

import os
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
import re, sys, time
from pathlib import Path
from hqsm.config.dicom import DicomParams
from hqsm.dicom.reader import read_visit
def peak_bytes():  # of this process alone: ru_maxrss begins with that of the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
base, start, cpu = peak_bytes(), time.perf_counter(), time.process_time()
signal = read_visit(Path(sys.argv[1]), DicomParams()).echoes.signal
print(time.perf_counter() - start, time.process_time() - cpu, (peak_bytes() - base) / signal.nbytes)
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
    ours, whole, theirs, memory = [], [], [], 0.0
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", _READ, str(folder)], check=True, capture_output=True, text=True)
        whole.append(time.perf_counter() - start)
        wall, cpu, memory = (float(text) for text in done.stdout.split())
        ours.append((wall, cpu))
        with tempfile.TemporaryDirectory() as out:
            before, start = os.times(), time.perf_counter()
            command = [str(Path(sys.executable).parent / "dcm2niix"), "-z", "n", "-o", out, str(folder)]
            subprocess.run(command, check=True, capture_output=True)
            wall, after = time.perf_counter() - start, os.times()
            theirs.append((wall, after.children_user + after.children_system - before.children_user - before.children_system))
    for k, kind in enumerate(("wall", "processor")):
        a, b = min(t[k] for t in ours), min(t[k] for t in theirs)
        print(f"{kind} time: reader {a:.2f} s, dcm2niix {b:.2f} s, ratio {a / b:.2f}")
    print(f"with the start of Python and its imports {min(whole):.2f} s; peak memory of reading {memory:.2f} x arrays")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
