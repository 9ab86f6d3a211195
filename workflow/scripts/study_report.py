from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.provenance import versions
    from hqsm.report.figures.base import ReportData
    from hqsm.report.qc_index import render_qc_index
    from hqsm.report.study_report import render_study_report
    from hqsm.stage import read_status
    from hqsm.tables import read_frame

    tables = {Path(path).stem: read_frame(Path(path), Path(path).stem) for path in job.input.tables}
    records = read_status(job.input.findings)
    data = ReportData(
        tables=tables,
        findings=records["findings"],
        timeline=records["timeline"],
        demographics=records["demographics"],
        parameters=job.params.stages,
        versions=versions(),
    )
    folder = Path(job.output.report).parent
    Path(job.output.figures_folder).mkdir(parents=True, exist_ok=True)
    for name, content in render_study_report(data).items():
        (folder / name).write_bytes(content)
    summaries = [read_status(path) for path in job.input.pages]
    index = Path(job.output.index)
    index.write_text(render_qc_index(tables["visits"], tables["lic"], summaries), encoding="utf-8")


run_cohort_stage(snakemake, work)
