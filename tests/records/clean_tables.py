"""A small study's records without a fault, and helpers to plant one."""

from collections.abc import Callable

from hqsm.records.data import Records
from hqsm.records.findings import Finding

CLEAN = {
    "participants": "participant_id,site,group,sex,birth_year,splenectomy\n0012,WCM,thalassemia,F,1990,n\n0013,CUMC,transplant,M,1980,n\n",
    "visits": (
        "participant_id,session_id,visit_date,visit_type,weight_kg\n"
        "0012,01,2021-03-01,annual,50\n0012,02,2022-03-01,annual,51\n0013,01,2021-05-01,pretransplant,70\n"
    ),
    "weights": "participant_id,date,weight_kg\n0012,2021-09-01,50.5\n",
    "transfusions": (
        "participant_id,tx_id,date,amount,unit,hct_pct,product,removed_ml,removed_hct_pct\n0012,a,2021-03-22,600,mL,58,prbc,,\n"
    ),
    "chelation": (
        "participant_id,rx_id,start,stop,product,dose,dose_unit,per,times_per_day,days_per_week,status,component\n"
        "0012,A,2021-01-15,2022-03-31,jadenu_tablet,1080,mg,day,1,7,prescribed,\n"
    ),
    "adherence": (
        "participant_id,from,to,dispensed_n,returned_n,strength_mg,adherence_pct,method\n0012,2021-03-01,2022-03-01,,,,95,pharmacy\n"
    ),
    "explant_chemistry": (
        "specimen_id,participant_id,fe_value,fe_unit,basis,prep,lod,below_lod,dry_mass_mg,transport\nE1,0013,5,mg/g,dry,fresh,,n,10,dry\n"
    ),
    "explant_histology": "specimen_id,participant_id,fibrosis_stage,fibrosis_scale,steatosis_pct,steatosis_grade\nE1,0013,2,metavir,10,\n",
}

Check = Callable[..., Records]


def line_of(table: str, *rows: str) -> str:
    """The clean table's header with other rows."""
    return "\n".join([CLEAN[table].split("\n", 1)[0], *rows]) + "\n"


def findings_of(records: Records, code: str) -> list[Finding]:
    return [finding for finding in records.findings if finding.code == code]
