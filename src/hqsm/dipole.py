"""The field of susceptibility: the unit dipole's spectrum and the operator that applies it.

Salomir et al., Concepts Magn Reson B 2003;19:26: with the Lorentz sphere the relative field is
``FT(field) = (1/3 - (k.b)^2 / k^2) FT(chi)``; b is the direction of B0 in the grid's own frame.
"""

from __future__ import annotations

import numpy as np

from hqsm import fourier
from hqsm.array_library import Operator
from hqsm.arrays import Box, FloatArray


def dipole_kernel(shape: fourier.Shape, voxel_size_mm: FloatArray, b0_direction: FloatArray) -> FloatArray:
    """Spectrum of the unit dipole on the real transform's grid, (x, y, z/2 + 1) float32; 0 at k = 0.

    Parameters
    ----------
    shape
        Shape of the volume in space, even along every axis.
    voxel_size_mm
        (3,) [mm]; slices are thick, so the three differ.
    b0_direction
        (3,) unit vector of B0 along the voxel axes.
    """
    if any(n % 2 for n in shape):
        raise ValueError(f"the dipole kernel needs an even grid, not {shape}")
    k = fourier.frequencies_per_mm(shape, voxel_size_mm)
    k2 = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k2[0, 0, 0] = 1.0

    def kernel_at(components: tuple[FloatArray, ...]) -> FloatArray:
        along = sum(component * b for component, b in zip(components, b0_direction, strict=True))
        values: FloatArray = 1 / 3 - along**2 / k2
        return values

    # An even grid has -Nyquist but no +Nyquist: there a tilted B0 breaks D(k) = D(-k) and the field of a real map would
    # come out complex. Averaging with the mirrored kernel, which reads those frequencies as +Nyquist, restores it.
    mirrored = []
    for axis, component in enumerate(k):
        turned = component.copy()
        turned[tuple(shape[axis] // 2 if a == axis else 0 for a in range(3))] *= -1
        mirrored.append(turned)
    kernel = (kernel_at(k) + kernel_at(tuple(mirrored))) / 2
    kernel[0, 0, 0] = 0.0
    return kernel.astype(np.float32)


class DipoleOperator(Operator):
    """Susceptibility [ppm] to relative field [ppm] on one periodic grid; self-adjoint."""

    def __init__(self, shape: fourier.Shape, voxel_size_mm: FloatArray, b0_direction: FloatArray) -> None:
        self.shape = shape
        self.kernel = dipole_kernel(shape, voxel_size_mm, b0_direction)

    def __call__(self, chi_ppm: FloatArray) -> FloatArray:
        """Field of ``chi_ppm`` (x, y, z)."""
        return self.between(chi_ppm)

    def between(self, part_ppm: FloatArray, *, source: Box | None = None, target: Box | None = None) -> FloatArray:
        """Field at ``target`` of susceptibility that is ``part_ppm`` at ``source`` and zero elsewhere; None: the whole grid."""
        spectrum = fourier.forward(part_ppm) if source is None else fourier.forward_of_part(part_ppm, source, self.shape)
        spectrum *= self.kernel
        return fourier.inverse(spectrum, self.shape) if target is None else fourier.inverse_to_part(spectrum, self.shape, target)


def forward_field_ppm(chi_ppm: FloatArray, voxel_size_mm: FloatArray, b0_direction: FloatArray, padding: float = 2.0) -> FloatArray:
    """Relative field [ppm] of a map in empty surroundings: zero-padded to ``padding`` times its size, then cropped."""
    shape = fourier.fast_shape(tuple(int(np.ceil(n * padding)) for n in chi_ppm.shape))  # type: ignore[arg-type]
    padded = np.zeros(shape, np.float32)
    inside = tuple(slice(0, n) for n in chi_ppm.shape)
    padded[inside] = chi_ppm
    return np.ascontiguousarray(DipoleOperator(shape, voxel_size_mm, b0_direction)(padded)[inside])
