rule regions:
    # maps and reader masks -> body, liver, vessels, reference tissues
    input:
        status_echoes=f"{WORK}gated_echoes.json",
        status_fit=f"{WORK}water_fat.json",
        bids_folder=BIDS,
        fit=f"{WORK}water_fat.npz",
    output:
        body=f"{MAPS}_desc-body_mask.nii.gz",
        liver=f"{MAPS}_desc-liver_mask.nii.gz",
        vessel=f"{MAPS}_desc-vessel_mask.nii.gz",
        sidecars=expand(
            f"{MAPS}_desc-{{mask}}_mask.json",
            mask=["body", "liver", "vessel"],
            allow_missing=True,
        ),
        regions=f"{WORK}regions.npz",
        status=f"{WORK}regions.json",
    log:
        f"logs/regions/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(400, 4),
        runtime=runtime_min(5, 0.05),
        attempt=attempt_number,
    params:
        masks=mask_content,
        liver=STAGES["liver"],
        explant=STAGES["explant"],
        code=CODE["regions"],
    message:
        f"{VISIT_NAME}: body, liver and vessels"
    script:
        "../scripts/regions.py"


rule readers:
    # each reader's values of each visit -> agreement between and within readers, whom to adjudicate
    input:
        regions="results/tables/liver_regions.tsv",
    output:
        readers="results/tables/readers.tsv",
        agreement="results/tables/reader_agreement.tsv",
        dictionaries=expand(
            "results/tables/{table}.json", table=["readers", "reader_agreement"]
        ),
    log:
        "logs/readers.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        liver=STAGES["liver"],
        statistics=STAGES["statistics"],
        code=CODE["readers"],
    message:
        "agreement of the readers"
    script:
        "../scripts/readers.py"
