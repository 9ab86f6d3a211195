from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.statistics.annual_change import annual_change_rows
    from hqsm.tables import read_frame, write_rows

    lic = read_frame(Path(job.input.lic), "lic")
    exposure = read_frame(Path(job.input.exposure), "exposure")
    write_rows(Path(job.output.annual_change), "annual_change", annual_change_rows(lic, exposure))


run_cohort_stage(snakemake, work)
