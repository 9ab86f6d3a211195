# What every rule needs: the checked configuration, the visits that were found, the paths of a visit's files.
import os
import sys
from pathlib import Path

from hqsm import workflow_support

if (
    Path("config.yaml").resolve() != Path(workflow.basedir, "config.yaml").resolve()
    and Path("config.yaml").is_file()
):

    configfile: "config.yaml"


STUDY = workflow_support.open_study(config, is_main_process=workflow.is_main_process)
STAGES = STUDY.stage_parameters  # the resolved block of each stage, defaults filled in
CODE = STUDY.code_digests  # the digest of the package code behind each rule

TABLE_NAMES = workflow_support.TABLE_NAMES

VISIT = "sub-{participant}_ses-{session}"
BIDS = "results/bids/sub-{participant}/ses-{session}/anat"
MAPS = "results/maps/sub-{participant}/ses-{session}/anat/" + VISIT
WORK = f"results/work/{VISIT}/"


wildcard_constraints:
    participant="[A-Za-z0-9]+",
    session="[A-Za-z0-9]+",


def visit_paths(pattern):
    """The pattern's path for every visit that was found."""
    return [
        pattern.format(participant=v.participant, session=v.session)
        for v in STUDY.index.visits
    ]


def visit_content(wildcards):
    """Fingerprint of the visit's files: what reruns a visit when its data change."""
    return STUDY.index.visit(wildcards.participant, wildcards.session).content


def mask_content(wildcards):
    """Fingerprint of the visit's reader masks; empty without any."""
    return STUDY.index.visit(wildcards.participant, wildcards.session).rois


def memory_mb(base):
    """Memory that doubles with each attempt."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


onstart:
    print(STUDY.opening_line(), file=sys.stderr)


onsuccess:
    status = workflow_support.close_run(STUDY, succeeded=True)
    if status:
        sys.exit(status)


onerror:
    workflow_support.close_run(STUDY, succeeded=False)
