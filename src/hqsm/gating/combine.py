"""Accepted repetitions added as complex numbers, one echo of one repetition in memory at a time.

Averaging magnitudes, or repetitions at different positions, biases R2* upward by 10 to 28 1/s (Zhong et al.,
MRM 2020;83:1964); so what differs between repetitions and is not anatomy is removed first: a global phase, a drift
of the field that is constant or linear in space, and the change of the field near the moving lung, which is smooth
over millimetres. Left in, the last costs about 1 1/s of R2* at the dome at 3 T.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from hqsm.arrays import ComplexArray, FloatArray, Mask
from hqsm.data import MultiEcho, RepeatedMultiEcho
from hqsm.gating.noise import high_pass_sd, noise_sd_from_background
from hqsm.gating.shift import noise_after_shift, shift_along_body

_LOCAL_MM = 5
"""Radius (SD) over which the local change of the field is averaged."""
_FAINT = 25.0
"""Signal power over noise power at which the local change is believed by half: phase of noise is not to be aligned."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PhaseDifference:
    """Phase of the reference minus that of a repetition: ``constant[e] + (offset + rate t_e) . x + local(x) t_e`` [rad].

    Attributes
    ----------
    constant_rad
        (echo,) global phase and drift of the field at each echo, at the volume's centre.
    offset_rad, rate_rad_per_s
        (3,) change over the whole extent along each voxel axis: at t = 0, and per second of echo time (the drift).
    local_rad_per_s
        (x, y, z) what the field does beyond that; None for nothing.
    """

    constant_rad: FloatArray
    offset_rad: FloatArray
    rate_rad_per_s: FloatArray
    local_rad_per_s: FloatArray | None = None

    def phasor(self, echo: int, echo_time_s: float, shape: tuple[int, ...]) -> ComplexArray:
        """(x, y, z) unit phasor of one echo."""
        slope = self.offset_rad + self.rate_rad_per_s * echo_time_s
        out: ComplexArray = np.full((1, 1, 1), np.exp(1j * self.constant_rad[echo]), np.complex64)
        for axis, n in enumerate(shape):
            out = out * _ramp(slope[axis], n, axis)
        if self.local_rad_per_s is not None:
            out = out * np.exp(np.complex64(1j * echo_time_s) * self.local_rad_per_s)
        return out


def _ramp(slope_rad: float, n: int, axis: int) -> ComplexArray:
    values: ComplexArray = np.exp(1j * slope_rad * np.linspace(-0.5, 0.5, n)).astype(np.complex64)
    return values.reshape([-1 if k == axis else 1 for k in range(3)])


def phase_difference(repetition: ComplexArray, reference: ComplexArray, echo_times_s: FloatArray) -> PhaseDifference:
    """What turns a repetition's phase to the reference's; both (x, y, z, echo).

    The linear terms are the argument of the summed product of neighbours, which needs no unwrapping; a line through
    them over echo time, weighted by the signal, parts the drift of the field from what is the same at every echo. The
    constants are the arguments of the summed conjugate products that remain.
    """
    n_echoes = reference.shape[3]
    slopes_rad = np.zeros((n_echoes, 3))
    strength = np.zeros(n_echoes)
    for echo in range(n_echoes):
        product = reference[..., echo] * np.conj(repetition[..., echo])
        strength[echo] = np.abs(product).sum(dtype=np.float64)
        for axis, n in enumerate(product.shape):
            if n > 1:
                moved = np.moveaxis(product, axis, 0)
                slopes_rad[echo, axis] = np.angle(np.vdot(moved[:-1], moved[1:])) * (n - 1)
    weight = np.sqrt(np.maximum(strength, 1e-30 * strength.max() + 1e-300))
    design = np.stack([np.ones(n_echoes), echo_times_s], axis=1) * weight[:, None]
    lines, *_ = np.linalg.lstsq(design, slopes_rad * weight[:, None], rcond=None)
    found = PhaseDifference(constant_rad=np.zeros(n_echoes), offset_rad=lines[0], rate_rad_per_s=lines[1])
    for echo in range(n_echoes):
        turned = repetition[..., echo] * found.phasor(echo, float(echo_times_s[echo]), reference.shape[:3])
        found.constant_rad[echo] = np.angle(np.vdot(turned, reference[..., echo]))
    return found


