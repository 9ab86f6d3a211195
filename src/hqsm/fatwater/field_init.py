"""A first field map without swaps, on blocks of a few millimetres.

Neighbouring voxels share their field but not their fat, so their costs add: a block sums the outer products of its
voxels' echoes, and the variable-projection cost of the field (Hernando et al., MRM 2008;59:571) with water, fat and one
R2* projected out is a trigonometric polynomial of that sum. Its lowest minima are the block's labels. The choice among
them minimises

    sum_b misfit_b(f_b) + sum_{b~c} trust_bc * smoothness / distance_bc * min(|f_b - f_c|, truncation)

over the 6-neighbour graph by sequential tree-reweighted message passing (Kolmogorov, PAMI 2006;28:1568). With evenly spaced
echoes fields are angles there (a whole period changes nothing) and are unwrapped afterwards. Pieces that continuity does
not decide are decided in :mod:`hqsm.fatwater.islands`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.fatwater.lanes import evenly

R2STAR_CANDIDATES_PER_S = (15.0, 40.0, 90.0, 180.0, 320.0, 500.0, 750.0, 1100.0)
N_MINIMA = 4
N_FIELDS = 64
BLOCK_MM = 5.0
_N_SWEEPS = 15
_NEWS = np.float32(1e-2)
"""Change of a message that is worth passing on."""
_CHUNK = 1024
_LOG_STEP = 0.2
IMPOSSIBLE = np.float32(1e6)
_MODEL_ERROR = 5e-4
"""Share of the signal's energy that the model itself may miss (spectrum, flow, partial volume)."""
_MODEL_ERROR_OF_VOXEL = 1e-4
_TYPICAL_STEP_HZ_PER_MM_AT_1T5 = 2.0
_TRUNCATION_HZ_AT_1T5 = 75.0
_LEAST_LIKE = 14
"""Of 27 blocks: fewer lie at an edge, where what is beyond tells, or fields step."""
_DARK, _FALLING = 8.0, 2.5
"""Squared signal of a block over twice the noise's variance below which an echo is dark; by what the second must be below the first."""
_LEAST_SHARE = 0.3
JOINING_TRUST = 0.05
"""Blocks that fit worse, as a share of the best trust, join no pieces: lung would tie everything together."""
_EVEN_WITHIN_S = 1e-6
"""Headers round echo times to a microsecond, 0.2 degrees at 500 Hz."""
_TRUSTED_MISFIT = 3.0
"""Misfit per degree of freedom at which a block's say is halved: what no field explains knows no field."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Blocks:
    """Voxels gathered to blocks.

    Attributes
    ----------
    of_voxel
        (voxel,) number of each voxel's block.
    index
        (bx, by, bz) number of each block in raster order, -1 where there is none.
    products
        (block, echo, echo) sum over the block's voxels of y_n conj(y_m) over the variance of the voxel's misfit.
    n_voxels
        (block,) how many voxels it has.
    energy
        (block,) their squared signal [scanner units].
    size_mm
        (3,) its edges.
    away_hz
        (voxel,) how far its field lies from its block's, by the field's slope there.
    dark
        (block,) whether it is in the noise from the third echo on and took the mean of the like blocks around.
    """

    of_voxel: IntArray
    index: IntArray
    products: ComplexArray
    n_voxels: IntArray
    energy: FloatArray
    size_mm: FloatArray
    away_hz: FloatArray
    dark: Mask


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """Each block's own few best fields.

    Attributes
    ----------
    field_hz, misfit, r2star_per_s
        (block, minimum) fields, best first; misfit, very large where there is no such minimum; R2* that came with it.
    period_hz
        What a field may be changed by without changing the signal; infinite for uneven echoes.
    """

    field_hz: FloatArray
    misfit: FloatArray
    r2star_per_s: FloatArray
    period_hz: float


def gather(signal: ComplexArray, index: IntArray, echo_times_s: FloatArray, voxel_size_mm: FloatArray, noise_sd: float) -> Blocks:
    """Blocks of the voxels that ``index`` (x, y, z) numbers, none longer than 5 mm unless a voxel is."""
    edge = np.maximum(np.floor(BLOCK_MM / voxel_size_mm + 1e-6), 1).astype(np.int64)
    where = np.nonzero(index >= 0)
    shape = -(-np.array(index.shape) // edge)
    along = [np.arange(n) // e for n, e in zip(index.shape, edge, strict=True)]
    x, y, z = (numbers[places] for numbers, places in zip(along, where, strict=True))
    flat = (x * shape[1] + y) * shape[2] + z
    present = np.zeros(int(np.prod(shape)), bool)
    present[flat] = True
    number = np.full(present.size, -1, np.int64)
    number[present] = np.arange(int(present.sum()))
    of_voxel = number[flat]
    n_blocks = int(present.sum())
    number = number.reshape(tuple(shape))
    slope = np.zeros((n_blocks, 3), np.float32)
    later = neighbour_table(index)[:, 3:] if (edge > 1).any() else np.zeros((0, 3), np.int64)
    spacing_s = float(np.diff(echo_times_s).min())
    close = np.flatnonzero(np.diff(echo_times_s) < 1.02 * spacing_s)
    for axis in np.flatnonzero(edge > 1):
        turns = _steps(signal, later[:, axis], of_voxel, n_blocks, close)
        slope[:, axis] = np.angle(around(turns, number)) / (2 * np.pi * spacing_s)
    noise, share = 2 * noise_sd**2, _MODEL_ERROR
    away_hz = np.zeros(of_voxel.size, np.float32)
    for axis in np.flatnonzero(edge > 1):
        from_centre = (np.arange(index.shape[axis]) % edge[axis] - (edge[axis] - 1) / 2).astype(np.float32)
        away_hz += slope[of_voxel, axis] * from_centre[where[axis]]
    products = _sums_of_products(signal, of_voxel, away_hz, echo_times_s, n_blocks, noise, share)
    counts = np.bincount(of_voxel, minlength=n_blocks)
    dark = _lend(products, counts.astype(np.float32), number)
    energy: FloatArray = np.bincount(of_voxel, powers(signal)[0], n_blocks).astype(np.float64)
    return Blocks(
        of_voxel=of_voxel,
        index=number,
        products=products,
        n_voxels=counts,
        energy=energy,
        size_mm=edge * voxel_size_mm,
        away_hz=away_hz,
        dark=dark,
    )


@numba.njit(cache=True, parallel=True)
def powers(signal: AnyArray) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """(voxel,) squared signal of all echoes together, and of the brightest."""
    energy, brightest = np.empty(signal.shape[0], np.float32), np.empty(signal.shape[0], np.float32)
    for v in numba.prange(signal.shape[0]):
        total = most = np.float32(0)
        for e in range(signal.shape[1]):
            here = signal[v, e].real * signal[v, e].real + signal[v, e].imag * signal[v, e].imag
            total += here
            most = max(most, here)
        energy[v], brightest[v] = total, most
    return energy, brightest


def around(values: ComplexArray, index: IntArray) -> ComplexArray:
    """(node,) mean over the 3 x 3 x 3 nodes around each, none counting as zero: one block's slope alone is too noisy where iron is."""
    mean: ComplexArray = _around(np.asarray(values, np.complex64), index)
    return mean


