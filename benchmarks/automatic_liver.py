"""Automatic liver masks of simulated abdomens against the truth: `automatic_liver.py [FIRST_ANATOMY]` prints docs/masks.md's figures."""

import itertools
import sys

import numpy as np

from hqsm.config.fatwater import FatWaterParams
from hqsm.config.liver import LiverParams
from hqsm.data import MultiEcho
from hqsm.fatwater.separation import separate
from hqsm.liver import dice, find_regions
from hqsm.phantom.forward import LiverState, ScanProtocol, simulate_abdomen
from hqsm.phantom.tissue import LABELS

LIC_MG_G = (1.0, 5.0, 12.0, 25.0)
PDFF_PERCENT = (0.0, 10.0, 30.0)
TESLA = (1.5, 3.0)
GRIDS = (((72, 56, 20), (5.0, 5.0, 8.4)), ((96, 76, 30), (3.8, 3.7, 5.6)))
SNR = 60.0


def visit(lic_mg_g: float, pdff_percent: float, tesla: float, anatomy: int) -> tuple[MultiEcho, np.ndarray]:
    """Echoes of one visit and its true liver; every anatomy has its own body size and one of two resolutions."""
    shape, voxel_size_mm = GRIDS[anatomy % 2]
    first_s, step_s = (1.2e-3, 1.6e-3) if tesla < 2 else (1e-3, 1e-3)
    protocol = ScanProtocol(
        echo_times_s=tuple(first_s + step_s * n for n in range(6)),
        field_strength_tesla=tesla,
        shape=shape,
        voxel_size_mm=voxel_size_mm,
        tilt_degrees=4.0,
        snr=SNR,
    )
    liver = LiverState(lic_mg_g=lic_mg_g, pdff_percent=pdff_percent, body_scale=0.9 + 0.05 * (anatomy % 4))
    made = simulate_abdomen(liver, protocol, anatomy, anatomy)
    echoes = MultiEcho(
        signal=made.echoes.signal[..., 0],
        echo_times_s=made.echoes.echo_times_s,
        field_strength_tesla=tesla,
        grid=made.echoes.grid,
        noise_sd=100.0 / SNR,
    )
    return echoes, np.isin(made.truth.labels, [LABELS["liver"], LABELS["vessel"]])


def main(first_anatomy: int) -> None:
    overlaps, purities = [], []
    for number, (lic, pdff, tesla) in enumerate(itertools.product(LIC_MG_G, PDFF_PERCENT, TESLA)):
        echoes, truth = visit(lic, pdff, tesla, first_anatomy + number)
        found = find_regions(echoes, separate(echoes, FatWaterParams()), {}, LiverParams(), specimen="in_vivo")
        overlap, purity = dice(found.liver_whole, truth), float(truth[found.liver].mean()) if found.liver.any() else float("nan")
        overlaps.append(overlap)
        purities.append(purity)
        print(f"LIC {lic:g}, PDFF {pdff:g} %, {tesla:g} T: Dice {overlap:.3f}, read inside {purity:.2%} {found.reason}", flush=True)
    mean, least = np.mean(overlaps), np.nanmin(purities)
    print(f"{len(overlaps)} visits: Dice {min(overlaps):.3f} to {max(overlaps):.3f}, mean {mean:.3f}; read inside {least:.2%} or more")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
