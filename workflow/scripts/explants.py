from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.cohort_tables import study_records
    from hqsm.config.records import RecordsParams
    from hqsm.config.statistics import StatisticsParams
    from hqsm.config.study import block
    from hqsm.statistics.effects import effect_rows, explant_rows, repeatability_rows
    from hqsm.tables import read_frame, write_rows

    record_params = block(RecordsParams, job.params.record_parameters)
    records = study_records(record_params)
    lic = read_frame(Path(job.input.lic), "lic")
    chemistry, histology = records.tables["explant_chemistry"], records.tables["explant_histology"]
    explants = explant_rows(lic, chemistry, histology, record_params)
    write_rows(Path(job.output.explants), "explants", explants)
    effects = effect_rows(explants, block(StatisticsParams, job.params.statistics))
    write_rows(Path(job.output.effects), "histology_effects", effects)
    write_rows(Path(job.output.repeatability), "repeatability", repeatability_rows(lic, records.visits))
    write_rows(Path(job.output.readers), "readers", [])


run_cohort_stage(snakemake, work)
