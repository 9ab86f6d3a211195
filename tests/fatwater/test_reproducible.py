"""The same echoes give the same bytes, whether the fit is compiled in this process or was compiled before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hqsm

PACKAGE = Path(hqsm.__file__).parent
FIT = """
import hashlib
from dataclasses import fields
import numpy as np
from hqsm.config.fatwater import FatWaterParams
from hqsm.fatwater.separation import separate
from hqsm.phantom.forward import LiverState, ScanProtocol, simulate_abdomen
from hqsm.data import MultiEcho
protocol = ScanProtocol(echo_times_s=tuple(1e-3 * (1 + n) for n in range(6)), field_strength_tesla=3.0, shape=(64, 50, 12),
                        voxel_size_mm=(5.5, 5.5, 10.0), snr=40.0)
made = simulate_abdomen(LiverState(lic_mg_g=12.0, pdff_percent=20.0), protocol, 3, 3).echoes
echoes = MultiEcho(signal=made.signal[..., 0], echo_times_s=made.echo_times_s, field_strength_tesla=3.0, grid=made.grid, noise_sd=2.5)
maps = separate(echoes, FatWaterParams())
digest = hashlib.sha256()
for entry in fields(maps):
    value = getattr(maps, entry.name)
    if isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_run_that_compiles_gives_the_bytes_of_those_after_it(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    first, second = (
        subprocess.run([sys.executable, "-c", FIT], env=environment, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbi"))
    assert first == second


def test_nothing_is_compiled_so_that_sums_may_change_their_order() -> None:
    """What `fastmath` allows depends on how often the compiler looks at a loop."""
    compiled = [path for path in PACKAGE.rglob("*.py") if "numba.njit" in path.read_text(encoding="utf-8")]
    assert len(compiled) > 5
    assert not [path.name for path in compiled if "fastmath=" in path.read_text(encoding="utf-8")]
