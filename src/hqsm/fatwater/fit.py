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

import numba
import numpy as np

from hqsm.arrays import AnyArray
from hqsm.fatwater.lanes import LANES, evenly, growth

FREE, CONSTRAINED, NO_FAT = 1, 2, 3
_MAX_ITERATIONS = 40
_MAX_TRIALS = 200
_ENOUGH = 1e-4
"""Squared standard errors that the next step would move by, below which it is not taken."""
COMPATIBLE = 2.5
"""Standard errors within which a voxel's R2* may be its neighbourhood's."""
_CHUNK = 4096


@numba.njit(cache=True)
def _nothing_yet(n: int) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """What the fits return of ``n`` voxels, all NaN."""
    return np.full((n, 2), np.nan + 0j, np.complex64), np.full((n, 2), np.nan), np.full((n, 3), np.nan), np.full(n, np.nan)


@numba.njit(cache=True, parallel=True)
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
    for c in numba.prange((n + _CHUNK - 1) // _CHUNK):
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


@numba.njit(cache=True, error_model="numpy")
def _project(y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray, extra: float) -> AnyArray:  # pragma: no cover - compiled
    """W, F, squared residual, and what a step of the rate needs, of each lane at growth ``g``; ``extra`` is 1 without fat.

    One new array for all, of a size known when compiling: only then does the compiler know that no two rows overlap.
    """
    s = np.zeros((20, LANES))
    for k in range(LANES):
        s[_A22, k] = extra
    for e in range(t.size):
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
    for k in range(LANES):
        a11, ar, ai, a22 = s[_A11, k], s[_A12R, k], s[_A12I, k], s[_A22, k]
        b1r, b1i, b2r, b2i = s[_B1R, k], s[_B1I, k], s[_B2R, k], s[_B2I, k]
        inverse = 1 / (a11 * a22 - (ar * ar + ai * ai))
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
    return s


@numba.njit(cache=True, error_model="numpy")
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
    trial = np.zeros((2, LANES))
    nothing = np.zeros(LANES)
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    at = np.full(LANES, -1, np.int64)
    count = np.zeros(LANES, np.int64)
    rate = np.zeros((2, LANES))
    full = np.zeros((2, LANES))
    cost = np.zeros(LANES)
    damping = np.zeros(LANES)
    taken = done_with = 0
    while done_with < which.size:
        for k in range(LANES):
            if at[k] < 0 and taken < which.size:
                _enter(which[taken], signal, y, k)
                trial[0, k], trial[1, k] = start_field[which[taken]], start_r2star[which[taken]]
                at[k], count[k], cost[k], damping[k] = taken, 0, np.inf, 1e-4
                taken += 1
        growth(trial[0], trial[1], nothing, t, even, g, scratch, bits)
        s = _project(y, g, t, fat, extra)
        for k in range(LANES):
            if at[k] < 0:
                continue
            done = False
            i = at[k]
            count[k] += 1
            if s[_COST, k] <= cost[k] * (1 + 1e-12):
                a11, a22 = s[_A11, k], s[_A22, k]
                a12 = complex(s[_A12R, k], s[_A12I, k])
                q1, q2 = complex(s[_Q1R, k], s[_Q1I, k]), complex(s[_Q2R, k], s[_Q2I, k])
                determinant = a11 * a22 - (a12.real**2 + a12.imag**2)
                inverse = 1 / determinant
                p1 = (a22 * q1 - a12 * q2) * inverse
                p2 = (a11 * q2 - a12.conjugate() * q1) * inverse
                # what of the field's column water and fat cannot mimic
                information = s[_PP, k] - (q1.real * p1.real + q1.imag * p1.imag + q2.real * p2.real + q2.imag * p2.imag)
                cost[k] = s[_COST, k]
                rate[0, k], rate[1, k] = trial[0, k], trial[1, k]
                gain = (s[_GR, k] ** 2 + s[_GI, k] ** 2) / information
                if not (determinant > 1e-12 * a11 * a22 and information > 0):
                    done = True
                elif gain < enough:
                    done = True
                    linear[i, 0] = complex(s[_WR, k], s[_WI, k])
                    linear[i, 1] = complex(s[_FR, k], s[_FI, k])
                    nonlinear[i, 0], nonlinear[i, 1] = trial[0, k], trial[1, k]
                    error = sigma / np.sqrt(information)
                    errors[i, 0], errors[i, 1] = error / (2 * np.pi), error
                    residuals[i] = s[_COST, k]
                    if with_fat:
                        w, f = complex(s[_WR, k], s[_WI, k]), complex(s[_FR, k], s[_FI, k])
                        variance = _pdff_variance(w, f, a22 / determinant, a11 / determinant, -a12 / determinant, p1, p2, information)
                        errors[i, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
                else:
                    damping[k] = max(damping[k] * 0.2, 1e-7)
                    # a step of w = 2 pi f + i R2*
                    full[0, k] = s[_GR, k] / information / (2 * np.pi)
                    full[1, k] = s[_GI, k] / information
            else:
                damping[k] = max(damping[k] * 8, 1e-2)
            trial[0, k] = rate[0, k] + full[0, k] / (1 + damping[k])
            trial[1, k] = rate[1, k] + full[1, k] / (1 + damping[k])
            if done or count[k] >= _MAX_ITERATIONS or not abs(trial[1, k]) < 2e4:
                at[k] = -1
                done_with += 1


@numba.njit(cache=True, inline="always")
def _enter(voxel: int, signal: AnyArray, y: AnyArray, k: int) -> None:  # pragma: no cover - compiled
    for e in range(y.shape[1]):
        y[0, e, k] = signal[voxel, e].real
        y[1, e, k] = signal[voxel, e].imag


@numba.njit(cache=True, error_model="numpy")
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


@numba.njit(cache=True, inline="always")
def _power(z: complex) -> float:  # pragma: no cover - compiled
    return z.real * z.real + z.imag * z.imag


@numba.njit(cache=True, parallel=True)
def fit_constrained(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    prior_field: AnyArray,
    prior_precision: AnyArray,
    no_fat: AnyArray,
    prior_r2star: AnyArray,
    prior_r2star_sd: AnyArray,
    sigma: float,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit the voxels ``which`` with water and fat behind one phase and a prior on the field.

    Parameters as :func:`fit_free`, but for ``which`` all of the voxels fitted, (n,), and

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
    for c in numba.prange((n + _CHUNK - 1) // _CHUNK):
        part = slice(c * _CHUNK, min((c + 1) * _CHUNK, n))
        _constrained_chunk(
            which[part],
            signal,
            t,
            fat,
            start_field[part],
            start_r2star[part],
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


@numba.njit(cache=True, error_model="numpy")
def _moments(theta: AnyArray, y: AnyArray, g: AnyArray, t: AnyArray, fat: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Sums over echoes of each lane that hold the Jacobian's products and the residual r.

    With m = (1 - p + p c) g and u = (c - 1) g: sums of t^k |m|^2, k = 0 to 3; t^k m* u, 0 to 2; t^k |u|^2, 0 and 1; t^k m* r, 0
    and 1; Re(u* r); |r|^2.
    """
    s = np.zeros((18, LANES))
    for e in range(t.size):
        cr, ci, time = fat[e].real - 1, fat[e].imag, t[e]
        for k in range(LANES):
            gr, gi = g[0, e, k], g[1, e, k]
            share, size = theta[4, k], theta[3, k]
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


# the information of (field/100, phase), (R2*/100, amplitude) and share, unknowns scaled to like size
_N_FF, _N_FP, _N_PP, _N_RR, _N_RA, _N_AA, _N_FS, _N_PS, _N_RS, _N_AS, _N_SS = range(11)
_TURN = 200 * np.pi


@numba.njit(cache=True, error_model="numpy")
def _information(s: AnyArray, theta: AnyArray, precision: AnyArray, rate_precision: AnyArray) -> AnyArray:  # pragma: no cover - compiled
    """Re(J^H J) of each lane, the priors included: i s and s are at right angles, so half of it is nil."""
    n = np.zeros((11, LANES))
    for k in range(LANES):
        a = theta[3, k]
        n[_N_FF, k] = _TURN * _TURN * a * a * s[_S2, k] + precision[k]
        n[_N_FP, k] = _TURN * a * a * s[_S1, k]
        n[_N_PP, k] = a * a * s[_S0, k]
        n[_N_RR, k] = 1e4 * a * a * s[_S2, k] + rate_precision[k]
        n[_N_RA, k] = -100 * a * s[_S1, k]
        n[_N_AA, k] = s[_S0, k]
        n[_N_FS, k] = _TURN * a * a * s[_X1I, k]
        n[_N_PS, k] = a * a * s[_X0I, k]
        n[_N_RS, k] = -100 * a * a * s[_X1R, k]
        n[_N_AS, k] = a * s[_X0R, k]
        n[_N_SS, k] = a * a * s[_U0, k]
    return n


@numba.njit(cache=True, error_model="numpy")
def _descent(
    n: AnyArray, gradient: AnyArray, damping: AnyArray, free_share: AnyArray, step: AnyArray
) -> None:  # pragma: no cover - compiled
    """Step of each lane; NaN where the damped information is not positive definite."""
    for k in range(LANES):
        d = 1 + damping[k]
        ff, pp, fp = n[_N_FF, k] * d + 1e-12, n[_N_PP, k] * d + 1e-12, n[_N_FP, k]
        rr, aa, ra = n[_N_RR, k] * d + 1e-12, n[_N_AA, k] * d + 1e-12, n[_N_RA, k]
        one, two = 1 / (ff * pp - fp * fp), 1 / (rr * aa - ra * ra)
        share_free = free_share[k]
        fs, ps, rs, sa = share_free * n[_N_FS, k], share_free * n[_N_PS, k], share_free * n[_N_RS, k], share_free * n[_N_AS, k]
        # what the share of fat takes of the others, and what is left of it
        bf, bp = (pp * fs - fp * ps) * one, (ff * ps - fp * fs) * one
        br, ba = (aa * rs - ra * sa) * two, (rr * sa - ra * rs) * two
        left = n[_N_SS, k] * d + 1e-12 - (fs * bf + ps * bp + rs * br + sa * ba)
        gf, gr, gp, ga, gs = gradient[0, k], gradient[1, k], gradient[2, k], gradient[3, k], gradient[4, k]
        share = share_free * (gs - (bf * gf + bp * gp + br * gr + ba * ga)) / left
        bad = 0.0 if one > 0 and two > 0 and left > 0 else np.nan
        step[0, k] = (pp * gf - fp * gp) * one - bf * share + bad
        step[1, k] = (aa * gr - ra * ga) * two - br * share
        step[2, k] = (ff * gp - fp * gf) * one - bp * share
        step[3, k] = (rr * ga - ra * gr) * two - ba * share
        step[4, k] = share


_START, _FIT, _AT_PRIOR, _AT_OWN = range(4)


@numba.njit(cache=True, error_model="numpy")
def _constrained_chunk(
    which: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
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
    """Each lane goes through: a linear start, the fit, its information where the neighbourhood's R2* is, or at its own."""
    n_echoes = t.size
    enough = _ENOUGH * sigma**2
    even = evenly(t)
    y = np.zeros((2, n_echoes, LANES))
    g = np.zeros((2, n_echoes, LANES))
    scratch = np.zeros((5, LANES))
    bits = scratch.view(np.int64)
    physical = np.zeros((3, LANES))
    trial, theta, step = np.zeros((5, LANES)), np.zeros((5, LANES)), np.zeros((5, LANES))
    gradient = np.zeros((5, LANES))
    information = np.zeros((11, LANES))
    squares, cost, damping = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    precision, rate_precision, free_share = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    at = np.full(LANES, -1, np.int64)
    mode = np.zeros(LANES, np.int64)
    count = np.zeros(LANES, np.int64)
    failed = np.zeros(LANES, np.int64)
    inverse = np.zeros((5, 5))
    bias = np.zeros(5)
    taken = done_with = 0
    while done_with < which.size:
        for k in range(LANES):
            if at[k] < 0 and taken < which.size:
                i = at[k] = taken
                taken += 1
                _enter(which[i], signal, y, k)
                trial[:, k] = 0
                trial[0, k], trial[1, k] = start_field[i] / 100, start_r2star[i] / 100
                mode[k], count[k], failed[k], cost[k], damping[k] = _START, 0, 0, np.inf, 1e-3
                precision[k] = prior_precision[i] * 1e4 * sigma**2
                rate_precision[k] = 1e4 * sigma**2 / prior_r2star_sd[i] ** 2
                free_share[k] = 0.0 if no_fat[i] else 1.0
        for k in range(LANES):
            physical[0, k], physical[1, k], physical[2, k] = 100 * trial[0, k], 100 * trial[1, k], trial[2, k] / (2 * np.pi)
        growth(physical[0], physical[1], physical[2], t, even, g, scratch, bits)
        s = _moments(trial, y, g, t, fat)
        there = _information(s, trial, precision, rate_precision)
        for k in range(LANES):
            i = at[k]
            if i < 0 or mode[k] != _FIT:
                continue
            count[k] += 1
            off, rate_off = trial[0, k] - prior_field[i] / 100, trial[1, k] - prior_r2star[i] / 100
            now = s[_SQUARES, k] + precision[k] * off**2 + rate_precision[k] * rate_off**2
            if now <= cost[k] * (1 + 1e-12):
                a = trial[3, k]
                cost[k], squares[k], failed[k] = now, s[_SQUARES, k], 0
                theta[:, k] = trial[:, k]
                information[:, k] = there[:, k]
                gradient[0, k] = _TURN * a * s[_R1I, k] - precision[k] * off
                gradient[1, k] = -100 * a * s[_R1R, k] - rate_precision[k] * rate_off
                gradient[2, k] = a * s[_R0I, k]
                gradient[3, k] = s[_R0R, k]
                gradient[4, k] = a * s[_RU, k]
                damping[k] = max(damping[k] * 0.2, 1e-9)
            else:
                failed[k] += 1
                damping[k] *= 8
        _descent(information, gradient, damping, free_share, step)
        for k in range(LANES):
            i = at[k]
            if i < 0:
                continue
            leaves = False
            if mode[k] == _START:
                # in the dark the data's own share of fat is noise: start lean
                dark = prior_r2star[i] * (t[n_echoes - 1] - t[0]) > 1.6
                share = 0.0 if no_fat[i] else (0.1 if dark else -1.0)
                _linear_start(y, g, fat, share, trial, k)
                mode[k] = _FIT
            elif mode[k] == _FIT:
                gain = 0.0
                for j in range(5):
                    gain += step[j, k] * gradient[j, k]
                    trial[j, k] = theta[j, k] + step[j, k]
                if failed[k] >= 8 or gain < enough:
                    mode[k] = _AT_PRIOR
                    _move(theta, trial, prior_r2star[i] / 100, t[0], k)
                leaves = count[k] > _MAX_TRIALS or not np.isfinite(cost[k])
            else:
                own = theta[1, k]
                known = _inverted(there, k, free_share[k], inverse)
                apart = abs(own - trial[1, k])
                if mode[k] == _AT_PRIOR and not (known and apart <= COMPATIBLE * sigma * np.sqrt(inverse[1, 1])):
                    mode[k] = _AT_OWN
                    _move(theta, trial, own, t[0], k)
                else:
                    leaves = True
                    if known:
                        _second_order_bias(s, trial[3, k], k, inverse, free_share[k], sigma, bias)
                        _keep(theta, k, bias, inverse, sigma, linear[i], nonlinear[i], errors[i])
                        residuals[i] = squares[k]
                        if no_fat[i]:
                            errors[i, 2] = np.nan
            if leaves:
                at[k] = -1
                done_with += 1


@numba.njit(cache=True)
def _move(theta: AnyArray, trial: AnyArray, rate: float, first_s: float, k: int) -> None:  # pragma: no cover - compiled
    """The lane's estimate with another R2*, the first echo as bright as it is."""
    trial[:, k] = theta[:, k]
    trial[1, k] = rate
    trial[3, k] = theta[3, k] * np.exp(min(max(100 * (rate - theta[1, k]) * first_s, -3.0), 3.0))


@numba.njit(cache=True)
def _keep(
    theta: AnyArray, k: int, bias: AnyArray, inverse: AnyArray, sigma: float, linear: AnyArray, nonlinear: AnyArray, errors: AnyArray
) -> None:  # pragma: no cover - compiled
    phase, size, share = theta[2, k] - bias[2], theta[3, k] - bias[3], theta[4, k]
    whole = size * complex(np.cos(phase), np.sin(phase))
    linear[0], linear[1] = (1 - share) * whole, share * whole
    nonlinear[0], nonlinear[1] = 100 * (theta[0, k] - bias[0]), 100 * (theta[1, k] - bias[1])
    errors[0] = 100 * sigma * np.sqrt(inverse[0, 0])
    errors[1] = 100 * sigma * np.sqrt(inverse[1, 1])
    errors[2] = 100 * sigma * np.sqrt(inverse[4, 4])


@numba.njit(cache=True, error_model="numpy")
def _linear_start(y: AnyArray, g: AnyArray, fat: AnyArray, fixed: float, trial: AnyArray, k: int) -> None:  # pragma: no cover - compiled
    """Phase, W + F and share of fat of the linear least squares with complex W and F, the share ``fixed`` or within 0 and 1."""
    a11 = a22 = 0.0
    a12 = b1 = b2 = 0j
    for e in range(fat.size):
        growth_e = complex(g[0, e, k], g[1, e, k])
        g2 = growth_e.real**2 + growth_e.imag**2
        z = growth_e.conjugate() * complex(y[0, e, k], y[1, e, k])
        a11 += g2
        a12 += g2 * fat[e]
        a22 += g2 * (fat[e].real ** 2 + fat[e].imag ** 2)
        b1 += z
        b2 += fat[e].conjugate() * z
    part = fixed
    if fixed < 0:
        determinant = max(a11 * a22 - (a12.real**2 + a12.imag**2), 1e-12 * a11 * a22)
        w = (a22 * b1 - a12 * b2) / determinant
        f = (a11 * b2 - a12.conjugate() * b1) / determinant
        whole = w + f
        part = min(max((f * whole.conjugate()).real / max(_power(whole), 1e-30), 0.0), 1.0)
    # the column of that mixture, projected on the data
    norm = (1 - part) ** 2 * a11 + part**2 * a22 + 2 * part * (1 - part) * a12.real
    product = (1 - part) * b1 + part * b2
    trial[2, k] = np.arctan2(product.imag, product.real)
    trial[3, k] = np.sqrt(_power(product)) / norm
    trial[4, k] = part


@numba.njit(cache=True, error_model="numpy")
def _inverted(n: AnyArray, k: int, free_share: float, v: AnyArray) -> bool:  # pragma: no cover - compiled
    """(5, 5) inverse of a lane's information; False where it is not positive definite. Unknowns: f, R2*, phase, amplitude, share."""
    ff, pp, fp = n[_N_FF, k], n[_N_PP, k], n[_N_FP, k]
    rr, aa, ra = n[_N_RR, k], n[_N_AA, k], n[_N_RA, k]
    one, two = ff * pp - fp * fp, rr * aa - ra * ra
    if not (one > 1e-14 * ff * pp and two > 1e-14 * rr * aa):
        return False
    fs, ps, rs, sa = free_share * n[_N_FS, k], free_share * n[_N_PS, k], free_share * n[_N_RS, k], free_share * n[_N_AS, k]
    b = ((pp * fs - fp * ps) / one, (aa * rs - ra * sa) / two, (ff * ps - fp * fs) / one, (rr * sa - ra * rs) / two)
    left = n[_N_SS, k] - (fs * b[0] + rs * b[1] + ps * b[2] + sa * b[3])
    if free_share > 0 and not left > 1e-14 * n[_N_SS, k]:
        return False
    rest = free_share / left if free_share > 0 else 0.0
    for i in range(4):
        for j in range(4):
            v[i, j] = b[i] * b[j] * rest
        v[i, 4] = v[4, i] = -b[i] * rest
    v[4, 4] = rest
    v[0, 0] += pp / one
    v[2, 2] += ff / one
    v[0, 2] -= fp / one
    v[2, 0] -= fp / one
    v[1, 1] += aa / two
    v[3, 3] += rr / two
    v[1, 3] -= ra / two
    v[3, 1] -= ra / two
    return True


@numba.njit(cache=True, error_model="numpy")
def _second_order_bias(
    s: AnyArray, a: float, k: int, v: AnyArray, free_share: float, sigma: float, bias: AnyArray
) -> None:  # pragma: no cover - compiled
    """Bias of nonlinear least squares (Box, J R Stat Soc B 1971;33:171): -1/2 (J^H J)^-1 Re(J^H tr(V H)), V the covariance.

    A decay read from late, dark echoes comes out too fast: with two echoes of SNR a > b by (1/b^2 - 1/a^2) / (2 dt).
    At most half a standard error is taken off, which is as far as the expansion can be trusted. At each echo tr(V H) is
    m (a0 + a1 t + a2 t^2) + u (b0 + b1 t), m and u as in :func:`_moments`.
    """
    a0 = complex(-a * v[2, 2], 2 * v[2, 3])
    a1 = complex(-2 * a * _TURN * v[0, 2] - 200 * v[1, 3], -200 * a * v[1, 2] + 2 * _TURN * v[0, 3])
    a2 = a * complex(-_TURN * _TURN * v[0, 0] + 1e4 * v[1, 1], -200 * _TURN * v[0, 1])
    b0 = complex(2 * v[3, 4], 2 * a * v[2, 4])
    b1 = complex(-200 * a * v[1, 4], 2 * a * _TURN * v[0, 4])
    x0, x1, x2 = complex(s[_X0R, k], s[_X0I, k]), complex(s[_X1R, k], s[_X1I, k]), complex(s[_X2R, k], s[_X2I, k])
    s0, s1, s2, s3 = s[_S0, k], s[_S1, k], s[_S2, k], s[_S3, k]
    c0 = a0 * s0 + a1 * s1 + a2 * s2 + b0 * x0 + b1 * x1
    c1 = a0 * s1 + a1 * s2 + a2 * s3 + b0 * x1 + b1 * x2
    d = a0 * x0.conjugate() + a1 * x1.conjugate() + a2 * x2.conjugate() + b0 * s[_U0, k] + b1 * s[_U1, k]
    slopes = (_TURN * a * c1.imag, -100 * a * c1.real, a * c0.imag, c0.real, free_share * a * d.real)
    scale = 1.0
    for i in range(5):
        total = 0.0
        for j in range(5):
            total -= 0.5 * sigma**2 * v[i, j] * slopes[j]
        bias[i] = total
        limit = 0.5 * sigma * np.sqrt(v[i, i])
        if abs(total) > limit:
            scale = min(scale, limit / abs(total))
    for i in range(5):
        bias[i] *= scale
