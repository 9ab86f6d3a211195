"""The tables of the records: their columns, what each may contain, and which spellings mean the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FieldRule:
    """What one column may contain.

    Attributes
    ----------
    name, kind
        Column name; ``participant``, ``session``, ``text``, ``date``, ``number`` or ``choice``.
    mandatory
        The column must exist.
    filled
        Its cells must not be empty.
    choices
        Accepted words in lower case, each with its canonical spelling.
    low, high
        Accepted range of a number, ends included.
    range_code
        Code of the finding outside it.
    """

    name: str
    kind: str = "text"
    mandatory: bool = False
    filled: bool = False
    choices: tuple[tuple[str, str], ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    range_code: str = "NUMBER_RANGE"


def _same(*words: str) -> tuple[tuple[str, str], ...]:
    return tuple((word.lower(), word) for word in words)


_YES_NO = (("y", "y"), ("yes", "y"), ("1", "y"), ("n", "n"), ("no", "n"), ("0", "n"), ("unknown", "unknown"))
_PARTICIPANT = FieldRule(name="participant_id", kind="participant", mandatory=True, filled=True)


def _text(name: str, *, mandatory: bool = False) -> FieldRule:
    return FieldRule(name=name, mandatory=mandatory, filled=mandatory)


def _date(name: str, *, mandatory: bool = False) -> FieldRule:
    return FieldRule(name=name, kind="date", mandatory=mandatory, filled=mandatory)


def _number(name: str, low: float, high: float, *, mandatory: bool = False, code: str = "NUMBER_RANGE") -> FieldRule:
    return FieldRule(name=name, kind="number", mandatory=mandatory, filled=mandatory, low=low, high=high, range_code=code)


def _choice(name: str, choices: tuple[tuple[str, str], ...], *, mandatory: bool = False) -> FieldRule:
    return FieldRule(name=name, kind="choice", mandatory=mandatory, filled=mandatory, choices=choices)


UNIT_ALIASES = (
    *(("ml", "mL"), ("cc", "mL"), ("millilitre", "mL"), ("milliliter", "mL"), ("millilitres", "mL")),
    *(("milliliters", "mL"), ("u", "units"), ("unit", "units"), ("units", "units")),
)
_GROUPS = (
    *_same("thalassemia", "transplant", "healthy"),
    *(("thalassaemia", "thalassemia"), ("control", "healthy")),
)
_SEX = (("m", "M"), ("male", "M"), ("f", "F"), ("female", "F"), ("other", "other"), ("unknown", "unknown"))
_SEVERAL_IRON_UNITS = (
    *(("mg/g", "mg/g"), ("ug/g", "ug/g"), ("µg/g", "ug/g"), ("μg/g", "ug/g"), ("mcg/g", "ug/g")),
    *(("umol/g", "umol/g"), ("µmol/g", "umol/g"), ("μmol/g", "umol/g")),
)

TABLES: dict[str, tuple[FieldRule, ...]] = {
    "participants": (
        _PARTICIPANT,
        _text("site"),
        _choice("group", _GROUPS, mandatory=True),
        _choice("sex", _SEX),
        _number("birth_year", 1900, 2100),
        _date("enrol_date"),
        _choice("splenectomy", _YES_NO),
        _date("withdrawn_date"),
        _text("exclusion_code"),
    ),
    "visits": (
        _PARTICIPANT,
        FieldRule(name="session_id", kind="session", mandatory=True, filled=True),
        _date("visit_date", mandatory=True),
        _choice("visit_type", _same("annual", "pretransplant", "explant", "repeat", "control")),
        _number("weight_kg", 5, 250, code="WEIGHT_RANGE"),
        _number("height_cm", 50, 220),
        _number("haemoglobin_g_dl", 3, 22),
        _number("ferritin_ng_ml", 0, 50_000),
        _choice("scan_ok", _YES_NO),
        _text("comment_code"),
    ),
    "weights": (_PARTICIPANT, _date("date", mandatory=True), _number("weight_kg", 5, 250, mandatory=True, code="WEIGHT_RANGE")),
    "transfusions": (
        _PARTICIPANT,
        _text("tx_id", mandatory=True),
        _date("date", mandatory=True),
        _number("amount", 0, 5000, mandatory=True, code="AMOUNT_RANGE"),
        _choice("unit", UNIT_ALIASES, mandatory=True),
        _number("hct_pct", 0, 100, code="HCT_RANGE"),
        _number("hb_g_dl", 5, 35, code="HB_RANGE"),
        _choice("product", (*_same("prbc", "whole", "exchange"), ("packed", "prbc"), ("rbc", "prbc"))),
        _number("removed_ml", 0, 10_000),
        _number("removed_hct_pct", 0, 100, code="HCT_RANGE"),
        _text("site"),
        _choice("source", _same("clinic", "outside", "reported")),
    ),
    "chelation": (
        _PARTICIPANT,
        _text("rx_id", mandatory=True),
        _date("start", mandatory=True),
        _date("stop"),
        _choice(
            "product",
            _same("jadenu_tablet", "jadenu_sprinkle", "exjade", "deferoxamine", "deferiprone"),
            mandatory=True,
        ),
        FieldRule(name="dose", kind="number", mandatory=True, low=0, high=10_000, range_code="DOSE_RANGE"),
        FieldRule(name="dose_unit", kind="choice", mandatory=True, choices=_same("mg", "mg/kg")),
        FieldRule(name="per", kind="choice", mandatory=True, choices=_same("day", "dose")),
        _number("times_per_day", 0.1, 6),
        _number("days_per_week", 0.5, 7),
        _choice("status", _same("prescribed", "held", "dispensed")),
        _choice("component", _same("add")),
        _text("reason"),
    ),
    "adherence": (
        _PARTICIPANT,
        _date("from", mandatory=True),
        _date("to", mandatory=True),
        _number("dispensed_n", 0, 10_000),
        _number("returned_n", 0, 10_000),
        _number("strength_mg", 1, 1000),
        _number("adherence_pct", 0, 110, code="ADHERENCE_RANGE"),
        _choice("method", _same("pill_count", "pharmacy", "self", "none")),
    ),
    "explant_chemistry": (
        _text("specimen_id", mandatory=True),
        _PARTICIPANT,
        _date("explant_date"),
        _text("block_id"),
        _text("couinaud_segment"),
        _number("wet_mass_mg", 0, 1e6),
        _number("dry_mass_mg", 0, 1e6),
        # empty where it is below the limit of detection
        FieldRule(name="fe_value", kind="number", mandatory=True, low=0, high=1e6),
        _choice("fe_unit", _SEVERAL_IRON_UNITS, mandatory=True),
        _choice("basis", _same("dry", "wet"), mandatory=True),
        _choice("prep", _same("fresh", "frozen", "formalin", "paraffin"), mandatory=True),
        _text("method"),
        _text("lab"),
        _number("lod", 0, 1e6),
        _choice("below_lod", _YES_NO),
        _text("replicate_no"),
        _choice("transport", _same("dry", "frozen", "formalin", "saline")),
        _text("exclusion_code"),
    ),
    "explant_histology": (
        _text("specimen_id", mandatory=True),
        _PARTICIPANT,
        _text("block_id"),
        _text("pathologist_code"),
        _text("read_no"),
        _number("fibrosis_stage", 0, 6),
        _choice("fibrosis_scale", (*_same("metavir", "ishak"),)),
        _number("steatosis_pct", 0, 100),
        _number("steatosis_grade", 0, 3),
        _number("inflammation_grade", 0, 4),
        _number("iron_grade", 0, 4),
        _choice("nodular", _YES_NO),
    ),
}

DEFERASIROX = frozenset({"jadenu_tablet", "jadenu_sprinkle", "exjade"})
"""The products that are counted as chelator: the study has deferasirox alone."""

MANDATORY_TABLES = ("participants", "visits")

EXPOSURE_TABLES = ("participants", "visits", "weights", "transfusions", "chelation", "adherence", "redcap")
"""Tables in which an error stops the exposure of its participant, and the export that they may come from."""

SWITCHED_OFF_WITHOUT = {
    "weights": "Weights come from the visits alone.",
    "transfusions": "Iron from transfusions is not known: annual change has no exposure and no regression.",
    "chelation": "Chelator doses are not known: annual change has no exposure and no regression.",
    "adherence": "Full adherence is assumed, and flagged as such.",
    "explant_chemistry": "Explants have no chemical reference: no method comparison, no registered outcome.",
    "explant_histology": "Explants have no histology: the 12 registered outcomes are not made.",
}
