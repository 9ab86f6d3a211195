"""Parameters of explants, and what a session's label says about its scan."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from hqsm.config.base import parameters
from hqsm.units import BODY_TEMPERATURE_CELSIUS


@parameters
class ExplantParams:
    """Explanted livers scanned in a container."""

    session_pattern: str = "^explant"
    """Regular expression; a session whose label matches is an explant in its container, at room temperature."""
    temperature_celsius: Annotated[float, Field(ge=0, le=45)] = 20.0
    """Temperature of the specimen during its scan."""


def scan_setting(params: ExplantParams, session: str) -> tuple[str, float]:
    """Whether a session is a living liver or an explant, and its temperature [degrees Celsius].

    The session's label (without prefix) decides: ``in_vitro`` where it matches ``session_pattern``, else ``in_vivo``.
    """
    if re.search(params.session_pattern, session):
        return "in_vitro", params.temperature_celsius
    return "in_vivo", BODY_TEMPERATURE_CELSIUS
