import tracemalloc

import numpy as np

from conftest import make_grid
from hqsm.config.gating import GatingParams
from hqsm.data import RepeatedMultiEcho
from hqsm.gating.gate import gate


def test_gating_needs_less_than_the_visits_arrays_beside_them() -> None:
    grid = make_grid("axial", (48, 40, 24))
    n_repetitions, n_echoes = 6, 6
    rng = np.random.default_rng(0)
    z = 2.0 * np.arange(24) - 23
    signal = np.empty((*grid.shape, n_echoes, n_repetitions), np.complex64)
    for r in range(n_repetitions):
        edge = 100 / (1 + np.exp((z + 6 * (r % 2)) / 3))
        signal[..., r] = (edge[None, None, :, None] + rng.standard_normal((*grid.shape, n_echoes))).astype(np.complex64)
    data = RepeatedMultiEcho(
        signal=signal,
        echo_times_s=1.6e-3 * (1 + np.arange(n_echoes)),
        field_strength_tesla=1.5,
        grid=grid,
        repetition_times_of_day_s=np.arange(float(n_repetitions)),
    )
    tracemalloc.start()
    gate(data, None, GatingParams())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.75 * signal.nbytes  # with the arrays themselves: less than twice
