from hqsm.stage import remove_placeholders, run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.cohort_tables import write_visit_tables
    from hqsm.config.base import block
    from hqsm.config.explant import ExplantParams
    from hqsm.config.protocol import ProtocolParams
    from hqsm.config.records import RecordsParams

    placeholders = write_visit_tables(
        job.params.found,
        block(RecordsParams, job.params.parameters),
        block(ExplantParams, job.params.explant),
        visits=Path(job.output.visits),
        lic=Path(job.output.lic),
        regions=Path(job.output.regions),
        protocol=block(ProtocolParams, job.params.protocol),
        sealed=job.params.without_records,
        blinding=job.params.blinding,
    )
    remove_placeholders(placeholders, below=job.params.maps)


run_cohort_stage(snakemake, work)
