"""Where the constrained fit starts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit
from hqsm.fatwater.lanes import LANES, enter, evenly, growth, power
from hqsm.fatwater.linear import PRODUCT_I, PRODUCT_R, SHARE, SIZE, mixture
from hqsm.fatwater.tissue import Echoes


class Start(NamedTuple):
    """Where the fit of n voxels starts: (n,) field [Hz] and R2* [1/s]; (n, 2) W and F, NaN where the data are to give them."""

    field_hz: AnyArray
    r2star_per_s: AnyArray
    linear: AnyArray


@njit(error_model="numpy")
def starts(
    first: int, last: int, which: AnyArray, echoes: Echoes, given: Start, no_fat: AnyArray, local_r2star_per_s: AnyArray
) -> AnyArray:  # pragma: no cover - compiled
    """(5, last - first) field/100, R2*/100, phase, amplitude and share of those voxels of ``which``: as given, else the data's there."""
    signal, t, fat, _ = echoes
    field_hz, r2star_per_s, linear = given
    n_echoes = t.size
    even = evenly(t)
    start = np.zeros((5, last - first))
    y, g = np.zeros((2, n_echoes, LANES)), np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    physical, fixed, at = np.zeros((3, LANES)), np.zeros(LANES), np.zeros(LANES, np.int64)
    count = 0
    for i in range(last - first):
        here = first + i
        start[0, i], start[1, i] = field_hz[here] / 100, r2star_per_s[here] / 100
        whole = complex(linear[here, 0] + linear[here, 1])
        if power(whole) > 0:
            start[2, i], start[3, i] = np.arctan2(whole.imag, whole.real), np.sqrt(power(whole))
            start[4, i] = (complex(linear[here, 1]) * whole.conjugate()).real / power(whole)
        else:
            enter(which[here], signal, y, count)
            physical[0, count], physical[1, count] = 100 * start[0, i], 100 * start[1, i]
            # in the dark the data's own share of fat is noise: start lean
            dark = local_r2star_per_s[here] * (t[n_echoes - 1] - t[0]) > 1.6
            at[count], fixed[count] = i, 0.0 if no_fat[here] else (0.1 if dark else -1.0)
            count += 1
        if count == LANES or (count > 0 and here == last - 1):
            growth(physical, t, even, g, scratch, bits)
            found = mixture(y, g, fat, fixed)
            for k in range(count):
                start[2, at[k]] = np.arctan2(found[PRODUCT_I, k], found[PRODUCT_R, k])
                start[3, at[k]], start[4, at[k]] = found[SIZE, k], found[SHARE, k]
            count = 0
    return start
