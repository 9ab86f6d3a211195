"""Parameters of the clinical records, the annual intervals and the exposure arithmetic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hqsm.config.base import parameters


@parameters
class RedcapTable:
    """Where one table of the records is in a REDCap flat export."""

    instrument: str = ""
    """Only rows of this repeat instrument; empty: any row in which one of the fields is filled."""
    events: tuple[str, ...] = ()
    """Only rows of these events (``redcap_event_name``); empty: any."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Column of the table to field of the export; ``=word`` stands for that word in every row."""
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Column of the table to its codes, each with the word it stands for; goes before the data dictionary's choices."""


@parameters
class RedcapParams:
    """How records/redcap.csv, a raw flat export, maps onto the tables; records/redcap_dictionary.csv decodes its choices."""

    id_field: str = ""
    """Field that holds the participant's label; empty: the export's first column."""
    tables: dict[str, RedcapTable] = Field(default_factory=dict)
    """The tables that are in the export, by name (participants, visits, transfusions, ...)."""


@parameters
class RecordsParams:
    """How records are read and how iron and chelator are counted."""

    redcap: RedcapParams = RedcapParams()
    """The mapping of a REDCap export; used where records/redcap.csv exists."""
    missing_codes: tuple[str, ...] = ("NA", "N/A", "NaN", "NULL", "-", ".", "?", "UNK", "NASK", "-999", "-99")
    """Cell contents that mean 'missing', whatever their case; an empty cell always does."""
    show_values: bool = False
    """Put the offending readings of ambiguous dates into the findings (a date of a person; off by default)."""
    iron_per_ml_red_cells_mg: Annotated[float, Field(gt=0.5, lt=1.5)] = 1.08
    """Iron in 1 mL of pure red cells [mg/mL] (Cohen et al., Blood 2008;111:583; TIF guidelines)."""
    iron_per_g_haemoglobin_mg: Annotated[float, Field(gt=3, lt=4)] = 3.47
    """Iron in 1 g of haemoglobin [mg/g] (4 x 55.845 / 64458); used where a product has Hb but no haematocrit."""
    iron_per_unit_mg: Annotated[float, Field(ge=100, le=300)] = 200.0
    """Iron in one unit of packed red cells [mg], where a site has no volume per unit."""
    site_ml_per_unit: dict[str, Annotated[float, Field(gt=50, lt=600)]] = Field(default_factory=dict)
    """Volume of one unit by site [mL]; with it, units are counted as volume times haematocrit."""
    default_haematocrit_percent: Annotated[float, Field(gt=20, lt=90)] = 60.0
    """Haematocrit of packed cells where a row has none [%]; every use is flagged."""
    site_haematocrit_percent: dict[str, Annotated[float, Field(gt=20, lt=90)]] = Field(default_factory=dict)
    """The same by site [%]; goes before the default."""
    exjade_to_jadenu: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Jadenu dose that equals one dose of Exjade (30 % lower, prescribing information)."""
    use_adherence: bool = False
    """Count the adherence-corrected dose as the primary one (otherwise it is a sensitivity analysis)."""
    scan_day: Literal["before", "after"] = "before"
    """A scan comes before (interval [scan 1, scan 2)) or after (interval (scan 1, scan 2]) its day's transfusion."""
    interval_target_days: Annotated[int, Field(gt=30)] = 365
    """Length of an annual interval [days]."""
    interval_window_days: Annotated[int, Field(ge=0, le=180)] = 60
    """Accepted deviation from that length [days]."""
    annual_groups: tuple[str, ...] = ("thalassemia",)
    """Groups whose visits make annual intervals."""
    annual_visit_types: tuple[str, ...] = ("annual",)
    """Visit types that make annual intervals; a visit without a type counts as annual."""
    data_cut_date: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""
    """Last day of an open prescription, YYYY-MM-DD; empty: the last visit in the records."""
    max_days_from_weight: Annotated[int, Field(gt=0)] = 180
    """A day farther from every weight than this flags the interval [days]."""
    max_gap_days: Annotated[int, Field(ge=0)] = 3
    """Uncovered days between prescriptions that pass without a warning [days]."""
    wet_to_dry: Annotated[float, Field(gt=1, lt=10)] = 3.33
    """Dry iron concentration over wet, fresh tissue of 70 % water."""
    wet_to_paraffin_dry: Annotated[float, Field(gt=1, lt=12)] = 5.83
    """Dry iron concentration of a paraffin block over that of wet fresh tissue (paraffin takes the lipids away)."""
