"""What a voxel's neighbours say of its field: Gaussian sums over a few millimetres, and the prior that follows from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.lanes import LANES

_SIGMA_MM = 3.5
_TRUNCATE = 2.5
_ONE_IN = 29
_RUN = 16
"""Columns along z go on to a multiple of so many voxels: what is left over of vectors is added one by one."""
SPREAD_FLOOR_HZ_AT_1T5 = 1.5
_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 = 4.0


class Told(NamedTuple):
    """What the voxels tell of the field.

    Attributes
    ----------
    field_hz, se_hz, good
        (voxel,) the field, its standard error, and whether it is any good.
    centre_hz
        What is taken off the field, so that sums of squares keep their digits.
    floor_hz2
        Variance by which fields depart from a plane, at least.
    """

    field_hz: AnyArray
    se_hz: AnyArray
    good: AnyArray
    centre_hz: float
    floor_hz2: float


class Wanted(NamedTuple):
    """Where priors are wanted.

    Attributes
    ----------
    numbers
        (x, y, z) of the voxels, -1 where there is none.
    wanted
        (n,) numbers of the voxels.
    place
        (voxel,) its place among them, -1 where it is none.
    columns
        (x, y) whether the column along z has any.
    """

    numbers: AnyArray
    wanted: AnyArray
    place: AnyArray
    columns: AnyArray


def field_prior(
    field_hz: FloatArray,
    se_hz: FloatArray,
    good: AnyArray,
    index: IntArray,
    voxel_size_mm: FloatArray,
    wanted: IntArray,
    field_strength_tesla: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean and precision of the field at every ``wanted`` voxel, from its ``good`` neighbours (not itself) by their information.

    A plane through the neighbours, because a mean is pulled towards the side that knows more. The variance of the prior
    is what the field itself departs from the plane, not what noise adds to it, and the plane's own error, which is the third
    of what is returned [Hz2]. ``index`` (x, y, z) numbers the voxels.
    """
    if wanted.size == 0:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    scale = field_strength_tesla / 1.5
    kernels = tuple(_kernel(size_mm) for size_mm in voxel_size_mm)
    some_hz = field_hz[::_ONE_IN][good[::_ONE_IN]]
    centre_hz = float(np.median(some_hz)) if some_hz.size else 0.0
    told = Told(field_hz, se_hz, good, centre_hz, (SPREAD_FLOOR_HZ_AT_1T5 * scale) ** 2)
    places = Wanted(index, wanted, *_places(index, wanted, field_hz.size))
    slope_precision = 1 / (_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 * scale) ** 2
    nx, ny, nz = index.shape
    # what nobody asks for is never touched; rows a power of two apart, as along y they would be, would take each other's place in the
    # cache; numpy asks for large pages, which compiled code does not
    sums = np.empty((ny, nx, 11, (nz + _RUN - 1) // _RUN * _RUN), np.float32)
    _fill_sums(sums, places, told, kernels)
    prior: tuple[FloatArray, FloatArray, FloatArray] = _priors(sums, places, told, kernels[0], slope_precision, own_weight(voxel_size_mm))
    return prior


def own_weight(voxel_size_mm: FloatArray) -> float:
    """Weight of a voxel itself in the Gaussian around it."""
    kernels = [_kernel(size_mm)[0] for size_mm in voxel_size_mm]
    return float(np.prod([k[k.size // 2] for k in kernels]))


def _kernel(size_mm: float) -> FloatArray:
    """(3, tap) the Gaussian along an axis, and it times the distance [mm] and the distance squared."""
    n = int(_TRUNCATE * _SIGMA_MM / size_mm + 0.5)
    away_mm = np.arange(-n, n + 1) * size_mm
    gauss = np.exp(-0.5 * (away_mm / _SIGMA_MM) ** 2)
    gauss /= gauss.sum()
    return np.stack([gauss, gauss * away_mm, gauss * away_mm**2]).astype(np.float32)


# what is summed (weight w, value v, noise variance n), by its power of the distance along y and z: w; w v; w v^2; w n
_W00, _W10, _W20, _W01, _W11, _W02, _V00, _V10, _V01, _V2, _N = range(11)
_IN_Z = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0))
"""Sums along z: of which of the four, times which power of the distance."""
_IN_Y = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (6, 0))
"""And then along y: of which of those seven, times which power."""
_IN_X = (
    *((_W00, 0), (_W00, 1), (_W00, 2), (_W10, 0), (_W10, 1), (_W20, 0), (_W01, 0), (_W01, 1), (_W11, 0), (_W02, 0)),
    *((_V00, 0), (_V00, 1), (_V10, 0), (_V01, 0), (_V2, 0), (_N, 0)),
)
"""And then along x: of which of those eleven, times which power."""
_IN_Z_TABLE, _IN_Y_TABLE, _IN_X_TABLE = np.array(_IN_Z), np.array(_IN_Y), np.array(_IN_X)


@njit()
def _places(index: AnyArray, wanted: AnyArray, n_voxels: int) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """(voxel,) its place among the ``wanted``, -1 where it is none; (x, y) whether the column along z has any."""
    nx, ny, nz = index.shape
    place = np.full(n_voxels, -1, np.int32)
    for i in range(wanted.size):
        place[wanted[i]] = i
    columns = np.zeros((nx, ny), np.bool_)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0 and place[v] >= 0:
                    columns[x, y] = True
                    break
    return place, columns


@njit(inline="always")
def _any_near(flags: AnyArray, at: int, reach: int) -> bool:  # pragma: no cover - compiled
    near = False
    for m in range(max(at - reach, 0), min(at + reach + 1, flags.size)):
        near = near or flags[m]
    return near


@njit(parallel=True)
def _fill_sums(sums: AnyArray, places: Wanted, told: Told, kernels: tuple[AnyArray, ...]) -> None:  # pragma: no cover - compiled
    """Fill (y, x, 11, z) with Gaussian sums over y and z where along x any of the columns is near; z goes on to whole runs."""
    index, _, _, columns = places
    field, se, good, centre, floor2 = told
    along_x, along_y, along_z = kernels
    nx, ny, nz = index.shape
    reach_x, reach_y, reach_z = along_x.shape[1] // 2, along_y.shape[1] // 2, along_z.shape[1] // 2
    for x in prange(nx):
        # a border of zeros along z saves asking where the volume ends
        plain = np.zeros((4, ny, nz + 2 * reach_z), np.float32)
        some = False
        asked = np.zeros(ny, np.bool_)
        for y in range(ny):
            asked[y] = _any_near(columns[:, y], x, reach_x)
            if asked[y]:
                sums[y, x] = 0
        for y in range(ny):
            if not _any_near(asked, y, reach_y):
                continue
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0 and good[v]:
                    noise2 = np.float32(se[v] * se[v])
                    value = np.float32(field[v] - centre)
                    weight = np.float32(1) / (noise2 + np.float32(floor2))
                    plain[0, y, z + reach_z] = weight
                    plain[1, y, z + reach_z] = weight * value
                    plain[2, y, z + reach_z] = weight * value * value
                    plain[3, y, z + reach_z] = weight * noise2
                    some = True
        if not some:
            continue
        in_z = np.zeros((7, ny, nz), np.float32)
        for s in range(7):
            which, power = _IN_Z_TABLE[s, 0], _IN_Z_TABLE[s, 1]
            for y in range(ny):
                if not _any_near(asked, y, reach_y):
                    continue
                into = in_z[s, y]
                for m in range(2 * reach_z + 1):
                    # rows: what might be counted from the other end of an array makes no vectors
                    weight, row = along_z[power, m], plain[which, y, m : m + nz]
                    for z in range(nz):
                        into[z] += weight * row[z]
        for s in range(11):
            which, power = _IN_Y_TABLE[s, 0], _IN_Y_TABLE[s, 1]
            for y in range(ny):
                if not asked[y]:
                    continue
                last = min(y + reach_y, ny - 1)
                into = sums[y, x, s]
                for m in range(max(y - reach_y, 0), last + 1, 2):  # two at once: to store sums takes longer than to add to them
                    n = min(m + 1, last)
                    weight, other = along_y[power, m - y + reach_y], along_y[power, n - y + reach_y] if n > m else np.float32(0)
                    row, next_row = in_z[which, m], in_z[which, n]
                    for z in range(nz):
                        into[z] = into[z] + weight * row[z] + other * next_row[z]


@njit(parallel=True, error_model="numpy")
def _priors(
    sums: AnyArray, places: Wanted, told: Told, along_x: AnyArray, slope_precision: float, own: float
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Height, precision and own variance of the plane around each wanted voxel, the voxel itself taken out; lanes along z."""
    index, wanted, place, columns = places
    field, se, good, centre, floor2 = told
    nx, ny, nz = index.shape
    height, precision, variance = np.zeros(wanted.size), np.zeros(wanted.size), np.zeros(wanted.size)
    for y in prange(ny):
        at, s = np.empty(nz, np.int32), np.empty((16, sums.shape[3]), np.float32)
        # those wanted, of several columns together, whose planes are then worked out at once
        waiting, gathered, n_waiting = np.zeros(LANES, np.int32), np.ones((16, LANES), np.float32), 0
        for x in range(nx):
            if not columns[x, y]:
                continue
            for k in range(nz):
                v = index[x, y, k]
                at[k] = place[v] if v >= 0 else -1
            _along_x(sums[y], x, along_x, s)
            for k in range(nz):
                if at[k] < 0:
                    continue
                v = wanted[at[k]]
                if good[v]:
                    value, noise2 = field[v] - centre, se[v] ** 2
                    weight = own / (noise2 + floor2)
                    s[_P000, k] -= weight
                    s[_Q000, k] -= weight * value
                    s[_Q2, k] -= weight * value**2
                    s[_NOISE, k] -= weight * noise2
                if not s[_P000, k] > 1e-9:
                    continue
                waiting[n_waiting] = at[k]
                for i in range(16):
                    gathered[i, n_waiting] = s[i, k]
                n_waiting += 1
                if n_waiting == LANES:
                    _take(_planes(gathered, floor2, slope_precision, own), waiting, n_waiting, centre, height, precision, variance)
                    n_waiting = 0
        _take(_planes(gathered, floor2, slope_precision, own), waiting, n_waiting, centre, height, precision, variance)
    return height, precision, variance


@njit()
def _take(
    plane: AnyArray, which: AnyArray, count: int, centre: float, height: AnyArray, precision: AnyArray, variance: AnyArray
) -> None:  # pragma: no cover - compiled
    for k in range(count):
        if plane[1, k] > 0:
            height[which[k]], precision[which[k]], variance[which[k]] = plane[0, k] + centre, plane[1, k], plane[2, k]


# moments of the weights by the powers of the distance along x, y and z; of weight times value; of its square, and noise
_P000, _P100, _P200, _P010, _P110, _P020, _P001, _P101, _P011, _P002, _Q000, _Q100, _Q010, _Q001, _Q2, _NOISE = range(16)


@njit(error_model="numpy")
def _along_x(sums: AnyArray, x: int, along_x: AnyArray, s: AnyArray) -> None:  # pragma: no cover - compiled
    """Fill (16, z) the moments around the voxels of the column at ``x``, of the (x, 11, z) sums."""
    reach = along_x.shape[1] // 2
    for i in range(16):
        which, power = _IN_X_TABLE[i, 0], _IN_X_TABLE[i, 1]
        into = s[i]
        into[:] = 0
        for m in range(max(x - reach, 0), min(x + reach + 1, sums.shape[0])):
            weight, row = along_x[power, m - x + reach], sums[m, which]
            for z in range(row.size):
                into[z] += weight * row[z]


@njit(error_model="numpy")
def _planes(s: AnyArray, floor2: float, slope_precision: float, own: float) -> AnyArray:  # pragma: no cover - compiled
    """(3, lane) height of the plane at the voxel, its precision as a prior, and its own variance; 0 or NaN where there is none."""
    plane = np.zeros((3, LANES))
    for k in range(LANES):
        w000 = float(s[_P000, k])
        # Cholesky factor of the 4 x 4 moments (i: one over its diagonal); the plane solves them for the first moments, e for (1, 0, 0, 0)
        i0 = 1 / np.sqrt(w000)
        l10, l20, l30 = s[_P100, k] * i0, s[_P010, k] * i0, s[_P001, k] * i0
        i1 = 1 / np.sqrt(s[_P200, k] + slope_precision - l10 * l10)
        l21, l31 = (s[_P110, k] - l20 * l10) * i1, (s[_P101, k] - l30 * l10) * i1
        i2 = 1 / np.sqrt(s[_P020, k] + slope_precision - l20 * l20 - l21 * l21)
        l32 = (s[_P011, k] - l30 * l20 - l31 * l21) * i2
        i3 = 1 / np.sqrt(s[_P002, k] + slope_precision - l30 * l30 - l31 * l31 - l32 * l32)
        y0 = s[_Q000, k] * i0
        y1 = (s[_Q100, k] - l10 * y0) * i1
        y2 = (s[_Q010, k] - l20 * y0 - l21 * y1) * i2
        y3 = (s[_Q001, k] - l30 * y0 - l31 * y1 - l32 * y2) * i3
        e0 = i0
        e1 = -l10 * e0 * i1
        e2 = -(l20 * e0 + l21 * e1) * i2
        e3 = -(l30 * e0 + l31 * e1 + l32 * e2) * i3
        # what the plane explains, its height here, and the variance of that for unit weights
        explained = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        here_variance = e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3
        spread = max((s[_Q2, k] - explained) * i0 * i0, 0.0)
        spread = max(spread - s[_NOISE, k] * i0 * i0, 0.1 * spread)
        # a Gaussian's squared weights sum to about its central weight times its sum
        plane[0, k] = y0 * e0 + y1 * e1 + y2 * e2 + y3 * e3
        plane[2, k] = own * here_variance
        plane[1, k] = 1 / (floor2 + spread + plane[2, k])
    return plane
