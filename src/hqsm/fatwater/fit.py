"""Maximum-likelihood fit of water, fat, R2* and field in each voxel, with standard errors.

The signal is s(t) = (W + F c(t)) exp(i 2 pi f t - R2* t). Two estimators minimise |y - s|^2:

- :func:`fit_free`: W and F complex and independent. With w = 2 pi f + i R2* the model is holomorphic in (w, W, F), and
  W and F are linear: they are projected out (variable projection, Golub and Pereyra 1973; Kaufman 1975), which leaves
  one complex unknown and a step that is a ratio of two numbers.
- :func:`fit_constrained`: W and F real behind one common phase, or W alone with a fixed share of fat, with a Gaussian
  prior on f. Levenberg-Marquardt on 5 or 4 real unknowns.

Standard errors are the square roots of the diagonal of the inverse Fisher information Re(J^H J) / sigma^2, the prior's
information included.
"""

from __future__ import annotations

import numba
import numpy as np

from hqsm.arrays import AnyArray

FREE, CONSTRAINED, NO_FAT = 1, 2, 3
_MAX_ITERATIONS = 40


@numba.njit(cache=True, inline="always")
def _growth(rate: complex, t: AnyArray, growth: AnyArray) -> None:  # pragma: no cover - compiled
    """``exp(i rate t)``; evenly spaced echoes by multiplication, which is what makes an iteration cheap."""
    n = t.size
    spacing = t[1] - t[0]
    growth[0] = np.exp(1j * rate * t[0])
    step = np.exp(1j * rate * spacing)
    for e in range(1, n):
        if abs(t[e] - t[e - 1] - spacing) < 1e-9:
            growth[e] = growth[e - 1] * step
        else:
            growth[e] = np.exp(1j * rate * t[e])


