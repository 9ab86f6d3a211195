from hqsm.stage import run_visit_stage


def work(job):
    from pathlib import Path

    from hqsm.config.base import block
    from hqsm.config.protocol import ProtocolParams
    from hqsm.config.report import ReportParams
    from hqsm.report.assemble import assemble_visit_page
    from hqsm.report.viewer import render_viewer
    from hqsm.report.visit_page import render_visit_page

    params = block(ReportParams, job.params.report)
    visit, summary = assemble_visit_page(
        job.input,
        f"sub-{job.wildcards.participant}",
        f"ses-{job.wildcards.session}",
        job.params.stages,
        viewer=params.viewer,
        protocol=block(ProtocolParams, job.params.protocol),
    )
    page = Path(job.output.page)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_visit_page(visit, params), encoding="utf-8")
    viewer = page.with_name(f"{page.stem}_viewer.html")
    viewer.unlink(missing_ok=True)
    if visit.viewer:
        viewer.write_text(render_viewer(visit), encoding="utf-8")
    return summary


run_visit_stage(snakemake, work)