def local_field_difference(
    repetition: ComplexArray,
    reference: ComplexArray,
    echo_times_s: FloatArray,
    difference: PhaseDifference,
    voxel_size_mm: FloatArray,
    noise_sd: float,
) -> FloatArray:
    """Field of the reference minus that of a repetition turned by ``difference`` [rad/s] (x, y, z), smooth over 5 mm.

    The argument of the products of neighbouring echoes' smoothed phase differences, which needs no unwrapping: it is
    right up to half a turn between two echoes. One number per voxel for all echoes; next to noise it goes to zero.
    """
    sigma = _LOCAL_MM / np.asarray(voxel_size_mm)
    steps_s = np.diff(echo_times_s)
    evenly = bool(np.allclose(steps_s, steps_s[0], rtol=0.02))
    pairs = range(1, len(echo_times_s) if evenly else 2)  # of uneven echoes the first two alone share a step
    total = np.zeros(reference.shape[:3], np.complex64)
    before: ComplexArray | None = None
    for echo in (0, *pairs):
        turned = repetition[..., echo] * difference.phasor(echo, float(echo_times_s[echo]), reference.shape[:3])
        product = reference[..., echo] * np.conj(turned)
        now: ComplexArray = np.empty_like(product)
        now.real, now.imag = ndimage.gaussian_filter(product.real, sigma), ndimage.gaussian_filter(product.imag, sigma)
        if before is not None:
            total += now * np.conj(before) / np.maximum(np.abs(before), np.float32(1e-30))
        before = now
    total += np.float32(_FAINT * noise_sd**2 if np.isfinite(noise_sd) else 0)
    local: FloatArray = (np.angle(total) / np.float32(steps_s[0])).astype(np.float32)
    return local


def combine(repeated: RepeatedMultiEcho, accepted: Mask, shift_mm: FloatArray, first: int) -> MultiEcho:
    """Complex mean of the accepted repetitions, aligned in phase and weighted by inverse variance.

    Parameters
    ----------
    repeated
        All repetitions.
    accepted
        (repetition,) which to combine; at least one.
    shift_mm
        (repetition,) how far each accepted one is moved towards the head before it is added (gate-and-follow); 0 leaves its samples.
    first
        The accepted repetition whose phase the others are turned to.

    Returns
    -------
    MultiEcho
        Its ``noise_sd`` follows from each repetition's own noise, the weights and what interpolation does to noise, scaled
        by the difference of two halves of the repetitions, which holds no anatomy.
    """
    indices = np.flatnonzero(accepted)
    noise = np.array([noise_sd_from_background(repeated.signal[..., -1:, r]) for r in indices])
    known = bool(np.isfinite(noise).all() and (noise > 0).all())
    if not known:
        noise = np.ones(indices.size)
    noise *= [noise_after_shift(float(shift_mm[r]), repeated.grid) for r in indices]
    weights = noise**-2 / (noise**-2).sum()
    reference = repeated.signal[..., first]
    total = np.zeros(reference.shape, np.complex64)
    # the last echo of every other repetition: anatomy cancels in the difference of the halves, noise does not
    halves = np.zeros((2, *reference.shape[:3]), np.complex64)
    shares = np.array([weights[0::2].sum(), weights[1::2].sum()])
    for k, (weight, r) in enumerate(zip(weights, indices, strict=True)):
        repetition = repeated.signal[..., r]
        difference = None
        if r != first:
            times = repeated.echo_times_s
            difference = phase_difference(repetition, reference, times)
            if reference.shape[3] > 1:
                spread = float(noise[k]) if known else float("nan")
                local = local_field_difference(repetition, reference, times, difference, repeated.grid.voxel_size_mm, spread)
                difference = replace(difference, local_rad_per_s=local)
        for echo, echo_time_s in enumerate(repeated.echo_times_s):
            volume: ComplexArray = repetition[..., echo]
            if difference is not None:
                volume = volume * difference.phasor(echo, float(echo_time_s), volume.shape)
            moved = shift_along_body(volume, float(shift_mm[r]), repeated.grid)
            total[..., echo] += np.float32(weight) * moved
            if echo == reference.shape[3] - 1:
                halves[k % 2] += np.float32(weight / shares[k % 2]) * moved
    noise_sd = float(np.sqrt((weights**2 * noise**2).sum()))
    if indices.size > 1 and known:
        expected = np.sqrt(sum(((weights[h::2] / shares[h]) ** 2 * noise[h::2] ** 2).sum() for h in (0, 1)))
        np.subtract(halves[0], halves[1], out=halves[0])
        noise_sd *= high_pass_sd(halves[0]) / float(expected)
    return multi_echo(repeated, total, noise_sd if known else float("nan"))


def multi_echo(repeated: RepeatedMultiEcho, signal: ComplexArray, noise_sd: float) -> MultiEcho:
    """One volume (x, y, z, echo) with the facts of the acquisition it came from."""
    return MultiEcho(
        signal=np.ascontiguousarray(signal, dtype=np.complex64),
        echo_times_s=repeated.echo_times_s,
        field_strength_tesla=repeated.field_strength_tesla,
        grid=repeated.grid,
        noise_sd=noise_sd,
    )
