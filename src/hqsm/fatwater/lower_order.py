"""The order of the model: fat constrained, then given up, where the neighbourhood's decay leaves too little to know it."""

from __future__ import annotations

import numpy as np

from hqsm.arrays import FloatArray
from hqsm.config.fatwater import FatWaterParams
from hqsm.fatwater.bounds import ExpectedErrors, LocalDecay
from hqsm.fatwater.constrained_fit import Priors, fit_constrained
from hqsm.fatwater.field_errors import Departures, field_errors, on_another_field
from hqsm.fatwater.fit import Fit
from hqsm.fatwater.initialisation import InitialField
from hqsm.fatwater.iron_steps import field_steps_hz
from hqsm.fatwater.neighbourhood import field_prior
from hqsm.fatwater.single_voxels import DOUBTFUL_ERRORS
from hqsm.fatwater.start import Start
from hqsm.fatwater.tissue import Tissue
from hqsm.fit_models import CONSTRAINED, NO_FAT

_N_PRIOR_PASSES = 2
_HARDLY_MOVED = 1.0
"""Standard deviations of the prior."""
_R2STAR_SPREAD = 1.0
_LEAST_R2STAR_SPREAD_PER_S = 200.0
_IRON_PER_S, _OTHER_TISSUE_PER_S = 100.0, 75.0
"""R2* from which the field's prior leaves out what decays as slowly as tissue without iron: at an organ's surface the field bends."""
_DARK_FIELD_HZ_AT_1T5 = 15.0
"""What the field changes by over the blocks that share their echoes (SD)."""
_FAT_HZ_AT_1T5, _WORTH_OF_MARGIN = 217.0, 1.5
"""How far apart the fields lie that two echoes fit alike, and the log of odds that a block's swap margin of 1 is (it is a mean of many)."""
_TOO_LIKELY = 0.05
"""Probability of another field, with water and fat exchanged, from which on a fat fraction says nothing."""
_STANDS_HZ_AT_1T5 = 36.0
"""A sixth of the way from water to fat: a field that departs by less from the plane through its neighbours' is theirs."""
AWAY_HZ_AT_1T5 = 75.0
"""A third of the way from water to fat: a fit that moved so far from where it began is in another minimum."""


