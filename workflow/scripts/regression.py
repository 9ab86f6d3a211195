from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.config.base import block
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.comparison import comparison_rows
    from hqsm.statistics.regression import influence_rows, regression_rows
    from hqsm.tables import read_frame, write_rows

    params = block(StatisticsParams, job.params.statistics)
    change = read_frame(Path(job.input.annual_change), "annual_change")
    write_rows(Path(job.output.regression), "regression", regression_rows(change, params))
    write_rows(Path(job.output.influence), "influence", influence_rows(change, params))
    write_rows(Path(job.output.comparison), "method_comparison", comparison_rows(change, params))


run_cohort_stage(snakemake, work)
