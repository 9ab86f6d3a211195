"""The first field of every voxel, by one of two methods, how firmly it stands, and whether the two agree.

``graph``: the best fields of each block, chosen by continuity (:mod:`message_passing`) and piece by piece (:mod:`islands`).
``in-phase``: the phase between echoes at which fat has turned by whole cycles, unwrapped (Jafari et al., JMRI 2019;50:725).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit
from hqsm.fatwater import islands
from hqsm.fatwater.blocks import Blocks, gather, pairs_of, singles
from hqsm.fatwater.candidates import IMPOSSIBLE, Candidates, candidates
from hqsm.fatwater.costs import JOINING_TRUST, Costs, costs_of, tissue_share, trust, worth
from hqsm.fatwater.message_passing import smoothest_choice
from hqsm.fatwater.nodes import around, neighbour_table
from hqsm.fatwater.period import folded
from hqsm.fatwater.predicted import Prediction, predicted_field
from hqsm.fatwater.refinement import one_phase_misfit
from hqsm.fatwater.tissue import Tissue
from hqsm.fatwater.unwrapping import unwrapped

_LARGEST_FAT_TURN_RAD = 0.7
_LOW_MARGIN = 4.0
"""Log-likelihood per block below which a piece's other field is not much worse."""
_LEAST_ISLAND_ML = 5.0
_BRIGHT = 0.05
_UNDECIDED_SHARE, _UNDECIDED_MARGIN = 0.5, 6.0
"""Blocks that are tissue to this part, and whose misfit prefers their field by less than this, ask the predicted field."""
_FIRM_SHARE = 0.7
_PREDICTION_WEIGHT, _MOST_SPREADS = 3.0, 3.0
"""What a field costs that lies one spread from the predicted one, and the distance from which on it costs no more."""
_DARK_AROUND, _STEEP_WORTH = 0.85, 0.125
"""Share of tissue in the 3 x 3 x 3 blocks around below which a block lies beside the dark, and what its misfit is worth there."""
_FITS_WELL = 0.8
"""Trust, as a share of the best, from which on a block beside the dark is water and fat of one field like any other."""
_STEP_HZ_AT_1T5 = 100.0
_MOST_STEPPING = 0.004
"""Share of the faces: 0 to 0.0015 in volumes without swaps, lungs and gas included; 0.008 with part of a dome swapped."""
_IRON_STEP_HZ_S = 0.13
"""The largest step of the field at a surface of iron, for each 1/s of R2* between: 2/3 of 3 ppm at 1000 1/s of 1.5 T."""


@dataclass(frozen=True, eq=False, kw_only=True)
class InitialField:
    """What the fit starts from.

    Attributes
    ----------
    field_hz, r2star_per_s
        (voxel,) field and decay to start at.
    swap_margin
        (voxel,) by how much the best other field is the worse one, in units of log-likelihood per block: the lesser of what
        the surroundings' own misfit says and of what the piece's energy says. Near or below zero nothing tells.
    piece_margin
        (voxel,) the latter alone: how firmly a whole piece stands, its blocks taken together.
    difference_hz
        (voxel,) field of the chosen method less that of the other one; NaN where echo times allow only one.
    typical_misfit
        Misfit per degree of freedom that half of the volume's energy stays below, at least 1: what counts as noise.
    codes
        ``SWAP_POSSIBLE``, ``IN_PHASE_NOT_POSSIBLE``.
    blocks
        The blocks that the voxels were gathered to.
    tissue_share
        (block,) how much of each is tissue, 0 to 1.
    """

    field_hz: FloatArray
    r2star_per_s: FloatArray
    swap_margin: FloatArray
    piece_margin: FloatArray
    difference_hz: FloatArray
    typical_misfit: float
    codes: tuple[str, ...]
    blocks: Blocks
    tissue_share: FloatArray


