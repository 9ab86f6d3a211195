"""The peers' side of run.py: `peer.py PACKAGE FOLDER` fits FOLDER/in.npz warm by one peer, in that peer's Python, into FOLDER/out.npz.

pycsemri (PyPI): VARPRO_LUT subsampled by 4, its fastest, then complex least squares, slice by slice.
mri_fatwater (PyPI, mri-fatwater): three-dimensional QPBO, R2* by steps of 5 to 1,000 1/s; its own limit of 144 reads iron as fat.
Each release of it asks for Python 3.14; 1.2.2 runs on 3.13 after `pip install --ignore-requires-python mri-fatwater==1.2.2 scipy`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from simulation import AMPLITUDES, GAMMA_HZ_PER_T, PEAKS_PPM

WATER_PPM = 4.7


def pycsemri(signal, t, tesla, voxel_size_mm, sd):
    from pycsemri.fwFit_ComplexLS_1r2star import fwFit_ComplexLS_1r2star
    from pycsemri.VARPRO_LUT import VARPRO_LUT

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
    for k in range(shape[2]):
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
    return maps


def mri_fatwater(signal, t, tesla, voxel_size_mm, sd):
    from mri_fatwater import fatwater

    found = fatwater.separate(
        data=np.moveaxis(signal, -1, 0).copy(),  # it writes into what it is given
        data_params={"B0": tesla, "t": tuple(t), "voxelsize": tuple(voxel_size_mm)},
        algo_params={
            "algorithm": "QPBO",
            "R2max": 1000.0,
            "nR2": 201,
            "R2cand": (40.0, 300.0),
            "magnitudeDiscrimination": True,
            "output": ["ff", "B0map", "R2map"],
        },
        model_params={
            "watCS": WATER_PPM,
            "fatCS": tuple(PEAKS_PPM + WATER_PPM),
            "relAmps": tuple(AMPLITUDES / AMPLITUDES.sum()),
        },
    )
    period_hz = 1 / (t[1] - t[0])
    field_hz = found["B0map"] * GAMMA_HZ_PER_T * 1e-6 * tesla  # from 0 to a period
    field_hz = (field_hz + period_hz / 2) % period_hz - period_hz / 2
    return np.where(np.abs(signal).max(axis=-1) > 5 * sd, [found["ff"], found["R2map"], field_hz], np.nan)


PACKAGES = {"pycsemri": pycsemri, "mri_fatwater": mri_fatwater}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    fit = PACKAGES[options.package]
    stored = np.load(options.folder / "in.npz")
    signal, sd = stored["signal"], float(stored["sd"])
    setting = stored["t"].tolist(), float(stored["tesla"]), stored["voxel_size_mm"].tolist(), sd
    fit(signal[:, :, :1], *setting)  # warm
    wall, cpu = time.perf_counter(), time.process_time()
    maps = fit(signal, *setting)
    np.savez(options.folder / "out.npz", maps=maps, wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


if __name__ == "__main__":
    main()
