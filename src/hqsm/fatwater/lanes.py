"""``exp(i w t)`` for many voxels at once.

An iteration of a fit is a few hundred operations that are the same for every voxel, but one exponential and one sine of the
library cost as much as all of them. So voxels go through the fits in lanes: arrays whose last axis is :data:`LANES` voxels,
which the compiler turns into vector instructions; and the exponential and the sine are series (Taylor), which it can turn
into such as well. A voxel that is done makes room for the next one.

Nothing here, nor elsewhere in the package, is compiled with ``fastmath``. The compiler may re-order or fuse sums then, and does so
differently in the process that compiles a parallel loop and in those that load it from the cache: the first run of all would not
have the bytes of the second.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit

LANES = 32
_ROUND = 6755399441055744.0
"""1.5 * 2^52: a number added to it loses its fraction, and its integer is in the lowest bits."""
_LOG2_E, _LN_2, _PI = 1 / np.log(2), np.log(2), np.pi


@njit(inline="always")
def power(z: complex) -> float:  # pragma: no cover - compiled
    """|z|^2."""
    return z.real * z.real + z.imag * z.imag


@njit(inline="always")
def enter(voxel: int, signal: AnyArray, y: AnyArray, k: int) -> None:  # pragma: no cover - compiled
    """The echoes of a voxel (voxel, echo) go into a lane of ``y`` (2, echo, lane), real and imaginary parts."""
    for e in range(y.shape[1]):
        y[0, e, k] = signal[voxel, e].real
        y[1, e, k] = signal[voxel, e].imag


@njit(inline="always")
def evenly(t: AnyArray, within_s: float = 1e-9) -> bool:  # pragma: no cover - compiled
    """Whether times are so evenly spaced that what happens from one to the next happens again."""
    worst = 0.0
    for n in range(2, t.size):
        worst = max(worst, abs(t[n] - t[n - 1] - (t[1] - t[0])))
    return worst < within_s


@njit(inline="always")
def _small(y: float) -> float:  # pragma: no cover - compiled
    """exp(y) for |y| < 0.35."""
    tail = 1 / 120 + y * (1 / 720 + y * (1 / 5040 + y * (1 / 40320 + y * (1 / 362880))))
    return 1 + y * (1 + y * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * tail))))


@njit(error_model="numpy")
def exponential(x: AnyArray, scratch: AnyArray, bits: AnyArray) -> None:  # pragma: no cover - compiled
    """exp(x) of each lane, in place; ``bits`` is ``scratch`` as integers."""
    for k in range(LANES):
        power = min(max(x[k] * _LOG2_E, -1000.0), 1000.0)
        whole = power + _ROUND
        scratch[0, k] = whole
        x[k] = _small((power - (whole - _ROUND)) * _LN_2)
    for k in range(LANES):
        bits[1, k] = (bits[0, k] + 1023) << 52
    for k in range(LANES):
        x[k] *= scratch[1, k]


@njit(error_model="numpy")
def _phasor(w: AnyArray, time: float, turned: float, into: AnyArray, e: int, scratch: AnyArray, bits: AnyArray) -> None:  # pragma: no cover
    """exp(2 pi i (frequency time + turned phase) - rate time) of each lane; ``bits`` is ``scratch`` as integers."""
    for k in range(LANES):
        cycles = w[0, k] * time + turned * w[2, k]
        x = _PI * (cycles - ((cycles + _ROUND) - _ROUND))
        q = x * x
        sine = 1 + q * (-1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880 + q * (-1 / 39916800 + q * (1 / 6227020800))))))
        half = x * (sine - q**7 * (1 / 1307674368000))
        cosine = 1 / 24 + q * (-1 / 720 + q * (1 / 40320 + q * (-1 / 3628800 + q * (1 / 479001600 - q * (1 / 87178291200)))))
        other = 1 + q * (-1 / 2 + q * cosine)
        power = min(max(-w[1, k] * time * _LOG2_E, -1000.0), 1000.0)
        whole = power + _ROUND
        small = _small((power - (whole - _ROUND)) * _LN_2)
        scratch[0, k] = whole
        into[0, e, k] = small * (1 - 2 * half * half)
        into[1, e, k] = small * (2 * half * other)
    for k in range(LANES):
        bits[1, k] = (bits[0, k] + 1023) << 52
    for k in range(LANES):
        into[0, e, k] *= scratch[1, k]
        into[1, e, k] *= scratch[1, k]


@njit(error_model="numpy")
def growth(w: AnyArray, t: AnyArray, even: bool, into: AnyArray, scratch: AnyArray, bits: AnyArray) -> None:  # pragma: no cover - compiled
    """Fill ``into`` (2, echo, lane), real and imaginary parts; evenly spaced echoes by multiplication.

    ``w`` (3, lane) holds frequencies [Hz], rates [1/s] and phases [cycles]. Whole arrays are handed on, not their rows: to make
    and drop a view of an array counts its references, which takes as long as the exponentials of eight lanes.
    """
    if not even:
        for e in range(t.size):
            _phasor(w, t[e], 1.0, into, e, scratch, bits)
        return
    # one array of a size known when compiling: only then does the compiler know that no two rows overlap
    z = np.empty((2, 2, LANES))
    _phasor(w, t[0], 1.0, z, 0, scratch, bits)
    _phasor(w, t[1] - t[0], 0.0, z, 1, scratch, bits)
    for e in range(t.size):
        for k in range(LANES):
            into[0, e, k] = z[0, 0, k]
        for k in range(LANES):
            into[1, e, k] = z[1, 0, k]
        for k in range(LANES):
            real, imag = z[0, 0, k], z[1, 0, k]
            z[0, 0, k] = real * z[0, 1, k] - imag * z[1, 1, k]
            z[1, 0, k] = real * z[1, 1, k] + imag * z[0, 1, k]