@numba.njit(cache=True, parallel=True)
def fit_free(
    chosen: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    sigma: float,
    with_fat: bool,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit every voxel of ``chosen`` with water and fat (or water alone) complex and independent.

    Parameters
    ----------
    chosen
        (voxel,) bool; the others are skipped.
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
        (voxel, 2) complex W and F; (voxel, 2) field and R2*; (voxel, 3) standard errors of field [Hz], R2* [1/s],
        PDFF [points]; (voxel,) squared residual, NaN where the fit did not converge.
    """
    n_voxels, n_echoes = signal.shape
    linear = np.full((n_voxels, 2), np.nan + 0j, np.complex128)
    nonlinear = np.full((n_voxels, 2), np.nan)
    errors = np.full((n_voxels, 3), np.nan)
    residuals = np.full(n_voxels, np.nan)
    for v in numba.prange(n_voxels):
        if not chosen[v]:
            continue
        growth = np.empty(n_echoes, np.complex128)
        rate = complex(2 * np.pi * start_field[v], start_r2star[v])
        trial = rate
        damping = 1e-4
        cost = np.inf
        w = f = 0j
        step = 1e9 + 0j
        information = 0.0
        i11 = i22 = 0.0
        i12 = p1 = p2 = 0j
        converged = False
        for _ in range(_MAX_ITERATIONS):
            _growth(trial, t, growth)
            a11 = a22 = 0.0
            a12 = b1 = b2 = 0j
            for e in range(n_echoes):
                g2 = growth[e].real ** 2 + growth[e].imag ** 2
                z = np.conj(growth[e]) * signal[v, e]
                a11 += g2
                b1 += z
                if with_fat:
                    a12 += g2 * fat[e]
                    a22 += g2 * (fat[e].real ** 2 + fat[e].imag ** 2)
                    b2 += np.conj(fat[e]) * z
            if with_fat:
                determinant = a11 * a22 - (a12.real**2 + a12.imag**2)
                if not determinant > 1e-12 * a11 * a22:
                    break
                trial_w = (a22 * b1 - a12 * b2) / determinant
                trial_f = (a11 * b2 - np.conj(a12) * b1) / determinant
            else:
                determinant = a11
                trial_w = b1 / a11
                trial_f = 0j
            trial_cost = 0.0
            pp = 0.0
            q1 = q2 = gradient = 0j
            for e in range(n_echoes):
                s = (trial_w + trial_f * fat[e]) * growth[e]
                r = signal[v, e] - s
                p = 1j * t[e] * s
                trial_cost += r.real**2 + r.imag**2
                pp += p.real**2 + p.imag**2
                gradient += np.conj(p) * r
                z = np.conj(growth[e]) * p
                q1 += z
                if with_fat:
                    q2 += np.conj(fat[e]) * z
            if trial_cost <= cost * (1 + 1e-12):
                small = abs(step) < 1e-2 or cost - trial_cost < 1e-9 * trial_cost
                rate, cost, w, f = trial, trial_cost, trial_w, trial_f
                if with_fat:
                    i11, i22, i12 = a22 / determinant, a11 / determinant, -a12 / determinant
                else:
                    i11, i22, i12 = 1 / a11, 0.0, 0j
                p1 = i11 * q1 + i12 * q2
                p2 = np.conj(i12) * q1 + i22 * q2
                # what of the field's column water and fat cannot mimic
                information = pp - (np.conj(q1) * p1 + np.conj(q2) * p2).real
                if not information > 0:
                    break
                if small:
                    converged = True
                    break
                damping = max(damping * 0.2, 1e-7)
                full = gradient / information
            else:
                damping = max(damping * 8, 1e-2)
                if damping > 1e7:
                    converged = True
                    break
            step = full / (1 + damping)
            trial = rate + step
            if not abs(trial.imag) < 2e4:
                break
        if not converged or not np.isfinite(cost):
            continue
        linear[v, 0] = w
        linear[v, 1] = f
        nonlinear[v, 0] = rate.real / (2 * np.pi)
        nonlinear[v, 1] = rate.imag
        error = sigma / np.sqrt(information)
        errors[v, 0] = error / (2 * np.pi)
        errors[v, 1] = error
        residuals[v] = cost
        if with_fat:
            # PDFF by magnitude discrimination: 1 - |W|/|W+F| where water dominates, |F|/|W+F| where fat does
            whole = w + f
            size = max(abs(whole), 1e-12)
            water_leads = abs(w) >= abs(f)
            part = w if water_leads else f
            p = max(abs(part), 1e-12)
            common = -p / size**3 * whole
            own = part / (p * size)
            gw = common + (own if water_leads else 0j)
            gf = common + (0j if water_leads else own)
            # covariance of (W, F): that of a known field plus what the field's error carries over
            variance = i11 * abs(gw) ** 2 + i22 * abs(gf) ** 2 + 2 * (np.conj(gw) * i12 * gf).real
            variance += abs(np.conj(gw) * p1 + np.conj(gf) * p2) ** 2 / information
            errors[v, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
    return linear, nonlinear, errors, residuals


@numba.njit(cache=True)
def _solve(matrix: AnyArray, n: int, factor: AnyArray, inverse: AnyArray) -> bool:  # pragma: no cover - compiled
    """Cholesky inverse of the leading n x n block; False if it is not positive definite."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                if total <= 1e-14:
                    return False
                factor[i, i] = np.sqrt(total)
            else:
                factor[i, j] = total / factor[j, j]
    for c in range(n):
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(i):
                total -= factor[i, k] * inverse[k, c]
            inverse[i, c] = total / factor[i, i]
        for i in range(n - 1, -1, -1):
            total = inverse[i, c]
            for k in range(i + 1, n):
                total -= factor[k, i] * inverse[k, c]
            inverse[i, c] = total / factor[i, i]
    return True


@numba.njit(cache=True)
def _evaluate(
    theta: AnyArray,
    share: float,
    t: AnyArray,
    fat: AnyArray,
    signal: AnyArray,
    growth: AnyArray,
    residual: AnyArray,
    jacobian: AnyArray,
) -> float:  # pragma: no cover - compiled
    """Residual, Jacobian (echo, parameter) and squared residual. theta: f/100 Hz, R2*/100, phase, W, F.

    ``share`` < 0: F is free; else F is ``share`` of W + F, and W + F stands in W's place.
    """
    total = 0.0
    _growth(complex(200 * np.pi * theta[0], 100 * theta[1]), t, growth)
    turn = np.exp(1j * theta[2])
    for e in range(t.size):
        common = turn * growth[e]
        if share < 0:
            value = (theta[3] + theta[4] * fat[e]) * common
            jacobian[e, 3] = common
            jacobian[e, 4] = fat[e] * common
        else:
            jacobian[e, 3] = (1 - share + share * fat[e]) * common
            value = theta[3] * jacobian[e, 3]
        jacobian[e, 0] = 200j * np.pi * t[e] * value
        jacobian[e, 1] = -100 * t[e] * value
        jacobian[e, 2] = 1j * value
        residual[e] = signal[e] - value
        total += residual[e].real ** 2 + residual[e].imag ** 2
    return total


@numba.njit(cache=True, parallel=True)
def fit_constrained(
    chosen: AnyArray,
    signal: AnyArray,
    t: AnyArray,
    fat: AnyArray,
    start_field: AnyArray,
    start_r2star: AnyArray,
    prior_field: AnyArray,
    prior_precision: AnyArray,
    fat_share: AnyArray,
    sigma: float,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit every voxel of ``chosen`` with water and fat behind one phase and a prior on the field.

    Parameters as :func:`fit_free`, and

    prior_field, prior_precision
        (voxel,) mean [Hz] and inverse variance [1/Hz2] of the field's prior; precision 0 is no prior.
    fat_share
        (voxel,) fraction of fat to keep fixed; negative where fat is an unknown.
    """
    n_voxels, n_echoes = signal.shape
    linear = np.full((n_voxels, 2), np.nan + 0j, np.complex128)
    nonlinear = np.full((n_voxels, 2), np.nan)
    errors = np.full((n_voxels, 3), np.nan)
    residuals = np.full(n_voxels, np.nan)
    for v in numba.prange(n_voxels):
        if not chosen[v]:
            continue
        y = signal[v]
        share = fat_share[v]
        n = 5 if share < 0 else 4
        theta = np.zeros(5)
        trial = np.zeros(5)
        growth = np.empty(n_echoes, np.complex128)
        residual = np.empty(n_echoes, np.complex128)
        trial_residual = np.empty(n_echoes, np.complex128)
        jacobian = np.zeros((n_echoes, 5), np.complex128)
        trial_jacobian = np.zeros((n_echoes, 5), np.complex128)
        normal = np.zeros((5, 5))
        damped = np.zeros((5, 5))
        factor = np.zeros((5, 5))
        inverse = np.zeros((5, 5))
        gradient = np.zeros(5)
        theta[0] = start_field[v] / 100
        theta[1] = start_r2star[v] / 100
        # water's phase at the start is that of all signal there is: fat of 0 to 40 % hardly turns it
        _growth(complex(2 * np.pi * start_field[v], start_r2star[v]), t, growth)
        power = 0.0
        product = 0j
        part = max(share, 0.0)
        for e in range(n_echoes):
            column = (1 - part + part * fat[e]) * growth[e]
            power += column.real**2 + column.imag**2
            product += np.conj(column) * y[e]
        theta[2] = np.arctan2(product.imag, product.real)
        theta[3] = abs(product) / power
        precision = prior_precision[v] * 1e4 * sigma**2
        centre = prior_field[v] / 100
        cost = _evaluate(theta, share, t, fat, y, growth, residual, jacobian) + precision * (theta[0] - centre) ** 2
        damping = 1e-3
        converged = False
        for _ in range(_MAX_ITERATIONS):
            for i in range(n):
                for j in range(i + 1):
                    total = 0.0
                    for e in range(n_echoes):
                        total += jacobian[e, i].real * jacobian[e, j].real + jacobian[e, i].imag * jacobian[e, j].imag
                    normal[i, j] = total
                    normal[j, i] = total
                total = 0.0
                for e in range(n_echoes):
                    total += jacobian[e, i].real * residual[e].real + jacobian[e, i].imag * residual[e].imag
                gradient[i] = total
            normal[0, 0] += precision
            gradient[0] -= precision * (theta[0] - centre)
            if converged:
                break
            improved = False
            for _attempt in range(8):
                damped[:, :] = normal
                for i in range(n):
                    damped[i, i] += damping * normal[i, i] + 1e-12
                if _solve(damped, n, factor, inverse):
                    size = 0.0
                    for i in range(n):
                        move = 0.0
                        for j in range(n):
                            move += inverse[i, j] * gradient[j]
                        trial[i] = theta[i] + move
                        if i < 2:
                            size = max(size, abs(move))
                    trial_cost = _evaluate(trial, share, t, fat, y, growth, trial_residual, trial_jacobian)
                    trial_cost += precision * (trial[0] - centre) ** 2
                    if trial_cost <= cost * (1 + 1e-12):
                        improved = True
                        converged = size < 1e-4 or cost - trial_cost < 1e-9 * cost
                        theta[:] = trial
                        cost = trial_cost
                        residual[:] = trial_residual
                        jacobian[:, :] = trial_jacobian
                        damping = max(damping * 0.2, 1e-9)
                        break
                damping *= 8
            if not improved:
                converged = True
                break
        if not converged or not np.isfinite(cost):
            continue
        if not _solve(normal, n, factor, inverse):
            continue
        turn = np.exp(1j * theta[2])
        if share < 0:
            linear[v, 0] = theta[3] * turn
            linear[v, 1] = theta[4] * turn
        else:
            linear[v, 0] = (1 - share) * theta[3] * turn
            linear[v, 1] = share * theta[3] * turn
        nonlinear[v, 0] = 100 * theta[0]
        nonlinear[v, 1] = 100 * theta[1]
        errors[v, 0] = 100 * sigma * np.sqrt(inverse[0, 0])
        errors[v, 1] = 100 * sigma * np.sqrt(inverse[1, 1])
        residuals[v] = max(cost - precision * (theta[0] - centre) ** 2, 0.0)
        if share < 0:
            whole = theta[3] + theta[4]
            dw, df = -theta[4] / whole**2, theta[3] / whole**2
            variance = dw * dw * inverse[3, 3] + 2 * dw * df * inverse[3, 4] + df * df * inverse[4, 4]
            errors[v, 2] = 100 * sigma * np.sqrt(max(variance, 0.0))
    return linear, nonlinear, errors, residuals
