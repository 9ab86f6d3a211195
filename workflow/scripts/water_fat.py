from hqsm.stage import run_visit_stage


def work(job):
    from pathlib import Path

    from hqsm.archive import save_noun
    from hqsm.bids import read_echoes
    from hqsm.config.base import block
    from hqsm.config.explant import ExplantParams, scan_setting
    from hqsm.config.fatwater import FatWaterParams
    from hqsm.derivatives import provenance_of, write_water_fat_maps
    from hqsm.fatwater.separation import separate

    echoes = read_echoes(Path(job.input.bids_folder))
    setting, temperature_celsius = scan_setting(block(ExplantParams, job.params.explant), job.wildcards.session)
    params = block(FatWaterParams, job.params.fatwater)
    fit = separate(echoes, params, temperature_celsius=temperature_celsius, setting=setting, n_threads=job.threads)
    write_water_fat_maps(job.output, fit, provenance_of(job))
    maps = {
        "pdff_percent": job.output.pdff,
        "r2star_per_s": job.output.r2star,
        "field_hz": job.output.field,
        "pdff_se_percent": job.output.pdff_se,
        "r2star_se_per_s": job.output.r2star_se,
        "field_se_hz": job.output.field_se,
        "residual": job.output.residual,
    }
    save_noun(Path(job.output.fit), fit, maps)
    return {
        "codes": list(fit.codes),
        "r2star_limit_per_s": fit.r2star_limit_per_s,
        "first_echo_phase_rad": fit.first_echo_phase_rad,
        "water_shift_ppm": fit.water_shift_ppm,
        "clipped_percent": fit.clipped_percent,
    }


run_visit_stage(snakemake, work)
