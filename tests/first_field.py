"""A first field that is given, of tissue of which nothing else is in doubt."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.fatwater.blocks import gather
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.tissue import Tissue


def first_field(tissue: Tissue, field_hz: FloatArray) -> InitialField:
    """``field_hz`` of every voxel, at R2* 40 1/s."""
    n, blocks = field_hz.size, gather(tissue)
    return InitialField(
        field_hz=field_hz.ravel(),
        r2star_per_s=np.full(n, 40.0),
        swap_margin=np.full(n, 100.0),
        piece_margin=np.full(n, 100.0),
        difference_hz=np.full(n, np.nan),
        typical_misfit=1.0,
        codes=(),
        blocks=blocks,
        tissue_share=np.ones(blocks.n_voxels.size),
    )
