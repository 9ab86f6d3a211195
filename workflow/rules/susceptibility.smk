rule susceptibility:
    # field map, its standard error and the regions -> referenced susceptibility map
    input:
        status_fit=f"{WORK}water_fat.json",
        status_regions=f"{WORK}regions.json",
        fit=f"{WORK}water_fat.npz",
        regions=f"{WORK}regions.npz",
    output:
        chi=f"{MAPS}_Chimap.nii.gz",
        sidecar=f"{MAPS}_Chimap.json",
        result=f"{WORK}susceptibility.npz",
        status=f"{WORK}susceptibility.json",
    log:
        f"logs/susceptibility/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(900, 10),
        runtime=runtime_min(5, 0.1),
        attempt=attempt_number,
    params:
        susceptibility=STAGES["susceptibility"],
        explant=STAGES["explant"],
        code=CODE["susceptibility"],
    message:
        f"{VISIT_NAME}: susceptibility"
    script:
        "../scripts/susceptibility.py"
