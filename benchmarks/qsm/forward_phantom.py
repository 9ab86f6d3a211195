"""A phantom by qsm-forward, run in the peers' environment: python forward_phantom.py CHI_PPM OUT.npz

Its cylinder of one susceptibility in a larger one of water, in air; its forward model, signal and noise. B0 lies across both.
"""

import sys

import numpy as np
import qsm_forward

SHAPE, VOXEL_MM, TESLA, RADIUS = (56, 56, 56), 3.5, 1.5, 8
ECHO_TIMES_S = [1.2e-3 + 1.6e-3 * n for n in range(6)]

chi_ppm = float(sys.argv[1])
chi = qsm_forward.generate_susceptibility_phantom(list(SHAPE), 9.4, 0.0, [RADIUS], [chi_ppm])
water = chi < 9
inner = qsm_forward.generate_susceptibility_phantom(list(SHAPE), 0, 0, [RADIUS], [1]) > 0
field_ppm = qsm_forward.generate_field(chi, voxel_size=[VOXEL_MM] * 3, B0_dir=[1, 0, 0])
field_ppm -= field_ppm[water].mean()
r2star = np.where(inner, 30 + 150 * chi_ppm, 30.0)
rng = np.random.default_rng(11)
signal = [
    qsm_forward.add_noise(
        qsm_forward.generate_signal(field_ppm, B0=TESLA, TE=te, R2star=r2star, M0=water.astype(float)), peak_snr=40, rng=rng
    )
    for te in ECHO_TIMES_S
]
np.savez(
    sys.argv[2],
    signal=np.stack(signal, -1).astype(np.complex64),
    tesla=TESLA,
    voxel_mm=VOXEL_MM,
    chi=chi,
    inner=inner,
)
