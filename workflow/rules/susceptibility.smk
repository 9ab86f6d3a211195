rule susceptibility:
    # field map, its standard error and the regions -> referenced susceptibility map
    input:
        status_fit=WORK + "water_fat.json",
        status_regions=WORK + "regions.json",
        fit=WORK + "water_fat.npz",
        regions=WORK + "regions.npz",
    output:
        chi=MAPS + "_Chimap.nii.gz",
        sidecar=MAPS + "_Chimap.json",
        result=WORK + "susceptibility.npz",
        status=WORK + "susceptibility.json",
    log:
        "logs/susceptibility/" + VISIT + ".log",
    benchmark:
        "results/work/benchmarks/susceptibility/" + VISIT + ".tsv"
    group:
        "visit"
    threads: 1
    resources:
        mem_mb=memory_mb(3000),
    params:
        susceptibility=STAGES["susceptibility"],
        explant=STAGES["explant"],
        code=CODE["susceptibility"],
    script:
        "../scripts/susceptibility.py"
