"""QSM-CI's scorer on maps, run in the peers' environment: python score.py MAPS.npz  ->  one line of JSON per map."""

import json
import sys

import numpy as np
from qsm_ci import qsm_eval

with np.load(sys.argv[1]) as maps:
    truth = maps["truth"].astype(float)
    for name in maps.files:
        if name == "truth":
            continue
        mask = np.isfinite(maps[name]) & np.isfinite(truth)
        recon, true = np.where(mask, maps[name], 0).astype(float), np.where(mask, truth, 0)
        nrmse, nrmse_detrended = qsm_eval.nrmse_challenge(recon, true, mask)
        scores = {
            "xsim": qsm_eval.xsim(recon, true, mask),
            "nrmse_percent": nrmse,
            "nrmse_detrended_percent": nrmse_detrended,
            "hfen_percent": qsm_eval.hfen(recon, true, mask.astype(np.uint8)),
            "correlation": qsm_eval.correlation(recon, true, mask),
        }
        print(json.dumps({"name": name, **scores}))
