"""Navigator gating: choose the repetitions at end-expiration and combine them as complex numbers.

Averaging magnitudes, or repetitions at different positions, biases R2* upward by 10 to 28 1/s (Zhong et al.,
MRM 2020;83:1964); so repetitions are chosen by the position of the diaphragm and added as complex images after the
phase that differs between them (a global phase and a drift of the field, constant or linear in space) is removed.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, Mask
from hqsm.config.gating import GatingParams
from hqsm.data import GatingReport, MultiEcho, NavigatorTrace, RepeatedMultiEcho
from hqsm.errors import InputError, ProcessingError

SINGLE = "prospective-or-breath-hold"
_MODE_BANDWIDTH_MM = 1.5


def gate(repeated: RepeatedMultiEcho, navigator: NavigatorTrace | None, params: GatingParams) -> tuple[MultiEcho, GatingReport]:
    """One complex multi-echo volume from all repetitions, and the report of which were used.

    Raises
    ------
    InputError
        If the navigator has another number of repetitions than the images.
    ProcessingError
        If fewer repetitions than ``params.minimum_accepted`` lie in the widest window.
    """
    n = repeated.n_repetitions
    if n == 1:
        report = _report(np.full(1, np.nan), np.ones(1, bool), ("",), SINGLE, codes=("GATING_SINGLE_REPETITION",))
        return _single(repeated), report
    if navigator is None:
        report = _report(np.full(n, np.nan), np.ones(n, bool), ("",) * n, "none", codes=("GATING_NO_NAVIGATOR",), efficiency=1.0)
        return _combine(repeated, report.accepted), report
    displacement_mm = np.asarray(navigator.displacement_mm, dtype=np.float64)
    if displacement_mm.shape != (n,):
        raise InputError(
            f"The navigator has {displacement_mm.size} repetitions but the images have {n}.",
            remedy="Give one row per repetition in navigator.csv.",
            code="NAVIGATOR_LENGTH",
        )
    report = choose_repetitions(displacement_mm, navigator.source, params)
    if report.n_accepted < params.minimum_accepted:
        raise ProcessingError(
            f"Only {report.n_accepted} of {n} repetitions lie within {report.window_mm:g} mm of end-expiration, "
            f"{params.minimum_accepted} are needed.",
            remedy="Scan again, or lower gating.minimum_accepted.",
            code="GATING_TOO_FEW",
        )
    return _combine(repeated, report.accepted), report


def choose_repetitions(displacement_mm: FloatArray, source: str, params: GatingParams) -> GatingReport:
    """Accept the repetitions whose displacement lies in the window around end-expiration.

    The window's width starts at ``params.window_mm`` and grows by 1 mm up to ``params.widest_window_mm`` until
    ``params.wanted_efficiency`` of the repetitions are inside.
    """
    known = np.isfinite(displacement_mm)
    if not known.any():
        raise InputError("The navigator holds no number.", remedy="Check navigator.csv.", code="NAVIGATOR_EMPTY")
    centre_mm = end_expiration_mm(displacement_mm[known])
    window_mm = params.window_mm
    while True:
        accepted = known & (np.abs(displacement_mm - centre_mm) <= window_mm / 2)
        if accepted.mean() >= params.wanted_efficiency or window_mm + 1 > params.widest_window_mm:
            break
        window_mm += 1
    codes = []
    if window_mm > params.window_mm:
        codes.append("GATING_WINDOW_WIDENED")
    if accepted.mean() < params.wanted_efficiency:
        codes.append("GATING_LOW_EFFICIENCY")
    reasons = tuple(
        ""
        if ok
        else "no displacement known"
        if not np.isfinite(d)
        else f"{d - centre_mm:+.1f} mm from end-expiration, outside the {window_mm:g} mm window"
        for d, ok in zip(displacement_mm, accepted, strict=True)
    )
    return _report(
        displacement_mm,
        accepted,
        reasons,
        source,
        codes=tuple(codes),
        efficiency=float(accepted.mean()),
        window_mm=window_mm,
        centre_mm=centre_mm,
    )


def end_expiration_mm(displacement_mm: FloatArray) -> float:
    """Where the diaphragm rests: the mode of the displacement [mm], by a Gaussian kernel density on a 0.1 mm raster.

    Of modes of equal height the one nearest the head counts (expiration is the upper rest position).
    """
    raster = np.arange(displacement_mm.min(), displacement_mm.max() + 0.1, 0.1)
    distance = (raster[:, None] - displacement_mm[None, :]) / _MODE_BANDWIDTH_MM
    density = np.exp(-0.5 * distance**2).sum(axis=1)
    best = np.flatnonzero(density >= density.max() * (1 - 1e-9))[-1]
    return float(raster[best])


def noise_sd_from_background(signal: ComplexArray) -> float:
    """Noise SD of the real part from the last echo: high-pass along x and y, median absolute value.

    ``signal`` is (x, y, z, echo). The second differences (1, -2, 1)/sqrt(6) along two axes keep the variance of white
    noise and suppress everything that is linear along either; the median ignores the edges that remain.
    """
    last = signal[..., -1]
    along_x = (last[:-2] - 2 * last[1:-1] + last[2:]) / np.sqrt(6)
    difference = (along_x[:, :-2] - 2 * along_x[:, 1:-1] + along_x[:, 2:]) / np.sqrt(6)
    values = np.concatenate([difference.real.ravel(), difference.imag.ravel()])
    values = values[values != 0]
    return float(np.median(np.abs(values)) / 0.6744897501960817) if values.size else float("nan")


def _report(
    displacement_mm: FloatArray,
    accepted: Mask,
    reasons: tuple[str, ...],
    source: str,
    *,
    codes: tuple[str, ...] = (),
    efficiency: float = float("nan"),
    window_mm: float = float("nan"),
    centre_mm: float = float("nan"),
) -> GatingReport:
    chosen = displacement_mm[accepted]
    return GatingReport(
        displacement_mm=displacement_mm,
        accepted=accepted,
        reasons=reasons,
        source=source,
        efficiency=efficiency,
        window_mm=window_mm,
        end_expiration_mm=centre_mm,
        residual_sd_mm=float(chosen.std(ddof=1)) if chosen.size > 1 else float("nan"),
        codes=codes,
    )


def _single(repeated: RepeatedMultiEcho) -> MultiEcho:
    signal = repeated.signal[..., 0]
    return _multi_echo(repeated, signal, noise_sd_from_background(signal))


def _multi_echo(repeated: RepeatedMultiEcho, signal: AnyArray, noise_sd: float) -> MultiEcho:
    return MultiEcho(
        signal=np.ascontiguousarray(signal, dtype=np.complex64),
        echo_times_s=repeated.echo_times_s,
        field_strength_tesla=repeated.field_strength_tesla,
        grid=repeated.grid,
        noise_sd=noise_sd,
    )


def _combine(repeated: RepeatedMultiEcho, accepted: Mask) -> MultiEcho:
    """Complex mean of the accepted repetitions, aligned in phase and weighted by inverse variance.

    Each repetition's noise is measured by itself; the noise of the mean follows from the weights.
    """
    indices = np.flatnonzero(accepted)
    reference = repeated.signal[..., indices[0]]
    noise = np.array([noise_sd_from_background(repeated.signal[..., r]) for r in indices])
    if not (np.isfinite(noise).all() and (noise > 0).all()):
        noise = np.ones(indices.size)
    weights = noise**-2 / (noise**-2).sum()
    total = np.zeros(reference.shape, np.complex64)
    for weight, r in zip(weights, indices, strict=True):
        repetition = repeated.signal[..., r]
        total += np.float32(weight) * repetition * phase_alignment(repetition, reference, repeated.echo_times_s)
    noise_sd = float(np.sqrt((weights**2 * noise**2).sum()))
    return _multi_echo(repeated, total, noise_sd)


def phase_alignment(repetition: ComplexArray, reference: ComplexArray, echo_times_s: FloatArray) -> ComplexArray:
    """Unit phasors (x, y, z, echo) that turn a repetition's phase to the reference's.

    The phase that differs is a plane in space, ``phi0 + df*t`` at each echo: a global phase (the same at every echo)
    and a drift of the field [Hz] with a constant and a linear term. The constant terms are the argument of the summed
    conjugate product; the linear ones that of the summed product of neighbours, which needs no unwrapping.
    """
    product = (reference * np.conj(repetition)).astype(np.complex64)
    shape = product.shape[:3]
    axes = [np.linspace(-0.5, 0.5, n, dtype=np.float32).reshape([-1 if a == k else 1 for a in range(3)]) for k, n in enumerate(shape)]
    # linear drift of the field: phase slope per echo against the first echo, weighted by its strength
    correction = np.ones(product.shape, np.complex64)
    slopes_rad = np.zeros((product.shape[3], 3))
    for echo in range(product.shape[3]):
        for axis in range(3):
            forward = np.take(product[..., echo], range(1, shape[axis]), axis=axis) if shape[axis] > 1 else None
            if forward is not None:
                backward = np.take(product[..., echo], range(shape[axis] - 1), axis=axis)
                slopes_rad[echo, axis] = np.angle(np.sum(forward * np.conj(backward))) * (shape[axis] - 1)
    strength = np.array([np.abs(product[..., echo]).sum() for echo in range(product.shape[3])])
    t = np.asarray(echo_times_s)
    design = np.stack([np.ones_like(t), t], axis=1) * np.sqrt(strength)[:, None]
    lines, *_ = np.linalg.lstsq(design, slopes_rad * np.sqrt(strength)[:, None], rcond=None)
    for echo in range(product.shape[3]):
        slope = lines[0] + lines[1] * t[echo]
        plane = sum(np.float32(s) * a for s, a in zip(slope, axes, strict=True))
        rotation = np.exp(1j * plane).astype(np.complex64)
        constant = np.angle(np.sum(product[..., echo] * np.conj(rotation)))
        correction[..., echo] = rotation * np.complex64(np.exp(1j * constant))
    return correction
