rule gated_echoes:
    # raw DICOM (or BIDS) of one visit -> its navigator-gated complex echoes as BIDS
    input:
        visit=ancient(visit_folder),
    output:
        bids_folder=directory(BIDS),
        gating=f"{MAPS}_desc-gating.tsv",
        gating_sidecar=f"{MAPS}_desc-gating.json",
        manifest=f"{WORK}dicom_manifest.tsv",
        status=f"{WORK}gated_echoes.json",
    log:
        f"logs/gated_echoes/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(300, 4),
        runtime=runtime_min(5, 0.05),
        attempt=attempt_number,
    params:
        data=visit_content,
        dicom=STAGES["dicom"],
        gating=STAGES["gating"],
        code=CODE["gated_echoes"],
    message:
        f"{VISIT_NAME}: read and gate the echoes"
    script:
        "../scripts/gated_echoes.py"
