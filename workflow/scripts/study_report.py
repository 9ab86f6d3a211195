from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.provenance import versions
    from hqsm.report.qc_index import render_qc_index
    from hqsm.report.study_report import render_study_report
    from hqsm.stage import read_status
    from hqsm.tables import read_frame

    tables = {Path(path).stem: read_frame(Path(path), Path(path).stem) for path in job.input.tables}
    findings = read_status(job.input.findings)["findings"]
    folder = Path(job.output.report).parent
    Path(job.output.figures_folder).mkdir(parents=True, exist_ok=True)
    for name, content in render_study_report(tables, findings, job.params.stages, versions()).items():
        (folder / name).write_bytes(content)
    pages = frozenset(path.name for path in Path("results/qc").glob("sub-*.html"))
    index = Path(job.output.index)
    index.write_text(render_qc_index(tables["visits"], tables["lic"], pages), encoding="utf-8")


run_cohort_stage(snakemake, work)
