"""How a voxel was fitted: the numbers of :attr:`hqsm.data.WaterFat.model`."""

from __future__ import annotations

NOT_FITTED, FREE, CONSTRAINED, NO_FAT, TWO_ECHOES = range(5)
"""No fit; water and fat independent; fat constrained by the neighbourhood; fat given up (R2* and field only); two echoes (field)."""
WITH_FAT = (FREE, CONSTRAINED)
"""What has a fat fraction."""
WITHOUT_FAT = (NOT_FITTED, NO_FAT)
"""What decays too fast for a fit with fat, or for any."""
