from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.blinding import blind_state
    from hqsm.provenance import versions
    from hqsm.report.blinded_report import render_blinded_report, stamped
    from hqsm.report.qc_index import render_qc_index
    from hqsm.report.study_report import methods_text, render_study_report
    from hqsm.stage import read_status
    from hqsm.tables import read_frame

    tables = {Path(path).stem: read_frame(Path(path), Path(path).stem) for path in job.input.tables}
    findings = read_status(job.input.findings)["findings"]
    folder = Path(job.output.report).parent
    Path(job.output.figures_folder).mkdir(parents=True, exist_ok=True)
    state = blind_state(Path(), blinding=job.params.blinding)
    if state.sealed:
        name = job.params.stages["study"]["name"]
        page = render_blinded_report(tables["visits"], findings, name, versions())
        files = {"index.html": page.encode(), "methods.md": methods_text(job.params.stages, versions()).encode()}
        tables["lic"] = tables["lic"].iloc[:0]  # liver iron of two visits side by side is a change
    else:
        files = render_study_report(tables, findings, job.params.stages, versions())
    for name, content in stamped(files, state.stamp()).items():
        (folder / name).write_bytes(content)
    pages = frozenset(path.name for path in Path("results/qc").glob("sub-*.html"))
    index = Path(job.output.index)
    listing = render_qc_index(tables["visits"], tables["lic"], pages).encode()
    index.write_bytes(stamped({"index.html": listing}, state.stamp())["index.html"])


run_cohort_stage(snakemake, work)