@numba.njit(cache=True, parallel=True)
def _around(values: AnyArray, index: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    nx, ny, nz = index.shape
    mean = np.zeros(values.size, np.complex64)
    planes = np.zeros((nx, ny, nz), np.complex64)
    for x in numba.prange(nx):
        rows = np.zeros((ny, nz + 2), np.complex64)
        for y in range(ny):
            for z in range(nz):
                if index[x, y, z] >= 0:
                    rows[y, z + 1] = values[index[x, y, z]]
        for y in range(ny):
            for m in range(max(y - 1, 0), min(y + 2, ny)):
                for z in range(nz):
                    planes[x, y, z] += rows[m, z] + rows[m, z + 1] + rows[m, z + 2]
    for x in numba.prange(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v >= 0:
                    total = planes[x, y, z]
                    if x > 0:
                        total += planes[x - 1, y, z]
                    if x + 1 < nx:
                        total += planes[x + 1, y, z]
                    mean[v] = total / np.float32(27)
    return mean


@numba.njit(cache=True)
def _steps(signal: AnyArray, later: AnyArray, block: AnyArray, n_blocks: int, close: AnyArray) -> AnyArray:  # pragma: no cover
    """(block,) phasor by which neighbouring voxels of the block turn against each other from one echo to the next."""
    sums = np.zeros(n_blocks, np.complex64)
    for v in range(signal.shape[0]):
        u = later[v]
        if u >= 0:
            total = np.complex64(0)
            power = np.float32(1e-20)
            for n in close:
                here = signal[v, n + 1] * np.conj(signal[v, n])
                there = signal[u, n + 1] * np.conj(signal[u, n])
                total += there * np.conj(here)
                power += there.real**2 + there.imag**2 + here.real**2 + here.imag**2
            sums[block[v]] += total / np.sqrt(power)
    return sums


@numba.njit(cache=True)
def _sums_of_products(
    signal: AnyArray, block: AnyArray, away_hz: AnyArray, t: AnyArray, n_blocks: int, noise: float, share: float
) -> AnyArray:  # pragma: no cover - compiled
    """Outer products of each voxel's echoes, the field's slope inside the block taken out, over the misfit's variance."""
    n_echoes = signal.shape[1]
    sums = np.zeros((n_blocks, n_echoes, n_echoes), np.complex64)
    y = np.empty(n_echoes, np.complex64)
    even = evenly(t, _EVEN_WITHIN_S)
    for v in range(signal.shape[0]):
        b = block[v]
        away = away_hz[v]
        turn = np.complex64(np.exp(-2j * np.pi * away * (t[1] - t[0])))
        phasor = np.complex64(1)
        energy = np.float32(0.0)
        for n in range(n_echoes):
            y[n] = signal[v, n] * phasor
            energy += y[n].real ** 2 + y[n].imag ** 2
            if n + 1 < n_echoes:
                phasor = phasor * turn if even else np.complex64(np.exp(-2j * np.pi * away * (t[n + 1] - t[0])))
        weight = np.float32(1.0 / (noise + share * energy))
        into = sums[b]
        for n in range(n_echoes):
            weighted = y[n] * weight
            for m in range(n + 1):
                into[n, m] += weighted * np.conj(y[m])
    return sums


@numba.njit(cache=True)
def _lend(products: AnyArray, n_voxels: AnyArray, index: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Blocks that are in the noise from the third echo on get the mean of the like blocks around, in place; which they are.

    Two echoes fit many fields; in so short a time the fields of neighbours hardly differ.
    """
    nx, ny, nz = index.shape
    n_blocks, n_echoes = products.shape[0], products.shape[1]
    dark = np.zeros(n_blocks, np.bool_)
    for b in range(n_blocks):
        # noise gives 1 for each voxel
        first, second, third = (
            products[b, 0, 0].real - n_voxels[b],
            products[b, 1, 1].real - n_voxels[b],
            products[b, 2, 2].real - n_voxels[b],
        )
        dark[b] = third < _DARK and first > 2 * _DARK and first > _FALLING * second
    lent = np.zeros(n_blocks, np.bool_)
    own = products.copy()
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                b = index[x, y, z]
                if b < 0 or not dark[b]:
                    continue
                total = np.float32(0)
                like = 0
                products[b] = 0
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    for j in range(max(y - 1, 0), min(y + 2, ny)):
                        for k in range(max(z - 1, 0), min(z + 2, nz)):
                            c = index[i, j, k]
                            if c >= 0 and dark[c]:
                                total += n_voxels[c]
                                like += 1
                                for n in range(n_echoes):
                                    for m in range(n + 1):
                                        products[b, n, m] += own[c, n, m]
                if like < _LEAST_LIKE:
                    products[b] = own[b]
                    continue
                lent[b] = True
                scale = n_voxels[b] / total
                for n in range(n_echoes):
                    for m in range(n + 1):
                        products[b, n, m] *= scale
    return lent


def raster_of(echo_times_s: FloatArray, field_strength_tesla: float) -> tuple[FloatArray, float]:
    """Fields to try [Hz] and their period: one period of evenly spaced echoes; else two of the closest pair, no period."""
    spacing_s = float(np.diff(echo_times_s).min())
    if np.allclose(np.diff(echo_times_s), spacing_s, rtol=0.02):
        period_hz = 1.0 / float(np.diff(echo_times_s).mean())
        return np.arange(N_FIELDS) * period_hz / N_FIELDS - period_hz / 2, period_hz
    span_hz = min(2 / spacing_s, 1000.0 * field_strength_tesla)
    n_fields = int(np.clip(8 * span_hz * (echo_times_s[-1] - echo_times_s[0]), N_FIELDS, 8 * N_FIELDS))
    return (np.arange(n_fields) / n_fields - 0.5) * span_hz, np.inf


def candidates(
    blocks: Blocks, echo_times_s: FloatArray, fat: ComplexArray, field_strength_tesla: float, *, with_fat: bool, one_phase: bool = False
) -> Candidates:
    """The lowest minima of every block's misfit over the field; ``one_phase`` where a block's water and fat must share theirs."""
    raster_hz, period_hz = raster_of(echo_times_s, field_strength_tesla)
    decay = np.exp(-np.outer(R2STAR_CANDIDATES_PER_S, echo_times_s))
    columns = [decay + 0j, decay * fat] if with_fat else [decay + 0j]
    bases = np.linalg.qr(np.stack(columns, axis=2))[0]
    projectors = np.einsum("bni,bmi->nmb", bases, bases.conj())
    differences = np.round((echo_times_s[:, None] - echo_times_s[None, :]) * 1e6).astype(np.int64)
    lags, lag_of = np.unique(np.where(differences > 0, differences, differences.max()), return_inverse=True)
    both_s = echo_times_s[:, None] + echo_times_s[None, :]
    sum_of = np.unique(np.round(both_s * 1e6).astype(np.int64), return_inverse=True)[1].ravel()
    sums_s = np.bincount(sum_of, both_s.ravel()) / np.bincount(sum_of)
    turns = 2 * np.pi * np.outer(lags * 1e-6, raster_hz)
    step_hz = float(raster_hz[1] - raster_hz[0])
    fat_or_none = fat.astype(np.complex128) if with_fat else np.zeros(fat.size, np.complex128)
    field, misfit, r2star = _minima(
        blocks.products,
        np.stack([projectors.real, projectors.imag]).astype(np.float32),
        lag_of.reshape(differences.shape),
        np.cos(turns).astype(np.float32),
        np.sin(turns).astype(np.float32),
        bool(np.isfinite(period_hz)),
        np.asarray(echo_times_s, np.float64),
        sums_s,
        sum_of.reshape(differences.shape),
        fat_or_none,
        *_pairs(fat_or_none, sum_of.reshape(differences.shape)),
        float(raster_hz[0]),
        step_hz,
        np.log(np.array(R2STAR_CANDIDATES_PER_S)),
        one_phase and with_fat,
    )
    return Candidates(field_hz=field, misfit=misfit, r2star_per_s=r2star, period_hz=period_hz)


_FASTEST_FAT_PER_S = 400.0
_FAST_FAT_COST = 0.005
"""Share of the signal's energy that a field costs at which the tissue would be fat that decays faster than this: iron is in
water, and a dark liver whose few echoes fit as fat as well is no fat."""


def _pairs(fat: ComplexArray, sum_of: IntArray) -> tuple[IntArray, FloatArray]:
    """(pair, 3) numbers n >= m of two echoes and of the sum of their times; (pair, 7) what :func:`_at_field` multiplies by."""
    which, factors = [], []
    for n in range(fat.size):
        for m in range(n + 1):
            cn, cm = fat[n], fat[m]
            both = np.conj(cn) * cm
            half = 0.5 if n == m else 1.0
            which.append((n, m, sum_of[n, m]))
            mine = (2, cm.real + cn.real, cm.imag - cn.imag, cm.imag + cn.imag, cm.real - cn.real, 2 * both.real, 2 * both.imag)
            factors.append([half * float(factor) for factor in mine])
    return np.array(which), np.array(factors)


@numba.njit(cache=True)
def _at_field(
    product: AnyArray, t: AnyArray, even: bool, pairs: AnyArray, factors: AnyArray, field_hz: float, phasor: AnyArray, terms: AnyArray
) -> None:  # pragma: no cover - compiled
    """What of a block's products A^H H A needs at any decay once the field is chosen: (4, sum of two echo times) terms.

    Water with water, water with fat (real, imaginary) and fat with fat, without the decay exp(-R2* (t_n + t_m)).
    """
    phasor[0] = 1
    turn = np.exp(2j * np.pi * field_hz * (t[1] - t[0]))
    for n in range(1, t.size):
        phasor[n] = phasor[n - 1] * turn if even else np.exp(2j * np.pi * field_hz * (t[n] - t[0]))
    terms[:, :] = 0
    for i in range(pairs.shape[0]):
        n, m, k = pairs[i, 0], pairs[i, 1], pairs[i, 2]
        # conj(g_n) H_nm g_m and its transpose, which is its conjugate, at once
        x = phasor[n].conjugate() * product[n, m] * phasor[m]
        terms[0, k] += factors[i, 0] * x.real
        terms[1, k] += factors[i, 1] * x.real - factors[i, 2] * x.imag
        terms[2, k] += factors[i, 3] * x.real + factors[i, 4] * x.imag
        terms[3, k] += factors[i, 5] * x.real - factors[i, 6] * x.imag


@numba.njit(cache=True)
def _equations(
    terms: AnyArray, sum_of: AnyArray, fat: AnyArray, decay: AnyArray
) -> tuple[float, float, float, float, float, float, complex, float]:  # pragma: no cover - compiled
    """A^H H A (11, 22, real and imaginary part of 12), A^H A (11, 22, 12) and its determinant at a decay over sums of echo times."""
    q11 = q22 = q12r = q12i = a11 = a22 = 0.0
    a12 = 0j
    for k in range(decay.size):
        q11 += decay[k] * terms[0, k]
        q12r += decay[k] * terms[1, k]
        q12i += decay[k] * terms[2, k]
        q22 += decay[k] * terms[3, k]
    for n in range(fat.size):
        d2 = decay[sum_of[n, n]]
        a11 += d2
        a12 += d2 * fat[n]
        a22 += d2 * (fat[n].real ** 2 + fat[n].imag ** 2)
    return q11, q22, q12r, q12i, a11, a22, a12, a11 * a22 - (a12.real**2 + a12.imag**2)


@numba.njit(cache=True)
def _unexplained(
    energy: float, terms: AnyArray, sums_s: AnyArray, even: bool, sum_of: AnyArray, fat: AnyArray, r2star: float, decay: AnyArray
) -> tuple[float, bool]:  # pragma: no cover - compiled
    """Energy that water and fat of this decay leave, tr(H) - tr((A^H A)^-1 A^H H A), and whether fat alone explains more than water."""
    n_sums = sums_s.size
    decay[0] = np.exp(-r2star * sums_s[0])
    step = np.exp(-r2star * (sums_s[1] - sums_s[0]))
    for k in range(1, n_sums):
        decay[k] = decay[k - 1] * step if even else np.exp(-r2star * sums_s[k])
    q11, q22, q12r, q12i, a11, a22, a12, determinant = _equations(terms, sum_of, fat, decay)
    explained = q11 / a11
    if determinant > 1e-9 * a11 * a22:
        explained = (a22 * q11 + a11 * q22 - 2 * (a12.real * q12r + a12.imag * q12i)) / determinant
    return energy - explained, q22 * a11 > q11 * a22


@numba.njit(cache=True)
def _lost_by_sharing(terms: AnyArray, sum_of: AnyArray, fat: AnyArray, decay: AnyArray) -> float:  # pragma: no cover - compiled
    """Energy that water and fat of one phase, neither below nothing, explain less than they do freely; ``decay`` as last used.

    The column 1 - p + p c explains N(p) / D(p), two parabolas: the best p in 0..1 is an end or where N' D = N D'.
    """
    q11, q22, q12r, q12i, a11, a22, a12, determinant = _equations(terms, sum_of, fat, decay)
    if not determinant > 1e-9 * a11 * a22:
        return 0.0
    freely = (a22 * q11 + a11 * q22 - 2 * (a12.real * q12r + a12.imag * q12i)) / determinant
    n1, n2 = 2 * (q12r - q11), q11 - 2 * q12r + q22
    d1, d2 = 2 * (a12.real - a11), a11 - 2 * a12.real + a22
    best = max(q11 / a11, q22 / a22)
    c0, c1, c2 = n1 * a11 - q11 * d1, 2 * (n2 * a11 - q11 * d2), n2 * d1 - n1 * d2
    root = c1 * c1 - 4 * c0 * c2
    if root >= 0:
        # the stable pair of roots
        half = -0.5 * (c1 + (np.sqrt(root) if c1 >= 0 else -np.sqrt(root)))
        for share in (half / c2 if c2 != 0 else -1.0, c0 / half if half != 0 else -1.0):
            if 0 < share < 1:
                best = max(best, (q11 + share * (n1 + share * n2)) / (a11 + share * (d1 + share * d2)))
    return max(freely - best, 0.0)


@numba.njit(cache=True, parallel=True)
def _minima(
    products: AnyArray,
    projectors: AnyArray,
    lag_of: AnyArray,
    cosines: AnyArray,
    sines: AnyArray,
    periodic: bool,
    t: AnyArray,
    sums_s: AnyArray,
    sum_of: AnyArray,
    fat: AnyArray,
    pairs: AnyArray,
    factors: AnyArray,
    first_hz: float,
    step_hz: float,
    log_r2stars: AnyArray,
    one_phase: bool,
) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields [Hz], misfits and R2* [1/s] of each block's lowest minima.

    With y demodulated by f, the energy that water and fat explain is sum_nm conj(y_n) P_nm y_m exp(i 2 pi f (t_n - t_m)):
    a trigonometric polynomial in f with one coefficient for each distinct difference of echo times.
    """
    n_blocks, n_echoes, _ = products.shape
    n_lags, n_fields = cosines.shape
    n_bases = projectors.shape[3]
    even, even_sums = evenly(t, _EVEN_WITHIN_S), evenly(sums_s, _EVEN_WITHIN_S)
    fields = np.zeros((n_blocks, N_MINIMA))
    misfits = np.full((n_blocks, N_MINIMA), IMPOSSIBLE, np.float32)
    decays = np.full((n_blocks, N_MINIMA), 40.0)
    for chunk in numba.prange((n_blocks + _CHUNK - 1) // _CHUNK):
        all_values = np.empty((n_bases, n_fields), np.float32)
        explained = np.empty(n_fields, np.float32)
        which = np.empty(n_fields, np.int32)
        coefficients = np.empty((2, n_lags, n_bases), np.float32)
        constants = np.empty(n_bases, np.float32)
        phasor = np.empty(n_echoes, np.complex128)
        terms = np.empty((4, sums_s.size))
        decay = np.empty(sums_s.size)
        for v in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_blocks)):
            product = products[v]
            energy: float = np.float32(0.0)  # type: ignore[assignment]
            for e in range(n_echoes):
                energy += product[e, e].real
            explained[:] = -1
            coefficients[:, :, :] = 0
            constants[:] = 0
            for n in range(n_echoes):
                for b in range(n_bases):
                    constants[b] += projectors[0, n, n, b] * product[n, n].real
                for m in range(n):
                    # conj(y_n) y_m is the conjugate of the stored product
                    k = lag_of[n, m]
                    hr, hi = np.float32(2) * product[n, m].real, np.float32(2) * product[n, m].imag
                    for b in range(n_bases):
                        pr, pi = projectors[0, n, m, b], projectors[1, n, m, b]
                        coefficients[0, k, b] += hr * pr + hi * pi
                        coefficients[1, k, b] += hr * pi - hi * pr
            for b in range(n_bases):
                values = all_values[b]
                values[:] = constants[b]
                for k in range(n_lags):
                    cr = coefficients[0, k, b]
                    ci = coefficients[1, k, b]
                    for j in range(n_fields):
                        values[j] += cr * cosines[k, j] - ci * sines[k, j]
                for j in range(n_fields):
                    if values[j] > explained[j]:
                        explained[j] = values[j]
                        which[j] = b
            for k in range(n_fields):
                if not (periodic or 0 < k < n_fields - 1):
                    continue
                before = energy - explained[k - 1 if k > 0 else n_fields - 1]
                after = energy - explained[k + 1 if k < n_fields - 1 else 0]
                here = energy - explained[k]
                if not (here <= before and here < after):
                    continue
                curvature = before - 2 * here + after
                offset = np.float32(0.5) * (before - after) / curvature if curvature > 0 else np.float32(0.0)
                b = which[k]
                shift = np.float32(0.0)
                if 0 < b < n_bases - 1:
                    less = energy - all_values[b - 1, k]
                    more = energy - all_values[b + 1, k]
                    bend = less - 2 * here + more
                    if bend > 0:
                        shift = np.float32(0.5) * (less - more) / bend
                # and once more along R2*, closer: on a few values alone a swapped minimum can look the better one
                field_hz = first_hz + (k + float(offset)) * step_hz
                step = log_r2stars[min(b + 1, n_bases - 1)] - log_r2stars[b] if shift > 0 else log_r2stars[b] - log_r2stars[max(b - 1, 0)]
                middle = log_r2stars[b] + shift * step
                _at_field(product, t, even, pairs, factors, field_hz, phasor, terms)
                at, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle), decay)
                low, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle - _LOG_STEP), decay)
                high, _ = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, np.exp(middle + _LOG_STEP), decay)
                fine = low - 2 * at + high
                best = at
                if fine > 0:
                    move = min(max(0.5 * (low - high) / fine, -1.5), 1.5)
                    middle += move * _LOG_STEP
                    best = at - 0.5 * (low - high) * move + 0.5 * fine * move * move
                rate = np.exp(middle)
                misfit = max(np.float32(min(best, at, low, high)), np.float32(0.0))
                # three echoes hold no decay beside water, fat and field, that one could go by
                fast = n_echoes > 3 and rate > _FASTEST_FAT_PER_S
                if one_phase or fast:
                    _, is_fat = _unexplained(energy, terms, sums_s, even_sums, sum_of, fat, rate, decay)
                    if one_phase:
                        misfit += np.float32(_lost_by_sharing(terms, sum_of, fat, decay))
                    if fast and is_fat:
                        misfit += np.float32(_FAST_FAT_COST) * energy
                slot = N_MINIMA - 1
                if misfit < misfits[v, slot]:
                    while slot > 0 and misfit < misfits[v, slot - 1]:
                        misfits[v, slot] = misfits[v, slot - 1]
                        fields[v, slot] = fields[v, slot - 1]
                        decays[v, slot] = decays[v, slot - 1]
                        slot -= 1
                    misfits[v, slot] = misfit
                    fields[v, slot] = field_hz
                    decays[v, slot] = rate
    return fields, misfits, decays


