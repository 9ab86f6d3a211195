from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.bids import write_dataset_descriptions

    write_dataset_descriptions(Path(job.output.raw).parent, Path(job.output.derivative).parent, job.params.name)


run_cohort_stage(snakemake, work)
