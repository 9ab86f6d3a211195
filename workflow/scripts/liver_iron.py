from hqsm.stage import read_status, run_visit_stage


def work(job):
    from pathlib import Path

    from hqsm.archive import load_noun
    from hqsm.config.base import block
    from hqsm.config.explant import ExplantParams, scan_setting
    from hqsm.config.lic import LicParams
    from hqsm.data import Regions, Susceptibility, WaterFat
    from hqsm.lic import liver_iron

    fit = load_noun(Path(job.input.fit), WaterFat)
    regions = load_noun(Path(job.input.regions), Regions)
    chi = load_noun(Path(job.input.susceptibility), Susceptibility)
    _, temperature_celsius = scan_setting(block(ExplantParams, job.params.explant), job.wildcards.session)
    iron = liver_iron(
        fit,
        chi,
        regions,
        block(LicParams, job.params.lic),
        temperature_celsius=temperature_celsius,
        reconstruction_digest=read_status(job.input.status_susceptibility)["digest"],
    )
    return {"codes": list(iron.codes), "row": iron.row(), "details": iron.details}


run_visit_stage(snakemake, work)