def singles(signal: ComplexArray, echo_times_s: FloatArray, noise_sd: float, voxel_size_mm: FloatArray) -> Blocks:
    """Every voxel a block of its own; without a place (``index`` is empty)."""
    n = signal.shape[0]
    of_voxel = np.arange(n)
    noise, share = 2 * noise_sd**2, _MODEL_ERROR_OF_VOXEL
    products = _sums_of_products(signal, of_voxel, np.zeros(n, np.float32), echo_times_s, n, noise, share)
    return Blocks(
        of_voxel=of_voxel,
        index=np.zeros((0, 0, 0), np.int64),
        products=products,
        n_voxels=np.ones(n, np.int64),
        energy=np.ones(n),
        size_mm=voxel_size_mm,
        away_hz=np.zeros(n, np.float32),
        dark=np.zeros(n, bool),
    )


def trust(blocks: Blocks, misfit: FloatArray, n_echoes: int, typical: float | None = None) -> FloatArray:
    """(block,) what a unit of misfit is worth there: 1 where the best field leaves no more than noise, 0 where no field fits.

    Measured against the volume's own typical misfit, because flow, ghosts and the spectrum leave more than noise.
    """
    per_freedom = misfit[:, 0] / (blocks.n_voxels * max(n_echoes - 3, 1))
    if typical is None:
        order = np.argsort(per_freedom)
        heavier = np.cumsum(blocks.energy[order])
        typical = max(1.0, float(per_freedom[order[np.searchsorted(heavier, 0.5 * heavier[-1])]]))
    worth: FloatArray = 1 / (typical * (1 + (per_freedom / typical / _TRUSTED_MISFIT) ** 2))
    return worth


