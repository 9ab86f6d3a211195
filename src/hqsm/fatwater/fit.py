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
_ENOUGH = 1e-4
COMPATIBLE = 2.5
"""Standard errors within which a voxel's R2* may be its neighbourhood's."""


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
    enough = _ENOUGH * sigma**2
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
                # what is left to gain is a hundredth of a standard error
                small = cost - trial_cost < enough
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
def _factorised(matrix: AnyArray, n: int, factor: AnyArray) -> bool:  # pragma: no cover - compiled
    """Cholesky factor of the leading n x n block; False if it is not positive definite."""
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
    return True


@numba.njit(cache=True)
def _solve(matrix: AnyArray, n: int, factor: AnyArray, inverse: AnyArray) -> bool:  # pragma: no cover - compiled
    """Inverse of the leading n x n block; False if it is not positive definite."""
    if not _factorised(matrix, n, factor):
        return False
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
    theta: AnyArray, t: AnyArray, fat: AnyArray, signal: AnyArray, growth: AnyArray, residual: AnyArray, jacobian: AnyArray
) -> float:  # pragma: no cover - compiled
    """Residual, Jacobian (echo, parameter) and squared residual. theta: f/100 Hz, R2*/100, phase, W + F, F/(W + F)."""
    total = 0.0
    _growth(complex(200 * np.pi * theta[0], 100 * theta[1]), t, growth)
    turn = np.exp(1j * theta[2])
    for e in range(t.size):
        common = turn * growth[e]
        jacobian[e, 3] = (1 - theta[4] + theta[4] * fat[e]) * common
        value = theta[3] * jacobian[e, 3]
        jacobian[e, 4] = theta[3] * (fat[e] - 1) * common
        jacobian[e, 0] = 200j * np.pi * t[e] * value
        jacobian[e, 1] = -100 * t[e] * value
        jacobian[e, 2] = 1j * value
        residual[e] = signal[e] - value
        total += residual[e].real ** 2 + residual[e].imag ** 2
    return total


@numba.njit(cache=True)
def _normal(jacobian: AnyArray, n: int, precision: float, rate_precision: float, normal: AnyArray) -> None:  # pragma: no cover - compiled
    """Re(J^H J) of the leading n parameters, the priors of field and R2* included."""
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for e in range(jacobian.shape[0]):
                total += jacobian[e, i].real * jacobian[e, j].real + jacobian[e, i].imag * jacobian[e, j].imag
            normal[i, j] = total
            normal[j, i] = total
    normal[0, 0] += precision
    normal[1, 1] += rate_precision


@numba.njit(cache=True)
def _second_order_bias(
    theta: AnyArray,
    n: int,
    t: AnyArray,
    fat: AnyArray,
    growth: AnyArray,
    jacobian: AnyArray,
    inverse: AnyArray,
    sigma: float,
    bias: AnyArray,
) -> None:  # pragma: no cover - compiled
    """Bias of nonlinear least squares (Box, J R Stat Soc B 1971;33:171): -1/2 (J^H J)^-1 Re(J^H tr(V H)), V the covariance.

    A decay read from late, dark echoes comes out too fast: with two echoes of SNR a > b by (1/b^2 - 1/a^2) / (2 dt).
    At most half a standard error is taken off, which is as far as the expansion can be trusted.
    """
    turn = np.exp(1j * theta[2])
    slopes = np.zeros(5)
    for e in range(t.size):
        common = turn * growth[e]
        first = 200j * np.pi * t[e]
        second = -100 * t[e]
        value = theta[3] * jacobian[e, 3]
        # field, R2* and phase act as factors on the value and on its parts
        curve = value * (first * first * inverse[0, 0] + second * second * inverse[1, 1] - inverse[2, 2])
        curve += 2 * value * (first * second * inverse[0, 1] + 1j * (first * inverse[0, 2] + second * inverse[1, 2]))
        for k in range(3, n):
            curve += 2 * jacobian[e, k] * (first * inverse[0, k] + second * inverse[1, k] + 1j * inverse[2, k])
        if n == 5:
            curve += 2 * (fat[e] - 1) * common * inverse[3, 4]
        for i in range(n):
            slopes[i] += jacobian[e, i].real * curve.real + jacobian[e, i].imag * curve.imag
    scale = 1.0
    for i in range(n):
        bias[i] = 0.0
        for j in range(n):
            bias[i] -= 0.5 * sigma**2 * inverse[i, j] * slopes[j]
        limit = 0.5 * sigma * np.sqrt(inverse[i, i])
        if abs(bias[i]) > limit:
            scale = min(scale, limit / abs(bias[i]))
    for i in range(n):
        bias[i] *= scale


