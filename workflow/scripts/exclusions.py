from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.cohort import exclusion_rows
    from hqsm.stage import read_status
    from hqsm.tables import read_frame, write_rows

    visits = read_frame(Path(job.input.visits), "visits").to_dict(orient="records")
    intervals = read_frame(Path(job.input.annual_change), "annual_change").to_dict(orient="records")
    found = read_status(job.input.findings)
    rows = exclusion_rows(visits, intervals, found["unused_visits"], found["findings"])
    write_rows(Path(job.output.exclusions), "exclusions", rows)


run_cohort_stage(snakemake, work)
