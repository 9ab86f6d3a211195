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
        r2star_se=f"{MAPS}_desc-se_R2starmap.nii.gz",
        t2star_se=f"{MAPS}_desc-se_T2starmap.nii.gz",
        pdff_se=f"{MAPS}_desc-se_PDFF.nii.gz",
        field_se=f"{MAPS}_desc-se_fieldmap.nii.gz",
        r2star_bound=f"{MAPS}_desc-lowerbound_R2starmap.nii.gz",
        residual=f"{MAPS}_desc-residual.nii.gz",
        swap_margin=f"{MAPS}_desc-swapmargin.nii.gz",
        field_difference=f"{MAPS}_desc-difference_fieldmap.nii.gz",
        model=f"{MAPS}_desc-model_dseg.nii.gz",
        convergence=f"{MAPS}_desc-convergence_dseg.nii.gz",
        sidecars=expand(
            f"{MAPS}_{{desc}}{{map}}.json",
            desc=["", "desc-se_"],
            map=["R2starmap", "T2starmap", "PDFF", "fieldmap"],
            allow_missing=True,
        ),
        further_sidecars=expand(
            f"{MAPS}_desc-{{map}}.json",
            map=[
                "lowerbound_R2starmap",
                "residual",
                "swapmargin",
                "difference_fieldmap",
                "model_dseg",
                "convergence_dseg",
            ],
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
