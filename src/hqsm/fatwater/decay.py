"""The decay of a neighbourhood as a whole.

Which model a voxel gets, and whether its R2* or fat fraction is given at all, must not depend on the voxel's own noise:
choosing by the voxel's own estimate keeps the low ones and loses the high ones. So both follow from the power of the
neighbourhood's echoes, less that of the noise: fifty voxels know their common decay seven times better than one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit, prange
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.bounds import SHARES, ExpectedErrors, LocalDecay
from hqsm.fatwater.lanes import LANES, evenly, exponential
from hqsm.fatwater.nodes import around
from hqsm.fatwater.tissue import Tissue

_LEAN_OR_FAT = np.array([[0.3, 0.0, 0.45], [0.9, 0.9, 0.9]])
"""Shares of fat to begin at, and between which they stay: magnitudes of lean and of fat tissue look alike. Begun at a tenth, some tissue of
40 % and 900 1/s becomes lean; free, the second would explain lean tissue as well."""
_COST_OF_FAT = 0.06
"""Misfit of a voxel that all fat costs: there is rather little fat than much where nothing else tells."""
_N_ITERATIONS = 8
_TOP_PER_S = 4000.0
_REACH_MM = 5.0
_NEAR_PER_S = 0.5
_CHUNK = 4096
_ALIKE = 1.0
"""Standard deviations of chi-square up to which two nodes pass for one tissue; at three, places of other iron were let in."""
_MIXED = 3.0
"""Standard deviations of chi-square from which the voxels of a block differ."""
FLOOR = 2.0
"""Mean power of noise, in variances of its real part."""
SPREAD2 = np.float32(0.02)
"""Squared relative scatter of neighbouring blocks' power that is tissue, not noise."""
NO_DECAY_PER_S = 150.0
"""R2* below which a large relative error is a matter of brightness, not of decay."""
NEAR_THE_LIMIT = 0.18
"""Ratio of standard error to R2* from which a place is near the end of the data."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pools:
    """What the echoes of blocks say together; powers are mean squared signals over the variance of the noise's real part.

    Attributes
    ----------
    squared
        (voxel, echo) power of each voxel.
    of_block
        (block, echo) mean power of each block's voxels.
    mixed
        (block,) whether they differ by more than noise.
    near
        (block,) whether it is near the end of the data.
    which
        (pool,) numbers of the blocks that are near, or two blocks or less from one: those whose pools follow.
    mean, n_voxels
        (pool, echo), (pool,) mean power of the like blocks around, and of how many voxels.
    decays
        For each of the shares of fat in :data:`SHARES` (no fat alone: one), the decay (pool,) that fits the pool best.
    templates, echo_times_s
        (share, echo) power of the echoes of such tissue without decay; (echo,) [s].
    """

    squared: FloatArray
    of_block: FloatArray
    mixed: Mask
    near: Mask
    which: IntArray
    mean: FloatArray
    n_voxels: FloatArray
    decays: tuple[LocalDecay, ...]
    templates: FloatArray
    echo_times_s: FloatArray


def local_decay(tissue: Tissue, blocks: Blocks, expected: ExpectedErrors, *, with_fat: bool) -> tuple[LocalDecay, Pools]:
    """Decay around each voxel, fat allowed for if ``with_fat``: that of its block and the like blocks around.

    Where a block is mixed (an edge, a vessel), each of its voxels goes with the like voxels around, itself left out. The
    model of the mean power is A^2 |1 - F + F c(t)|^2 exp(-2 R2* t) + 2 sigma^2, noise included. F is unknown too: of a few values,
    tissue between two of them is taken for fat, up to 100 1/s slower, and R2*'s prior pulls that way.

    What is like a block follows from its noise too: one that noise made bright finds bright ones. Near the end of the data the
    blocks around are therefore compared again, with the mean of those that were found (mean shift).
    """
    t = tissue.echo_times_s
    fat = tissue.fat.astype(np.complex128) if with_fat else np.ones(t.size, np.complex128)
    fixed = np.tile((SHARES if with_fat else SHARES[:1])[:, None], 3)
    unknown = _LEAN_OR_FAT if with_fat else fixed
    weight = blocks.n_voxels.astype(np.float32)
    squared: FloatArray = np.empty(tissue.signal.shape, np.float32)
    powers = _powers(tissue.signal, 1 / tissue.noise_sd**2, blocks.of_voxel, weight, squared)
    places, reach = np.argwhere(blocks.index >= 0), np.array([1, 1, 1])
    mean, n_pooled = _pooled(powers, weight, blocks.index, places, reach, False, powers, weight)
    decay = _best(*_decays(mean, fat, unknown, t))
    near = expected.at(expected.of_r2star(with_fat=with_fat), decay) > NEAR_THE_LIMIT * decay.r2star_per_s
    near &= decay.r2star_per_s > NO_DECAY_PER_S
    which = np.flatnonzero(beside(beside(near, blocks.index), blocks.index))
    mean, n_pooled = _pooled(powers, weight, blocks.index, places[which], reach, False, mean[which], n_pooled[which])
    again = _best(*_decays(mean, fat, unknown, t))
    decay.snr[which], decay.r2star_per_s[which] = again.snr, again.r2star_per_s
    mixed = _mixed(squared, powers, blocks.of_voxel, weight)
    pools = Pools(
        templates=np.abs(1 - fixed[:, :1] * (1 - fat)) ** 2,
        echo_times_s=t,
        squared=squared,
        of_block=powers,
        mixed=mixed,
        near=near,
        which=which,
        mean=mean,
        n_voxels=n_pooled,
        decays=tuple(LocalDecay(snr=np.sqrt(a2), r2star_per_s=rate) for a2, rate, _ in zip(*_decays(mean, fat, fixed, t), strict=True)),
    )
    of_voxels = LocalDecay(snr=decay.snr[blocks.of_voxel], r2star_per_s=decay.r2star_per_s[blocks.of_voxel])
    those = np.flatnonzero(mixed[blocks.of_voxel])
    if those.size:
        mean, _ = _pooled(
            squared,
            np.ones(squared.shape[0], np.float32),
            tissue.index,
            np.stack(np.unravel_index(tissue.places[those], tissue.index.shape), axis=1),
            _reach(tissue, blocks),
            True,
            squared[those],
            np.ones(those.size, np.float32),
        )
        around_them = _best(*_decays(mean, fat, unknown, t))
        of_voxels.snr[those], of_voxels.r2star_per_s[those] = around_them.snr, around_them.r2star_per_s
    return of_voxels, pools


def beside(there: Mask, index: IntArray) -> Mask:
    """(node,) where one of the 3 x 3 x 3 nodes around is ``there``."""
    return np.asarray(around(there + 0j, index).real > 0)


def _reach(tissue: Tissue, blocks: Blocks) -> IntArray:
    """(3,) how many voxels away a voxel's neighbourhood ends."""
    voxels_per_block = np.ceil(np.array(tissue.index.shape) / np.array(blocks.index.shape))
    reach: IntArray = np.minimum(np.round(_REACH_MM / (blocks.size_mm / voxels_per_block)), 2).astype(np.int64)
    return np.maximum(reach, 1)