@dataclass(frozen=True, eq=False, kw_only=True)
class Costs:
    """What a choice among the blocks' fields costs: of each field by itself, and of each step to a neighbour.

    Attributes
    ----------
    field_hz, unary
        (block, minimum) fields; what each costs, very much where there is no such minimum.
    table, weights
        (block, 6) neighbours; price of each Hz of difference to them.
    truncation_hz
        Difference beyond which a step costs no more.
    period_hz
        As of :class:`Candidates`, but large for uneven echoes.
    """

    field_hz: FloatArray
    unary: FloatArray
    table: IntArray
    weights: FloatArray
    truncation_hz: float
    period_hz: float


def costs(
    found: Candidates, trusts: FloatArray, share: FloatArray, table: IntArray, size_mm: FloatArray, smoothness: float, tesla: float
) -> Costs:
    """Misfit by what it is worth, and continuity between tissue and tissue; beside lung and gas fields do step."""
    there = np.maximum(share, _LEAST_SHARE)
    return Costs(
        field_hz=found.field_hz,
        unary=prices(found, trusts),
        table=table,
        weights=edge_weights(table, size_mm, smoothness, tesla) * there[:, None] * there[np.maximum(table, 0)],
        truncation_hz=truncation_hz(tesla),
        period_hz=finite_period_hz(found),
    )


