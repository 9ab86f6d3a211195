from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.config.base import block
    from hqsm.config.liver import LiverParams
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.readers import reader_rows, reader_summary_rows
    from hqsm.tables import read_frame, write_rows

    pairs = reader_rows(read_frame(Path(job.input.regions), "liver_regions"), block(LiverParams, job.params.liver))
    write_rows(Path(job.output.readers), "readers", pairs)
    summary = reader_summary_rows(pairs, block(StatisticsParams, job.params.statistics))
    write_rows(Path(job.output.agreement), "reader_agreement", summary)


run_cohort_stage(snakemake, work)
