"""V-SHARP: variable-kernel sophisticated harmonic artefact reduction (Li et al., NeuroImage 2011;55:1645; Schweser et al., 2011).

A harmonic field equals its mean over any sphere, so that f - mean(f) has no background left; the spheres shrink towards the
body's surface. What the subtraction took from the local field is divided out again with the largest sphere's kernel. Kept for
comparison: the local field's frequencies that are longer than the largest sphere are lost, and with them much of a liver.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.arrays import ComplexArray, FloatArray, Mask
from hqsm.config.susceptibility import VSharpParams
from hqsm.data import LocalField, Solution, TotalField


def remove_background(total: TotalField, params: VSharpParams) -> tuple[LocalField, Solution]:
    """The local field [ppm] in the voxels that the smallest sphere fits around; closed form, ``x`` is that field."""
    grid = total.grid
    radii = radii_mm(grid.voxel_size_mm, params)
    padded = fourier.PaddedShape.around(grid.shape, grid.voxel_size_mm, radii[0])
    body = fourier.forward(padded.pad(total.mask))
    field = padded.pad(np.where(total.mask, total.field_ppm, 0))
    spectrum = fourier.forward(field)
    high_passed = np.zeros(padded.outer, np.float32)
    reached = np.zeros(padded.outer, bool)
    for radius in radii:
        mean_over_sphere = sphere_spectrum(padded.outer, grid.voxel_size_mm, radius)
        fits = _fits_inside(body * mean_over_sphere, padded.outer) & ~reached
        high_passed[fits] = (field - fourier.inverse(spectrum * mean_over_sphere, padded.outer))[fits]
        reached |= fits
    mask = (padded.crop(reached.astype(np.float32)) > 0) & total.mask
    local = _deconvolved(high_passed, 1 - sphere_spectrum(padded.outer, grid.voxel_size_mm, radii[0]), params.truncation)
    local_ppm = np.where(mask, padded.crop(local), 0).astype(np.float32)
    return LocalField(field_ppm=local_ppm, weight=np.where(mask, total.weight, 0), mask=mask, grid=grid), Solution.closed_form(local_ppm)


def radii_mm(voxel_size_mm: FloatArray, params: VSharpParams) -> list[float]:
    """The spheres' radii, largest first; the smallest reaches the next slice, without which it would be a disc."""
    smallest = float(np.max(voxel_size_mm))
    largest = max(params.largest_radius_mm, smallest)
    steps = np.arange(largest, smallest, -params.radius_step_mm)
    return [float(radius) for radius in steps] + [smallest]


def sphere_spectrum(shape: fourier.Shape, voxel_size_mm: FloatArray, radius_mm: float) -> ComplexArray:
    """Spectrum of the mean over a sphere around each voxel."""
    axes = [np.minimum(np.arange(n), n - np.arange(n)) * d for n, d in zip(shape, voxel_size_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside = (x**2 + y**2 + z**2 <= (1 + 1e-6) * radius_mm**2).astype(np.float32)
    return fourier.forward(inside / inside.sum())


def _fits_inside(covered: ComplexArray, shape: fourier.Shape) -> Mask:
    return np.asarray(fourier.inverse(covered, shape) > 1 - 1e-4)


def _deconvolved(high_passed: FloatArray, kernel: ComplexArray, truncation: float) -> FloatArray:
    passed = np.abs(kernel) > truncation
    spectrum = np.where(passed, fourier.forward(high_passed) / np.where(passed, kernel, 1), 0)
    return fourier.inverse(spectrum, (high_passed.shape[0], high_passed.shape[1], high_passed.shape[2]))
