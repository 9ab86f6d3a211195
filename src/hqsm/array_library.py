"""The seam to other array libraries: what every step of an iteration applies takes its functions from the arrays it is given.

Models are built by numpy and scipy, once. :meth:`Operator.to` takes one with all its arrays to another library of the Python
array API standard whose arrays can be written to (CuPy, PyTorch); what it then makes of an array is that library's. The types in the
annotations are numpy's and stand for any.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from hqsm.arrays import AnyArray, FloatArray

ToLibrary = Callable[[AnyArray], AnyArray]
"""From numpy's array to that of a library, such as ``cupy.asarray``; ``numpy.asarray`` leaves it."""


class Operator:
    """A linear map whose constants are its attributes: arrays, and operators of their own, alone or in lists and tuples."""

    def to(self, library: ToLibrary) -> Self:
        """The same map on the arrays of a library; where that is numpy they are the same arrays."""
        moved = copy.copy(self)
        vars(moved).update({name: _moved(value, library) for name, value in vars(self).items()})
        return moved


def _moved(value: Any, library: ToLibrary) -> Any:
    if isinstance(value, np.ndarray):
        return library(value)
    if isinstance(value, Operator):
        return value.to(library)
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, library) for part in value)
    return value


def to_numpy(array: AnyArray) -> AnyArray:
    """Any library's array as numpy's."""
    return array if is_numpy_array(array) else np.from_dlpack(array, device="cpu")


def inner_product(a: FloatArray, b: FloatArray, dtype: Literal["float32", "float64"] = "float64") -> float:
    """Sum of a b, in double precision: a million single-precision squares lose three digits, and MEDI's steps need them."""
    if is_numpy_array(a):  # in doubles a block at a time, not as a whole
        axes = "ijk"[: a.ndim]
        return float(np.einsum(f"{axes},{axes}->", a, b, dtype=dtype))
    xp = array_namespace(a, b)
    precision = getattr(xp, dtype)
    return float(xp.sum(xp.astype(a, precision) * xp.astype(b, precision)))
