"""What can be measured where: which R2* and fat fraction are given, and how certain they are where the data end.

Neither may follow from the voxel's own estimate, nor from one neighbourhood taken for granted: noise, and other iron within a few
millimetres that noise hides, make neighbourhoods look slower than their voxels decay, and every number there would be too low
and look certain. So near the end of the data a voxel is of one of the tissues around, each as likely as the voxel's echoes and those
of its block make it, and what is allowed are means over these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit, prange
from hqsm.fatwater.blocks import Blocks
from hqsm.fatwater.bounds import LARGEST_RELATIVE_SE, R2STAR_RANGE_PER_S, ExpectedErrors, LocalDecay
from hqsm.fatwater.decay import FLOOR, NEAR_THE_LIMIT, NO_DECAY_PER_S, SPREAD2, Pools, beside
from hqsm.fatwater.lanes import LANES, exponential

_OTHER_TISSUE = 0.3
"""Probability that a voxel is not of its block's tissue: blocks of 5 mm in places of 15 mm."""
_TEXTURE = 0.25
"""Share of the scatter of neighbouring blocks' power that is left in a pool's mean."""
_HEARD = 0.25
"""Power to which the probability of a voxel's own echoes counts in whether its R2* is given: the noise that makes it look slow lowers its
R2* as well, so that the low ones would be kept. Not nil: at edges nothing else tells."""
_TOWARDS_OWN_DECAY = 2 / 3
"""Share of the way from the mean decay around to the voxel's own at which the error of its fat fraction is taken."""
_HALF_HEARD = 0.5
"""Variance of the logarithm of a fat fraction's own error at which the tissues' error counts as much."""
_N_DECIDING = 2
_EXCLUDED_CHI2 = 4.0
"""By how much more than the best a share of fat misfits that is excluded: early echoes show fat and iron as more iron."""
_LARGEST_R2STAR_SE_PER_S, _LARGEST_PDFF_SE_PERCENT = 1500.0, 100.0
"""Beyond these nothing is measured, however far."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NearTheEnd:
    """What the tissues allow that a voxel may be of: means over them by their probabilities, of powers where that is said.

    Attributes
    ----------
    which
        (voxel,) numbers of the voxels near the end of the data.
    r2star_per_s, least_r2star_per_s
        Mean decay, by which the decision goes, and that with the share of fat by which it is least, of those that are not excluded.
    r2star_se_per_s, strict_r2star_se_per_s
        Standard error of R2*, root mean square and fourth-power mean: the second decides, as it hears what is hardly measurable.
    pdff_se_percent, strict_pdff_se_percent
        Of the fat fraction, mean and eighth-power mean.
    """

    which: IntArray
    r2star_per_s: FloatArray
    least_r2star_per_s: FloatArray
    r2star_se_per_s: FloatArray
    strict_r2star_se_per_s: FloatArray
    pdff_se_percent: FloatArray
    strict_pdff_se_percent: FloatArray

    def decay(self, local: LocalDecay) -> LocalDecay:
        """The ``local`` decay (voxel,), near the end of the data the mean over the tissues."""
        r2star_per_s = local.r2star_per_s.copy()
        r2star_per_s[self.which] = self.r2star_per_s
        return LocalDecay(snr=local.snr, r2star_per_s=r2star_per_s)

    def errors_of_r2star(self, own: FloatArray, of_local_decay: FloatArray) -> FloatArray:
        """Root mean square of the fit's ``own`` standard errors, which are those of the local decay, and of what the voxel may be.

        Noise chose both the neighbourhood's decay and among the tissues.
        """
        ratio = self.r2star_se_per_s / of_local_decay
        both: FloatArray = own * np.sqrt(0.5 * (1 + ratio**2))
        return both

    def errors_of_pdff(self, own: FloatArray, own_r2star_per_s: FloatArray, expected: ExpectedErrors) -> FloatArray:
        """Root mean square of the fit's ``own`` standard errors and, by how wrong noise may make these, of those of the tissues around.

        Noise that lengthens W + F makes a voxel's fat fraction larger and its own standard error smaller, so that the fractions
        that are most off would look most certain; the brightness of what is around does not know that noise. But what decays faster than
        all around it, only its own echoes show: the tissues' errors are taken at a decay part of the way to the voxel's own. And
        where the error hardly hangs on the decay, or that is known well, the voxel's own is right: the tissues' are heard by the
        variance of its logarithm that the decay's error makes.
        """
        known_per_s = np.where(np.isfinite(own_r2star_per_s), own_r2star_per_s, self.r2star_per_s)
        on_the_way_per_s = self.r2star_per_s + _TOWARDS_OWN_DECAY * (known_per_s - self.r2star_per_s)
        step_per_s = float(expected.r2star_per_s[1])
        there, here, beyond = (
            expected.at(expected.pdff_constrained, LocalDecay(snr=np.ones(own.size), r2star_per_s=rate))
            for rate in (on_the_way_per_s, self.r2star_per_s, self.r2star_per_s + step_per_s)
        )
        variance = (np.log(beyond / here) / step_per_s * self.r2star_se_per_s) ** 2
        heard = variance / (variance + _HALF_HEARD)
        both: FloatArray = np.sqrt((1 - heard) * own**2 + heard * (self.pdff_se_percent * there / here) ** 2)
        return both


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurable:
    """What can be measured of each voxel.

    Attributes
    ----------
    censored, lost
        (voxel,) where R2* has decayed beyond what the echoes show, and where it is lost for want of brightness.
    fat
        (voxel,) whether a fat fraction can be told.
    lower_bound_per_s
        (voxel,) below which R2* does not lie where it is censored.
    r2star_limit_per_s
        The highest R2* that tissue of the volume's median brightness may have.
    """

    censored: Mask
    lost: Mask
    fat: Mask
    lower_bound_per_s: FloatArray
    r2star_limit_per_s: float


class ByBlock(NamedTuple):
    """Voxels, block by block.

    Attributes
    ----------
    which
        (n,) their numbers.
    block, place
        (block,), (block, 3) the blocks that have any, and where each lies among the blocks.
    ends
        (block + 1,) first of each block's voxels in ``which``.
    """

    which: AnyArray
    block: AnyArray
    place: AnyArray
    ends: AnyArray


class Powers(NamedTuple):
    """Powers of the echoes, in variances of the noise.

    Attributes
    ----------
    of_voxel, of_block
        (voxel, echo), (block, echo) as in :class:`hqsm.fatwater.decay.Pools`.
    n_voxels, mixed
        (block,) how many voxels each is the mean of, and whether they are of more than one tissue.
    pool
        (block,) which of the pools is its, -1 where none is.
    of_pool
        (pool, echo).
    """

    of_voxel: AnyArray
    of_block: AnyArray
    n_voxels: AnyArray
    mixed: AnyArray
    pool: AnyArray
    of_pool: AnyArray


def near_the_end(decay: LocalDecay, pools: Pools, blocks: Blocks, expected: ExpectedErrors, *, with_fat: bool) -> NearTheEnd:
    """The voxels near the end of the data, or beside such blocks, and what the tissues around allow there."""
    local = expected.at(expected.of_r2star(with_fat=with_fat), decay)
    there = (local > NEAR_THE_LIMIT * decay.r2star_per_s) | beside(pools.near, blocks.index)[blocks.of_voxel]
    which = np.flatnonzero(there & (decay.r2star_per_s > NO_DECAY_PER_S))
    which = which[np.argsort(blocks.of_voxel[which], kind="stable")]
    means = _means_over_tissues(which, pools, blocks, _allowed(pools, expected, with_fat=with_fat))
    known = np.isfinite(means[:, 0])
    means = means[known]
    return NearTheEnd(
        which=which[known],
        r2star_per_s=means[:, 0],
        least_r2star_per_s=means[:, 5],
        strict_r2star_se_per_s=means[:, 1] ** (1 / 4),
        r2star_se_per_s=means[:, 2] ** (1 / 2),
        pdff_se_percent=means[:, 3],
        strict_pdff_se_percent=means[:, 4] ** (1 / 8),
    )


def _allowed(pools: Pools, expected: ExpectedErrors, *, with_fat: bool) -> FloatArray:
    """(pool, 6) R2*, its standard error to the fourth (these two decide), squared, that of the fat fraction and to the eighth, least R2*.

    Late echoes in the noise cannot tell fat from decay: means over the shares of fat, by how well each fits the pool.
    """
    columns, misfits = [], []
    for share, decay in enumerate(pools.decays):
        rate_se = np.minimum(expected.at(expected.of_r2star(with_fat=with_fat), decay), _LARGEST_R2STAR_SE_PER_S)
        fat_se = np.minimum(expected.at(expected.pdff_of_share[share], decay), _LARGEST_PDFF_SE_PERCENT)
        columns.append(np.stack([decay.r2star_per_s, rate_se**4, rate_se**2, fat_se, fat_se**8], axis=1))
        misfits.append(_misfit(pools, share, decay))
    misfit = np.stack(misfits)
    excluded = misfit > misfit.min(axis=0) + _EXCLUDED_CHI2
    least_per_s = np.where(excluded, np.inf, np.stack([decay.r2star_per_s for decay in pools.decays])).min(axis=0)
    weight = np.exp(-0.5 * (misfit - misfit.min(axis=0)))
    weight /= weight.sum(axis=0)
    means = np.einsum("fp,fpq->pq", weight, np.stack(columns))
    allowed: FloatArray = np.concatenate([means, least_per_s[:, None]], axis=1)
    return allowed


def _misfit(pools: Pools, share: int, decay: LocalDecay) -> FloatArray:
    """(pool,) chi-square of the decay with one of the shares of fat."""
    model = decay.snr[:, None] ** 2 * pools.templates[share] * np.exp(-2 * np.outer(decay.r2star_per_s, pools.echo_times_s)) + FLOOR
    variance = (4 * (model - FLOOR) + 4) / pools.n_voxels[:, None] + _TEXTURE * SPREAD2 * model**2
    chi2: FloatArray = ((pools.mean - model) ** 2 / variance).sum(axis=1)
    return chi2


def _means_over_tissues(which: IntArray, pools: Pools, blocks: Blocks, allowed: FloatArray) -> FloatArray:
    """(voxel of ``which``, 6) means of ``allowed`` over the pools around; NaN where there is none."""
    pool = np.full(blocks.n_voxels.size, -1, np.int64)
    pool[pools.which] = np.arange(pools.which.size)
    block, first = np.unique(blocks.of_voxel[which], return_index=True)
    voxels = ByBlock(which, block, np.argwhere(blocks.index >= 0)[block], np.append(first, which.size))
    n_voxels, of_pool = blocks.n_voxels.astype(np.float64), pools.mean.astype(np.float64)
    powers = Powers(pools.squared, pools.of_block, n_voxels, pools.mixed, pool, of_pool)
    means: FloatArray = _over_tissues(voxels, powers, blocks.index, allowed.astype(np.float64), _OTHER_TISSUE, _HEARD)
    return means


@njit(parallel=True, error_model="numpy")
def _over_tissues(
    voxels: ByBlock, powers: Powers, index: AnyArray, allowed: AnyArray, other: float, heard: float
) -> AnyArray:  # pragma: no cover - compiled
    """Mean of ``allowed`` (pool, value) at each of the ``voxels``; ``index`` (x, y, z) numbers the blocks.

    The weight of a pool is the voxels of its block times the probability of the voxel's powers, times that of the mean power of
    the block's other voxels: these are of the same tissue, or with probability ``other`` of any of those around. Mixed
    blocks are no tissue, unless all are mixed. In the first two values, which decide whether R2* is given, the voxel's powers count
    to the power ``heard`` only.
    """
    which, block, places, ends = voxels
    squared, of_block, n_voxels, mixed, slot, pools = powers
    nx, ny, nz = index.shape
    n_echoes, n_values = pools.shape[1], allowed.shape[1]
    means = np.full((which.size, n_values), np.nan)
    for i in prange(block.size):
        b = block[i]
        x, y, z = places[i]
        rest = n_voxels[b] - 1
        tissue, prior = np.empty(27, np.int64), np.empty(27)
        n = 0
        for mixtures in range(2):
            if n > 0:
                break
            for j in range(max(x - 1, 0), min(x + 2, nx)):
                for k in range(max(y - 1, 0), min(y + 2, ny)):
                    for m in range(max(z - 1, 0), min(z + 2, nz)):
                        c = index[j, k, m]
                        if c >= 0 and slot[c] >= 0 and mixed[c] == (mixtures == 1):
                            tissue[n], prior[n] = slot[c], n_voxels[c]
                            n += 1
        if n == 0:
            continue
        prior /= prior[:n].sum()
        # one over the variance of one voxel's power and of the rest's mean, and minus half their logarithms' sums
        power_of, of_one, of_rest = np.empty((n_echoes, 27)), np.empty((n_echoes, 27)), np.zeros((n_echoes, 27))
        log_one, log_rest = np.empty(27), np.zeros(27)
        for j in range(n):
            one = others = 1.0
            for e in range(n_echoes):
                power = power_of[e, j] = pools[tissue[j], e]
                noise, texture = 4 * max(power - FLOOR, 0.0) + 4, SPREAD2 * power * power
                of_one[e, j] = 1 / (noise + texture)
                one *= of_one[e, j]
                if rest > 0:
                    of_rest[e, j] = 1 / (noise / rest + texture)
                    others *= of_rest[e, j]
            log_one[j], log_rest[j] = 0.5 * np.log(one), 0.5 * np.log(others)
        mine, theirs, deciding = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        scratch = np.zeros((2, LANES))
        bits = scratch.view(np.int64)
        for i_voxel in range(ends[i], ends[i + 1]):
            v = which[i_voxel]
            for j in range(n):
                mine[j], theirs[j] = log_one[j], log_rest[j]
            for e in range(n_echoes):
                own = squared[v, e]
                others = (of_block[b, e] * n_voxels[b] - own) / rest if rest > 0 else 0.0
                for j in range(n):
                    mine[j] -= 0.5 * (own - power_of[e, j]) ** 2 * of_one[e, j]
                for j in range(n):
                    theirs[j] -= 0.5 * (others - power_of[e, j]) ** 2 * of_rest[e, j]
            top_mine, top_theirs = mine[:n].max(), theirs[:n].max()
            for j in range(n):
                mine[j] -= top_mine
                deciding[j] = heard * mine[j]
                theirs[j] -= top_theirs
            exponential(mine, scratch, bits)
            exponential(deciding, scratch, bits)
            exponential(theirs, scratch, bits)
            of_any = 0.0
            for j in range(n):
                theirs[j] *= prior[j]
                of_any += theirs[j]
            total_deciding = total = 0.0
            means[i_voxel] = 0
            for j in range(n):
                around = (1 - other) * theirs[j] + other * of_any * prior[j]
                of_deciding, weight = around * deciding[j], around * mine[j]
                total_deciding += of_deciding
                total += weight
                for q in range(n_values):
                    means[i_voxel, q] += (of_deciding if q < _N_DECIDING else weight) * allowed[tissue[j], q]
            means[i_voxel, :_N_DECIDING] /= total_deciding
            means[i_voxel, _N_DECIDING:] /= total
    return means


def measurable(
    decay: LocalDecay,
    near: NearTheEnd,
    expected: ExpectedErrors,
    limit_per_s: float,
    own_limit_per_s: FloatArray,
    most_pdff_se_percent: float,
    *,
    with_fat: bool,
    least_per_s: float = NO_DECAY_PER_S,
) -> Measurable:
    """What can be measured of each voxel, by its neighbourhood's decay and near the end of the data by the tissues it may be of.

    ``limit_per_s`` is of the whole volume, 0 where the echoes lie so close together that no decay shows; ``own_limit_per_s``
    (voxel,) of each one's local brightness. A lower R2* than ``least_per_s`` may be as uncertain as that.
    """
    r2star_per_s = near.decay(decay).r2star_per_s
    r2star_se = expected.at(expected.of_r2star(with_fat=with_fat), decay)
    pdff_se = expected.at(expected.pdff_constrained, decay)
    r2star_se[near.which], pdff_se[near.which] = near.strict_r2star_se_per_s, near.strict_pdff_se_percent
    bound_per_s = r2star_per_s.copy()
    bound_per_s[near.which] = np.minimum(r2star_per_s[near.which], near.least_r2star_per_s)
    lost = ~(r2star_se <= LARGEST_RELATIVE_SE * np.maximum(r2star_per_s, least_per_s)) | (r2star_per_s > R2STAR_RANGE_PER_S)
    gone = r2star_per_s > NO_DECAY_PER_S
    return Measurable(
        censored=np.asarray(lost & gone),
        lost=np.asarray((lost | (limit_per_s == 0)) & ~(lost & gone)),
        fat=np.asarray(pdff_se <= most_pdff_se_percent),
        # the decision hears what is hardly measurable, and censors some tissue below its own limit
        # and noise that makes a decay fast makes what it is followed back to bright: without the volume's limit one in seven is false
        lower_bound_per_s=np.minimum(np.minimum(bound_per_s, own_limit_per_s), limit_per_s),
        r2star_limit_per_s=limit_per_s,
    )