def _best(amplitude2: FloatArray, r2star: FloatArray, misfit: FloatArray) -> LocalDecay:
    """The decay of the share of fat that fits best."""
    best = np.argmin(misfit, axis=0)
    node = np.arange(best.size)
    return LocalDecay(snr=np.sqrt(amplitude2[best, node]), r2star_per_s=r2star[best, node])


@njit()
def _powers(
    signal: AnyArray, scale: float, of_voxel: AnyArray, n_voxels: AnyArray, squared: AnyArray
) -> AnyArray:  # pragma: no cover - compiled
    """Fill (voxel, echo) the squared signal times ``scale``; (block, echo) its mean over each block."""
    n, n_echoes = signal.shape
    sums = np.zeros((n_voxels.size, n_echoes))
    factor = np.float32(scale)
    for v in range(n):
        b = of_voxel[v]
        for e in range(n_echoes):
            power = (signal[v, e].real * signal[v, e].real + signal[v, e].imag * signal[v, e].imag) * factor
            squared[v, e] = power
            sums[b, e] += power
    means = np.empty(sums.shape, np.float32)
    for b in range(n_voxels.size):
        for e in range(n_echoes):
            means[b, e] = sums[b, e] / n_voxels[b]
    return means


@njit()
def _mixed(squared: AnyArray, powers: AnyArray, of_voxel: AnyArray, n_voxels: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(block,) whether its voxels differ by more than their noise; an echo counts by the share of its power that is no noise."""
    n_blocks, n_echoes = powers.shape
    scatter = np.zeros(n_blocks, np.float32)
    for v in range(of_voxel.size):
        b = of_voxel[v]
        for e in range(n_echoes):
            power = powers[b, e]
            if power > FLOOR:
                signal = power - FLOOR
                scatter[b] += signal / power * (squared[v, e] - power) ** 2 / (4 * signal + 4 + SPREAD2 * power * power)
    mixed = np.zeros(n_blocks, np.bool_)
    for b in range(n_blocks):
        weight = weight2 = 0.0
        for e in range(n_echoes):
            share = (powers[b, e] - FLOOR) / powers[b, e] if powers[b, e] > FLOOR else 0.0
            weight += share
            weight2 += share * share
        others = n_voxels[b] - 1
        mixed[b] = others > 0 and scatter[b] > others * weight + _MIXED * np.sqrt(2 * others * weight2)
    return mixed


def _pooled(
    powers: FloatArray,
    n_voxels: FloatArray,
    index: IntArray,
    places: IntArray,
    reach: IntArray,
    without_itself: bool,
    reference: FloatArray,
    n_reference: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """(place, echo) mean power over the nodes around that differ from the ``reference`` there by no more than noise; (place,) of how
    many voxels they are. The reference (place, echo) is a mean of (place,) voxels, the node itself for one.

    Echoes are padded with nothing to a multiple of eight, so that sums over them are vectors.
    """
    n_nodes, n_echoes = powers.shape
    # power, and its variance; numpy asks for large pages, which compiled code does not
    known = np.empty((n_nodes, 2, 8 * ((n_echoes + 7) // 8)), np.float32)
    pooled: tuple[FloatArray, FloatArray] = _means_of_alike(
        known, powers, n_voxels, index, places, reach, without_itself, reference, n_reference
    )
    return pooled


@njit(parallel=True, error_model="numpy")
def _means_of_alike(
    known: AnyArray,
    powers: AnyArray,
    n_voxels: AnyArray,
    index: AnyArray,
    places: AnyArray,
    reach: AnyArray,
    without_itself: bool,
    reference: AnyArray,
    n_reference: AnyArray,
) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Those means; ``known`` (node, 2, padded echo) is room for each node's power and its variance."""
    n_nodes, n_echoes = powers.shape
    width = known.shape[2]
    nx, ny, nz = index.shape
    mean = np.empty((places.shape[0], n_echoes), np.float32)
    n_found = np.empty(places.shape[0], np.float32)
    limit = np.float32(n_echoes + _ALIKE * np.sqrt(2.0 * n_echoes))
    for c in prange(n_nodes):
        known[c, 0], known[c, 1] = 0, 1
        for e in range(n_echoes):
            power = powers[c, e]
            known[c, 0, e] = power
            noise = (np.float32(4) * max(power - np.float32(2), np.float32(0)) + np.float32(4)) / n_voxels[c]
            known[c, 1, e] = noise + np.float32(0.5) * SPREAD2 * power * power
    for chunk in prange((places.shape[0] + _CHUNK - 1) // _CHUNK):
        sums, terms, mine = np.empty(width, np.float32), np.empty(width, np.float32), np.empty((2, width), np.float32)
        for p in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, places.shape[0])):
            x, y, z = places[p]
            b = index[x, y, z]
            total = np.float32(0)
            sums[:] = 0
            mine[0], mine[1] = 0, 1
            for e in range(n_echoes):
                power = reference[p, e]
                noise = (np.float32(4) * max(power - np.float32(2), np.float32(0)) + np.float32(4)) / n_reference[p]
                mine[0, e], mine[1, e] = power, noise + np.float32(0.5) * SPREAD2 * power * power
            for i in range(max(x - reach[0], 0), min(x + reach[0] + 1, nx)):
                for j in range(max(y - reach[1], 0), min(y + reach[1] + 1, ny)):
                    for k in range(max(z - reach[2], 0), min(z + reach[2] + 1, nz)):
                        c = index[i, j, k]
                        if c < 0 or (without_itself and c == b):
                            continue
                        for e in range(width):
                            difference = mine[0, e] - known[c, 0, e]
                            terms[e] = difference * difference / (mine[1, e] + known[c, 1, e])
                        # by itself: a sum in the order of the echoes is no vector
                        apart = np.float32(0)
                        for e in range(n_echoes):
                            apart += terms[e]
                        size = n_voxels[c]  # read before it is asked for: no branch then, which noise would make unpredictable
                        weight = size if apart < limit else np.float32(0)
                        total += weight
                        for e in range(width):
                            sums[e] += weight * known[c, 0, e]
            n_found[p] = total if total > 0 else n_reference[p]
            for e in range(n_echoes):
                mean[p, e] = sums[e] / total if total > 0 else reference[p, e]
    return mean, n_found


