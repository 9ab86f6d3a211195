"""What is fitted: which voxels hold signal, and they taken out of their volume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hqsm.arrays import AnyArray, ComplexArray, FloatArray, IntArray, Mask
from hqsm.compiled import njit, prange
from hqsm.data import MultiEcho
from hqsm.fatwater.nodes import numbered

_N_FOR_NOISE, _LEAST_STANDING_OUT = 20_000, 1e-3
"""Voxels looked at, and their share above the threshold, from which on an echo holds more than noise."""


class Echoes(NamedTuple):
    """What was measured of the voxels: what fits take; a named tuple because compiled code takes no dataclass.

    Attributes
    ----------
    signal
        (voxel, echo) complex64, contiguous [scanner units].
    echo_times_s
        (echo,) [s].
    fat
        (echo,) signal of unit fat against water on resonance, c(t).
    noise_sd
        SD of the noise of the real part [scanner units].
    """

    signal: AnyArray
    echo_times_s: AnyArray
    fat: AnyArray
    noise_sd: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Tissue:
    """The voxels that hold signal, and what was known of their scan.

    Attributes
    ----------
    signal
        (voxel, echo) complex64, contiguous [scanner units].
    index
        (x, y, z) number of each voxel in raster order, -1 where there is no signal.
    echo_times_s
        (echo,) [s].
    fat
        (echo,) signal of unit fat against water on resonance.
    noise_sd
        SD of the noise of the real part [scanner units].
    voxel_size_mm, b0_direction
        (3,) [mm]; (3,) unit vector of B0 along the voxel axes.
    field_strength_tesla
        [T].
    """

    signal: ComplexArray
    index: IntArray
    echo_times_s: FloatArray
    fat: ComplexArray
    noise_sd: float
    voxel_size_mm: FloatArray
    b0_direction: FloatArray
    field_strength_tesla: float

    @classmethod
    def of(cls, echoes: MultiEcho, usable: Mask, fat: ComplexArray) -> Tissue:
        """The ``usable`` voxels (x, y, z) of a scan at whose echoes unit fat has the signal ``fat`` (echo,)."""
        return cls(
            # rows by their number: three times as fast as by the mask
            signal=np.take(echoes.signal.reshape(-1, echoes.echo_times_s.size), np.flatnonzero(usable), axis=0).astype(
                np.complex64, copy=False
            ),
            index=numbered(usable),
            echo_times_s=np.array(echoes.echo_times_s, dtype=np.float64),  # a copy: compiled once, however the echoes were sliced
            fat=fat,
            noise_sd=echoes.noise_sd,
            voxel_size_mm=echoes.grid.voxel_size_mm,
            b0_direction=echoes.grid.b0_direction,
            field_strength_tesla=echoes.field_strength_tesla,
        )

    @property
    def echoes(self) -> Echoes:
        """What fits take of it."""
        return Echoes(self.signal, self.echo_times_s, self.fat, self.noise_sd)

    @cached_property
    def powers(self) -> tuple[FloatArray, FloatArray]:
        """(voxel,) squared signal of all echoes together, and of the brightest."""
        found: tuple[FloatArray, FloatArray] = _powers(self.signal)
        return found

    @cached_property
    def places(self) -> IntArray:
        """(voxel,) number of each voxel in the raster of the volume."""
        return np.flatnonzero(self.index >= 0)


def holds_something(signal: AnyArray) -> AnyArray:
    """(echo,) whether it has a value that is finite and not zero."""

    def anything(part: AnyArray) -> bool:
        return bool((np.isfinite(part) & (part != 0)).any())

    # one voxel in twenty tells of nearly every echo
    return np.array([anything(signal[::3, ::3, ::2, e]) or anything(signal[..., e]) for e in range(signal.shape[3])])


def stands_out(signal: AnyArray, usable: AnyArray, threshold: float) -> AnyArray:
    """(echo,) whether more of the ``usable`` voxels are brighter than ``threshold`` than noise makes so."""
    places = np.flatnonzero(usable)
    some = signal[np.unravel_index(places[:: max(1, places.size // _N_FOR_NOISE)], usable.shape)]
    return np.asarray((np.abs(some) > threshold).mean(axis=0) > _LEAST_STANDING_OUT)


@njit(parallel=True)
def strongest_echo(signal: AnyArray) -> tuple[AnyArray, bool]:  # pragma: no cover - compiled
    """(x, y, z) magnitude of the brightest echo, NaN where one is not finite; and whether any voxel has a phase."""
    nx, ny, nz, n_echoes = signal.shape
    strongest = np.empty((nx, ny, nz), np.float32)
    phase = np.zeros(nx, np.bool_)
    for x in prange(nx):
        for y in range(ny):
            for z in range(nz):
                power = 0.0
                for e in range(n_echoes):
                    value = signal[x, y, z, e]
                    here = float(value.real) ** 2 + float(value.imag) ** 2
                    power = here if here > power or not np.isfinite(here) else power
                    if not np.isfinite(here):
                        break
                    if value.imag != 0:
                        phase[x] = True
                strongest[x, y, z] = np.sqrt(power) if np.isfinite(power) else np.nan
    return strongest, phase.sum() > 0


_MUCH, _SOME = np.uint16(1), np.uint16(64)


@njit(parallel=True)
def with_signal(strongest: AnyArray, threshold: float) -> AnyArray:  # pragma: no cover - compiled
    """Voxels of tissue: bright ones in company, and those whose neighbourhood as a whole stands out of the noise.

    The second rule is for iron: keeping only what is bright would keep the lucky voxels of a dark liver. Of the 27 voxels
    around, more than 0.3 are bright, or more than 0.6 half as bright and one of them bright; the volume's edge is its own neighbour.
    """
    nx, ny, nz = strongest.shape
    # both counts in one number: bright voxels below 64, half as bright ones above
    planes = np.zeros((nx, ny, nz), np.uint16)
    for x in prange(nx):
        rows = np.zeros((ny, nz), np.uint16)
        for y in range(ny):
            for z in range(nz):
                for k in (max(z - 1, 0), z, min(z + 1, nz - 1)):
                    here = strongest[x, y, k]
                    rows[y, z] += (_MUCH if here > threshold else np.uint16(0)) + (_SOME if here > 0.5 * threshold else np.uint16(0))
        for y in range(ny):
            before, after = max(y - 1, 0), min(y + 1, ny - 1)
            for z in range(nz):
                planes[x, y, z] = rows[before, z] + rows[y, z] + rows[after, z]
    usable = np.zeros((nx, ny, nz), np.bool_)
    for x in prange(nx):
        before, after = max(x - 1, 0), min(x + 1, nx - 1)
        for y in range(ny):
            for z in range(nz):
                counts = planes[before, y, z] + planes[x, y, z] + planes[after, y, z]
                bright, half = counts % 64, counts // 64
                here = strongest[x, y, z]
                usable[x, y, z] = (here > threshold and bright > 8) or (here >= 0 and half > 16 and bright > 0)
    return usable


@njit(parallel=True)
def _powers(signal: AnyArray) -> tuple[AnyArray, AnyArray]:  # pragma: no cover - compiled
    """(voxel,) squared signal of all echoes together, and of the brightest."""
    energy, brightest = np.empty(signal.shape[0], np.float32), np.empty(signal.shape[0], np.float32)
    for v in prange(signal.shape[0]):
        total = most = np.float32(0)
        for e in range(signal.shape[1]):
            here = signal[v, e].real * signal[v, e].real + signal[v, e].imag * signal[v, e].imag
            total += here
            most = max(most, here)
        energy[v], brightest[v] = total, most
    return energy, brightest
