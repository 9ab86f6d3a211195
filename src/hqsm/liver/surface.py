"""An organ's surface: of all that lie near the first one, that along edges which costs least.

Voxel by voxel muscle behind a rib is like a liver without iron, and a gap in the dark line between them lets a mask out.
Seen as a whole such a leak has a narrow neck and ends in the midst of a muscle, where there is no edge. So the organ's
depths are held inside, what is far from it is held outside, and between them the surface is a minimal cut (Boykov and
Kolmogorov, Proc ICCV 2003:26): a face costs its area where nothing is to be seen and next to nothing on an edge.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from hqsm.arrays import AnyArray, FloatArray, Mask
from hqsm.data import VoxelGrid
from hqsm.liver.geometry import closed, depth_mm, dilated, filled, largest_piece, opened
from hqsm.liver.pieces import Edges, creases, gradient_per_mm

_REACH_MM = 20.0
"""Farther than that from the first mask nothing belongs to the organ."""
_DEEP_MM, _BALL_MM, _NECK_MM = 12.0, 8.0, 5.0
_CALM = 3.0
"""An edge in multiples of the median inside the organ at which a face costs 1/e of its area."""
_LEAST_COST, _RIDGE = 0.05, 4.0
"""Of a face on an edge: where all is edge the smaller surface wins; beyond that strength it falls with its inverse."""
_INSIDE_PER_MM, _OUTSIDE_PER_MM = 0.005, 0.02
"""What 1 mm3 costs that changes sides, against 1 mm2 of surface: next to nothing in a leak's neck of 1 cm2 against its 20 mL."""
_EVIDENCE_PER_MM, _MOST_EVIDENCE = 0.03, 6.0
"""Of 1 mm3 per unit of log-likelihood ratio beyond doubt."""
_DOUBT_INSIDE, _DOUBT_OUTSIDE = 3.0, 1.0
"""Log-likelihood ratio up to which muscle can look like a liver without iron, and a liver at the coil's end like something else."""
_STEPS, _HELD = 100.0, 1e6
"""Capacities are integers: so many for a face of one voxel where nothing is to be seen, and for what must not change sides."""


def edge_strength(organ: Mask, edges: Edges, log_decay: FloatArray, where: Mask, grid: VoxelGrid) -> FloatArray | None:
    """Steps of brightness or decay and dark lines, the strongest of them; 1 is three medians inside the organ, None where it has no inside.

    Shape (x, y, z).
    """
    deep = organ & (depth_mm(organ, grid) > _DEEP_MM)
    if not deep.any():
        return None
    strength: FloatArray = np.zeros(organ.shape, np.float32)
    for kind in (edges.gradient_per_mm, creases(edges.log_early, where, grid), gradient_per_mm(log_decay, grid)):
        np.maximum(strength, kind / max(_CALM * float(np.median(kind[deep])), 1e-9), out=strength)
    return strength


def along_edges(organ: Mask, likelihood: FloatArray, edges: Edges, log_decay: FloatArray, body: Mask, grid: VoxelGrid) -> Mask:
    """The organ with its surface on a minimal cut along edges; itself where it has no inside to hold.

    Parameters
    ----------
    organ
        (x, y, z) a first mask.
    likelihood
        (x, y, z) logarithm of P(features | organ) / P(features | other tissue); it outweighs edges where it is beyond doubt.
    edges, log_decay
        Of the same images.
    body
        (x, y, z) where there is signal.
    """
    near = dilated(organ, grid, _REACH_MM) & (body | organ)
    strength = edge_strength(organ, edges, log_decay, near, grid)
    if strength is None:
        return organ
    core = largest_piece(opened(organ & (strength < 1), grid, _BALL_MM))
    if not core.any():
        return organ
    doubt = np.where(likelihood > 0, _DOUBT_INSIDE, _DOUBT_OUTSIDE)
    evidence = np.sign(likelihood) * np.clip(np.abs(likelihood) - doubt, 0, _MOST_EVIDENCE)
    prior = np.where(organ, _INSIDE_PER_MM * np.exp(-strength), -_OUTSIDE_PER_MM)
    balance = (prior + _EVIDENCE_PER_MM * evidence) * 1e3 * grid.voxel_volume_ml
    balance[~dilated(organ, grid, _REACH_MM - 1.5 * float(grid.voxel_size_mm.max()))] = -np.inf
    # an edge is as wide as it is blurred: the surface is to lie on its ridge
    cost = np.maximum(np.exp(-strength), _LEAST_COST * np.minimum(1, _RIDGE / np.maximum(strength, 1e-6)))
    cut = minimal_cut(core, near, balance, cost, grid)
    # what hangs on by a thread is no part of it
    ball = largest_piece(opened(cut, grid, _NECK_MM))
    cut = ball | (dilated(ball, grid, _NECK_MM) & cut)
    return filled(closed(cut, grid, _BALL_MM) & (cut | organ))


def minimal_cut(core: Mask, near: Mask, balance_mm2: FloatArray, cost: FloatArray, grid: VoxelGrid) -> Mask:
    """The core and what stays with it in ``near`` at the least cost (maximum flow).

    Parameters
    ----------
    core
        (x, y, z) what is inside in any case.
    near
        (x, y, z) what may be inside.
    balance_mm2
        (x, y, z) what it costs to have a voxel outside, less what it costs to have it inside; -inf holds it outside.
    cost
        (x, y, z) of a surface at a voxel per its area, 0..1; a face between two takes the smaller one.
    """
    size_mm = grid.voxel_size_mm
    volume_mm3 = float(np.prod(size_mm))
    free = near & ~core
    n = int(free.sum())
    source, sink = n, n + 1
    node = np.full(core.shape, -1, np.int32)
    node[free] = np.arange(n)
    node[core] = source
    first: list[AnyArray] = []
    second: list[AnyArray] = []
    capacity: list[AnyArray] = []
    for axis in range(3):
        numbers, price = np.moveaxis(node, axis, 0), np.moveaxis(cost, axis, 0)
        a, b = numbers[:-1], numbers[1:]
        meet = (a >= 0) & (b >= 0) & (a != b)
        area_mm2 = volume_mm3 / float(size_mm[axis])
        first += [a[meet], b[meet]]
        second += [b[meet], a[meet]]
        capacity += 2 * [area_mm2 * np.minimum(price[:-1], price[1:])[meet]]
    voxels = np.arange(n)
    first += [np.full(n, source), voxels]
    second += [voxels, np.full(n, sink)]
    capacity += [np.maximum(balance_mm2[free], 0), np.maximum(-balance_mm2[free], 0)]
    steps = np.rint(np.minimum(np.concatenate(capacity) * (_STEPS / volume_mm3 ** (2 / 3)), _HELD)).astype(np.int32)
    graph = sparse.csr_matrix((steps, (np.concatenate(first), np.concatenate(second))), shape=(n + 2, n + 2))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = np.zeros(n + 2, bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    inside = core.copy()
    inside[free] = reached[:n]
    return inside