@njit(parallel=True)
def _decays(powers: AnyArray, fat: AnyArray, shares: AnyArray, t: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:  # pragma: no cover
    """(start, node) squared SNR at TE = 0, R2* and misfit: Gauss-Newton on (log A^2, R2*, share of fat).

    ``shares`` (start, 3) are where the share begins, and its bounds; one that is known is all three. What the share costs is in the
    misfit. A lane of nodes goes on until the last of them has arrived.
    """
    n_nodes, n_echoes = powers.shape
    n_starts = shares.shape[0]
    amplitude2 = np.empty((n_starts, n_nodes), np.float32)
    r2star = np.empty((n_starts, n_nodes), np.float32)
    misfit = np.empty((n_starts, n_nodes), np.float32)
    for chunk in prange((n_nodes + _CHUNK - 1) // _CHUNK):
        start, power = np.zeros((2, LANES)), np.ones((n_echoes, LANES))
        for first in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n_nodes), LANES):
            count = min(LANES, n_nodes - first)
            for k in range(count):
                for e in range(n_echoes):
                    power[e, k] = max(powers[first + k, e], np.float32(0.1))
                # the line through the first two echoes above the floor
                one, two = max(power[0, k] - FLOOR, 0.3), max(power[1, k] - FLOOR, 0.1)
                start[1, k] = min(max(0.5 * np.log(one / two) / (t[1] - t[0]), 20.0), 3000.0)
                start[0, k] = np.log(one) + 2 * start[1, k] * t[0]
            found = _fitted(power, fat, shares, t, start)
            for f in range(n_starts):
                for k in range(count):
                    amplitude2[f, first + k] = found[f, 0, k]
                    r2star[f, first + k], misfit[f, first + k] = found[f, 1, k], found[f, 2, k]
    return amplitude2, r2star, misfit