def initialise(tissue: Tissue, smoothness: float, method: str, *, with_fat: bool) -> InitialField:
    """First field of every voxel; ``with_fat`` where the echo times can tell fat from water."""
    echo_times_s, fat, field_strength_tesla = tissue.echo_times_s, tissue.fat, tissue.field_strength_tesla
    blocks = gather(tissue)
    table = neighbour_table(blocks.index)
    # of free phases water and fat of three echoes fit anything at any field: nothing is left to tell by
    three = echo_times_s.size == 3
    found = candidates(blocks, echo_times_s, fat, field_strength_tesla, with_fat=with_fat, one_phase=three)
    trusts = trust(blocks, found.misfit, echo_times_s.size)
    share = tissue_share(found, trusts, blocks, echo_times_s)
    chosen, graph_hz, piece, energy, costs = _decided(tissue, blocks, found, trusts, share, table, smoothness, with_fat=with_fat)
    rows = np.arange(chosen.size)
    period_hz = found.period_hz
    own_margin = np.minimum(_own_margin(costs, chosen), 1e3)
    piece_margin = (energy / np.bincount(piece))[piece]
    margin = np.minimum(_smooth(own_margin, blocks.index), piece_margin)
    other_hz = _in_phase(blocks, echo_times_s, fat, table) if with_fat else None
    difference_hz = np.full(graph_hz.size, np.nan) if other_hz is None else graph_hz - other_hz
    field_hz, r2star = graph_hz, found.r2star_per_s[rows, chosen]
    if method == "in-phase" and other_hz is not None:
        nearest = np.abs(folded(found.field_hz - other_hz[:, None], found.period_hz)) + (found.misfit >= IMPOSSIBLE) * 1e6
        field_hz, difference_hz = other_hz, -difference_hz
        r2star = found.r2star_per_s[rows, nearest.argmin(axis=1)]
    codes = []
    if method == "in-phase" and other_hz is None:
        codes.append("IN_PHASE_NOT_POSSIBLE")
    bright = _bright(trusts, blocks)
    if _is_low(piece, energy, bright, blocks).any() or steps_often(
        graph_hz, found.r2star_per_s[rows, chosen], table, bright, blocks.size_mm, period_hz, field_strength_tesla
    ):
        codes.append("SWAP_POSSIBLE")
    of_voxel = blocks.of_voxel
    return InitialField(
        field_hz=field_hz[of_voxel] + blocks.away_hz,
        r2star_per_s=r2star[of_voxel],
        swap_margin=margin[of_voxel],
        piece_margin=piece_margin[of_voxel],
        difference_hz=difference_hz[of_voxel],
        typical_misfit=float(1 / trusts.max()),
        codes=tuple(codes),
        blocks=blocks,
        tissue_share=share,
    )


def _decided(
    tissue: Tissue,
    blocks: Blocks,
    found: Candidates,
    trusts: FloatArray,
    share: FloatArray,
    table: IntArray,
    smoothness: float,
    *,
    with_fat: bool,
) -> tuple[IntArray, FloatArray, IntArray, FloatArray, Costs]:
    """Minimum of each block by continuity; where misfit and continuity do not tell, by the field that the body's shape predicts.

    Also its field [Hz], unwrapped, each block's piece, the pieces' margins, and the costs that decided.
    """
    tesla = tissue.field_strength_tesla
    costs = costs_of(found, trusts, share, table, blocks.size_mm, smoothness, tesla)
    joins = trusts > JOINING_TRUST * trusts.max()
    chosen, piece, energy = islands.settle(costs, joins, smoothest_choice(costs), tesla)
    rows = np.arange(chosen.size)
    # noise fits itself: what is not bright ties no field to another
    field_hz = unwrapped(found.field_hz[rows, chosen], table, trusts * share, found.period_hz)
    steep = _near_dark(share, blocks)
    if with_fat:
        beside = np.flatnonzero(steep & (share > _UNDECIDED_SHARE) & ~blocks.dark & (trusts < _FITS_WELL * trusts.max()))
        costs = _with_one_phase(costs, beside, tissue, blocks, found, float(1 / trusts.max()))
    undecided = _undecided(costs, chosen, share, steep)
    if not with_fat or undecided.sum() * float(np.prod(blocks.size_mm)) * 1e-3 < _LEAST_ISLAND_ML:
        return chosen, field_hz, piece, energy, costs
    firm = joins & ~undecided & (share > _FIRM_SHARE)
    prediction = predicted_field(blocks, share, found.r2star_per_s[rows, chosen], field_hz, firm, tissue.b0_direction, tesla)
    if prediction is None:
        return chosen, field_hz, piece, energy, costs
    costs = _with_prediction(costs, prediction, undecided, steep)
    other, piece, energy = islands.settle(costs, joins | undecided, smoothest_choice(costs, chosen, undecided), tesla)
    # of a changed field's periodic copies, the one nearest to the predicted field
    new_hz = prediction.field_hz + folded(found.field_hz[rows, other] - prediction.field_hz, found.period_hz)
    return other, np.where(other == chosen, field_hz, new_hz), piece, energy, costs


