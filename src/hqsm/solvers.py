"""Iterative solvers; each says whether it arrived."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from hqsm.array_library import inner_product
from hqsm.arrays import FloatArray
from hqsm.data import Solution

_LAST = 10
"""Steps whose gain says how much is still to come."""


def conjugate_gradient(
    apply: Callable[[FloatArray], FloatArray],
    right_hand_side: FloatArray,
    *,
    start: FloatArray | None = None,
    precondition: Callable[[FloatArray], FloatArray] | None = None,
    tolerance: float,
    energy_tolerance: float | None = None,
    energy_beside: float = 0.0,
    min_iterations: int = 0,
    max_iterations: int,
) -> Solution:
    """Solve A x = b for a symmetric positive definite operator (Hestenes and Stiefel, J Res NBS 1952;49:409).

    Parameters
    ----------
    apply
        x -> A x, same shape as ``right_hand_side``.
    right_hand_side
        b.
    start
        First guess; zero if None.
    precondition
        r -> M r, M symmetric positive definite and near A's inverse; none if None.
    tolerance
        Arrived when |b - A x| <= tolerance * |b| in the preconditioner's norm.
    energy_tolerance
        Arrived as well when the last ten steps have added no more than this share to b'x, which grows with each step from
        zero to b'A^-1 b (Strakos and Tichy, ETNA 2002;13:56); for a start of zero. None: that is not asked.
    energy_beside
        What b'x is added to in the end, so that the share is of both.
    min_iterations
        Iterations at least, for a change whose residual is little of the whole.
    max_iterations
        Iterations at most.
    """
    b = right_hand_side
    xp = array_namespace(b)
    near_inverse = precondition if precondition is not None else lambda residual: residual
    x = xp.zeros_like(b) if start is None else xp.astype(start, b.dtype, copy=True)
    r = b - apply(x) if start is not None else xp.asarray(b, copy=True)
    z = near_inverse(r)
    p = xp.asarray(z, copy=True)
    rz = inner_product(r, z)
    bb = inner_product(b, near_inverse(b))
    if bb == 0:
        return Solution(x=x, n_iterations=0, relative_residual=0.0, converged=True)
    iteration, gains, settled = 0, list[float](), False
    while rz > 0 and not settled and iteration < max_iterations and (rz > tolerance**2 * bb or iteration < min_iterations):
        del z  # what is not needed is not held while the operator works
        ap = apply(p)
        step = rz / inner_product(p, ap)
        x += step * p
        ap *= step
        r -= ap
        del ap
        z = near_inverse(r)
        new = inner_product(r, z)
        p *= new / rz
        p += z
        iteration += 1
        gains.append(step * rz)
        settled = (
            energy_tolerance is not None and iteration > _LAST and sum(gains[-_LAST:]) <= energy_tolerance * (sum(gains) + energy_beside)
        )
        rz = new
    relative = float(np.sqrt(rz / bb))
    return Solution(x=x, n_iterations=iteration, relative_residual=relative, converged=settled or relative <= tolerance)
