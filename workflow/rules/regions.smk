rule regions:
    # maps and reader masks -> body, liver, vessels, reference tissues
    input:
        status_echoes=WORK + "gated_echoes.json",
        status_fit=WORK + "water_fat.json",
        bids_folder=BIDS,
        fit=WORK + "water_fat.npz",
    output:
        body=MAPS + "_desc-body_mask.nii.gz",
        liver=MAPS + "_desc-liver_mask.nii.gz",
        vessel=MAPS + "_desc-vessel_mask.nii.gz",
        sidecars=expand(
            MAPS + "_desc-{mask}_mask.json",
            mask=["body", "liver", "vessel"],
            allow_missing=True,
        ),
        regions=WORK + "regions.npz",
        status=WORK + "regions.json",
    log:
        "logs/regions/" + VISIT + ".log",
    benchmark:
        "results/work/benchmarks/regions/" + VISIT + ".tsv"
    group:
        "visit"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
    params:
        masks=mask_content,
        liver=STAGES["liver"],
        explant=STAGES["explant"],
        code=CODE["regions"],
    script:
        "../scripts/regions.py"