@njit(error_model="numpy")
def _fitted(power: AnyArray, fat: AnyArray, shares: AnyArray, t: AnyArray, start: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(start, 3, lane) A^2, R2* and misfit for each start of the share of fat."""
    n_echoes = t.size
    even = evenly(t)
    found = np.zeros((shares.shape[0], 3, LANES))
    best = np.zeros((3, LANES))
    best[2, :] = 1e30
    scratch = np.zeros((2, LANES))
    bits = scratch.view(np.int64)
    decay, factor, share = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for f in range(shares.shape[0]):
        here = start.copy() if f == 0 else best[:2].copy()
        least, most = shares[f, 1], shares[f, 2]
        share[:] = shares[f, 0]
        s = np.zeros((13, LANES))
        for _ in range(_N_ITERATIONS):
            s = np.zeros((13, LANES))
            for k in range(LANES):
                decay[k], factor[k] = here[0, k] - 2 * here[1, k] * t[0], -2 * here[1, k] * (t[1] - t[0])
            exponential(decay, scratch, bits)
            exponential(factor, scratch, bits)
            for e in range(n_echoes):
                # |1 - F (1 - c)|^2 = 1 - 2 F b + F^2 q
                b, time = 1 - fat[e].real, t[e]
                q = b * b + fat[e].imag * fat[e].imag
                if not even and e > 0:
                    for k in range(LANES):
                        decay[k] = here[0, k] - 2 * here[1, k] * time
                    exponential(decay, scratch, bits)
                for k in range(LANES):
                    signal = decay[k] * (1 + share[k] * (share[k] * q - 2 * b))
                    by_share = 2 * decay[k] * (share[k] * q - b)
                    model = signal + FLOOR
                    # the logarithm of the ratio, near enough where it matters: 2 (power - model) / (power + model); its weight is
                    # model^2 / scatter, the model's slope signal / model; one division for both
                    scatter, both = 2 * signal + 1 + SPREAD2 * model * model, power[e, k] + model
                    inverse = 1 / (scatter * both)
                    residual, inverse = 2 * (power[e, k] - model) * (scatter * inverse), both * inverse
                    slope2, weighted = signal * signal * inverse, model * inverse * residual
                    cross = signal * by_share * inverse
                    s[0, k] += slope2
                    s[1, k] -= 2 * time * slope2
                    s[2, k] += 4 * time * time * slope2
                    s[3, k] += weighted * signal
                    s[4, k] -= 2 * time * weighted * signal
                    s[5, k] += model * model * inverse * residual * residual
                    s[6, k] += cross
                    s[7, k] -= 2 * time * cross
                    s[8, k] += by_share * by_share * inverse
                    s[9, k] += weighted * by_share
                    decay[k] *= factor[k]
            # into rows of its own array, and what is asked of all lanes apart: else no vectors
            for k in range(LANES):
                haa, har, hrr, ga, gr = s[0, k] + 1e-3, s[1, k], s[2, k] + 1e-9, s[3, k], s[4, k]
                has, hrs, hss, gs = s[6, k], s[7, k], s[8, k] + 1e-3, s[9, k] - 0.5 * _COST_OF_FAT
                inverse = 1 / (haa * hrr - har * har)
                # what the share of fat takes of the others, and what is left of it
                ba, br = (hrr * has - har * hrs) * inverse, (haa * hrs - har * has) * inverse
                left = max(hss - (ba * has + br * hrs), 1e-6)
                moved = min(max(share[k] + (gs - (ba * ga + br * gr)) / left, least), most) - share[k]
                s[10, k] = moved
                s[11, k], s[12, k] = (hrr * ga - har * gr) * inverse - ba * moved, (haa * gr - har * ga) * inverse - br * moved
            for k in range(LANES):
                share[k] += s[10, k]
                # no more than a factor of e, nor 500 1/s, at a time
                here[0, k] += min(max(s[11, k], -2.0), 2.0)
                here[1, k] = min(max(here[1, k] + min(max(s[12, k], -500.0), 500.0), 0.0), _TOP_PER_S)
            arrived = True
            for k in range(LANES):
                arrived = arrived & (abs(s[12, k]) < _NEAR_PER_S)
            if arrived:
                break
        for k in range(LANES):
            decay[k] = min(here[0, k], 30.0)
        exponential(decay, scratch, bits)
        for k in range(LANES):
            cost = s[5, k] + _COST_OF_FAT * share[k]
            found[f, 0, k], found[f, 1, k], found[f, 2, k] = decay[k], here[1, k], cost
            if cost < best[2, k]:
                best[0, k], best[1, k], best[2, k] = here[0, k], here[1, k], cost
    return found