def lower_order(fit: Fit, tissue: Tissue, start: InitialField, decay: LocalDecay, expected: ExpectedErrors, params: FatWaterParams) -> None:
    """Constrain fat, then give it up, where the neighbourhood's decay leaves too little to know it."""
    scale = tissue.field_strength_tesla / 1.5
    with np.errstate(invalid="ignore"):
        # a fit that walked away to another minimum is started again from its neighbourhood, with the prior
        away = ~(np.abs(fit.nonlinear[:, 0] - start.field_hz) < AWAY_HZ_AT_1T5 * scale) | ~(fit.nonlinear[:, 1] > -100)
        uncertain = away | ~(fit.errors[:, 2] < params.pdff_se_for_constraint_percent)
    uncertain |= expected.at(expected.pdff_free, decay) > params.pdff_se_for_constraint_percent
    uncertain |= params.common_phase
    geometry = (tissue.index, tissue.voxel_size_mm)
    which = np.flatnonzero(uncertain)
    of_those = decay.of(which)
    no_fat = expected.at(expected.pdff_constrained, of_those) > params.pdff_se_for_no_fat_percent
    local_r2star = of_those.r2star_per_s.astype(np.float64)
    # neighbours' decays differ by less than this, wherever there is a decay to speak of
    r2star_sd = np.maximum(_R2STAR_SPREAD * local_r2star, _LEAST_R2STAR_SPREAD_PER_S)
    # where two echoes are all there is, what the blocks around said together is better than what each voxel says
    dark = start.blocks.dark[start.blocks.of_voxel[which]]
    away[which[dark]] = True
    dark_se_hz = np.fmin(fit.errors[which[dark], 0], AWAY_HZ_AT_1T5 * scale)
    of_blocks = (start.field_hz[which[dark]], 1 / ((_DARK_FIELD_HZ_AT_1T5 * scale) ** 2 + 0.04 * dark_se_hz**2))
    before_hz: FloatArray = np.zeros(which.size)
    darker_hz, brighter_hz = field_steps_hz(decay, start.blocks)
    rim_hz2 = brighter_hz[which] ** 2
    iron = local_r2star > _IRON_PER_S
    prior_hz, precision, plane_hz2 = np.zeros(which.size), np.zeros(which.size), np.zeros(which.size)
    # of free fits in the noise what is expected: by their own claim, those whose noise made the field low would count for more
    se_hz = fit.errors[:, 0].copy()
    se_hz[which] = expected.at(expected.field_free, of_those)
    unsure = DOUBTFUL_ERRORS * se_hz[which] > AWAY_HZ_AT_1T5 * scale
    to_others_hz = np.hypot(se_hz, darker_hz)
    for turn in range(_N_PRIOR_PASSES):
        good = ~away & np.isfinite(fit.nonlinear[:, 0]) & np.isfinite(fit.errors[:, 0])
        for ones, tell in ((~iron, good), (iron, good & (decay.r2star_per_s > _OTHER_TISSUE_PER_S))):
            prior_hz[ones], precision[ones], plane_hz2[ones] = field_prior(
                fit.nonlinear[:, 0], to_others_hz, tell, *geometry, which[ones], tissue.field_strength_tesla
            )
        precision /= 1 + precision * rim_hz2
        if turn == 0:
            prior_hz[dark], precision[dark] = of_blocks
        own_hz, own_r2star = fit.nonlinear[which].T
        with np.errstate(invalid="ignore", divide="ignore"):
            from_prior = away[which] | ~(precision < 1 / fit.errors[which, 0] ** 2)
            # few echoes fit fields far apart nearly alike: what arrived at one that the neighbours do not foresee is tried from theirs
            astray = unsure & (precision > 0) & (np.abs(own_hz - prior_hz) > AWAY_HZ_AT_1T5 * scale)
        from_prior |= astray
        # what the prior has hardly moved goes on from where it arrived
        on = (fit.model[which] == CONSTRAINED) & (np.abs(prior_hz - before_hz) * np.sqrt(precision) < _HARDLY_MOVED)
        on &= ~astray
        begin_hz = np.where(from_prior & ~on, prior_hz, own_hz)
        begin_r2star = np.where(away[which] | np.isnan(own_r2star), local_r2star, np.where(on, own_r2star, np.clip(own_r2star, 0, 1500)))
        begin_linear = np.where(on[:, None], fit.linear[which], np.nan)
        begin = Start(begin_hz, begin_r2star, begin_linear)
        found = fit_constrained(which, tissue.echoes, begin, Priors(prior_hz, precision, local_r2star, r2star_sd), no_fat)
        before_hz = prior_hz.copy()
        taken = fit.take(which, found, CONSTRAINED, lowest_r2star_per_s=-300)
        to_others_hz[which] = np.hypot(fit.errors[which, 0], darker_hz[which])
        away[taken] = False
    departures = Departures(departure_hz=found.nonlinear[:, 0] - prior_hz, precision=precision, plane_hz2=plane_hz2, iron_hz2=rim_hz2)
    of_all = (fit.nonlinear[:, 0], fit.errors[:, 0], darker_hz)
    calibrated_hz = field_errors(found.errors[:, 0], departures, which, *of_all, start.blocks, start.tissue_share, tissue)
    converged = np.zeros(fit.residual.size, bool)
    converged[taken] = True
    fit.errors[taken, 0] = calibrated_hz[converged[which]]
    fit.model[which[no_fat & (fit.model[which] == CONSTRAINED)]] = NO_FAT
    fit.residual[away] = np.nan  # walked away and did not come back: no fit
    # a block that shows an echo or two more would step if it were on another field than those around: with them its piece stands
    with np.errstate(invalid="ignore"):
        stands = ~dark & (np.abs(departures.departure_hz) < _STANDS_HZ_AT_1T5 * scale)
    margin = np.where(stands, start.piece_margin[which], start.swap_margin[which])
    other_field = 1 / (1 + np.exp(np.clip(_WORTH_OF_MARGIN * margin, -50, 50)))
    by_steps = on_another_field(fit.nonlinear[:, 0], start.blocks, _FAT_HZ_AT_1T5 / 2 * scale)
    other_field = np.maximum(other_field, by_steps[start.blocks.of_voxel[which]])
    fit.errors[which, 0] = np.hypot(fit.errors[which, 0], _FAT_HZ_AT_1T5 * scale * np.sqrt(other_field))
    fit.errors[which[other_field > _TOO_LIKELY], 2] = np.inf  # what may be its complement has no fat fraction
