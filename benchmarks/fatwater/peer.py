"""The peer's side of run.py: pycsemri (VARPRO_LUT subsampled by 4, its fastest, then complex least squares) on every slice."""

import sys
import time
from pathlib import Path

import numpy as np
from pycsemri.fwFit_ComplexLS_1r2star import fwFit_ComplexLS_1r2star
from pycsemri.VARPRO_LUT import VARPRO_LUT
from simulation import AMPLITUDES, PEAKS_PPM


def main():
    folder = Path(sys.argv[1])
    stored = np.load(folder / "in.npz")
    signal, t, tesla, sd = stored["signal"], stored["t"], float(stored["tesla"]), float(stored["sd"])
    shape = signal.shape[:3]
    algo = {
        "species": [{"frequency": [0.0], "relAmps": [1.0]}, {"frequency": PEAKS_PPM.tolist(), "relAmps": AMPLITUDES.tolist()}],
        "range_fm": [-400.0 * tesla / 1.5, 400.0 * tesla / 1.5],
        "NUM_FMS": 161,
        "range_r2star": [0.0, 1000.0],
        "NUM_R2STARS": 21,
        "SUBSAMPLE": 4,
        "NUM_ITERS": 40,
    }
    maps = np.full((3, *shape), np.nan)

    def one(k):
        data = {
            "images": signal[:, :, k].astype(np.complex128),
            "TE": t,
            "FieldStrength": tesla,
            "PrecessionIsClockwise": 1,
            "mask": np.ones(shape[:2]),
        }
        first = VARPRO_LUT(data, algo)
        first["masksignal"] = (np.abs(data["images"]).max(axis=-1) > 5 * sd).astype(float)
        last = fwFit_ComplexLS_1r2star(data, algo, first)
        water, fat = (np.squeeze(last[key]) for key in ("water_amp", "fat_amp"))
        total = np.abs(water + fat)
        with np.errstate(all="ignore"):
            maps[0, :, :, k] = 100 * np.where(np.abs(water) > np.abs(fat), 1 - np.abs(water) / total, np.abs(fat) / total)
        maps[1, :, :, k] = np.squeeze(last["r2starmap"])
        maps[2, :, :, k] = np.squeeze(last["fm"])

    one(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for k in range(shape[2]):
        one(k)
    np.savez(folder / "out.npz", maps=maps, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


if __name__ == "__main__":
    main()
