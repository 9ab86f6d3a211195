from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.cohort_tables import study_records
    from hqsm.config.base import block
    from hqsm.config.records import RecordsParams
    from hqsm.config.statistics import StatisticsParams
    from hqsm.statistics.effects import effect_rows, explant_rows
    from hqsm.statistics.method_agreement import explant_agreement_rows
    from hqsm.statistics.repeatability import baseline_rows, repeatability_rows, scan_sd_mg_g
    from hqsm.tables import read_frame, write_rows

    record_params = block(RecordsParams, job.params.record_parameters)
    params = block(StatisticsParams, job.params.statistics)
    records = study_records(record_params)
    lic = read_frame(Path(job.input.lic), "lic")
    chemistry, histology = records.tables["explant_chemistry"], records.tables["explant_histology"]
    explants = explant_rows(lic, chemistry, histology, records.visits, record_params)
    write_rows(Path(job.output.explants), "explants", explants)
    write_rows(Path(job.output.effects), "histology_effects", effect_rows(explants, params))
    found = read_frame(Path(job.input.visits), "visits").to_dict(orient="records")
    conventions = {(row["participant_id"], row["session_id"]): row["convention"] for row in found}
    repeats = repeatability_rows(lic, records.visits, conventions, params)
    write_rows(Path(job.output.repeatability), "repeatability", repeats)
    write_rows(Path(job.output.baseline), "baseline", baseline_rows(lic, params))
    agreement = explant_agreement_rows(explants, scan_sd_mg_g(repeats), params)
    write_rows(Path(job.output.agreement), "explant_agreement", agreement)


run_cohort_stage(snakemake, work)
