"""Free breathing for the gating tests: positions drawn by Lujan's model and scans at them, each made once."""

from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from hqsm.arrays import FloatArray, Mask
from hqsm.phantom.forward import LiverState, ScanProtocol, SimulatedScan, simulate_abdomen
from hqsm.phantom.tissue import LABELS

# fine along the body: between its own voxels the phantom moves by interpolation, which smears the lung over the dome
PROTOCOLS: dict[str, dict[str, Any]] = {
    "axial": {"shape": (64, 48, 18), "voxel_size_mm": (5.6, 5.6, 9.0), "tilt_degrees": 3.0, "oversampling": (2, 2, 5)},
    "coronal": {"shape": (60, 44, 22), "voxel_size_mm": (6.0, 5.0, 9.0), "tilt_degrees": 90.0, "oversampling": (2, 3, 2)},
}
ECHO_TIMES_S = tuple(1.2e-3 + 1.6e-3 * k for k in range(6))
N_REPETITIONS = 9


def lujan_mm(n: int, seed: int, amplitude_mm: float = 13.0) -> FloatArray:
    """Diaphragm positions at random moments of breathing [mm], 0 at end-expiration (Lujan et al., Med Phys 1999;26:715)."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, np.pi, n)
    return -amplitude_mm * rng.uniform(0.8, 1.2, n) * np.cos(phase) ** 4


@cache
def scan(slab: str, seed: int, still_at_mm: float | None = None) -> SimulatedScan:
    """A scan in free breathing, or one that holds a position; the same body for the same seed."""
    protocol = ScanProtocol(echo_times_s=ECHO_TIMES_S, field_strength_tesla=1.5, n_repetitions=N_REPETITIONS, **PROTOCOLS[slab])
    positions_mm = lujan_mm(N_REPETITIONS, seed) if still_at_mm is None else np.full(N_REPETITIONS, still_at_mm)
    noise_seed = seed if still_at_mm is None else seed + 100
    return simulate_abdomen(LiverState(lic_mg_g=5.0, pdff_percent=8.0), protocol, noise_seed, seed, positions_mm)


@cache
def long_scan(slab: str, seed: int, n: int = 24) -> SimulatedScan:
    """Many repetitions of the first echo alone: enough for where the body was, and cheap."""
    protocol = ScanProtocol(echo_times_s=ECHO_TIMES_S[:1], field_strength_tesla=1.5, n_repetitions=n, **PROTOCOLS[slab])
    return simulate_abdomen(LiverState(lic_mg_g=5.0, pdff_percent=8.0), protocol, seed, seed, lujan_mm(n, seed))


def regions(made: SimulatedScan) -> dict[str, Mask]:
    """Liver within 20 mm below the lung, where motion hurts most, and the rest of it; both inside by one voxel."""
    grid = made.echoes.grid
    axis = int(np.argmax(np.abs(grid.b0_direction)))
    headwards = int(np.sign(grid.b0_direction[axis]))
    liver = made.truth.labels == LABELS["liver"]
    lung = made.truth.labels == LABELS["lung"]
    near = np.zeros_like(lung)
    for k in range(1, int(np.ceil(20 / grid.voxel_size_mm[axis])) + 1):
        near |= np.roll(lung, -headwards * k, axis=axis)
    return {"dome": liver & near, "rest": ndimage.binary_erosion(liver) & ~near}


def origin_free(error_mm: FloatArray) -> FloatArray:
    """Images know differences of position only: the median error is the choice of the origin."""
    return error_mm - np.median(error_mm)
