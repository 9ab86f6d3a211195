"""Bias and standard errors of one voxel's fit where the noise is large, against many draws of a signal that is known."""

import numpy as np
import pytest

from hqsm.fatwater.constrained_fit import Priors, fit_constrained
from hqsm.fatwater.pdff import pdff_percent
from hqsm.fatwater.spectrum import SPECTRA, fat_signal
from hqsm.fatwater.start import Start
from hqsm.fatwater.tissue import Echoes

T = 1e-3 * (1.2 + 2.0 * np.arange(6))
FAT = fat_signal(SPECTRA["hamilton-liver-6"], T, 1.5)
N = 40000


def draws(r2star: float, share: float, snr: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((N, T.size)) + 1j * rng.standard_normal((N, T.size))
    signal: np.ndarray = ((1 - share + share * FAT) * np.exp(0.5j - r2star * T) + noise / snr).astype(np.complex64)
    return signal


def constrained(r2star: float, share: float, snr: float) -> tuple[np.ndarray, ...]:
    """Errors of R2* [1/s] and PDFF [points], and their standard errors.

    The field's prior scatters by what half of its claimed variance says, that of R2* by a tenth of its width.
    """
    rng = np.random.default_rng(2)
    field, rate = 3 * np.sqrt(0.5) * rng.standard_normal(N), r2star * (1 + 0.1 * rng.standard_normal(N))
    echoes = Echoes(draws(r2star, share, snr), T, FAT, 1 / snr)
    start = Start(field, rate, np.full((N, 2), np.nan + 0j, np.complex64))
    priors = Priors(field, np.full(N, 1 / 9), rate, np.full(N, r2star))
    linear, nonlinear, errors, _, _ = fit_constrained(np.arange(N), echoes, start, priors, np.zeros(N, bool))
    pdff = 100 * (linear[:, 1] / linear.sum(axis=1)).real
    return nonlinear[:, 1] - r2star, pdff - 100 * share, errors[:, 1], errors[:, 2]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("r2star", [200.0, 300.0])
def test_at_snr_20_neither_fat_fraction_nor_r2star_is_biased(r2star: float, share: float) -> None:
    of_r2star, of_pdff, r2star_se, pdff_se = constrained(r2star, share, snr=20)
    four = 4 / np.sqrt(N)
    assert abs(of_pdff.mean()) < 0.05 + four * of_pdff.std()
    assert abs(of_r2star.mean()) < 0.2 + four * of_r2star.std()
    assert (of_r2star / r2star_se).std() == pytest.approx(1, abs=0.03)
    assert (of_pdff / pdff_se).std() == pytest.approx(1, abs=0.04)


def test_magnitude_discrimination_loses_its_second_order_bias() -> None:
    # z = W / (W + F) with circular noise: E|z| = |z| + se^2 / (2 |z|)
    rng = np.random.default_rng(3)
    n, se = 400000, 0.05
    for share in (0.0, 0.3, 0.9):
        leads = max(share, 1 - share)
        z = leads + se * (rng.standard_normal(n) + 1j * rng.standard_normal(n))
        water, fat = (z, 1 - z) if share < 0.5 else (1 - z, z)
        corrected, plain = (pdff_percent(water, fat, s).mean() - 100 * share for s in (100 * se, 0.0))
        assert abs(corrected) < 0.02
        assert abs(plain) == pytest.approx(100 * se**2 / (2 * leads), abs=0.03)
