from hqsm.stage import run_cohort_stage


def work(job):
    from pathlib import Path

    from hqsm.blinding import is_unblinded
    from hqsm.dicom_out.export import export_visit
    from hqsm.errors import InputError

    if job.params.blinding and not is_unblinded(Path()):
        raise InputError(
            "The study is blinded: no liver iron leaves it before it is unblinded.",
            remedy="Lock both arms and run hqsm unblind first.",
            code="STUDY_SEALED",
        )
    visit = f"sub-{job.wildcards.participant}", f"ses-{job.wildcards.session}"
    export_visit(Path("results"), *visit, job.params.calibration, Path(job.output.folder))


run_cohort_stage(snakemake, work)
