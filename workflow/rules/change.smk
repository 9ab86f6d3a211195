rule annual_change:
    # LIC of both ends of each interval joined with its exposure
    input:
        lic="results/tables/lic.tsv",
        exposure="results/tables/exposure.tsv",
    output:
        annual_change="results/tables/annual_change.tsv",
        dictionary="results/tables/annual_change.json",
    log:
        "logs/annual_change.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        sealed=STUDY.sealed,
        statistics=STAGES["statistics"],
        code=CODE["annual_change"],
    message:
        "annual change of liver iron"
    script:
        "../scripts/annual_change.py"


rule regression:
    # annual change of LIC on iron in and chelator, per method; comparison of the methods
    input:
        annual_change="results/tables/annual_change.tsv",
    output:
        regression=report(
            "results/tables/regression.tsv",
            caption="../report/table.rst",
            category="Tables",
        ),
        comparison="results/tables/method_comparison.tsv",
        influence="results/tables/influence.tsv",
        dictionaries=expand(
            "results/tables/{table}.json",
            table=["regression", "method_comparison", "influence"],
        ),
    log:
        "logs/regression.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        sealed=STUDY.sealed,
        statistics=STAGES["statistics"],
        code=CODE["regression"],
    message:
        "regression, comparison of the methods"
    script:
        "../scripts/regression.py"
