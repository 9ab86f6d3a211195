"""Auto-regression on linear operations (Pei et al., MRM 2015;73:843): closed form, evenly spaced echoes.

Simpson's rule for the integral of an exponential over three echoes, y_i = (dt/3)(S_i + 4 S_(i+1) + S_(i+2)), against the
difference x_i = S_i - S_(i+2) = R2* y_i.
"""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.errors import InputError


def estimate(magnitude: FloatArray, echo_times_s: FloatArray) -> FloatArray:
    """R2* [1/s] of ``magnitude`` (..., echo).

    Raises
    ------
    InputError
        With fewer than three echoes or uneven ones: Simpson's rule needs both.
    """
    steps = np.diff(echo_times_s)
    if steps.size < 2 or not np.allclose(steps, steps[0], rtol=0.01):
        raise InputError("ARLO needs three or more evenly spaced echoes.", remedy="Choose another estimator.", code="ECHOES_UNEVEN")
    spacing_s = float(steps[0])
    difference = magnitude[..., :-2] - magnitude[..., 2:]
    integral = spacing_s / 3 * (magnitude[..., :-2] + 4 * magnitude[..., 1:-1] + magnitude[..., 2:])
    beta = spacing_s / 3
    with np.errstate(invalid="ignore", divide="ignore"):
        r2star: FloatArray = (integral * difference + beta * difference**2).sum(-1) / (integral**2 + beta * integral * difference).sum(-1)
    return r2star
