"""Array types of the package, and the one way to freeze them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
ComplexArray: TypeAlias = NDArray[np.complexfloating[Any, Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
Mask: TypeAlias = NDArray[np.bool_]
AnyArray: TypeAlias = NDArray[Any]


def read_only(array: AnyArray) -> AnyArray:
    """A view of ``array`` that refuses to be written to; the caller's own array stays writable."""
    view = array.view()
    view.flags.writeable = False
    return view
