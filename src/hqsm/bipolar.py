"""Bipolar readouts: the phase that alternates between odd and even echoes, found, removed and reported.

Where echoes are read with gradients of alternating sign, a delay between gradient and sampling and eddy currents give
echo ``n`` the phase ``(-1)^n theta(r)``, nearly linear along the readout (Yu et al., J Magn Reson Imaging
2010;31:1264; Peterson and Mansson, MRM 2014;71:1158). Every fit that does not know it takes it for water-fat phase.

Found in two steps. With evenly spaced echoes a field adds a straight line to the phase, so that the second difference

    T_n = s_(n-1) conj(s_n)^2 s_(n+1),   arg T_n = -(-1)^n 4 theta   (n from 0, one species)

holds ``theta`` alone; the mean of neighbouring ``T`` keeps it and cancels most of what fat does. That gives the slopes of
a plane but, with few echoes, a constant that fat can mimic. So the plane is then judged and refined by the water-fat
model itself: per voxel the part of the signal that no water, fat, field and R2* can explain (variable projection,
Golub and Pereyra 1973), summed over voxels. A plane that does not explain clearly more than none is not removed.

Where a plane was removed, what is left bends: readouts of opposite sign shift what is off resonance (fat, the rims of
bodies) to opposite sides. So each voxel's own phase is then found by the same criterion, a cubic polynomial is fitted to
half of the voxels, and it is removed too if it explains more in the other half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, Mask
from hqsm.data import MultiEcho
from hqsm.fatwater.spectrum import SPECTRA, fat_signal

_UNEVEN_SHARE = 0.02
_LEAST_COHERENCE = 0.3
"""Below this agreement between voxels the alternating phase is noise."""
_LEAST_GAIN = 1.25
"""A plane must bring the unexplained energy down by this factor; statistics alone would ask for 1.05."""
_LEAST_BEND_GAIN = 1.1
"""The same for the bend, in voxels that it was not fitted to."""
_DEGREE = 3
_BENDS_RAD = np.linspace(-0.4, 0.4, 41)
_CALM_RAD = 1e-4
_MAX_ROUNDS = 12
_N_VOXELS = 1500
_FIELDS_PER_ECHO = 8
_DECAYS_PER_S = (15.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1200.0)
_SPECTRUM = "hamilton-liver-6"
Plane = tuple[float, float, float, float]
"""Constant at the centre of the grid and slopes across the field of view along x, y and z [rad]."""


@dataclass(frozen=True, kw_only=True)
class OddEvenPhase:
    """What was found between odd and even echoes.

    Attributes
    ----------
    polarity
        ``bipolar`` (corrected), ``unipolar`` (left untouched) or ``not-checked`` (fewer than four echoes, uneven ones, or
        noise).
    rms_rad
        Root mean square of the phase over the signal [rad]; of what was removed, or of what was found and left.
    constant_rad
        Phase of the first echo, of the third and so on, at the centre of the grid [rad].
    slope_rad_per_axis
        Its change across the whole field of view along x, y and z [rad].
    bend_rms_rad
        Root mean square of what was removed beyond the plane [rad]; 0 where nothing was.
    unexplained_before, unexplained_after
        Share of the signal's energy that water, fat, field and R2* cannot explain, before and after removal.
    """

    polarity: str
    rms_rad: float = float("nan")
    constant_rad: float = float("nan")
    slope_rad_per_axis: tuple[float, float, float] = (float("nan"), float("nan"), float("nan"))
    bend_rms_rad: float = 0.0
    unexplained_before: float = float("nan")
    unexplained_after: float = float("nan")


def correct_odd_even_phase(echoes: MultiEcho, *, smallest_rms_rad: float) -> tuple[MultiEcho, OddEvenPhase]:
    """Remove the plane of odd/even phase where it is real and larger than ``smallest_rms_rad``; else return the echoes as they are.

    The plane ``theta = a + b_x x + b_y y + b_z z`` leaves one thing open, which no data can settle: ``theta + pi/2`` is
    the same as a field shifted by half the sampling frequency, a constant that the water-fat fit takes up.
    """
    if not _can_be_checked(echoes.echo_times_s):
        return echoes, OddEvenPhase(polarity="not-checked")
    alternating = alternating_product(echoes.signal)
    start, coherence = _plane(alternating)
    if coherence < _LEAST_COHERENCE:
        return echoes, OddEvenPhase(polarity="not-checked")
    sample = _Sample(echoes, np.abs(alternating))
    before = sample.unexplained((0.0, 0.0, 0.0, 0.0))
    plane = _refined(sample, start, echoes.signal.shape[:3])
    after = sample.unexplained(plane)
    rms_rad = _rms(_theta(alternating.shape, plane), np.abs(alternating))
    is_bipolar = rms_rad > smallest_rms_rad and before > _LEAST_GAIN * after
    found = OddEvenPhase(
        polarity="bipolar" if is_bipolar else "unipolar",
        rms_rad=rms_rad,
        constant_rad=plane[0],
        slope_rad_per_axis=plane[1:],
        unexplained_before=before,
        unexplained_after=after if is_bipolar else before,
    )
    if not is_bipolar:
        return echoes, found
    theta = _theta(alternating.shape, plane)
    bend, after = _bend(sample, plane, after, theta.shape)
    found = replace(found, bend_rms_rad=_rms(bend, np.abs(alternating)), unexplained_after=after)
    signs = (-1.0) ** np.arange(echoes.signal.shape[3])
    signal = echoes.signal * np.exp(-1j * (theta + bend)[..., None] * signs).astype(np.complex64)
    return replace(echoes, signal=signal.astype(np.complex64)), found


def _can_be_checked(echo_times_s: FloatArray) -> bool:
    """At least two second differences of opposite sign, and echoes so even that a field does not bend the phase."""
    steps = np.diff(echo_times_s)
    return bool(echo_times_s.size >= 4 and np.abs(np.diff(steps)).max() <= _UNEVEN_SHARE * steps.mean())


def alternating_product(signal: ComplexArray) -> ComplexArray:
    """(x, y, z) complex of phase -4 theta where the phase of echo n is (-1)^n theta; its magnitude is the signal's power."""
    magnitude = np.abs(signal)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(magnitude > 0, signal / magnitude, 0)
    total = np.zeros(signal.shape[:3], np.complex128)
    n_echoes = signal.shape[3]
    triples = [unit[..., n - 1] * np.conj(unit[..., n]) ** 2 * unit[..., n + 1] for n in range(1, n_echoes - 1)]
    for k in range(len(triples) - 1):
        # triple k is centred on echo k + 1: its phase is 4 theta for even k and -4 theta for odd k
        pair = triples[k] + np.conj(triples[k + 1])
        weight = magnitude[..., k : k + 4].min(axis=3) ** 2
        total += weight * (pair if k % 2 else np.conj(pair))
    return total


