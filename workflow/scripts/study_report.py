from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.blinding import blind_state
    from hqsm.provenance import versions
    from hqsm.report.blinded_report import render_blinded_index, render_blinded_report, stamped
    from hqsm.report.figures.base import ReportData
    from hqsm.report.methods import methods_text
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
    summaries = [read_status(path) for path in job.input.pages]
    folder = Path(job.output.report).parent
    Path(job.output.figures_folder).mkdir(parents=True, exist_ok=True)
    state = blind_state(Path(), blinding=job.params.blinding, statistics=job.params.stages["statistics"])
    if state.sealed:
        name = job.params.stages["study"]["name"]
        page = render_blinded_report(tables["visits"], records["findings"], name, versions())
        files = {"index.html": page.encode(), "methods.md": methods_text(job.params.stages, versions()).encode()}
        listing = render_blinded_index(tables["visits"], tables["lic"], summaries)
    else:
        files = render_study_report(data)
        listing = render_qc_index(tables["visits"], tables["lic"], summaries)
    for file, content in stamped(files, state.stamp()).items():
        (folder / file).write_bytes(content)
    index = Path(job.output.index)
    index.write_bytes(stamped({"index.html": listing.encode()}, state.stamp())["index.html"])


run_cohort_stage(snakemake, work)
