from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.cohort_tables import study_records
    from hqsm.config.base import block
    from hqsm.config.records import RecordsParams
    from hqsm.records.exposure import exposure_of
    from hqsm.records.intervals import annual_intervals
    from hqsm.records.overview import demographics, timeline
    from hqsm.stage import write_json
    from hqsm.tables import write_rows

    params = block(RecordsParams, job.params.parameters)
    records = study_records(params)
    intervals, unused = annual_intervals(records, params)
    write_rows(Path(job.output.exposure), "exposure", [exposure_of(i, records, params) for i in intervals])
    findings = [finding.as_row() for finding in records.findings]
    facts = {"findings": findings, "notes": list(records.notes), "unused_visits": unused}
    write_json(job.output.findings, {**facts, "demographics": demographics(records), "timeline": timeline(records, params)})


run_cohort_stage(snakemake, work)
