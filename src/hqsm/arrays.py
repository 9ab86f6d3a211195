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
Box: TypeAlias = tuple[slice, ...]


def read_only(array: AnyArray) -> AnyArray:
    """A view of ``array`` that refuses to be written to; the caller's own array stays writable."""
    view = array.view()
    view.flags.writeable = False
    return view


def box_around(mask: Mask) -> Box:
    """The smallest box that holds all that is set; one voxel at the first corner where nothing is."""
    box = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 1))
    return tuple(box)
