from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.config.base import block
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.annual_change import annual_change_rows
    from hqsm.tables import read_frame, write_rows

    lic = read_frame(Path(job.input.lic), "lic")
    exposure = read_frame(Path(job.input.exposure), "exposure")
    rows = annual_change_rows(lic, exposure, block(StatisticsParams, job.params.statistics))
    write_rows(Path(job.output.annual_change), "annual_change", rows)


run_cohort_stage(snakemake, work)