def prices(found: Candidates, trusts: FloatArray) -> FloatArray:
    """(block, minimum) misfit beyond the best one's, by what it is worth."""
    return np.where(found.misfit < IMPOSSIBLE, (found.misfit - found.misfit[:, :1]) * trusts[:, None], IMPOSSIBLE)


def finite_period_hz(found: Candidates) -> float:
    """The period, or one so large that no field comes near it."""
    return found.period_hz if np.isfinite(found.period_hz) else 1e9


def tissue_share(found: Candidates, trusts: FloatArray, blocks: Blocks, echo_times_s: FloatArray) -> FloatArray:
    """(block,) how much of it is tissue, by its brightness at TE = 0 against half of what trusted blocks have."""
    decay2 = np.exp(-2 * np.outer(found.r2star_per_s[:, 0], echo_times_s)).sum(axis=1)
    bright = np.sqrt(blocks.energy / blocks.n_voxels / decay2)
    filled = blocks.n_voxels / blocks.n_voxels.max()
    typical = float(np.median(bright[trusts > JOINING_TRUST * trusts.max()]))
    share: FloatArray = np.minimum(2 * bright / typical, 1) * filled
    return share


def edge_weights(table: IntArray, size_mm: FloatArray, smoothness: float, field_strength_tesla: float) -> FloatArray:
    """(block, 6) price of each Hz of difference to each neighbour: one over what fields typically change by on the way."""
    typical_hz = _TYPICAL_STEP_HZ_PER_MM_AT_1T5 * field_strength_tesla / 1.5 * np.array([*size_mm, *size_mm])
    weights: FloatArray = np.where(table >= 0, smoothness / typical_hz, 0)
    return weights


