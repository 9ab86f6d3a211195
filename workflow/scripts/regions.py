from hqsm.stage import run_visit_stage


def work(job):
    from pathlib import Path

    from hqsm.archive import load_noun, save_noun
    from hqsm.bids import read_echoes
    from hqsm.config.base import block
    from hqsm.config.explant import ExplantParams, scan_setting
    from hqsm.config.liver import LiverParams
    from hqsm.data import WaterFat
    from hqsm.derivatives import provenance_of, write_masks
    from hqsm.liver import find_regions
    from hqsm.liver.plausibility import covered_share
    from hqsm.masks import read_readings

    echoes = read_echoes(Path(job.input.bids_folder))
    fit = load_noun(Path(job.input.fit), WaterFat)
    specimen, _ = scan_setting(block(ExplantParams, job.params.explant), job.wildcards.session)
    rois = Path(f"rois/sub-{job.wildcards.participant}/ses-{job.wildcards.session}")
    params = block(LiverParams, job.params.liver)
    readings = read_readings(rois, fit.grid, resample=params.resample_reader_masks)
    found = find_regions(echoes, fit, readings, params, specimen=specimen)
    write_masks(job.output, found, provenance_of(job))
    save_noun(Path(job.output.regions), found)
    return {
        "codes": list(found.codes),
        "mask_source": found.mask_source,
        "references": sorted(found.references),
        "no_liver_because": found.reason,
        "liver_covered_share": covered_share(found.liver_whole, found.grid),
        "excluded_shares": found.shares,
        "readers": sorted(found.readings),
    }


run_visit_stage(snakemake, work)
