"""Time and bias of R2* from magnitude alone: `magnitude.py [--snr N] [--voxels N]`, every estimator beside `scipy.optimize.curve_fit`.

A decay without fat at the echo times of the case A15 (1.5 T), complex Gaussian noise, its magnitude. SNR is that at TE = 0.
One thread, warm; microseconds of CPU for each voxel, over all R2*. Bias in 1/s: the mean with its standard error and, after
the stroke, the median; voxels without a number are left out.
`curve_fit` starts from the first echo and 100 1/s and, as it is slow, sees the first voxels only.
"""

import argparse
import time
import typing

import numba
import numpy as np
from scipy.optimize import curve_fit
from simulation import CASES

from hqsm import r2star
from hqsm.config.fatwater import FatWaterParams

R2STARS_PER_S = (50, 300, 600, 750, 1000)
ESTIMATORS = [e for e in typing.get_args(typing.get_type_hints(FatWaterParams)["r2star_estimator"]) if e != "complex"]
N_RUNS = 5
MOST_US, MOST_BIAS_PER_S, ASKED_AT_PER_S = 2.0, 5.0, 600


def magnitudes(r2star_per_s, t, snr, n_voxels):
    """(voxel, echo), in units of the noise SD."""
    rng = np.random.default_rng([31, r2star_per_s])
    noise = rng.standard_normal((2, n_voxels, t.size))
    return np.hypot(snr * np.exp(-r2star_per_s * t) + noise[0], noise[1])


def scipys(magnitude, t):
    def decay(t, amplitude, rate):
        return amplitude * np.exp(-rate * t)

    found = np.full(magnitude.shape[0], np.nan)
    for v, voxel in enumerate(magnitude):
        try:
            found[v] = curve_fit(decay, t, voxel, p0=(voxel[0], 100.0))[0][1]
        except RuntimeError:  # no convergence: no number
            continue
    return found


def timed(function, *arguments):
    cpu = time.process_time()
    found = function(*arguments)
    return found, 1e6 * (time.process_time() - cpu) / found.size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snr", type=float, default=40)
    parser.add_argument("--voxels", type=int, default=100_000, help="for each R2*")
    parser.add_argument("--scipy-voxels", type=int, default=4_000, help="of those, how many curve_fit sees")
    options = parser.parse_args()
    numba.set_num_threads(1)
    t = CASES["A15"].echo_times_s
    data = {r: magnitudes(r, t, options.snr, options.voxels) for r in R2STARS_PER_S}
    cells = {}
    for name in ESTIMATORS:
        r2star.estimate(name, data[R2STARS_PER_S[0]][:10], t, 1.0)  # warm
        for r in R2STARS_PER_S:
            runs = [timed(r2star.estimate, name, data[r], t, 1.0) for _ in range(N_RUNS)]
            cells[name, r] = runs[0][0], np.median([us for _, us in runs])
    for r in R2STARS_PER_S:
        cells["curve_fit", r] = timed(scipys, data[r][: options.scipy_voxels], t)

    print(
        f"1.5 T, SNR {options.snr:g}, {t.size} echoes from {1e3 * t[0]:.1f} to {1e3 * t[-1]:.1f} ms, {options.voxels:,} voxels, one thread"
    )
    print(f"  {'':>11} {'us/voxel':>9} |" + " |".join(f"{f'bias at {r}: mean / median':>28} {'none%':>6}" for r in R2STARS_PER_S))
    for name in (*ESTIMATORS, "curve_fit"):
        line = []
        for r in R2STARS_PER_S:
            error = cells[name, r][0] - r
            error = error[np.isfinite(error)]
            bias = f"{error.mean():.1f} ± {error.std() / np.sqrt(error.size):.1f} / {np.median(error):.1f}"
            line.append(f"{bias:>28} {100 * (1 - error.size / cells[name, r][0].size):>6.2f}")
        print(f"  {name:>11} {np.mean([cells[name, r][1] for r in R2STARS_PER_S]):>9.2f} |" + " |".join(line))
    found, us = cells["noise-floor", ASKED_AT_PER_S]
    bias = np.nanmean(found) - ASKED_AT_PER_S
    met = "met" if us <= MOST_US and abs(bias) <= MOST_BIAS_PER_S else "NOT MET"
    print(f"noise-floor at {ASKED_AT_PER_S} 1/s: {us:.2f} us (asked: {MOST_US:g}), bias {bias:.1f} 1/s (asked: {MOST_BIAS_PER_S:g}): {met}")


if __name__ == "__main__":
    main()