def truncation_hz(field_strength_tesla: float) -> float:
    """Difference of neighbouring fields beyond which a step costs no more [Hz]."""
    return _TRUNCATION_HZ_AT_1T5 * field_strength_tesla / 1.5


def smoothest_choice(of: Costs, chosen: IntArray | None = None, open_: Mask | None = None) -> IntArray:
    """(block,) which minimum each block takes; with ``open_``, only those choose and the others keep what they have ``chosen``."""
    # a field that costs more than all the steps to all neighbours together is out of play
    in_play = (of.unary < IMPOSSIBLE) & (
        of.unary - of.unary.min(axis=1, keepdims=True) <= of.truncation_hz * of.weights.sum(axis=1)[:, None]
    )
    counts = in_play.shape[1] - in_play[:, ::-1].argmax(axis=1)
    result = np.zeros(counts.size, np.int64) if chosen is None else chosen.copy()
    which = np.flatnonzero(counts > 1 if open_ is None else open_ & (counts > 1))
    unary = of.unary.astype(np.float32)
    problem = _of_open_blocks(of.field_hz, unary, counts, result, of.table, of.weights, of.truncation_hz, of.period_hz, which)
    result[which] = _message_passing(*problem, of.truncation_hz, of.period_hz, _N_SWEEPS)
    return result