def _own_margin(costs: Costs, chosen: IntArray) -> FloatArray:
    """(block,) by how much its best other field costs more, by itself."""
    margin: FloatArray = _margins(costs.unary, chosen)
    return margin


@njit()
def _margins(unary: AnyArray, chosen: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    margins = np.empty(chosen.size)
    for v in range(chosen.size):
        lowest = float(IMPOSSIBLE)
        for a in range(unary.shape[1]):
            if a != chosen[v]:
                lowest = min(lowest, unary[v, a])
        margins[v] = lowest - unary[v, chosen[v]]
    return margins


def _near_dark(share: FloatArray, blocks: Blocks) -> Mask:
    """(block,) beside lung, gas or air, where fields change inside a voxel and the misfit says less than it seems to."""
    return np.asarray(around(share + 0j, blocks.index).real < _DARK_AROUND)


def _undecided(costs: Costs, chosen: IntArray, share: FloatArray, steep: Mask) -> Mask:
    """(block,) tissue whose own misfit hardly tells its fields apart."""
    limit = np.where(steep, _UNDECIDED_MARGIN / _STEEP_WORTH, _UNDECIDED_MARGIN)
    return np.asarray((share > _UNDECIDED_SHARE) & (_own_margin(costs, chosen) < limit))


def _with_one_phase(costs: Costs, which: IntArray, tissue: Tissue, blocks: Blocks, found: Candidates, typical: float) -> Costs:
    """The misfit of the blocks ``which`` taken voxel by voxel, each voxel's water and fat of one phase.

    Tissue beside lung and gas is no water and fat of one field: it moves, and is part lung. What freely phased water and fat fit
    to that is often fat; with one phase hardly any field is the better one, or fits at all, and continuity decides.
    """
    number = np.full(blocks.n_voxels.size, -1)
    number[which] = np.arange(which.size)
    voxels = np.flatnonzero(number[blocks.of_voxel] >= 0)
    row = number[blocks.of_voxel[voxels]]
    alone = singles(tissue.signal[voxels], tissue.echo_times_s, tissue.noise_sd, tissue.voxel_size_mm)
    there = found.misfit[which] < IMPOSSIBLE
    misfit = np.full(there.shape, np.inf)
    for k in range(there.shape[1]):
        has = there[row, k]
        of = row[has]
        field_hz, r2star = found.field_hz[which, k][of] + blocks.away_hz[voxels[has]], found.r2star_per_s[which, k][of]
        each = one_phase_misfit(alone.products, np.flatnonzero(has), field_hz, r2star, tissue.echo_times_s, tissue.fat)
        misfit[there[:, k], k] = np.bincount(of, each, which.size)[there[:, k]]
    lowest = misfit.min(axis=1)
    trusts = worth(lowest, blocks.n_voxels[which], tissue.echo_times_s.size, typical)
    unary = costs.unary.copy()
    unary[which] = np.where(there, (misfit - lowest[:, None]) * trusts[:, None], IMPOSSIBLE)
    return replace(costs, unary=unary)


def _with_prediction(costs: Costs, prediction: Prediction, undecided: Mask, steep: Mask) -> Costs:
    """Another term for the undecided blocks: how far each field lies from the predicted one."""
    away_hz = np.abs(folded(costs.field_hz - prediction.field_hz[:, None], costs.period_hz))
    price = _PREDICTION_WEIGHT * np.minimum(away_hz / prediction.spread_hz, _MOST_SPREADS)
    tempered = np.where(steep, _STEEP_WORTH, 1.0)[:, None] * costs.unary
    return replace(costs, unary=np.where(undecided[:, None] & (costs.unary < IMPOSSIBLE), tempered + price, costs.unary))


def _bright(trusts: FloatArray, blocks: Blocks) -> Mask:
    """(block,) tissue that fits and gives signal."""
    joined = trusts > JOINING_TRUST * trusts.max()
    per_voxel = blocks.energy / blocks.n_voxels
    return np.asarray(joined & (per_voxel > _BRIGHT * np.median(per_voxel[joined])))


def _is_low(piece: IntArray, energy: FloatArray, bright: Mask, blocks: Blocks) -> Mask:
    """(piece,) bright pieces of some size whose other field would be hardly worse."""
    n_blocks = np.bincount(piece[bright], minlength=energy.size)
    large = n_blocks * float(np.prod(blocks.size_mm)) * 1e-3 > _LEAST_ISLAND_ML
    return np.asarray(large & (energy < _LOW_MARGIN * np.bincount(piece)))


def steps_often(
    field_hz: FloatArray,
    r2star_per_s: FloatArray,
    table: IntArray,
    bright: Mask,
    size_mm: FloatArray,
    period_hz: float,
    field_strength_tesla: float,
) -> bool:
    """Whether the field steps between bright blocks, by what fields do not, along more of their faces than gas accounts for.

    Part of a dome on the other field, whose own misfit does not tell, is known by the step around it. At the surface of iron the
    field itself steps.
    """
    faces = stepping = 0.0
    for axis in range(3):
        other = table[:, axis + 3]
        pairs = np.flatnonzero(bright & (other >= 0) & bright[np.maximum(other, 0)])
        apart_hz = np.abs(folded(field_hz[pairs] - field_hz[other[pairs]], period_hz))
        area = float(np.prod(size_mm)) / float(size_mm[axis])
        faces += area * pairs.size
        of_iron_hz = _IRON_STEP_HZ_S * np.abs(r2star_per_s[pairs] - r2star_per_s[other[pairs]])
        stepping += area * float(np.sum(apart_hz > _STEP_HZ_AT_1T5 * field_strength_tesla / 1.5 + of_iron_hz))
    return stepping > _MOST_STEPPING * max(faces, 1e-9)


def _smooth(values: FloatArray, index: IntArray) -> FloatArray:
    """(block,) mean over the 3 x 3 x 3 blocks around each."""
    total = around(np.stack([values, np.ones(values.size)]).T @ np.array([1, 1j]), index)
    mean: FloatArray = total.real / total.imag
    return mean


def in_phase_pairs(echo_times_s: FloatArray, fat: ComplexArray) -> list[tuple[int, int]]:
    """Pairs (later, earlier) of echoes between which fat turns by nearly whole cycles, all the same shortest time apart."""
    pairs: dict[float, list[tuple[int, int]]] = {}
    for n in range(echo_times_s.size):
        for m in range(n):
            if abs(np.angle(fat[n] * np.conj(fat[m]))) < _LARGEST_FAT_TURN_RAD:
                pairs.setdefault(round(float(echo_times_s[n] - echo_times_s[m]), 5), []).append((n, m))
    return pairs[min(pairs)] if pairs else []


def _in_phase(blocks: Blocks, echo_times_s: FloatArray, fat: ComplexArray, table: IntArray) -> FloatArray | None:
    """(block,) field from in-phase pairs alone; None where the echo times have none."""
    pairs = in_phase_pairs(echo_times_s, fat)
    if not pairs:
        return None
    n, m = np.array(pairs).T
    first, second = pairs_of(echo_times_s.size)
    power = blocks.products[:, first == second].real
    lag_s = float((echo_times_s[n] - echo_times_s[m]).mean())
    total = blocks.products[:, n * (n + 1) // 2 + m].sum(axis=1)
    coherence = np.abs(total) / np.maximum(np.sqrt(power[:, n] * power[:, m]).sum(axis=1), 1e-12)
    field_hz = np.angle(total).astype(np.float64) / (2 * np.pi * lag_s)
    strength = np.sqrt((power[:, n] * power[:, m]).sum(axis=1))
    return unwrapped(field_hz, table, coherence * strength / (strength + np.median(strength)), 1 / lag_s)
