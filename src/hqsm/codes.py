"""Every quality code with its meaning in plain words."""

from __future__ import annotations

MEANINGS: dict[str, str] = {
    "MASK_AUTOMATIC": "The liver mask was drawn by the program, not by a reader.",
    "LIVER_VOLUME": "The liver's volume is not what the body's size or age lets expect; a reader has to look at its mask.",
    "MASK_NEEDS_READER": "No plausible liver was found automatically; a reader has to draw it.",
    "LIC_IMPLAUSIBLE": "Liver iron came out far below zero: the mask, the reference or the field is wrong; it is not reported.",
    "GATING_SINGLE_REPETITION": "One repetition: gated on the scanner or breath-held.",
    "GATING_NO_NAVIGATOR": "Several repetitions but no navigator: all were combined, ungated.",
    "GATING_WINDOW_WIDENED": "The acceptance window was widened to reach the wanted efficiency.",
    "GATING_DRIFT": "The end-expiratory level drifted during the scan; gating.follow says whether the window follows it.",
    "GATING_OUTLIERS": "Repetitions at end-expiration were left out because their images do not fit.",
    "GATING_SOURCES_DISAGREE": "Two sources of the respiratory position disagree; the page shows both.",
    "GATING_PHYSIO_CLOCK": "The clock of the respiratory log does not fit the images.",
    "GATING_PHYSIO_UNREADABLE": "A respiratory log in the visit's folder could not be read.",
    "GATING_PHYSIO_FLAT": "The respiratory log is flat and was not used.",
    "GATING_BELLOWS_SCALE_ASSUMED": "The size of the motion in mm is assumed: the images cannot scale the bellows signal.",
    "GATING_LOW_EFFICIENCY": "Fewer repetitions than wanted lie at end-expiration.",
    "TWO_ECHOES_NO_FAT": "Two echoes: field map and susceptibility, but no fat fraction.",
    "R2STAR_TWO_ECHOES": "R2* from two echoes is confounded by fat.",
    "LIC_R2STAR_CONFOUNDED": "No LIC from R2*: two echoes cannot tell fat from iron.",
    "ECHO_EMPTY": "An echo holds nothing, or nothing but noise, in the whole volume; it was left out.",
    "FAT_NOT_SEPARABLE": "The echo times cannot separate fat from water; R2* and field only.",
    "PHASE_INCONSISTENT": "The echoes' phases follow no field at all; R2* is read from the magnitude, field and fat are not given.",
    "MAGNITUDE_ONLY": "The images have no phase: R2* alone, no fat fraction, field or susceptibility.",
    "R2STAR_FAT_FREE": "R2* is a fat-free estimate from the magnitude, as the configuration asks; fat biases it.",
    "T1_NOT_CORRECTED": "Flip angle or repetition time are unknown: the fat fraction keeps its T1 weighting.",
    "SWAP_POSSIBLE": "A piece of tissue whose water and fat could as well be exchanged; look at its fat fraction.",
    "PHASE_SIGN": "The conjugate of the data fits clearly better: the phase runs against the convention, the field has the wrong sign.",
    "FIRST_ECHO_PHASE": "The first echo's phase did not fit the others' (eddy currents); its smooth part was taken off.",
    "WATER_SHIFT_ESTIMATED": "Water of the specimen lies where its own echoes put it, not where the given temperature does.",
    "R2STAR_CENSORED": "R2* is beyond what the echo times can measure; only a lower bound is known.",
    "LIC_BEYOND_CALIBRATION": "LIC lies beyond the range of the calibration and is not reported.",
    "CALIBRATION_NO_FIELD_STRENGTH": "The R2* calibration has no line for this field strength.",
    "CALIBRATION_OTHER_REFERENCE": "No LIC from susceptibility: its calibration is for another reference tissue.",
    "CALIBRATION_OTHER_RECONSTRUCTION": "The calibration was made with another reconstruction, or does not say with which.",
    "CHI_NOT_CONVERGED": "The susceptibility inversion stopped before it converged.",
    "CHI_FIELD_INCONSISTENT": "Part of the field map cannot be the field of any body (swaps, wraps); it was left out.",
    "CHI_ESTIMATES_DIFFER": "The susceptibility by regions and the map's differ; look at masks and field map.",
    "CHI_LIVER_DARK": "The liver's own field is hardly measurable; its susceptibility is mostly what its surroundings show.",
    "CHI_MASK_UNCONFIRMED": "R2* does not confirm the automatic mask's edge: the interval is wider until a reader outlines it.",
    "CHI_BODY_CUT": "The body reaches the images' edge; its surface there is unknown and the interval is wider.",
    "CHI_LIVER_CUT": "The slab cuts through much of the liver; what lies beyond is unknown and the interval is wider.",
    "CHI_REFERENCE_MISSING": "No reference tissue was found; the susceptibility is not referenced.",
    "CHI_REFERENCE_FALLBACK": "The wanted reference tissue was not found; another one was used.",
    "BIPOLAR_CORRECTED": "The echoes were read with alternating gradients; their odd/even phase was removed.",
    "PROTOCOL_DEVIATION": "The acquisition differs from the protocol of the configuration.",
    "SCANNER_CHANGED": "Scanner, software or field strength differ from this participant's visit before.",
    "PROTOCOL_CHANGED": "Echo times, flip angle, repetition time or matrix differ from this participant's visit before.",
    "FOLDER_NAME": "The folder's name cannot be that of a visit.",
    "INTERNAL_ERROR": "A stage stopped with an error of the program.",
}


def meaning(code: str) -> str:
    """The meaning of a code; a code of an input error explains itself in the visit's reason."""
    return MEANINGS.get(code, "See the reason of the visit.")
