rule exposure:
    # clinical records -> findings, annual intervals, iron and chelator of each interval (no image is read here)
    output:
        exposure="results/tables/exposure.tsv",
        exposure_dictionary="results/tables/exposure.json",
        findings="results/work/records/findings.json",
    log:
        "logs/exposure.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        records=STUDY.record_files(),
        parameters=STAGES["records"],
        code=CODE["exposure"],
    message:
        "records: transfused iron and chelator of each interval"
    script:
        "../scripts/exposure.py"
