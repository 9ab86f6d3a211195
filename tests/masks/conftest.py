"""Simulated abdomens with their maps and the truth."""

from functools import cache

import numpy as np
import pytest

from hqsm.config.fatwater import FatWaterParams
from hqsm.data import MultiEcho, Regions, WaterFat
from hqsm.fatwater.separation import separate
from hqsm.phantom.forward import LiverState, ScanProtocol, simulate_abdomen
from hqsm.phantom.tissue import LABELS

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and last but one index along each axis."""

ECHO_TIMES_S = {1.5: tuple(1.2e-3 + 1.6e-3 * n for n in range(6)), 3.0: tuple(1.0e-3 + 1.0e-3 * n for n in range(6))}


@cache
def simulated_visit(lic_mg_g: float, pdff_percent: float, tesla: float, anatomy: int) -> tuple[MultiEcho, WaterFat, np.ndarray]:
    """Echoes, maps and true labels of a small abdomen."""
    protocol = ScanProtocol(
        echo_times_s=ECHO_TIMES_S[tesla],
        field_strength_tesla=tesla,
        shape=(72, 56, 20),
        voxel_size_mm=(5.0, 5.0, 8.4),
        tilt_degrees=4.0,
        snr=60.0,
    )
    made = simulate_abdomen(LiverState(lic_mg_g=lic_mg_g, pdff_percent=pdff_percent), protocol, anatomy, anatomy)
    echoes = MultiEcho(
        signal=made.echoes.signal[..., 0],
        echo_times_s=made.echoes.echo_times_s,
        field_strength_tesla=tesla,
        grid=made.echoes.grid,
        noise_sd=100.0 / 60.0,
    )
    return echoes, separate(echoes, FatWaterParams()), made.truth.labels


@pytest.fixture(scope="session")
def visit() -> tuple[MultiEcho, WaterFat, np.ndarray]:
    """One abdomen with some iron."""
    return simulated_visit(5.0, 10.0, 1.5, 2)


def true_liver(labels: np.ndarray) -> np.ndarray:
    return (labels == LABELS["liver"]) | (labels == LABELS["vessel"])


def check_leak(found: Regions, wall: Box, liver: Box) -> None:
    """A liver that was found holds nothing of a place outside it, and all of one inside."""
    assert found.codes == ("MASK_AUTOMATIC",), found.reason
    outside, inside = (found.liver_whole[tuple(slice(*ends) for ends in part)] for part in (wall, liver))
    assert outside.mean() < 0.08
    assert inside.mean() > 0.97
