"""The one place that chooses a Fourier transform: single-precision real ones, scipy's for numpy's arrays, else those of their library.

Measured on 192 x 192 x 96 voxels, float32 real transforms cost 1.0, float64 real 2.4, complex64 1.7, complex128 3.0.
Other libraries, there and on 144 x 120 x 80 and 90 x 90 x 64 (float32 real, there and back, one thread; scipy 1.17: 1.0): numpy
2.3, 2.0, 1.7; mkl_fft 3.8, 1.9, 2.0; FFTW (pyfftw 0.15) 0.86, 0.92, 0.83 once planned, which takes 0.7, 0.6 and 0.25 s a shape
(as 20 to 60 transforms there and back; 1.1 to 1.4 unplanned), and FFTW is under the GPL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array
from scipy import fft

from hqsm.arrays import AnyArray, Box, ComplexArray, FloatArray, Mask

Shape = tuple[int, int, int]


def fast_shape(shape: Shape) -> Shape:
    """The next even shape whose transform is fast."""
    x, y, z = (_fast_even(n) for n in shape)
    return x, y, z


def _fast_even(n: int) -> int:
    candidate = int(fft.next_fast_len(n, real=True))
    while candidate % 2:
        candidate = int(fft.next_fast_len(candidate + 1, real=True))
    return candidate


def forward(volume: FloatArray) -> ComplexArray:
    """Real transform (x, y, z) -> (x, y, z/2 + 1), complex64."""
    xp = array_namespace(volume)
    spectrum: ComplexArray = _transforms(volume).rfftn(xp.astype(volume, xp.float32, copy=False))
    return spectrum


def inverse(spectrum: ComplexArray, shape: Shape) -> FloatArray:
    """Back to a real volume of ``shape``, float32."""
    volume: FloatArray = _transforms(spectrum).irfftn(spectrum, s=shape, axes=(0, 1, 2))
    return volume


def forward_of_part(part: FloatArray, place: Box, shape: Shape) -> ComplexArray:
    """Real transform of a volume of ``shape`` that is ``part`` at ``place`` and zero elsewhere: lines of zeros are not transformed."""
    x, y, z = place
    library, in_place = _transforms(part), _in_place(part)
    along_z = library.rfft(_set_in(part, 2, z, shape[2]), axis=2)
    along_yz = library.fft(_set_in(along_z, 1, y, shape[1]), axis=1, **in_place)
    spectrum: ComplexArray = library.fft(_set_in(along_yz, 0, x, shape[0]), axis=0, **in_place)
    return spectrum


def inverse_to_part(spectrum: ComplexArray, shape: Shape, place: Box) -> FloatArray:
    """Back to the voxels at ``place`` of a real volume of ``shape``, float32; ``spectrum`` is overwritten."""
    x, y, z = place
    library = _transforms(spectrum)
    spectrum = library.ifft(spectrum, axis=0, **_in_place(spectrum))[x, ...]
    spectrum = library.ifft(spectrum, axis=1)[:, y, :]
    volume: FloatArray = library.irfft(spectrum, n=shape[2], axis=2)[:, :, z]
    return volume


def _transforms(array: AnyArray) -> Any:
    return fft if is_numpy_array(array) else array_namespace(array).fft


def _in_place(array: AnyArray) -> dict[str, bool]:
    """That the input may be overwritten, which the standard has no word for."""
    return {"overwrite_x": True} if is_numpy_array(array) else {}


def _set_in(part: AnyArray, axis: int, place: slice, n: int) -> AnyArray:
    """``part`` in ``n`` along one axis, at ``place``, zeros around it."""
    where: list[slice] = [slice(None)] * 3
    where[axis] = place
    shape = tuple(n if a == axis else m for a, m in enumerate(part.shape))
    out: AnyArray = array_namespace(part).zeros(shape, dtype=part.dtype, device=device(part))
    out[tuple(where)] = part
    return out


def frequencies_per_mm(shape: Shape, voxel_size_mm: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Spatial frequencies [1/mm] of the real transform, as three broadcastable arrays."""
    kx = fft.fftfreq(shape[0], voxel_size_mm[0])[:, None, None]
    ky = fft.fftfreq(shape[1], voxel_size_mm[1])[None, :, None]
    kz = fft.fftfreq(shape[2], voxel_size_mm[2])[: shape[2] // 2 + 1][None, None, :]
    return kx, ky, kz


@dataclass(frozen=True)
class PaddedShape:
    """A volume with empty surroundings, so that a periodic convolution does not see its other end.

    Attributes
    ----------
    inner, outer
        Shape of the volume, and of the transform; the volume lies at the first corner.
    """

    inner: Shape
    outer: Shape

    @classmethod
    def around(cls, shape: Shape, voxel_size_mm: FloatArray, padding_mm: float) -> PaddedShape:
        """``padding_mm`` on either side of each axis at least."""
        extended = [n + 2 * int(np.ceil(padding_mm / d)) for n, d in zip(shape, voxel_size_mm, strict=True)]
        return cls(inner=shape, outer=fast_shape((extended[0], extended[1], extended[2])))

    @property
    def _corner(self) -> tuple[slice, slice, slice]:
        x, y, z = self.inner
        return slice(0, x), slice(0, y), slice(0, z)

    def pad(self, volume: FloatArray | Mask) -> FloatArray:
        """The volume (x, y, z) in zeros, float32."""
        xp = array_namespace(volume)
        padded: FloatArray = xp.zeros(self.outer, dtype=xp.float32, device=device(volume))
        padded[self._corner] = xp.astype(volume, xp.float32, copy=False)
        return padded

    def crop(self, padded: FloatArray) -> FloatArray:
        """The volume's own voxels again."""
        cropped: FloatArray = array_namespace(padded).asarray(padded[self._corner], copy=True)
        return cropped
