"""What a voxel's neighbours say of its field: Gaussian sums over a few millimetres, and the prior that follows from them."""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray

_SIGMA_MM = 3.5
_TRUNCATE = 2.5
_SPREAD_FLOOR_HZ_AT_1T5 = 1.5
_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 = 4.0


def field_prior(
    field_hz: FloatArray,
    se_hz: FloatArray,
    good: AnyArray,
    index: IntArray,
    voxel_size_mm: FloatArray,
    wanted: IntArray,
    field_strength_tesla: float,
) -> tuple[FloatArray, FloatArray]:
    """Mean and precision of the field at every ``wanted`` voxel, from its ``good`` neighbours (not itself) by their information.

    A plane through the neighbours, because a mean is pulled towards the side that knows more. The variance of the prior
    is what the field itself departs from the plane, not what noise adds to it, and the plane's own error. ``index``
    (x, y, z) numbers the voxels.
    """
    scale = field_strength_tesla / 1.5
    floor_hz = _SPREAD_FLOOR_HZ_AT_1T5 * scale
    kernels = [_kernel(size_mm) for size_mm in voxel_size_mm]
    own = float(np.prod([k[0, k.shape[1] // 2] for k in kernels]))
    centre_hz = float(np.median(field_hz[good])) if good.any() else 0.0
    sums = _sums(index, field_hz, se_hz, good, centre_hz, floor_hz**2, *kernels[1:])
    places = np.flatnonzero(index >= 0)[wanted]
    slope_precision = 1 / (_LARGEST_GRADIENT_HZ_PER_MM_AT_1T5 * scale) ** 2
    prior: tuple[FloatArray, FloatArray] = _priors(
        sums, places, wanted, kernels[0], field_hz, se_hz, good, centre_hz, floor_hz**2, slope_precision, own
    )
    return prior


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
_IN_Z_TABLE, _IN_Y_TABLE = np.array(_IN_Z), np.array(_IN_Y)


@numba.njit(cache=True, parallel=True)
def _sums(
    index: AnyArray, field: AnyArray, se: AnyArray, good: AnyArray, centre: float, floor2: float, along_y: AnyArray, along_z: AnyArray
) -> AnyArray:  # pragma: no cover - compiled
    """(x, 11, y, z) Gaussian sums over y and z, zero outside."""
    nx, ny, nz = index.shape
    reach_y, reach_z = along_y.shape[1] // 2, along_z.shape[1] // 2
    sums = np.zeros((nx, 11, ny, nz), np.float32)
    for x in numba.prange(nx):
        # a border of zeros along z saves asking where the volume ends
        plain = np.zeros((4, ny, nz + 2 * reach_z), np.float32)
        some = False
        for y in range(ny):
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
                for m in range(2 * reach_z + 1):
                    weight = along_z[power, m]
                    for z in range(nz):
                        in_z[s, y, z] += weight * plain[which, y, z + m]
        for s in range(11):
            which, power = _IN_Y_TABLE[s, 0], _IN_Y_TABLE[s, 1]
            for y in range(ny):
                for m in range(max(y - reach_y, 0), min(y + reach_y + 1, ny)):
                    weight = along_y[power, m - y + reach_y]
                    for z in range(nz):
                        sums[x, s, y, z] += weight * in_z[which, m, z]
    return sums


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _priors(
    sums: AnyArray,
    places: AnyArray,
    wanted: AnyArray,
    along_x: AnyArray,
    field: AnyArray,
    se: AnyArray,
    good: AnyArray,
    centre: float,
    floor2: float,
    slope_precision: float,
    own: float,
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """The sums along x at the ``wanted`` voxels, the voxel itself taken out, and the plane that follows: its height and precision."""
    nx, _, ny, nz = sums.shape
    reach = along_x.shape[1] // 2
    height = np.zeros(wanted.size)
    precision = np.zeros(wanted.size)
    for i in numba.prange(wanted.size):
        v = wanted[i]
        x, y, z = places[i] // (ny * nz), (places[i] // nz) % ny, places[i] % nz
        w000 = w100 = w200 = w010 = w110 = w020 = w001 = w101 = w011 = w002 = v000 = v100 = v010 = v001 = v2 = n = 0.0
        for m in range(max(x - reach, 0), min(x + reach + 1, nx)):
            k0, k1, k2 = along_x[0, m - x + reach], along_x[1, m - x + reach], along_x[2, m - x + reach]
            w000 += k0 * sums[m, _W00, y, z]
            w100 += k1 * sums[m, _W00, y, z]
            w200 += k2 * sums[m, _W00, y, z]
            w010 += k0 * sums[m, _W10, y, z]
            w110 += k1 * sums[m, _W10, y, z]
            w020 += k0 * sums[m, _W20, y, z]
            w001 += k0 * sums[m, _W01, y, z]
            w101 += k1 * sums[m, _W01, y, z]
            w011 += k0 * sums[m, _W11, y, z]
            w002 += k0 * sums[m, _W02, y, z]
            v000 += k0 * sums[m, _V00, y, z]
            v100 += k1 * sums[m, _V00, y, z]
            v010 += k0 * sums[m, _V10, y, z]
            v001 += k0 * sums[m, _V01, y, z]
            v2 += k0 * sums[m, _V2, y, z]
            n += k0 * sums[m, _N, y, z]
        if good[v]:
            value, noise2 = field[v] - centre, se[v] ** 2
            weight = own / (noise2 + floor2)
            w000 -= weight
            v000 -= weight * value
            v2 -= weight * value**2
            n -= weight * noise2
        if not w000 > 1e-9:
            continue
        # Cholesky factor of the 4 x 4 moments; the plane solves them for the first moments, e for (1, 0, 0, 0)
        l00 = np.sqrt(w000)
        l10, l20, l30 = w100 / l00, w010 / l00, w001 / l00
        l11 = np.sqrt(w200 + slope_precision - l10 * l10)
        l21, l31 = (w110 - l20 * l10) / l11, (w101 - l30 * l10) / l11
        l22 = np.sqrt(w020 + slope_precision - l20 * l20 - l21 * l21)
        l32 = (w011 - l30 * l20 - l31 * l21) / l22
        l33 = np.sqrt(w002 + slope_precision - l30 * l30 - l31 * l31 - l32 * l32)
        y0 = v000 / l00
        y1 = (v100 - l10 * y0) / l11
        y2 = (v010 - l20 * y0 - l21 * y1) / l22
        y3 = (v001 - l30 * y0 - l31 * y1 - l32 * y2) / l33
        e0 = 1 / l00
        e1 = -l10 * e0 / l11
        e2 = -(l20 * e0 + l21 * e1) / l22
        e3 = -(l30 * e0 + l31 * e1 + l32 * e2) / l33
        # what the plane explains, its height here, and the variance of that for unit weights
        explained = y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3
        here = y0 * e0 + y1 * e1 + y2 * e2 + y3 * e3
        here_variance = e0 * e0 + e1 * e1 + e2 * e2 + e3 * e3
        if not here_variance < np.inf:
            continue
        spread = max((v2 - explained) / w000, 0.0)
        spread = max(spread - n / w000, 0.1 * spread)
        # a Gaussian's squared weights sum to about its central weight times its sum
        precision[i] = 1 / (floor2 + spread + own * here_variance)
        height[i] = here + centre
    return height, precision
