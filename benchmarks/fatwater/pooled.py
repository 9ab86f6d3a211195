"""Several scans of one case as one table: bias with two standard errors, RMSE, error over standard error, what has no number.

Voxels of one scan share its field and its places of iron, so that a mean's standard error is that between scans.
"""

import numpy as np


class Pooled:
    """Sums over the voxels of each scan and band, from which the table follows."""

    def __init__(self, bands):
        self.bands = bands
        self.scans = []

    def add(self, true, estimates, errors, bounds):
        """One scan's liver: R2* that sorts the voxels; {name: (estimate, truth)}, {name: SE}; {name: function of a band's mask: bound}."""
        scan = {}
        for low, high in self.bands:
            band = (true >= low) & (true < high)
            for name, (value, truth) in estimates.items():
                error = (value - truth)[band]
                given = np.isfinite(error)
                error, ratio = error[given], (error / errors[name][band])[given]
                scan[low, name] = (
                    band.sum(),
                    given.sum(),
                    error.sum(),
                    (error**2).sum(),
                    ratio.sum(),
                    (ratio**2).sum(),
                    (np.abs(ratio) < 1.96).sum(),
                    bounds[name](band) ** 2 * band.sum(),
                )
        self.scans.append(scan)

    def table(self):
        """Lines of text, one for each band and quantity."""
        yield f"  {len(self.scans)} scans; +- two standard errors, between scans"
        yield f"  {'band':>10} {'':>6} {'voxels':>8} {'none %':>7} {'bias':>17} {'RMSE':>7} {'CRB':>7} {'error/SE':>15} {'in 1.96 %':>10}"
        for low, high in self.bands:
            for name in ("PDFF", "R2*"):
                every, given, error, squared, ratio, ratio2, inside, bound2 = np.array([scan[low, name] for scan in self.scans], float).T
                n = given.sum()
                if n == 0:
                    yield f"  {low:>4}-{high:<5} {name:>6} {every.sum():>8.0f} {100.0:>7.2f}"
                    continue
                bias = error.sum() / n
                mean = ratio.sum() / n
                spread = np.sqrt(ratio2.sum() / n - mean**2)
                of_bias = two_standard_errors(error - bias * given, n)
                # of the variance, and by it of its root
                of_spread = two_standard_errors(ratio2 - 2 * mean * ratio + (mean**2 - spread**2) * given, n) / (2 * spread)
                rmse, bound = np.sqrt(squared.sum() / n), np.sqrt(bound2.sum() / every.sum())
                none, covered = 100 * (1 - n / every.sum()), 100 * inside.sum() / n
                yield (
                    f"  {low:>4}-{high:<5} {name:>6} {every.sum():>8.0f} {none:>7.2f} {bias:>8.3f} +- {of_bias:<5.3f}"
                    f" {rmse:>7.2f} {bound:>7.2f} {spread:>6.3f} +- {of_spread:<5.3f} {covered:>10.1f}"
                )


def two_standard_errors(departures, n):
    """Of a mean of ``n`` voxels, from each scan's sum of departures from it."""
    scans = departures.size
    return 2 * np.sqrt((departures**2).sum() * scans / max(scans - 1, 1)) / n
