"""Pictures side by side: the outline of a mask lies around its own voxels, in its own picture."""

import matplotlib.pyplot as plt
import numpy as np

from hqsm.report.tiles import Tiles


def test_an_outline_runs_along_the_borders_of_its_voxels_in_its_own_picture() -> None:
    tiles = Tiles(height=8, width=10, number=3)
    masks = np.zeros((8, 10, 3), bool)
    masks[3:6, 2:5, 1] = True
    masks[1:2, 7:9, 2] = True
    figure, ax = plt.subplots()
    found = [path.get_extents() for path in tiles.outlines(ax, masks)]
    # from left, top to right, bottom; pictures begin every 10.2 voxels
    np.testing.assert_allclose([(*box.min, *box.max) for box in found], [(12.2, 3, 15.2, 6), (27.4, 1, 29.4, 2)])
    assert not ax.collections  # what followed the outline is no part of the picture
    plt.close(figure)
    assert tiles.extent(1) == (10.2, 20.2, 8, 0)
    assert tiles.columns == 30.4
