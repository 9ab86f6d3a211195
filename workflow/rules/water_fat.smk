rule water_fat:
    # gated echoes -> water, fat, PDFF, R2*, field map with standard errors
    input:
        status_echoes=WORK + "gated_echoes.json",
        bids_folder=BIDS,
    output:
        r2star=MAPS + "_R2starmap.nii.gz",
        t2star=MAPS + "_T2starmap.nii.gz",
        pdff=MAPS + "_PDFF.nii.gz",
        field=MAPS + "_fieldmap.nii.gz",
        sidecars=expand(
            MAPS + "_{map}.json",
            map=["R2starmap", "T2starmap", "PDFF", "fieldmap"],
            allow_missing=True,
        ),
        fit=WORK + "water_fat.npz",
        status=WORK + "water_fat.json",
    log:
        "logs/water_fat/" + VISIT + ".log",
    benchmark:
        "results/work/benchmarks/water_fat/" + VISIT + ".tsv"
    group:
        "visit"
    threads: 1
    resources:
        mem_mb=memory_mb(2000),
    params:
        fatwater=STAGES["fatwater"],
        explant=STAGES["explant"],
        code=CODE["water_fat"],
    script:
        "../scripts/water_fat.py"
