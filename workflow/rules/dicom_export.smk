rule dicom_export_visit:
    # maps, masks and numbers of a visit -> DICOM objects for a hospital's archive
    input:
        iron=f"{WORK}liver_iron.json",
        page=f"{WORK}visit_page.json",
        lic="results/tables/lic.tsv",
    output:
        folder=directory(f"results/dicom/{VISIT}"),
    log:
        f"logs/dicom_export/{VISIT}.log",
    group:
        "export"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(500, 4),
        runtime=runtime_min(5, 0.05),
        attempt=attempt_number,
    params:
        calibration=STAGES["lic"]["r2star_calibration"],
        blinding=STAGES["blinding"],
        code=CODE["dicom_export"],
    message:
        f"{VISIT_NAME}: DICOM export"
    script:
        "../scripts/dicom_export.py"


rule dicom_export:
    # ask for it by name: snakemake --directory STUDY dicom_export
    input:
        visit_paths(f"results/dicom/{VISIT}"),
    localrule: True
