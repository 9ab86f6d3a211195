rule explants:
    # LIC of explanted livers, in vivo and in vitro, against chemistry and histology; repeatability
    input:
        lic="results/tables/lic.tsv",
        visits="results/tables/visits.tsv",
    output:
        explants="results/tables/explants.tsv",
        effects="results/tables/histology_effects.tsv",
        agreement="results/tables/explant_agreement.tsv",
        repeatability="results/tables/repeatability.tsv",
        baseline="results/tables/baseline.tsv",
        dictionaries=expand(
            "results/tables/{table}.json",
            table=[
                "explants",
                "histology_effects",
                "explant_agreement",
                "repeatability",
                "baseline",
            ],
        ),
    log:
        "logs/explants.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        sealed=STUDY.sealed,
        records=STUDY.record_files(
            "participants", "visits", "explant_chemistry", "explant_histology"
        ),
        record_parameters=STAGES["records"],
        statistics=STAGES["statistics"],
        code=CODE["explants"],
    message:
        "explants, repeat scans, healthy baseline"
    script:
        "../scripts/explants.py"