@numba.njit(cache=True)
def _of_open_blocks(
    fields: AnyArray,
    unary: AnyArray,
    counts: AnyArray,
    chosen: AnyArray,
    table: AnyArray,
    weights: AnyArray,
    truncation: float,
    period: float,
    open_: AnyArray,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fields, costs, counts, neighbours and weights of the blocks with a choice; steps to the others go into the costs."""
    n, n_labels = open_.size, fields.shape[1]
    number = np.full(counts.size, -1, np.int32)
    number[open_] = np.arange(n).astype(np.int32)
    field, cost = np.empty((n, n_labels), np.float32), np.empty((n, n_labels), np.float32)
    neighbours, weight = np.full((n, 6), -1, np.int32), np.zeros((n, 6), np.float32)
    for i in range(n):
        v = open_[i]
        field[i] = fields[v]
        cost[i] = unary[v]
        for d in range(6):
            u = table[v, d]
            if u < 0:
                continue
            if number[u] >= 0:
                neighbours[i, d] = number[u]
                weight[i, d] = weights[v, d]
            else:
                for a in range(counts[v]):
                    cost[i, a] += weights[v, d] * min(apart(fields[v, a], fields[u, chosen[u]], period), truncation)
    return field, cost, counts[open_], neighbours, weight


@numba.njit(cache=True, inline="always")
def apart(a: float, b: float, period: float) -> float:  # pragma: no cover - compiled
    """Distance of two fields, both within one period."""
    difference = abs(a - b)
    return min(difference, abs(period - difference))


@numba.njit(cache=True)
def _message_passing(
    fields: AnyArray,
    unary: AnyArray,
    counts: AnyArray,
    neighbours: AnyArray,
    weights: AnyArray,
    truncation_hz: float,
    period_hz: float,
    n_sweeps: int,
) -> AnyArray:  # pragma: no cover - compiled
    """TRW-S over blocks in raster order; ``neighbours``, ``weights`` (block, 6): three earlier ones, then three later ones.

    The first ``counts[v]`` labels of block v are in play.
    """
    n_nodes, n_labels = fields.shape
    messages = np.zeros((n_nodes, 6, n_labels), np.float32)  # message INTO the block from that neighbour
    opposite = np.array([3, 4, 5, 0, 1, 2])
    belief = np.empty(n_labels, np.float32)
    mine = np.empty(n_labels, np.float32)
    sent = np.empty(n_labels, np.float32)
    truncation = np.float32(truncation_hz)
    period: float = np.float32(period_hz)  # type: ignore[assignment]
    # a block into which no message has changed since it sent its own has nothing new to say
    news = np.ones((2, n_nodes), np.bool_)
    for _ in range(n_sweeps):
        for direction in range(2):
            for step in range(n_nodes):
                v = step if direction == 0 else n_nodes - 1 - step
                if not news[direction, v]:
                    continue
                news[direction, v] = False
                earlier = 0
                later = 0
                count = counts[v]
                for a in range(count):
                    belief[a] = unary[v, a]
                for d in range(6):
                    if neighbours[v, d] >= 0:
                        if d < 3:
                            earlier += 1
                        else:
                            later += 1
                        for a in range(count):
                            belief[a] += messages[v, d, a]
                share = np.float32(1.0) / np.float32(max(earlier, later, 1))
                start = 3 if direction == 0 else 0
                for d in range(start, start + 3):
                    u = neighbours[v, d]
                    if u < 0:
                        continue
                    weight = weights[v, d]
                    smallest = np.float32(1e30)
                    for a in range(count):
                        mine[a] = share * belief[a] - messages[v, d, a]
                        smallest = min(smallest, mine[a])
                    limit = smallest + weight * truncation
                    lowest = np.float32(1e30)
                    into = opposite[d]
                    for b in range(counts[u]):
                        best = limit
                        field = fields[u, b]
                        for a in range(count):
                            best = min(best, mine[a] + weight * apart(fields[v, a], field, period))
                        sent[b] = best
                        lowest = min(lowest, best)
                    changed = np.float32(0)
                    for b in range(counts[u]):
                        message = sent[b] - lowest
                        changed = max(changed, abs(message - messages[u, into, b]))
                        messages[u, into, b] = message
                    if changed > _NEWS:
                        news[0, u] = news[1, u] = True
    labels = np.zeros(n_nodes, np.int64)
    # final labels in raster order, each given the choices already made and the messages of what is still open
    for v in range(n_nodes):
        lowest = np.float32(1e30)
        for a in range(counts[v]):
            cost = unary[v, a]
            for d in range(6):
                u = neighbours[v, d]
                if u < 0:
                    continue
                if d < 3:
                    cost += weights[v, d] * min(apart(fields[v, a], fields[u, labels[u]], period), truncation)
                else:
                    cost += messages[v, d, a]
            if cost < lowest:
                lowest = cost
                labels[v] = a
    return labels


def neighbour_table(index: IntArray) -> IntArray:
    """(node, 6) neighbours of each numbered node of ``index`` (x, y, z; -1 = none): -x, -y, -z, +x, +y, +z."""
    table: IntArray = _neighbours(index, int(index.max(initial=-1)) + 1)
    return table


@numba.njit(cache=True, parallel=True)
def _neighbours(index: AnyArray, n_nodes: int) -> AnyArray:  # pragma: no cover - compiled
    nx, ny, nz = index.shape
    table = np.full((n_nodes, 6), -1, np.int64)
    for x in numba.prange(nx):
        for y in range(ny):
            for z in range(nz):
                v = index[x, y, z]
                if v < 0:
                    continue
                if x > 0:
                    table[v, 0] = index[x - 1, y, z]
                if y > 0:
                    table[v, 1] = index[x, y - 1, z]
                if z > 0:
                    table[v, 2] = index[x, y, z - 1]
                if x + 1 < nx:
                    table[v, 3] = index[x + 1, y, z]
                if y + 1 < ny:
                    table[v, 4] = index[x, y + 1, z]
                if z + 1 < nz:
                    table[v, 5] = index[x, y, z + 1]
    return table


def unwrapped(field: FloatArray, neighbours: IntArray, trusts: FloatArray, period: float, frozen: AnyArray) -> tuple[FloatArray, IntArray]:
    """Fields with whole periods added so that neighbours agree, and the connected part that each node belongs to.

    Grown from trusted nodes outwards, the smallest step first (Prim), each part from its most trusted node; ``frozen`` nodes
    keep their field, and growth starts from all of them.
    """
    found: tuple[FloatArray, IntArray] = _unwrapped(field, neighbours, trusts, np.argsort(-trusts, kind="stable"), period, frozen)
    return found


@numba.njit(cache=True)
def _unwrapped(
    field: AnyArray, neighbours: AnyArray, trusts: AnyArray, order: AnyArray, period: float, frozen: AnyArray
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    n = field.size
    n_buckets = 512
    out = field.copy()
    part = np.full(n, -1, np.int64)
    done = np.zeros(n, np.bool_)
    head = np.full(n_buckets, -1, np.int32)
    capacity = 6 * n + 1
    following = np.empty(capacity, np.int32)
    target = np.empty(capacity, np.int32)
    source = np.empty(capacity, np.int32)
    n_parts = 0
    used = 0
    for turn in range(-1, n):
        v = -1
        if turn >= 0:
            v = order[turn]
            if done[v]:
                continue
            used = 0  # every bucket is empty
        u = -1
        queue = 0
        lowest = n_buckets
        while True:
            if turn < 0 and queue < n:
                # every frozen node first
                v = queue
                queue += 1
                if not frozen[v]:
                    continue
                u = -1
            if v >= 0 and not done[v]:
                done[v] = True
                part[v] = n_parts
                if u >= 0:
                    out[v] = field[v] + period * np.round((out[u] - field[v]) / period)
                for d in range(6):
                    w = neighbours[v, d]
                    if w >= 0 and not done[w] and not frozen[w] and used < capacity:
                        step = (field[w] - field[v]) / period
                        step = abs(step - np.round(step))  # 0 .. 0.5
                        doubt = 1.0 - min(trusts[v], trusts[w])
                        k = min(int((step + 0.15 * doubt) * 1.5 * n_buckets), n_buckets - 1)
                        following[used] = head[k]
                        target[used] = w
                        source[used] = v
                        head[k] = used
                        lowest = min(lowest, k)
                        used += 1
            if turn < 0 and queue < n:
                continue
            while lowest < n_buckets and head[lowest] < 0:
                lowest += 1
            if lowest == n_buckets:
                break
            k = lowest
            top = head[k]
            head[k] = following[top]
            v = target[top]
            u = source[top]
        n_parts += 1
    return out, part


@numba.njit(cache=True)
def settle_voxels(
    field: AnyArray,
    which: AnyArray,
    fields: AnyArray,
    unary: AnyArray,
    table: AnyArray,
    weights: AnyArray,
    brightness: AnyArray,
    truncation: float,
    period: float,
) -> AnyArray:  # pragma: no cover - compiled
    """Iterated conditional modes over the voxels ``which`` of ``field``, forth and back, in place; the minimum each takes.

    Every other voxel keeps its field. A neighbour much darker (lung) has no say. Of a field's periodic copies the one nearest
    to the neighbours is taken.
    """
    chosen = np.zeros(which.size, np.int64)
    # a doubtful neighbour has no say before it has been looked at: two wrong ones would hold each other up
    settled = np.ones(field.size, np.bool_)
    for v in which:
        settled[v] = False
    for sweep in range(4):
        for step in range(which.size):
            i = step if sweep % 2 == 0 else which.size - 1 - step
            v = which[i]
            lowest = np.inf
            best = field[v]
            for a in range(fields.shape[1]):
                if unary[i, a] >= IMPOSSIBLE:
                    continue
                cost = unary[i, a]
                for d in range(6):
                    u = table[i, d]
                    if u >= 0 and settled[u] and brightness[u] > 0.3 * brightness[v]:
                        apart_hz = field[u] - fields[i, a]
                        if period < 1e8:
                            apart_hz -= period * np.round(apart_hz / period)
                        cost += weights[i, d] * min(abs(apart_hz), truncation)
                if cost < lowest:
                    lowest = cost
                    chosen[i] = a
                    best = fields[i, a]
            if period < 1e8:
                base = best + period * np.round((field[v] - best) / period)
                nearest = np.inf
                for k in range(-1, 2):
                    away = 0.0
                    for d in range(6):
                        u = table[i, d]
                        if u >= 0 and settled[u]:
                            away += abs(field[u] - base - k * period)
                    if away < nearest:
                        nearest = away
                        best = base + k * period
            field[v] = best
            settled[v] = True
    return chosen