def _plane(product: ComplexArray) -> tuple[Plane, float]:
    """The plane theta = -arg(product) / 4, and how well the voxels agree on it (0..1).

    Slopes start from the products of neighbours, which need no unwrapping, and are refined by the weighted fit of a
    plane to the phase that is left, which no longer wraps.
    """
    plane = np.zeros(4)
    for axis, n in enumerate(product.shape):
        if n > 1:
            forward, backward = np.take(product, range(1, n), axis=axis), np.take(product, range(n - 1), axis=axis)
            with np.errstate(divide="ignore", invalid="ignore"):
                each = np.nan_to_num(forward * np.conj(backward) / np.sqrt(np.abs(forward * backward)))
            plane[axis + 1] = -np.angle(each.sum()) * n / 4
    left = product * np.exp(4j * _theta(product.shape, plane))
    plane[0] = -np.angle(left.sum()) / 4
    weight = np.abs(product)
    keep = [0] + [axis + 1 for axis, n in enumerate(product.shape) if n > 1]
    columns = [np.ones(product.shape), *(np.broadcast_to(a, product.shape) for a in _axes(product.shape))]
    design = np.stack([columns[k].ravel() for k in keep], axis=1)
    normal = design.T @ (weight.ravel()[:, None] * design)
    for _ in range(_MAX_ROUNDS):
        left = product * np.exp(4j * _theta(product.shape, plane))
        change = np.linalg.lstsq(normal, design.T @ (weight * -np.angle(left) / 4).ravel(), rcond=None)[0]
        plane[keep] += change
        if np.abs(change).max() < _CALM_RAD:
            break
    left = product * np.exp(4j * _theta(product.shape, plane))
    total = float(weight.sum())
    return _folded(plane), float(np.abs(left.sum())) / total if total > 0 else 0.0


