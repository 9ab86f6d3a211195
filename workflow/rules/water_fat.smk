rule water_fat:
    # gated echoes -> water, fat, PDFF, R2*, field map with standard errors
    input:
        status_echoes=f"{WORK}gated_echoes.json",
        bids_folder=BIDS,
    output:
        r2star=f"{MAPS}_R2starmap.nii.gz",
        t2star=f"{MAPS}_T2starmap.nii.gz",
        pdff=f"{MAPS}_PDFF.nii.gz",
        field=f"{MAPS}_fieldmap.nii.gz",
        sidecars=expand(
            f"{MAPS}_{{map}}.json",
            map=["R2starmap", "T2starmap", "PDFF", "fieldmap"],
            allow_missing=True,
        ),
        fit=f"{WORK}water_fat.npz",
        status=f"{WORK}water_fat.json",
    log:
        f"logs/water_fat/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        # the first visit after an installation compiles the fit: 880 to 930 MB for a visit that takes 330 MB afterwards
        mem_mb=memory_mb(1100, 4),
        runtime=runtime_min(5, 0.05),
        attempt=attempt_number,
    params:
        fatwater=STAGES["fatwater"],
        explant=STAGES["explant"],
        code=CODE["water_fat"],
    message:
        f"{VISIT_NAME}: water, fat, R2* and field"
    script:
        "../scripts/water_fat.py"
