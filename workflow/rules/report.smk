rule exclusions:
    # every visit, interval and record that was left out, with its reason
    input:
        visits="results/tables/visits.tsv",
        annual_change="results/tables/annual_change.tsv",
        findings="results/work/records/findings.json",
    output:
        exclusions="results/tables/exclusions.tsv",
        dictionary="results/tables/exclusions.json",
    log:
        "logs/exclusions.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        code=CODE["exclusions"],
    message:
        "what was left out, and why"
    script:
        "../scripts/exclusions.py"


rule study_report:
    # all tables -> report, figures, methods text; index of the QC pages
    input:
        tables=expand("results/tables/{table}.tsv", table=TABLE_NAMES),
        findings="results/work/records/findings.json",
        pages=visit_paths(f"{WORK}visit_page.json"),
    output:
        report=report(
            "results/report/index.html",
            caption="../report/study.rst",
            category="Study",
        ),
        methods="results/report/methods.md",
        figures_folder=report(
            directory("results/report/figures"),
            patterns=["{name}.svg"],
            caption="../report/figure.rst",
            category="Figures",
        ),
        index=report(
            "results/qc/index.html",
            caption="../report/qc_index.rst",
            category="Quality control",
        ),
    log:
        "logs/study_report.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        blinding=STAGES["blinding"],
        unblinded=STUDY.unblinded_content(),
        report=STAGES["report"],
        stages=STAGES,
        code=CODE["study_report"],
    message:
        "report, figures, methods"
    script:
        "../scripts/study_report.py"


rule bids_datasets:
    # what makes the two image folders BIDS datasets
    output:
        raw="results/bids/dataset_description.json",
        raw_readme="results/bids/README",
        derivative="results/maps/dataset_description.json",
        derivative_readme="results/maps/README",
        derivative_ignore="results/maps/.bidsignore",
    log:
        "logs/bids_datasets.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        name=STAGES["study"]["name"],
        code=CODE["bids_datasets"],
    message:
        "descriptions of the BIDS datasets"
    script:
        "../scripts/bids_datasets.py"