def _folded(plane: AnyArray) -> Plane:
    """The same plane with its constant nearest zero: theta and theta + pi/2 cannot be told apart."""
    constant = (float(plane[0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    return constant, float(plane[1]), float(plane[2]), float(plane[3])


def _refined(sample: _Sample, start: Plane, shape: tuple[int, ...]) -> Plane:
    """The plane that leaves least unexplained: from the phase's plane or from none, whichever explains more."""
    free = [0] + [axis + 1 for axis, n in enumerate(shape) if n > 1]
    constants = np.linspace(-np.pi / 4, np.pi / 4, 13)[1:]
    candidates = [(float(c), *slopes) for slopes in (start[1:], (0.0, 0.0, 0.0)) for c in constants]
    best = np.array(min(candidates, key=sample.unexplained))
    sample.fix_fields((best[0], best[1], best[2], best[3]))

    def cost(values: AnyArray) -> float:
        plane = best.copy()
        plane[free] = values
        return sample.unexplained((plane[0], plane[1], plane[2], plane[3]))

    steps = np.vstack([best[free], *(best[free] + 0.1 * unit for unit in np.eye(len(free)))])
    found = optimize.minimize(
        cost, best[free], method="Nelder-Mead", options={"initial_simplex": steps, "xatol": 2e-3, "fatol": 1e-6, "maxfev": 200}
    )
    best[free] = found.x
    sample.free_fields()
    return _folded(best)


def _bend(sample: _Sample, plane: Plane, unexplained: float, shape: tuple[int, ...]) -> tuple[FloatArray, float]:
    """(x, y, z) phase [rad] beyond the plane, and the share of energy that is then unexplained; zero where it is not real."""
    powers = [
        p for p in np.ndindex((_DEGREE + 1,) * 3) if sum(p) <= _DEGREE and all(q == 0 or n > 1 for q, n in zip(p, shape, strict=True))
    ]
    phases, weight = sample.own_phases(plane, _BENDS_RAD)
    design = _polynomials(sample.places, powers)
    fitted = np.arange(weight.size) % 2 == 0
    judged = ~fitted

    def fit(chosen: Mask) -> FloatArray:
        root = np.sqrt(weight[chosen])
        return np.asarray(np.linalg.lstsq(root[:, None] * design[chosen], root * phases[chosen], rcond=None)[0])

    half = design @ fit(fitted)
    none = np.zeros(weight.size)
    if sample.unexplained(plane, none, judged) < _LEAST_BEND_GAIN * sample.unexplained(plane, half, judged):
        return np.zeros(shape), unexplained
    coefficients = fit(fitted | judged)
    axes = np.stack([np.broadcast_to(axis, shape).ravel() for axis in _axes(shape)], axis=1)
    bend = (_polynomials(axes, powers) @ coefficients).reshape(shape)
    return bend, sample.unexplained(plane, design @ coefficients)


def _polynomials(places: AnyArray, powers: list[tuple[int, ...]]) -> FloatArray:
    return np.stack([np.prod(places ** np.array(power), axis=1) for power in powers], axis=1)


class _Sample:
    """Strong voxels, evenly drawn, and the share of their energy that no water, fat, field and R2* explains."""

    def __init__(self, echoes: MultiEcho, weight: FloatArray) -> None:
        strong = np.flatnonzero(weight > 0.02 * np.percentile(weight, 99.5))
        chosen = strong[np.unique(np.linspace(0, strong.size - 1, min(_N_VOXELS, strong.size)).astype(int))]
        t = np.asarray(echoes.echo_times_s)
        self._signal = echoes.signal.reshape(-1, t.size)[chosen].astype(np.complex128)
        index = np.unravel_index(chosen, weight.shape)
        self._design = np.stack([np.ones(chosen.size), *((i + 0.5) / n - 0.5 for i, n in zip(index, weight.shape, strict=True))], axis=1)
        self._signs = (-1.0) ** np.arange(t.size)
        spacing_s = float(np.diff(t).mean())
        n_fields = _FIELDS_PER_ECHO * t.size
        self._fields_hz = (np.arange(n_fields) / n_fields - 0.5) / spacing_s
        self._turns = np.exp(-2j * np.pi * self._fields_hz[:, None] * (t - t[0]))
        fat = fat_signal(SPECTRA[_SPECTRUM], t, echoes.field_strength_tesla, 37.0)
        self._bases = [np.linalg.qr(np.stack([decay, decay * fat], axis=1))[0] for decay in np.exp(-np.outer(_DECAYS_PER_S, t))]
        self._energy = (np.abs(self._signal) ** 2).sum(axis=1)
        self._near: AnyArray | None = None

    @property
    def places(self) -> FloatArray:
        """(voxel, 3) coordinates from -1/2 to 1/2 of the field of view."""
        return self._design[:, 1:]

    def unexplained(self, plane: Plane, bend_rad: FloatArray | None = None, voxels: Mask | None = None) -> float:
        """Share of the energy, 0..1, once the plane, and a phase of each voxel, is taken out."""
        left = (self._energy - self._explained(self._rotated(plane, bend_rad)).max(axis=0))[slice(None) if voxels is None else voxels]
        return float(left.sum() / self._energy[slice(None) if voxels is None else voxels].sum())

    def own_phases(self, plane: Plane, phases_rad: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(voxel,) phase beyond the plane that explains most of each voxel, and how sharply it does: a weight."""
        self.fix_fields(plane)
        explained = np.stack([self._explained(self._rotated(plane, np.full(self._energy.size, p))).max(axis=0) for p in phases_rad])
        self.free_fields()
        best = np.clip(explained.argmax(axis=0), 1, len(phases_rad) - 2)
        lower, here, upper = (np.take_along_axis(explained, best[None] + k, axis=0)[0] for k in (-1, 0, 1))
        sharpness = np.maximum(2 * here - lower - upper, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip(np.nan_to_num((upper - lower) / (2 * sharpness)), -1, 1)
        return phases_rad[best] + step * (phases_rad[1] - phases_rad[0]), sharpness

    def _rotated(self, plane: Plane, bend_rad: FloatArray | None = None) -> ComplexArray:
        theta = self._design @ np.array(plane) + (0.0 if bend_rad is None else bend_rad)
        return np.asarray(self._signal * np.exp(-1j * np.outer(theta, self._signs)))

    def _explained(self, rotated: ComplexArray) -> FloatArray:
        """(field, voxel) energy inside the water-fat plane of the best decay; a parabola would refine it, a sum needs none."""
        rows = []
        for k in range(self._turns.shape[0] if self._near is None else 3):
            turns = self._turns[k] if self._near is None else self._turns[(self._near + k - 1) % self._fields_hz.size]
            aligned = rotated * turns
            rows.append(np.max([(np.abs(aligned @ basis.conj()) ** 2).sum(axis=1) for basis in self._bases], axis=0))
        return np.array(rows)

    def fix_fields(self, plane: Plane) -> None:
        """From now on look only at each voxel's field and its two neighbours, as found with this plane."""
        self._near = None
        self._near = self._explained(self._rotated(plane)).argmax(axis=0)

    def free_fields(self) -> None:
        """Look at every field again."""
        self._near = None


def _axes(shape: tuple[int, ...]) -> list[AnyArray]:
    """Coordinates along each axis from -1/2 to 1/2 of the field of view, ready to broadcast."""
    return [((np.arange(n) + 0.5) / n - 0.5).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, n in enumerate(shape)]


def _theta(shape: tuple[int, ...], plane: Plane | AnyArray) -> FloatArray:
    theta: FloatArray = np.zeros(shape) + plane[0] + sum(slope * axis for slope, axis in zip(plane[1:], _axes(shape), strict=True))
    return theta


def _rms(theta: FloatArray, weight: FloatArray) -> float:
    """Weighted root mean square [rad] of the phase, of which a quarter turn counts as nothing (it is a field)."""
    folded = (theta + np.pi / 4) % (np.pi / 2) - np.pi / 4
    total = float(weight.sum())
    return float(np.sqrt((weight * np.asarray(folded) ** 2).sum() / total)) if total > 0 else 0.0
