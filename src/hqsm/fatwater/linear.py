"""Water and fat of voxels in lanes at a field and decay that are given: there the model is linear in both."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit
from hqsm.fatwater.lanes import LANES

A11, A12R, A12I, A22, B1R, B1I, B2R, B2I = range(8)
"""Rows of A^H A and A^H y, A the columns of water and fat."""
PRODUCT_R, PRODUCT_I, SIZE, SHARE = range(8, 12)
"""And of a mixture of the two of one phase: its column's product with the data, amplitude, share of fat."""


@njit(inline="always")
def add_products(s: AnyArray, y: AnyArray, g: AnyArray, fat: AnyArray) -> None:  # pragma: no cover - compiled
    """Add each lane's A^H A and A^H y of water and fat, A the columns g and g c."""
    for e in range(fat.size):
        cr, ci = fat[e].real, fat[e].imag
        c2 = cr * cr + ci * ci
        for k in range(LANES):
            gr, gi, yr, yi = g[0, e, k], g[1, e, k], y[0, e, k], y[1, e, k]
            g2 = gr * gr + gi * gi
            zr, zi = gr * yr + gi * yi, gr * yi - gi * yr
            s[A11, k] += g2
            s[A12R, k] += g2 * cr
            s[A12I, k] += g2 * ci
            s[A22, k] += g2 * c2
            s[B1R, k] += zr
            s[B1I, k] += zi
            s[B2R, k] += cr * zr + ci * zi
            s[B2I, k] += cr * zi - ci * zr


@njit(error_model="numpy")
def mixture(y: AnyArray, g: AnyArray, fat: AnyArray, fixed: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Of each lane the linear least squares with complex W and F, the share of fat ``fixed``, or within 0 and 1 where that is less:
    what has the phase of W + F, its size, and the share.
    """
    s = np.zeros((12, LANES))
    add_products(s, y, g, fat)
    for k in range(LANES):
        a11, ar, ai, a22 = s[A11, k], s[A12R, k], s[A12I, k], s[A22, k]
        b1r, b1i, b2r, b2i = s[B1R, k], s[B1I, k], s[B2R, k], s[B2I, k]
        determinant, least = a11 * a22 - (ar * ar + ai * ai), 1e-12 * a11 * a22
        determinant = least if least > determinant else determinant
        wr, wi = (a22 * b1r - (ar * b2r - ai * b2i)) / determinant, (a22 * b1i - (ar * b2i + ai * b2r)) / determinant
        fr, fi = (a11 * b2r - (ar * b1r + ai * b1i)) / determinant, (a11 * b2i - (ar * b1i - ai * b1r)) / determinant
        wr, wi = wr + fr, wi + fi
        part = min(max((fr * wr + fi * wi) / max(wr * wr + wi * wi, 1e-30), 0.0), 1.0)
        part = part if fixed[k] < 0 else fixed[k]
        # the column of that mixture, projected on the data
        norm = (1 - part) * (1 - part) * a11 + part * part * a22 + 2 * part * (1 - part) * ar
        pr, pi = (1 - part) * b1r + part * b2r, (1 - part) * b1i + part * b2i
        s[PRODUCT_R, k], s[PRODUCT_I, k] = pr, pi
        s[SIZE, k], s[SHARE, k] = np.sqrt(pr * pr + pi * pi) / norm, part
    return s
