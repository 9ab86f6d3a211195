"""A block of liver in its container: found by its decay however little iron it has, or not at all."""

import numpy as np
import pytest

from hqsm.config.fatwater import FatWaterParams
from hqsm.config.gating import GatingParams
from hqsm.config.liver import LiverParams
from hqsm.data import Regions
from hqsm.fatwater.separation import separate
from hqsm.gating.gate import gate
from hqsm.liver import dice, find_regions
from hqsm.phantom.forward import LiverState, ScanProtocol, simulate_explant
from hqsm.phantom.tissue import LABELS


def found_block(lic_mg_g: float, pdff_percent: float, tesla: float, tilt_degrees: float = 0.0) -> tuple[Regions, np.ndarray]:
    """What is found of a simulated block, and the true one."""
    echo_times_s = tuple(1.0e-3 + 1.0e-3 * n for n in range(6)) if tesla > 2 else tuple(1.2e-3 + 1.6e-3 * n for n in range(6))
    protocol = ScanProtocol(
        echo_times_s=echo_times_s, field_strength_tesla=tesla, shape=(86, 68, 38), voxel_size_mm=(3.0, 3.0, 4.0),
        tilt_degrees=tilt_degrees, temperature_celsius=20.0, oversampling=(2, 2, 1),
    )  # fmt: skip
    scan = simulate_explant(LiverState(lic_mg_g=lic_mg_g, pdff_percent=pdff_percent), protocol, 5, 77)
    echoes, _ = gate(scan.echoes, None, GatingParams())
    maps = separate(echoes, FatWaterParams(), temperature_celsius=20.0)
    return find_regions(echoes, maps, {}, LiverParams(), specimen="in_vitro"), scan.truth.labels == LABELS["liver"]


@pytest.mark.parametrize("lic_mg_g", [0.25, 1.0])
def test_a_block_with_little_iron_is_found_whole(lic_mg_g: float) -> None:
    """0.12 ppm at 3 T decays by 12 1/s faster than its medium, 1.5 times the noise of a voxel."""
    found, block = found_block(lic_mg_g, 3.0, 3.0, tilt_degrees=12.0)
    assert not found.reason
    assert dice(found.liver_whole, block) > 0.94
    assert not (found.references["medium"] & block).any()


def test_a_block_that_decays_like_its_medium_needs_a_reader() -> None:
    found, _ = found_block(0.0, 0.0, 1.5)
    assert not found.liver_whole.any()
    assert "MASK_NEEDS_READER" in found.codes
    assert found.reason == "nothing decays faster than the medium"
