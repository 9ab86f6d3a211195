"""Maximum-likelihood fit of water, fat, R2* and field in each voxel, with standard errors.

The signal is s(t) = (W + F c(t)) exp(i 2 pi f t - R2* t). Two estimators minimise |y - s|^2:

- :func:`fit_free`: W and F complex and independent. With w = 2 pi f + i R2* the model is holomorphic in (w, W, F), and
  W and F are linear: they are projected out (variable projection, Golub and Pereyra 1973; Kaufman 1975), which leaves
  one complex unknown and a step that is a ratio of two numbers.
- :func:`fit_constrained`: W and F real behind one common phase, or W alone with a fixed share of fat, with Gaussian
  priors on f and R2*. Levenberg-Marquardt on 5 or 4 real unknowns. Since i s and s are at right angles, field and phase
  touch R2* and amplitude only by way of the share of fat: every system falls into two of two unknowns and one number.

Standard errors are the square roots of the diagonal of the inverse Fisher information Re(J^H J) / sigma^2, the prior's
information included. Voxels run through both in :mod:`hqsm.fatwater.lanes`.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray
from hqsm.compiled import njit, prange
from hqsm.fatwater.lanes import LANES, evenly, growth

FREE, CONSTRAINED, NO_FAT = 1, 2, 3
_MAX_ITERATIONS = 40
_MAX_TRIALS = 200
_ENOUGH = 1e-4
"""Squared standard errors that the next step would move by, below which it is not taken."""
COMPATIBLE = 2.5
"""Standard errors within which a voxel's R2* may be its neighbourhood's."""
_TOO_WIDE = 0.5, 0.9
"""Shares of the variance of the priors on field and R2* by which they are wider than what they say is off."""
_SHARE_TRUSTED, _SHARE_UNTRUSTED = 0.15, 0.25
"""Second-order bias of the share of fat, in standard errors, up to which the expansion holds, and from which it is worse than none."""
_CHUNK = 4096


@njit()
def _nothing_yet(n: int) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """What the fits return of ``n`` voxels, all NaN."""
    return np.full((n, 2), np.nan + 0j, np.complex64), np.full((n, 2), np.nan), np.full((n, 3), np.nan), np.full(n, np.nan)


@njit(parallel=True)
def fit_free(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    sigma: float,
    with_fat: bool,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit the voxels ``which`` with water and fat (or water alone) complex and independent.

    Parameters
    ----------
    which
        (n,) numbers of the voxels to fit.
    signal
        (voxel, echo) complex.
    t, fat
        (echo,) echo times [s] and fat signal c(t).
    start_field, start_r2star
        (voxel,) where to start [Hz], [1/s].
    sigma
        Noise SD of the real part.
    with_fat
        Whether there is a fat unknown.

    Returns
    -------
    linear, nonlinear, errors, residual
        Of those voxels: (n, 2) complex W and F; (n, 2) field and R2*; (n, 3) standard errors of field [Hz], R2* [1/s],
        PDFF [points]; (n,) squared residual, NaN where the fit did not converge.
    """
    n = which.size
    linear, nonlinear, errors, residuals = _nothing_yet(n)
    for c in prange((n + _CHUNK - 1) // _CHUNK):
        part = slice(c * _CHUNK, min((c + 1) * _CHUNK, n))
        _free_chunk(
            which[part],
            signal,
            t,
            fat,
            start_field,
            start_r2star,
            sigma,
            with_fat,
            linear[part],
            nonlinear[part],
            errors[part],
            residuals[part],
        )
    return linear, nonlinear, errors, residuals


_A11, _A12R, _A12I, _A22, _B1R, _B1I, _B2R, _B2I, _WR, _WI, _FR, _FI, _COST, _PP, _GR, _GI, _Q1R, _Q1I, _Q2R, _Q2I = range(20)
_DETERMINANT, _P1R, _P1I, _P2R, _P2I, _KNOWN, _GAIN = range(20, 27)


@njit(inline="always")
def _add_products(s: AnyArray, y: AnyArray, g: AnyArray, fat: AnyArray) -> None:  # pragma: no cover - compiled
    """Add each lane's A^H A and A^H y of water and fat, A the columns g and g c."""
    for e in range(fat.size):
        cr, ci = fat[e].real, fat[e].imag
        c2 = cr * cr + ci * ci
        for k in range(LANES):
            gr, gi, yr, yi = g[0, e, k], g[1, e, k], y[0, e, k], y[1, e, k]
            g2 = gr * gr + gi * gi
            zr, zi = gr * yr + gi * yi, gr * yi - gi * yr
            s[_A11, k] += g2
            s[_A12R, k] += g2 * cr
            s[_A12I, k] += g2 * ci
            s[_A22, k] += g2 * c2
            s[_B1R, k] += zr
            s[_B1I, k] += zi
            s[_B2R, k] += cr * zr + ci * zi
            s[_B2I, k] += cr * zi - ci * zr


@njit(error_model="numpy")
def _project(y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray, extra: float) -> AnyArray:  # pragma: no cover - compiled
    """W, F, squared residual, information and what a step gains, of each lane at growth ``g``; ``extra`` is 1 without fat.

    One new array for all, of a size known when compiling: only then does the compiler know that no two rows overlap.
    """
    s = np.zeros((27, LANES))
    for k in range(LANES):
        s[_A22, k] = extra
    _add_products(s, y, g, fat)
    for k in range(LANES):
        a11, ar, ai, a22 = s[_A11, k], s[_A12R, k], s[_A12I, k], s[_A22, k]
        b1r, b1i, b2r, b2i = s[_B1R, k], s[_B1I, k], s[_B2R, k], s[_B2I, k]
        s[_DETERMINANT, k] = a11 * a22 - (ar * ar + ai * ai)
        inverse = 1 / s[_DETERMINANT, k]
        s[_WR, k] = (a22 * b1r - (ar * b2r - ai * b2i)) * inverse
        s[_WI, k] = (a22 * b1i - (ar * b2i + ai * b2r)) * inverse
        s[_FR, k] = (a11 * b2r - (ar * b1r + ai * b1i)) * inverse
        s[_FI, k] = (a11 * b2i - (ar * b1i - ai * b1r)) * inverse
    for e in range(t.size):
        cr, ci, time = fat[e].real, fat[e].imag, t[e]
        for k in range(LANES):
            gr, gi, yr, yi = g[0, e, k], g[1, e, k], y[0, e, k], y[1, e, k]
            mr = s[_WR, k] + s[_FR, k] * cr - s[_FI, k] * ci
            mi = s[_WI, k] + s[_FR, k] * ci + s[_FI, k] * cr
            vr, vi = mr * gr - mi * gi, mr * gi + mi * gr
            rr, ri = yr - vr, yi - vi
            pr, pi = -time * vi, time * vr
            zr, zi = gr * pr + gi * pi, gr * pi - gi * pr
            s[_COST, k] += rr * rr + ri * ri
            s[_PP, k] += pr * pr + pi * pi
            s[_GR, k] += pr * rr + pi * ri
            s[_GI, k] += pr * ri - pi * rr
            s[_Q1R, k] += zr
            s[_Q1I, k] += zi
            s[_Q2R, k] += cr * zr + ci * zi
            s[_Q2I, k] += cr * zi - ci * zr
    for k in range(LANES):
        a11, ar, ai, a22 = s[_A11, k], s[_A12R, k], s[_A12I, k], s[_A22, k]
        q1r, q1i, q2r, q2i = s[_Q1R, k], s[_Q1I, k], s[_Q2R, k], s[_Q2I, k]
        inverse = 1 / s[_DETERMINANT, k]
        p1r, p1i = (a22 * q1r - (ar * q2r - ai * q2i)) * inverse, (a22 * q1i - (ar * q2i + ai * q2r)) * inverse
        p2r, p2i = (a11 * q2r - (ar * q1r + ai * q1i)) * inverse, (a11 * q2i - (ar * q1i - ai * q1r)) * inverse
        # what of the field's column water and fat cannot mimic
        known = s[_PP, k] - (q1r * p1r + q1i * p1i + q2r * p2r + q2i * p2i)
        s[_P1R, k], s[_P1I, k], s[_P2R, k], s[_P2I, k] = p1r, p1i, p2r, p2i
        s[_KNOWN, k] = known
        s[_GAIN, k] = (s[_GR, k] ** 2 + s[_GI, k] ** 2) / known
    return s


@njit(error_model="numpy")
def _stepped(s: AnyArray, trial: AnyArray, state: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Next state of each lane: the trial kept if it is better, the full step from there, damping, cost, and whether it was kept."""
    new = np.zeros((7, LANES))
    for k in range(LANES):
        better = s[_COST, k] <= state[_LOWEST, k] * (1 + 1e-12)
        new[_FIELD, k] = trial[0, k] if better else state[_FIELD, k]
        new[_RATE, k] = trial[1, k] if better else state[_RATE, k]
        # a step of w = 2 pi f + i R2*
        new[_TO_FIELD, k] = s[_GR, k] / s[_KNOWN, k] / (2 * np.pi) if better else state[_TO_FIELD, k]
        new[_TO_RATE, k] = s[_GI, k] / s[_KNOWN, k] if better else state[_TO_RATE, k]
        damping = state[_DAMPING, k]
        less, more = damping * 0.2, damping * 8
        less, more = less if less > 1e-7 else 1e-7, more if more > 1e-2 else 1e-2
        new[_DAMPING, k] = less if better else more
        new[_LOWEST, k] = s[_COST, k] if better else state[_LOWEST, k]
        new[_KEPT, k] = 1.0 if better else 0.0
    return new


_FIELD, _RATE, _TO_FIELD, _TO_RATE, _DAMPING, _LOWEST, _KEPT = range(7)


@njit(error_model="numpy")
def _free_chunk(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat_signal: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    sigma: float,
    with_fat: bool,
    linear: AnyArray,
    nonlinear: AnyArray,
    errors: AnyArray,
    residuals: AnyArray,
) -> None:  # pragma: no cover - compiled
    n_echoes = t.size
    enough = _ENOUGH * sigma**2
    even = evenly(t)
    fat = fat_signal if with_fat else np.zeros(n_echoes, np.complex128)
    extra = 0.0 if with_fat else 1.0
    trial = np.zeros((3, LANES))
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    at = np.full(LANES, -1, np.int64)
    count = np.zeros(LANES, np.int64)
    state = np.zeros((7, LANES))
    taken = done_with = 0
    while done_with < which.size:
        for k in range(LANES):
            if at[k] < 0 and taken < which.size:
                _enter(which[taken], signal, y, k)
                trial[0, k], trial[1, k] = start_field[which[taken]], start_r2star[which[taken]]
                at[k], count[k], state[_LOWEST, k], state[_DAMPING, k] = taken, 0, np.inf, 1e-4
                taken += 1
        growth(trial, t, even, g, scratch, bits)
        s = _project(y, g, t, fat, extra)
        state = _stepped(s, trial, state)
        for k in range(LANES):
            trial[0, k] = state[_FIELD, k] + state[_TO_FIELD, k] / (1 + state[_DAMPING, k])
            trial[1, k] = state[_RATE, k] + state[_TO_RATE, k] / (1 + state[_DAMPING, k])
        for k in range(LANES):
            if at[k] < 0:
                continue
            done = False
            i = at[k]
            count[k] += 1
            if state[_KEPT, k] > 0:
                known, determinant = s[_KNOWN, k], s[_DETERMINANT, k]
                if not (determinant > 1e-12 * s[_A11, k] * s[_A22, k] and known > 0):
                    done = True
                elif s[_GAIN, k] < enough:
                    done = True
                    w, f = complex(s[_WR, k], s[_WI, k]), complex(s[_FR, k], s[_FI, k])
                    linear[i, 0], linear[i, 1] = w, f
                    nonlinear[i, 0], nonlinear[i, 1] = state[_FIELD, k], state[_RATE, k]
                    error = sigma / np.sqrt(known)
                    errors[i, 0], errors[i, 1] = error / (2 * np.pi), error
                    residuals[i] = s[_COST, k]
                    if with_fat:
                        a12 = complex(s[_A12R, k], s[_A12I, k])
                        p1, p2 = complex(s[_P1R, k], s[_P1I, k]), complex(s[_P2R, k], s[_P2I, k])
                        of_known_field = s[_A22, k] / determinant, s[_A11, k] / determinant, -a12 / determinant
                        variance = _pdff_variance(w, f, *of_known_field, p1, p2, known)
                        errors[i, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
            if done or count[k] >= _MAX_ITERATIONS or not abs(trial[1, k]) < 2e4:
                at[k] = -1
                done_with += 1


@njit(inline="always")
def _enter(voxel: int, signal: AnyArray, y: AnyArray, k: int) -> None:  # pragma: no cover - compiled
    for e in range(y.shape[1]):
        y[0, e, k] = signal[voxel, e].real
        y[1, e, k] = signal[voxel, e].imag


@njit(error_model="numpy")
def _pdff_variance(
    w: complex, f: complex, i11: float, i22: float, i12: complex, p1: complex, p2: complex, information: float
) -> float:  # pragma: no cover - compiled
    """Of PDFF by magnitude discrimination: 1 - |W|/|W+F| where water dominates, |F|/|W+F| where fat does; noise of unit SD."""
    whole = w + f
    size2 = max(_power(whole), 1e-24)
    water_leads = _power(w) >= _power(f)
    part = w if water_leads else f
    p = np.sqrt(max(_power(part), 1e-24))
    size = np.sqrt(size2)
    common = whole * (-p / (size2 * size))
    own = part / (p * size)
    gw = common + own if water_leads else common
    gf = common if water_leads else common + own
    # covariance of (W, F): that of a known field plus what the field's error carries over
    variance = i11 * _power(gw) + i22 * _power(gf) + 2 * (gw.conjugate() * i12 * gf).real
    return float(variance + _power(gw.conjugate() * p1 + gf.conjugate() * p2) / information)


@njit(inline="always")
def _power(z: complex) -> float:  # pragma: no cover - compiled
    return z.real * z.real + z.imag * z.imag


@njit(parallel=True)
def fit_constrained(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    start_linear: AnyArray,
    prior_field: AnyArray,
    prior_precision: AnyArray,
    no_fat: AnyArray,
    prior_r2star: AnyArray,
    prior_r2star_sd: AnyArray,
    sigma: float,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit the voxels ``which`` with water and fat behind one phase and a prior on the field.

    Parameters as :func:`fit_free`, but for ``which`` all of the voxels fitted, (n,), and

    start_linear
        (n, 2) W and F to start at; NaN where linear least squares at the start are to give them.
    prior_field, prior_precision
        (n,) mean [Hz] and inverse variance [1/Hz2] of the field's prior; precision 0 is no prior.
    no_fat
        (n,) whether there is no fat unknown.
    prior_r2star, prior_r2star_sd
        (n,) mean and SD of a wide Gaussian prior on R2* [1/s], from the neighbourhood. The information is taken there
        too: at its own estimate a voxel whose noise made R2* low would also call it certain.
    """
    n = which.size
    linear, nonlinear, errors, residuals = _nothing_yet(n)
    for c in prange((n + _CHUNK - 1) // _CHUNK):
        part = slice(c * _CHUNK, min((c + 1) * _CHUNK, n))
        _constrained_chunk(
            which[part],
            signal,
            t,
            fat,
            start_field[part],
            start_r2star[part],
            start_linear[part],
            prior_field[part],
            prior_precision[part],
            no_fat[part],
            prior_r2star[part],
            prior_r2star_sd[part],
            sigma,
            linear[part],
            nonlinear[part],
            errors[part],
            residuals[part],
        )
    return linear, nonlinear, errors, residuals


_S0, _S1, _S2, _S3, _X0R, _X0I, _X1R, _X1I, _X2R, _X2I, _U0, _U1, _R0R, _R0I, _R1R, _R1I, _RU, _SQUARES = range(18)


@njit(error_model="numpy")
def _moments(state: AnyArray, y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Sums over echoes of each lane that hold the Jacobian's products and the residual r.

    With m = (1 - p + p c) g and u = (c - 1) g: sums of t^k |m|^2, k = 0 to 3; t^k m* u, 0 to 2; t^k |u|^2, 0 and 1; t^k m* r, 0
    and 1; Re(u* r); |r|^2.
    """
    s = np.zeros((18, LANES))
    for e in range(t.size):
        cr, ci, time = fat[e].real - 1, fat[e].imag, t[e]
        for k in range(LANES):
            gr, gi = g[0, e, k], g[1, e, k]
            share, size = state[_TRIAL + 4, k], state[_TRIAL + 3, k]
            ur, ui = cr * gr - ci * gi, cr * gi + ci * gr
            mr, mi = gr + share * ur, gi + share * ui
            rr, ri = y[0, e, k] - size * mr, y[1, e, k] - size * mi
            m2 = mr * mr + mi * mi
            xr, xi = mr * ur + mi * ui, mr * ui - mi * ur
            zr, zi = mr * rr + mi * ri, mr * ri - mi * rr
            s[_S0, k] += m2
            s[_S1, k] += time * m2
            s[_S2, k] += time * time * m2
            s[_S3, k] += time * time * time * m2
            s[_X0R, k] += xr
            s[_X0I, k] += xi
            s[_X1R, k] += time * xr
            s[_X1I, k] += time * xi
            s[_X2R, k] += time * time * xr
            s[_X2I, k] += time * time * xi
            s[_U0, k] += ur * ur + ui * ui
            s[_U1, k] += time * (ur * ur + ui * ui)
            s[_R0R, k] += zr
            s[_R0I, k] += zi
            s[_R1R, k] += time * zr
            s[_R1I, k] += time * zi
            s[_RU, k] += ur * rr + ui * ri
            s[_SQUARES, k] += rr * rr + ri * ri
    return s


_OFF, _RATE_OFF, _PRECISION, _RATE_PRECISION, _SHARE_FREE, _FITTING = range(6)
"""Of a lane's voxel: means of the priors on field/100 and R2*/100, their precisions, whether fat is free (1) or not (0), whether it
is being fitted (1) or only evaluated (0)."""
# state of a lane: the best unknowns (field/100, R2*/100, phase, amplitude, share) so far and the next to try
_THETA, _TRIAL = 0, 5
# the information of (field, phase), (R2*, amplitude) and share there; the slopes; and what the next step gains
_N_FF, _N_FP, _N_PP, _N_RR, _N_RA, _N_AA, _N_FS, _N_PS, _N_RS, _N_AS, _N_SS = range(10, 21)
_G_F, _G_R, _G_P, _G_A, _G_S, _COST_SO_FAR, _SQUARES_SO_FAR, _LEVEL, _GAINS, _BETTER = range(21, 31)
_N_STATES = 31
_TURN = 200 * np.pi


@njit(error_model="numpy")
def _next(s: AnyArray, state: AnyArray, given: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Next state of each lane by a step of Levenberg and Marquardt, NaN where the damped information is not positive definite.

    Information is Re(J^H J), the priors included: i s and s are at right angles, so half of it is nil. A lane that is only
    evaluated keeps what it has and gets the information at its trial.
    """
    new = np.zeros((_N_STATES, LANES))
    for k in range(LANES):
        fitting, a = given[_FITTING, k] > 0, state[_TRIAL + 3, k]
        off, rate_off = state[_TRIAL, k] - given[_OFF, k], state[_TRIAL + 1, k] - given[_RATE_OFF, k]
        p, q = given[_PRECISION, k], given[_RATE_PRECISION, k]
        cost = s[_SQUARES, k] + p * off * off + q * rate_off * rate_off
        cost_before, squares_before, level = state[_COST_SO_FAR, k], state[_SQUARES_SO_FAR, k], state[_LEVEL, k]
        better = fitting and cost <= cost_before * (1 + 1e-12)
        here = better or not fitting
        # both sides of each choice are read first: a row that is read in some lanes only is gathered lane by lane
        ff, fp, pp, rr, ra, aa = state[_N_FF, k], state[_N_FP, k], state[_N_PP, k], state[_N_RR, k], state[_N_RA, k], state[_N_AA, k]
        fs, ps, rs, sa, ss = state[_N_FS, k], state[_N_PS, k], state[_N_RS, k], state[_N_AS, k], state[_N_SS, k]
        gf, gr, gp, ga, gs = state[_G_F, k], state[_G_R, k], state[_G_P, k], state[_G_A, k], state[_G_S, k]
        s0, s1, s2, u0 = s[_S0, k], s[_S1, k], s[_S2, k], s[_U0, k]
        x0r, x0i, x1r, x1i = s[_X0R, k], s[_X0I, k], s[_X1R, k], s[_X1I, k]
        r0r, r0i, r1r, r1i, ru = s[_R0R, k], s[_R0I, k], s[_R1R, k], s[_R1I, k], s[_RU, k]
        ff = _TURN * _TURN * a * a * s2 + p if here else ff
        fp = _TURN * a * a * s1 if here else fp
        pp = a * a * s0 if here else pp
        rr = 1e4 * a * a * s2 + q if here else rr
        ra = -100 * a * s1 if here else ra
        aa = s0 if here else aa
        fs = _TURN * a * a * x1i if here else fs
        ps = a * a * x0i if here else ps
        rs = -100 * a * a * x1r if here else rs
        sa = a * x0r if here else sa
        ss = a * a * u0 if here else ss
        gf = _TURN * a * r1i - p * off if better else gf
        gr = -100 * a * r1r - q * rate_off if better else gr
        gp = a * r0i if better else gp
        ga = r0r if better else ga
        gs = a * ru if better else gs
        less, more = level * 0.2, level * 8
        less = less if less > 1e-9 else 1e-9
        level = less if better else (more if fitting else level)
        new[_N_FF, k], new[_N_FP, k], new[_N_PP, k], new[_N_RR, k], new[_N_RA, k], new[_N_AA, k] = ff, fp, pp, rr, ra, aa
        new[_N_FS, k], new[_N_PS, k], new[_N_RS, k], new[_N_AS, k], new[_N_SS, k] = fs, ps, rs, sa, ss
        new[_G_F, k], new[_G_R, k], new[_G_P, k], new[_G_A, k], new[_G_S, k] = gf, gr, gp, ga, gs
        new[_COST_SO_FAR, k] = cost if better else cost_before
        new[_SQUARES_SO_FAR, k] = s[_SQUARES, k] if better else squares_before
        new[_LEVEL, k], new[_BETTER, k] = level, 1.0 if better else 0.0
        d, free = 1 + level, given[_SHARE_FREE, k]
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
        new[_GAINS, k] = to_f * gf + to_r * gr + to_p * gp + to_a * ga + share * gs
        f, r, phase = state[_THETA, k], state[_THETA + 1, k], state[_THETA + 2, k]
        size, part = state[_THETA + 3, k], state[_THETA + 4, k]
        tried_f, tried_r, tried_phase = state[_TRIAL, k], state[_TRIAL + 1, k], state[_TRIAL + 2, k]
        tried_size, tried_part = state[_TRIAL + 3, k], state[_TRIAL + 4, k]
        f, r, phase = tried_f if better else f, tried_r if better else r, tried_phase if better else phase
        size, part = tried_size if better else size, tried_part if better else part
        new[_THETA, k], new[_THETA + 1, k], new[_THETA + 2, k], new[_THETA + 3, k], new[_THETA + 4, k] = f, r, phase, size, part
        new[_TRIAL, k] = f + to_f if fitting else tried_f
        new[_TRIAL + 1, k] = r + to_r if fitting else tried_r
        new[_TRIAL + 2, k] = phase + to_p if fitting else tried_phase
        new[_TRIAL + 3, k] = size + to_a if fitting else tried_size
        new[_TRIAL + 4, k] = part + share if fitting else tried_part
    return new


_FIT, _AT_PRIOR, _AT_OWN = range(3)


@njit(error_model="numpy")
def _constrained_chunk(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    start_linear: AnyArray,
    prior_field: AnyArray,
    prior_precision: AnyArray,
    no_fat: AnyArray,
    prior_r2star: AnyArray,
    prior_r2star_sd: AnyArray,
    sigma: float,
    linear: AnyArray,
    nonlinear: AnyArray,
    errors: AnyArray,
    residuals: AnyArray,
) -> None:  # pragma: no cover - compiled
    """Each lane goes through the fit, then its information where the neighbourhood's R2* is, or at its own; those that are done wait
    for others, to have their bias taken off together.
    """
    n_echoes = t.size
    enough = _ENOUGH * sigma**2
    start = _starts(which, signal, t, fat, start_field, start_r2star, start_linear, no_fat, prior_r2star)
    even = evenly(t)
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    physical, given = np.zeros((3, LANES)), np.zeros((6, LANES))
    state = np.zeros((_N_STATES, LANES))
    at = np.full(LANES, -1, np.int64)
    mode = np.zeros(LANES, np.int64)
    count = np.zeros(LANES, np.int64)
    failed = np.zeros(LANES, np.int64)
    kept, kept_sums, kept_given = np.ones((_N_STATES, LANES)), np.ones((18, LANES)), np.ones((6, LANES))
    kept_at, n_kept = np.zeros(LANES, np.int64), 0
    taken = done_with = 0
    while done_with < which.size:
        for k in range(LANES):
            if at[k] < 0 and taken < which.size:
                i = at[k] = taken
                taken += 1
                _enter(which[i], signal, y, k)
                state[:, k] = 0
                for j in range(5):
                    state[_TRIAL + j, k] = start[j, i]
                mode[k], count[k], failed[k], state[_COST_SO_FAR, k], state[_LEVEL, k] = _FIT, 0, 0, np.inf, 1e-3
                given[_OFF, k], given[_PRECISION, k] = prior_field[i] / 100, prior_precision[i] * 1e4 * sigma**2
                given[_RATE_OFF, k], given[_RATE_PRECISION, k] = prior_r2star[i] / 100, 1e4 * sigma**2 / prior_r2star_sd[i] ** 2
                given[_SHARE_FREE, k], given[_FITTING, k] = 0.0 if no_fat[i] else 1.0, 1.0
        for k in range(LANES):
            physical[0, k], physical[1, k] = 100 * state[_TRIAL, k], 100 * state[_TRIAL + 1, k]
            physical[2, k] = state[_TRIAL + 2, k] / (2 * np.pi)
        growth(physical, t, even, g, scratch, bits)
        s = _moments(state, y, g, t, fat)
        state = _next(s, state, given)
        for k in range(LANES):
            i = at[k]
            if i < 0:
                continue
            leaves = False
            if mode[k] == _FIT:
                count[k] += 1
                failed[k] = 0 if state[_BETTER, k] > 0 else failed[k] + 1
                if failed[k] >= 8 or state[_GAINS, k] < enough:
                    mode[k], given[_FITTING, k] = _AT_PRIOR, 0.0
                    _move(state, prior_r2star[i] / 100, t[0], k)
                leaves = count[k] > _MAX_TRIALS or not np.isfinite(state[_COST_SO_FAR, k])
            else:
                own = state[_THETA + 1, k]
                variance = _variance_of_rate(state, k, given[_SHARE_FREE, k])
                beyond = own - state[_TRIAL + 1, k]
                near = COMPATIBLE * sigma * np.sqrt(variance)
                if mode[k] == _AT_PRIOR and not abs(beyond) <= near:
                    mode[k] = _AT_OWN
                    # a faster decay may be one that noise made fast: half of what noise does is allowed for
                    _move(state, own - 0.5 * near if beyond > near else own, t[0], k)
                else:
                    leaves = True
                    if not np.isnan(variance):
                        _copied(state, k, kept, n_kept)
                        _copied(s, k, kept_sums, n_kept)
                        _copied(given, k, kept_given, n_kept)
                        kept_at[n_kept] = i
                        n_kept += 1
            if leaves:
                at[k], given[_FITTING, k] = -1, 0.0
                done_with += 1
            if n_kept == LANES or (n_kept > 0 and done_with == which.size):
                v = _inverses(kept, kept_given)
                bias = _second_order_bias(kept_sums, kept, kept_given, v, sigma)
                for j in range(n_kept):
                    _keep(kept, kept_given, j, bias, v, sigma, linear[kept_at[j]], nonlinear[kept_at[j]], errors[kept_at[j]])
                    residuals[kept_at[j]] = kept[_SQUARES_SO_FAR, j]
                n_kept = 0


@njit(inline="always")
def _copied(source: AnyArray, k: int, into: AnyArray, n: int) -> None:  # pragma: no cover - compiled
    for j in range(source.shape[0]):
        into[j, n] = source[j, k]


@njit()
def _move(state: AnyArray, rate: float, first_s: float, k: int) -> None:  # pragma: no cover - compiled
    """The lane's estimate with another R2*, the first echo as bright as it is."""
    for j in range(5):
        state[_TRIAL + j, k] = state[_THETA + j, k]
    state[_TRIAL + 1, k] = rate
    state[_TRIAL + 3, k] *= np.exp(min(max(100 * (rate - state[_THETA + 1, k]) * first_s, -3.0), 3.0))


@njit()
def _keep(
    state: AnyArray,
    given: AnyArray,
    k: int,
    bias: AnyArray,
    v: AnyArray,
    sigma: float,
    linear: AnyArray,
    nonlinear: AnyArray,
    errors: AnyArray,
) -> None:  # pragma: no cover - compiled
    """A lane's estimates less their bias, and standard errors: inverse ``v`` less what priors wider than they need be keep from
    scattering.

    What the field's prior claims is kept: beside surfaces it is needed.
    """
    phase, size, share = state[_THETA + 2, k] - bias[2, k], state[_THETA + 3, k] - bias[3, k], state[_THETA + 4, k] - bias[4, k]
    whole = size * complex(np.cos(phase), np.sin(phase))
    linear[0], linear[1] = (1 - share) * whole, share * whole
    nonlinear[0], nonlinear[1] = 100 * (state[_THETA, k] - bias[0, k]), 100 * (state[_THETA + 1, k] - bias[1, k])
    errors[0] = 100 * sigma * np.sqrt(v[0, 0, k])
    errors[1] = 100 * sigma * np.sqrt(_scatter(v, 1, 1, given, k))
    if given[_SHARE_FREE, k] > 0:
        errors[2] = 100 * sigma * np.sqrt(_scatter(v, 4, 4, given, k))


@njit(inline="always")
def _scatter(v: AnyArray, i: int, j: int, given: AnyArray, k: int) -> float:  # pragma: no cover - compiled
    """Covariance of two of a lane's estimates, ``v`` the inverse information, where two priors claim less than they know: V - V Q V."""
    field, rate = _TOO_WIDE[0] * given[_PRECISION, k], _TOO_WIDE[1] * given[_RATE_PRECISION, k]
    return float(v[i, j, k] - field * v[i, 0, k] * v[0, j, k] - rate * v[i, 1, k] * v[1, j, k])


@njit(error_model="numpy")
def _starts(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    start_linear: AnyArray,
    no_fat: AnyArray,
    prior_r2star: AnyArray,
) -> AnyArray:  # pragma: no cover - compiled
    """(5, n) field/100, R2*/100, phase, amplitude and share to start at: those given, else by linear least squares there."""
    n_echoes = t.size
    even = evenly(t)
    start = np.zeros((5, which.size))
    y, g = np.zeros((2, n_echoes, LANES)), np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    physical, fixed, at = np.zeros((3, LANES)), np.zeros(LANES), np.zeros(LANES, np.int64)
    count = 0
    for i in range(which.size):
        start[0, i], start[1, i] = start_field[i] / 100, start_r2star[i] / 100
        whole = complex(start_linear[i, 0] + start_linear[i, 1])
        if _power(whole) > 0:
            start[2, i], start[3, i] = np.arctan2(whole.imag, whole.real), np.sqrt(_power(whole))
            start[4, i] = (complex(start_linear[i, 1]) * whole.conjugate()).real / _power(whole)
        else:
            _enter(which[i], signal, y, count)
            physical[0, count], physical[1, count] = 100 * start[0, i], 100 * start[1, i]
            # in the dark the data's own share of fat is noise: start lean
            dark = prior_r2star[i] * (t[n_echoes - 1] - t[0]) > 1.6
            at[count], fixed[count] = i, 0.0 if no_fat[i] else (0.1 if dark else -1.0)
            count += 1
        if count == LANES or (count > 0 and i == which.size - 1):
            growth(physical, t, even, g, scratch, bits)
            found = _linear(y, g, fat, fixed)
            for k in range(count):
                start[2, at[k]] = np.arctan2(found[_PRODUCT_I, k], found[_PRODUCT_R, k])
                start[3, at[k]], start[4, at[k]] = found[_SIZE, k], found[_PART, k]
            count = 0
    return start


_PRODUCT_R, _PRODUCT_I, _SIZE, _PART = range(8, 12)


@njit(error_model="numpy")
def _linear(y: AnyArray, g: AnyArray, fat: AnyArray, fixed: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Of each lane the linear least squares with complex W and F, the share of fat ``fixed``, or within 0 and 1 where that is less:
    what has the phase of W + F, its size, and the share.
    """
    s = np.zeros((12, LANES))
    _add_products(s, y, g, fat)
    for k in range(LANES):
        a11, ar, ai, a22 = s[_A11, k], s[_A12R, k], s[_A12I, k], s[_A22, k]
        b1r, b1i, b2r, b2i = s[_B1R, k], s[_B1I, k], s[_B2R, k], s[_B2I, k]
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
        s[_PRODUCT_R, k], s[_PRODUCT_I, k] = pr, pi
        s[_SIZE, k], s[_PART, k] = np.sqrt(pr * pr + pi * pi) / norm, part
    return s


@njit(error_model="numpy")
def _variance_of_rate(n: AnyArray, k: int, free_share: float) -> float:  # pragma: no cover - compiled
    """Variance of a lane's R2*, in sigma^2; NaN where the information is not positive definite."""
    ff, pp, fp = n[_N_FF, k], n[_N_PP, k], n[_N_FP, k]
    rr, aa, ra = n[_N_RR, k], n[_N_AA, k], n[_N_RA, k]
    one, two = ff * pp - fp * fp, rr * aa - ra * ra
    if not (one > 1e-14 * ff * pp and two > 1e-14 * rr * aa):
        return np.nan
    if free_share == 0:
        return float(aa / two)
    fs, ps, rs, sa, ss = n[_N_FS, k], n[_N_PS, k], n[_N_RS, k], n[_N_AS, k], n[_N_SS, k]
    bf, br, bp, ba = (pp * fs - fp * ps) / one, (aa * rs - ra * sa) / two, (ff * ps - fp * fs) / one, (rr * sa - ra * rs) / two
    left = ss - (fs * bf + rs * br + ps * bp + sa * ba)
    return float(br * br * (1 / left) + aa / two) if left > 1e-14 * ss else np.nan


@njit(error_model="numpy")
def _inverses(n: AnyArray, given: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """(5, 5, lane) inverses of the information. Unknowns: field, R2*, phase, amplitude, share."""
    v = np.zeros((5, 5, LANES))
    b = np.zeros((5, LANES))
    for k in range(LANES):
        free = given[_SHARE_FREE, k]
        ff, pp, fp = n[_N_FF, k], n[_N_PP, k], n[_N_FP, k]
        rr, aa, ra = n[_N_RR, k], n[_N_AA, k], n[_N_RA, k]
        one, two = ff * pp - fp * fp, rr * aa - ra * ra
        fs, ps, rs, sa = free * n[_N_FS, k], free * n[_N_PS, k], free * n[_N_RS, k], free * n[_N_AS, k]
        bf, br, bp, ba = (pp * fs - fp * ps) / one, (aa * rs - ra * sa) / two, (ff * ps - fp * fs) / one, (rr * sa - ra * rs) / two
        left = n[_N_SS, k] - (fs * bf + rs * br + ps * bp + sa * ba)
        b[0, k], b[1, k], b[2, k], b[3, k] = bf, br, bp, ba
        b[4, k] = free / left if free > 0 else 0.0
        v[0, 0, k], v[2, 2, k], v[0, 2, k] = pp / one, ff / one, -(fp / one)
        v[1, 1, k], v[3, 3, k], v[1, 3, k] = aa / two, rr / two, -(ra / two)
    for i in range(4):
        for j in range(i, 4):
            for k in range(LANES):
                v[i, j, k] = b[i, k] * b[j, k] * b[4, k] + v[i, j, k]
            for k in range(LANES):
                v[j, i, k] = v[i, j, k]
        for k in range(LANES):
            v[i, 4, k] = -b[i, k] * b[4, k]
            v[4, i, k] = -b[i, k] * b[4, k]
    for k in range(LANES):
        v[4, 4, k] = b[4, k]
    return v


@njit(error_model="numpy")
def _second_order_bias(s: AnyArray, state: AnyArray, given: AnyArray, v: AnyArray, sigma: float) -> AnyArray:  # pragma: no cover
    """Bias of nonlinear least squares (Box, J R Stat Soc B 1971;33:171) where priors are wider than what they say is off.

    A decay read from late, dark echoes comes out too fast: with two echoes of SNR a > b by (1/b^2 - 1/a^2) / (2 dt).
    With V the inverse of the information, the priors' included, Box has -1/2 V Re(J^H tr(V H)): a prior counts as a measurement
    that scatters as it says. The neighbourhood's decay scatters far less than its prior is wide, the field somewhat less. With q the
    part of a prior's precision that is so (``_TOO_WIDE``) and v the column of V, the estimate's covariance is
    S = V - sum q v v^T and the bias, in sigma^2, V [sum q Re((H v)^H J v) - 1/2 Re(J^H tr(S H))].

    At most half a standard error is taken off, which is as far as the expansion can be trusted; of the share of fat, whose skewness
    outgrows it sooner, nothing where it would be more than a quarter. At each echo tr(S H) is m (a0 + a1 t + a2 t^2) + u (b0 + b1 t),
    and J v is m (e0 + e1 t) + u e2, m and u as in :func:`_moments`.
    """
    bias, slopes, scale = np.zeros((5, LANES)), np.zeros((5, LANES)), np.ones(LANES)
    for k in range(LANES):
        a = state[_TRIAL + 3, k]
        a0 = complex(-a * _scatter(v, 2, 2, given, k), 2 * _scatter(v, 2, 3, given, k))
        a1 = complex(
            -2 * a * _TURN * _scatter(v, 0, 2, given, k) - 200 * _scatter(v, 1, 3, given, k),
            -200 * a * _scatter(v, 1, 2, given, k) + 2 * _TURN * _scatter(v, 0, 3, given, k),
        )
        a2 = a * complex(
            -_TURN * _TURN * _scatter(v, 0, 0, given, k) + 1e4 * _scatter(v, 1, 1, given, k), -200 * _TURN * _scatter(v, 0, 1, given, k)
        )
        b0 = complex(2 * _scatter(v, 3, 4, given, k), 2 * a * _scatter(v, 2, 4, given, k))
        b1 = complex(-200 * a * _scatter(v, 1, 4, given, k), 2 * a * _TURN * _scatter(v, 0, 4, given, k))
        x0, x1, x2 = complex(s[_X0R, k], s[_X0I, k]), complex(s[_X1R, k], s[_X1I, k]), complex(s[_X2R, k], s[_X2I, k])
        s0, s1, s2, s3, u0, u1 = s[_S0, k], s[_S1, k], s[_S2, k], s[_S3, k], s[_U0, k], s[_U1, k]
        c0 = a0 * s0 + a1 * s1 + a2 * s2 + b0 * x0 + b1 * x1
        c1 = a0 * s1 + a1 * s2 + a2 * s3 + b0 * x1 + b1 * x2
        d = a0 * x0.conjugate() + a1 * x1.conjugate() + a2 * x2.conjugate() + b0 * u0 + b1 * u1
        slopes[0, k] = -0.5 * _TURN * a * c1.imag
        slopes[2, k] = -0.5 * a * c0.imag
        of_rate = of_size = of_share = 0.0
        for j in range(2):
            loose = _TOO_WIDE[0] * given[_PRECISION, k] if j == 0 else _TOO_WIDE[1] * given[_RATE_PRECISION, k]
            e0, e1, e2 = complex(v[3, j, k], a * v[2, j, k]), a * complex(-100 * v[1, j, k], _TURN * v[0, j, k]), a * v[4, j, k]
            p0, p1, p2 = _power(e0), 2 * (e0 * e1.conjugate()).real, _power(e1)
            w0 = p0 * s0 + p1 * s1 + p2 * s2 + e2 * e2 * u0 + 2 * e2 * (e0.conjugate() * x0 + e1.conjugate() * x1).real
            w1 = p0 * s1 + p1 * s2 + p2 * s3 + e2 * e2 * u1 + 2 * e2 * (e0.conjugate() * x1 + e1.conjugate() * x2).real
            of_rate += loose * w1
            of_size += loose * (w0 - v[3, j, k] * (e0.real * s0 + e1.real * s1 + e2 * x0.real)) / a
            of_share += loose * (p0 * x0.real + p1 * x1.real + p2 * x2.real + e2 * (e0.real * u0 + e1.real * u1))
        slopes[1, k] = -100 * (of_rate - 0.5 * a * c1.real)
        slopes[3, k] = of_size - 0.5 * c0.real
        slopes[4, k] = given[_SHARE_FREE, k] * (of_share - 0.5 * a * d.real)
    for i in range(5):
        for j in range(5):
            for k in range(LANES):
                bias[i, k] += sigma**2 * v[i, j, k] * slopes[j, k]
        for k in range(LANES):
            limit, size = 0.5 * sigma * np.sqrt(v[i, i, k]), abs(bias[i, k])
            scale[k] = min(scale[k], limit / size if size > limit else 1.0)
    for k in range(LANES):
        skewed = abs(bias[4, k]) / (sigma * np.sqrt(max(v[4, 4, k], 1e-30)))
        trusted = min(max((_SHARE_UNTRUSTED - skewed) / (_SHARE_UNTRUSTED - _SHARE_TRUSTED), 0.0), 1.0)
        for i in range(5):
            bias[i, k] *= scale[k]
        bias[4, k] *= trusted
    return bias
