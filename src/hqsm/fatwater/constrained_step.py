"""One step of the constrained fit, for voxels in lanes: sums over the echoes, the information and the slopes, and the next trial.

Levenberg and Marquardt on 5 or 4 real unknowns: field, R2*, phase and amplitude of W + F, share of fat. Since i s and s are at right
angles, field and phase touch R2* and amplitude only by way of the share of fat: every system falls into two of two unknowns and
one number. Field and R2* are counted in hundreds.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit
from hqsm.fatwater.lanes import LANES

TURN = 200 * np.pi
"""Phase [rad] of a field of 100 Hz in a second."""
S0, S1, S2, S3, X0R, X0I, X1R, X1I, X2R, X2I, U0, U1, R0R, R0I, R1R, R1I, RU, SQUARES = range(18)
"""Rows of the sums over echoes, as :func:`moments` says."""
N_SUMS = 18
OFF, RATE_OFF, PRECISION, RATE_PRECISION, SHARE_FREE, FITTING = range(6)
"""Of a lane's voxel: means of the priors on field/100 and R2*/100, their precisions, whether fat is free (1) or not (0), whether it
is being fitted (1) or only evaluated (0)."""
N_GIVEN = 6
# state of a lane: the best unknowns (field/100, R2*/100, phase, amplitude, share) so far and the next to try
THETA, TRIAL = 0, 5
# the information of (field, phase), (R2*, amplitude) and share there; the slopes; and what the next step gains
N_FF, N_FP, N_PP, N_RR, N_RA, N_AA, N_FS, N_PS, N_RS, N_AS, N_SS = range(10, 21)
G_F, G_R, G_P, G_A, G_S, COST_SO_FAR, SQUARES_SO_FAR, LEVEL, GAINS, BETTER = range(21, 31)
N_STATES = 31


@njit(error_model="numpy")
def moments(state: AnyArray, y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Sums over echoes of each lane that hold the Jacobian's products and the residual r.

    With m = (1 - p + p c) g and u = (c - 1) g: sums of t^k |m|^2, k = 0 to 3; t^k m* u, 0 to 2; t^k |u|^2, 0 and 1; t^k m* r, 0
    and 1; Re(u* r); |r|^2.
    """
    s = np.zeros((N_SUMS, LANES))
    for e in range(t.size):
        cr, ci, time = fat[e].real - 1, fat[e].imag, t[e]
        for k in range(LANES):
            gr, gi = g[0, e, k], g[1, e, k]
            share, size = state[TRIAL + 4, k], state[TRIAL + 3, k]
            ur, ui = cr * gr - ci * gi, cr * gi + ci * gr
            mr, mi = gr + share * ur, gi + share * ui
            rr, ri = y[0, e, k] - size * mr, y[1, e, k] - size * mi
            m2 = mr * mr + mi * mi
            xr, xi = mr * ur + mi * ui, mr * ui - mi * ur
            zr, zi = mr * rr + mi * ri, mr * ri - mi * rr
            s[S0, k] += m2
            s[S1, k] += time * m2
            s[S2, k] += time * time * m2
            s[S3, k] += time * time * time * m2
            s[X0R, k] += xr
            s[X0I, k] += xi
            s[X1R, k] += time * xr
            s[X1I, k] += time * xi
            s[X2R, k] += time * time * xr
            s[X2I, k] += time * time * xi
            s[U0, k] += ur * ur + ui * ui
            s[U1, k] += time * (ur * ur + ui * ui)
            s[R0R, k] += zr
            s[R0I, k] += zi
            s[R1R, k] += time * zr
            s[R1I, k] += time * zi
            s[RU, k] += ur * rr + ui * ri
            s[SQUARES, k] += rr * rr + ri * ri
    return s


