from hqsm.stage import run_visit_stage


def work(job):
    from pathlib import Path

    from hqsm.archive import load_noun, save_noun
    from hqsm.config.base import block
    from hqsm.config.explant import ExplantParams, scan_setting
    from hqsm.config.susceptibility import SusceptibilityParams
    from hqsm.data import Regions, WaterFat
    from hqsm.derivatives import provenance_of, susceptibility_facts, write_susceptibility
    from hqsm.susceptibility import estimate

    fit = load_noun(Path(job.input.fit), WaterFat)
    regions = load_noun(Path(job.input.regions), Regions)
    specimen, _ = scan_setting(block(ExplantParams, job.params.explant), job.wildcards.session)
    chi = estimate(fit, regions, block(SusceptibilityParams, job.params.susceptibility), specimen=specimen)
    write_susceptibility(job.output, chi, provenance_of(job))
    save_noun(Path(job.output.result), chi, {"chi_ppm": job.output.chi})
    return susceptibility_facts(chi, job)


run_visit_stage(snakemake, work)