@numba.njit(cache=True)
def _linear_start(y: AnyArray, growth: AnyArray, fat: AnyArray, share: float, theta: AnyArray) -> None:  # pragma: no cover - compiled
    """Phase, W + F and share of fat of the linear least squares with complex W and F, the share within 0 and 1."""
    a11 = a22 = 0.0
    a12 = b1 = b2 = 0j
    for e in range(y.size):
        g2 = growth[e].real ** 2 + growth[e].imag ** 2
        z = np.conj(growth[e]) * y[e]
        a11 += g2
        a12 += g2 * fat[e]
        a22 += g2 * (fat[e].real ** 2 + fat[e].imag ** 2)
        b1 += z
        b2 += np.conj(fat[e]) * z
    part = share
    if share < 0:
        determinant = a11 * a22 - (a12.real**2 + a12.imag**2)
        w = (a22 * b1 - a12 * b2) / max(determinant, 1e-12 * a11 * a22)
        f = (a11 * b2 - np.conj(a12) * b1) / max(determinant, 1e-12 * a11 * a22)
        whole = w + f
        power = max(whole.real**2 + whole.imag**2, 1e-30)
        part = min(max((f * np.conj(whole)).real / power, 0.0), 1.0)
    # the column of that mixture, projected on the data
    norm = (1 - part) ** 2 * a11 + part**2 * a22 + 2 * part * (1 - part) * a12.real
    product = (1 - part) * b1 + part * b2
    theta[2] = np.arctan2(product.imag, product.real)
    theta[3] = abs(product) / norm
    theta[4] = part


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
    prior_r2star: AnyArray,
    prior_r2star_sd: AnyArray,
    sigma: float,
) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:  # pragma: no cover - compiled
    """Fit every voxel of ``chosen`` with water and fat behind one phase and a prior on the field.

    Parameters as :func:`fit_free`, and

    prior_field, prior_precision
        (voxel,) mean [Hz] and inverse variance [1/Hz2] of the field's prior; precision 0 is no prior.
    fat_share
        (voxel,) fraction of fat to keep fixed; negative where fat is an unknown.
    prior_r2star, prior_r2star_sd
        (voxel,) mean and SD of a wide Gaussian prior on R2* [1/s], from the neighbourhood. The information is taken there
        too: at its own estimate a voxel whose noise made R2* low would also call it certain.
    """
    n_voxels, n_echoes = signal.shape
    enough = _ENOUGH * sigma**2
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
        bias = np.zeros(5)
        theta[0] = start_field[v] / 100
        theta[1] = start_r2star[v] / 100
        _growth(complex(2 * np.pi * start_field[v], start_r2star[v]), t, growth)
        # in the dark the data's own share of fat is noise: start lean
        dark = prior_r2star[v] * (t[n_echoes - 1] - t[0]) > 1.6
        _linear_start(y, growth, fat, 0.1 if share < 0 and dark else share, theta)
        trial[4] = theta[4]
        precision = prior_precision[v] * 1e4 * sigma**2
        centre = prior_field[v] / 100
        rate_precision = 1e4 * sigma**2 / prior_r2star_sd[v] ** 2
        rate_centre = prior_r2star[v] / 100
        cost = _evaluate(theta, t, fat, y, growth, residual, jacobian)
        cost += precision * (theta[0] - centre) ** 2 + rate_precision * (theta[1] - rate_centre) ** 2
        damping = 1e-3
        converged = False
        for _ in range(_MAX_ITERATIONS):
            _normal(jacobian, n, precision, rate_precision, normal)
            for i in range(n):
                total = 0.0
                for e in range(n_echoes):
                    total += jacobian[e, i].real * residual[e].real + jacobian[e, i].imag * residual[e].imag
                gradient[i] = total
            gradient[0] -= precision * (theta[0] - centre)
            gradient[1] -= rate_precision * (theta[1] - rate_centre)
            if converged:
                break
            improved = False
            for _attempt in range(8):
                damped[:, :] = normal
                for i in range(n):
                    damped[i, i] += damping * normal[i, i] + 1e-12
                if _factorised(damped, n, factor):
                    for i in range(n):
                        total = gradient[i]
                        for k in range(i):
                            total -= factor[i, k] * trial[k]
                        trial[i] = total / factor[i, i]
                    for i in range(n - 1, -1, -1):
                        total = trial[i]
                        for k in range(i + 1, n):
                            total -= factor[k, i] * trial[k]
                        trial[i] = total / factor[i, i]
                    for i in range(n):
                        trial[i] += theta[i]
                    trial_cost = _evaluate(trial, t, fat, y, growth, trial_residual, trial_jacobian)
                    trial_cost += precision * (trial[0] - centre) ** 2 + rate_precision * (trial[1] - rate_centre) ** 2
                    if trial_cost <= cost * (1 + 1e-12):
                        improved = True
                        converged = cost - trial_cost < enough
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
        misfit = 0.0
        for e in range(n_echoes):
            misfit += residual[e].real ** 2 + residual[e].imag ** 2
        # errors and bias where the neighbourhood's decay is, if that is where this voxel's may be; else at its own
        own = 100 * theta[1]
        known = False
        for place in range(2):
            rate = prior_r2star[v] if place == 0 else own
            keep = np.exp(min(max((rate - own) * t[0], -3.0), 3.0))
            trial[:] = theta
            trial[1] = rate / 100
            trial[3] = theta[3] * keep
            _evaluate(trial, t, fat, y, growth, trial_residual, jacobian)
            _normal(jacobian, n, precision, rate_precision, normal)
            known = _solve(normal, n, factor, inverse)
            if known and abs(own - rate) <= COMPATIBLE * 100 * sigma * np.sqrt(inverse[1, 1]):
                break
        if not known:
            continue
        _second_order_bias(trial, n, t, fat, growth, jacobian, inverse, sigma, bias)
        for i in range(4):
            theta[i] -= bias[i]
        turn = np.exp(1j * theta[2])
        linear[v, 0] = (1 - theta[4]) * theta[3] * turn
        linear[v, 1] = theta[4] * theta[3] * turn
        nonlinear[v, 0] = 100 * theta[0]
        nonlinear[v, 1] = 100 * theta[1]
        errors[v, 0] = 100 * sigma * np.sqrt(inverse[0, 0])
        errors[v, 1] = 100 * sigma * np.sqrt(inverse[1, 1])
        residuals[v] = misfit
        if share < 0:
            errors[v, 2] = 100 * sigma * np.sqrt(inverse[4, 4])
    return linear, nonlinear, errors, residuals
