# What every rule needs: the checked configuration, the visits that were found, the paths of a visit's files.
import os
import sys
from pathlib import Path

from hqsm import study_config, workflow_support

if (
    Path("config.yaml").resolve() != Path(workflow.basedir, "config.yaml").resolve()
    and Path("config.yaml").is_file()
):

    # snakemake would run Python from a configuration that asks for it: looked at before it is opened
    study_config.check_before_snakemake_reads(Path("config.yaml"))

    configfile: "config.yaml"


STUDY = workflow_support.open_study(
    config,
    Path(workflow.basedir, "workflow/scripts"),
    is_main_process=workflow.is_main_process,
)
STAGES = STUDY.stage_parameters  # the resolved block of each stage, defaults filled in
CODE = STUDY.code_digests  # the digest of the package code behind each rule

TABLE_NAMES = workflow_support.TABLE_NAMES

VISIT = "sub-{participant}_ses-{session}"
VISIT_NAME = "sub-{wildcards.participant} ses-{wildcards.session}"  # in messages
BIDS = "results/bids/sub-{participant}/ses-{session}/anat"
MAPS = f"results/maps/sub-{{participant}}/ses-{{session}}/anat/{VISIT}"
WORK = f"results/work/{VISIT}/"


wildcard_constraints:
    participant="[A-Za-z0-9]+",
    session="[A-Za-z0-9]+",


visit_folder = STUDY.visit_folder  # where a visit's images are: below dicom/ or bids/
visit_paths = STUDY.visit_paths  # a pattern's path for every visit that was found
visit_content = (
    STUDY.visit_content
)  # fingerprint of a visit's files: reruns it when its data change
mask_content = STUDY.mask_content  # fingerprint of a visit's reader masks
# what a job costs, from benchmarks/resources.py: a base, and a part that grows with the visit's files; doubled with each attempt
memory_mb = STUDY.memory_mb
runtime_min = STUDY.runtime_min
attempt_number = workflow_support.attempt_number


onstart:
    workflow_support.start_run(
        STUDY,
        workflow.execution_settings.retries,
        jobs_run_here=workflow.local_exec
        and not workflow.deployment_settings.deployment_method,
    )


onsuccess:
    status = workflow_support.close_run(STUDY, succeeded=True)
    if status:
        sys.exit(status)


onerror:
    status = workflow_support.run_failed(
        STUDY,
        workflow_support.failed_jobs(workflow),
        workflow_support.finishing_command(workflow),
        keeps_going=workflow.execution_settings.keep_going,
    )
    sys.exit(status)
