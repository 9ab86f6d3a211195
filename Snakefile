# From raw DICOM and clinical records to the study's tables, figures and report.
# Run:  snakemake --directory STUDY          (all cores; add -n to see what would run and why)
from snakemake.utils import min_version

min_version("9.10")


configfile: os.path.join(workflow.basedir, "config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/gating.smk"
include: "workflow/rules/water_fat.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/susceptibility.smk"
include: "workflow/rules/liver_iron.smk"
include: "workflow/rules/exposure.smk"
include: "workflow/rules/change.smk"
include: "workflow/rules/explants.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/dicom_export.smk"


rule all:
    default_target: True
    input:
        expand("results/tables/{table}.tsv", table=TABLE_NAMES),
        visit_paths("results/qc/sub-{participant}_ses-{session}.html"),
        "results/qc/index.html",
        "results/report/index.html",
        "results/bids/dataset_description.json",
        "results/maps/dataset_description.json",
    message:
        "all results are there"