@njit(error_model="numpy")
def step(s: AnyArray, state: AnyArray, given: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Next state of each lane by a step of Levenberg and Marquardt, NaN where the damped information is not positive definite.

    Information is Re(J^H J), the priors included: i s and s are at right angles, so half of it is nil. A lane that is only
    evaluated keeps what it has and gets the information at its trial.
    """
    new = np.zeros((N_STATES, LANES))
    for k in range(LANES):
        fitting, a = given[FITTING, k] > 0, state[TRIAL + 3, k]
        off, rate_off = state[TRIAL, k] - given[OFF, k], state[TRIAL + 1, k] - given[RATE_OFF, k]
        p, q = given[PRECISION, k], given[RATE_PRECISION, k]
        cost = s[SQUARES, k] + p * off * off + q * rate_off * rate_off
        cost_before, squares_before, level = state[COST_SO_FAR, k], state[SQUARES_SO_FAR, k], state[LEVEL, k]
        better = fitting and cost <= cost_before * (1 + 1e-12)
        here = better or not fitting
        # both sides of each choice are read first: a row that is read in some lanes only is gathered lane by lane
        ff, fp, pp, rr, ra, aa = state[N_FF, k], state[N_FP, k], state[N_PP, k], state[N_RR, k], state[N_RA, k], state[N_AA, k]
        fs, ps, rs, sa, ss = state[N_FS, k], state[N_PS, k], state[N_RS, k], state[N_AS, k], state[N_SS, k]
        gf, gr, gp, ga, gs = state[G_F, k], state[G_R, k], state[G_P, k], state[G_A, k], state[G_S, k]
        s0, s1, s2, u0 = s[S0, k], s[S1, k], s[S2, k], s[U0, k]
        x0r, x0i, x1r, x1i = s[X0R, k], s[X0I, k], s[X1R, k], s[X1I, k]
        r0r, r0i, r1r, r1i, ru = s[R0R, k], s[R0I, k], s[R1R, k], s[R1I, k], s[RU, k]
        ff = TURN * TURN * a * a * s2 + p if here else ff
        fp = TURN * a * a * s1 if here else fp
        pp = a * a * s0 if here else pp
        rr = 1e4 * a * a * s2 + q if here else rr
        ra = -100 * a * s1 if here else ra
        aa = s0 if here else aa
        fs = TURN * a * a * x1i if here else fs
        ps = a * a * x0i if here else ps
        rs = -100 * a * a * x1r if here else rs
        sa = a * x0r if here else sa
        ss = a * a * u0 if here else ss
        gf = TURN * a * r1i - p * off if better else gf
        gr = -100 * a * r1r - q * rate_off if better else gr
        gp = a * r0i if better else gp
        ga = r0r if better else ga
        gs = a * ru if better else gs
        less, more = level * 0.2, level * 8
        less = less if less > 1e-9 else 1e-9
        level = less if better else (more if fitting else level)
        new[N_FF, k], new[N_FP, k], new[N_PP, k], new[N_RR, k], new[N_RA, k], new[N_AA, k] = ff, fp, pp, rr, ra, aa
        new[N_FS, k], new[N_PS, k], new[N_RS, k], new[N_AS, k], new[N_SS, k] = fs, ps, rs, sa, ss
        new[G_F, k], new[G_R, k], new[G_P, k], new[G_A, k], new[G_S, k] = gf, gr, gp, ga, gs
        new[COST_SO_FAR, k] = cost if better else cost_before
        new[SQUARES_SO_FAR, k] = s[SQUARES, k] if better else squares_before
        new[LEVEL, k], new[BETTER, k] = level, 1.0 if better else 0.0
        d, free = 1 + level, given[SHARE_FREE, k]
        ff, pp, rr, aa, ss = ff * d + 1e-12, pp * d + 1e-12, rr * d + 1e-12, aa * d + 1e-12, ss * d + 1e-12
        fs, ps, rs, sa = free * fs, free * ps, free * rs, free * sa
        one, two = 1 / (ff * pp - fp * fp), 1 / (rr * aa - ra * ra)
        # what the share of fat takes of the others, and what is left of it
        bf, bp = (pp * fs - fp * ps) * one, (ff * ps - fp * fs) * one
        br, ba = (aa * rs - ra * sa) * two, (rr * sa - ra * rs) * two
        left = ss - (fs * bf + ps * bp + rs * br + sa * ba)
        share = free * (gs - (bf * gf + bp * gp + br * gr + ba * ga)) / left
        bad = 0.0 if one > 0 and two > 0 and left > 0 else np.nan
        to_f, to_r = (pp * gf - fp * gp) * one - bf * share + bad, (aa * gr - ra * ga) * two - br * share
        to_p, to_a = (ff * gp - fp * gf) * one - bp * share, (rr * ga - ra * gr) * two - ba * share
        new[GAINS, k] = to_f * gf + to_r * gr + to_p * gp + to_a * ga + share * gs
        f, r, phase = state[THETA, k], state[THETA + 1, k], state[THETA + 2, k]
        size, part = state[THETA + 3, k], state[THETA + 4, k]
        tried_f, tried_r, tried_phase = state[TRIAL, k], state[TRIAL + 1, k], state[TRIAL + 2, k]
        tried_size, tried_part = state[TRIAL + 3, k], state[TRIAL + 4, k]
        f, r, phase = tried_f if better else f, tried_r if better else r, tried_phase if better else phase
        size, part = tried_size if better else size, tried_part if better else part
        new[THETA, k], new[THETA + 1, k], new[THETA + 2, k], new[THETA + 3, k], new[THETA + 4, k] = f, r, phase, size, part
        new[TRIAL, k] = f + to_f if fitting else tried_f
        new[TRIAL + 1, k] = r + to_r if fitting else tried_r
        new[TRIAL + 2, k] = phase + to_p if fitting else tried_phase
        new[TRIAL + 3, k] = size + to_a if fitting else tried_size
        new[TRIAL + 4, k] = part + share if fitting else tried_part
    return new


@njit(error_model="numpy")
def gain_left(state: AnyArray, given: AnyArray, k: int) -> float:  # pragma: no cover - compiled
    """What an undamped step from a lane's best unknowns gains, g^T N^-1 g: that step squared, in standard errors, times sigma^2."""
    ff, fp, pp, rr, ra, aa = state[N_FF, k], state[N_FP, k], state[N_PP, k], state[N_RR, k], state[N_RA, k], state[N_AA, k]
    gf, gp, gr, ga = state[G_F, k], state[G_P, k], state[G_R, k], state[G_A, k]
    one, two = ff * pp - fp * fp, rr * aa - ra * ra
    gain = (pp * gf * gf - 2 * fp * gf * gp + ff * gp * gp) / one + (aa * gr * gr - 2 * ra * gr * ga + rr * ga * ga) / two
    if given[SHARE_FREE, k] > 0:
        fs, ps, rs, sa = state[N_FS, k], state[N_PS, k], state[N_RS, k], state[N_AS, k]
        bf, bp, br, ba = (pp * fs - fp * ps) / one, (ff * ps - fp * fs) / one, (aa * rs - ra * sa) / two, (rr * sa - ra * rs) / two
        slope = state[G_S, k] - (bf * gf + bp * gp + br * gr + ba * ga)
        gain += slope * slope / (state[N_SS, k] - (fs * bf + ps * bp + rs * br + sa * ba))
    return float(gain)
