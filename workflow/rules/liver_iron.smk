rule liver_iron:
    # maps inside the liver mask -> LIC of the visit by both methods
    input:
        status_fit=f"{WORK}water_fat.json",
        status_regions=f"{WORK}regions.json",
        status_susceptibility=f"{WORK}susceptibility.json",
        fit=f"{WORK}water_fat.npz",
        regions=f"{WORK}regions.npz",
        susceptibility=f"{WORK}susceptibility.npz",
    output:
        status=f"{WORK}liver_iron.json",
    log:
        f"logs/liver_iron/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(300, 2),
        runtime=runtime_min(5, 0.02),
        attempt=attempt_number,
    params:
        lic=STAGES["lic"],
        explant=STAGES["explant"],
        code=CODE["liver_iron"],
    message:
        f"{VISIT_NAME}: liver iron"
    script:
        "../scripts/liver_iron.py"


rule visit_page:
    # everything that a visit's stages learned -> its QC page
    input:
        echoes=f"{WORK}gated_echoes.json",
        fit_status=f"{WORK}water_fat.json",
        regions_status=f"{WORK}regions.json",
        susceptibility_status=f"{WORK}susceptibility.json",
        liver_iron=f"{WORK}liver_iron.json",
        bids_folder=BIDS,
        fit=f"{WORK}water_fat.npz",
        regions=f"{WORK}regions.npz",
        susceptibility=f"{WORK}susceptibility.npz",
    output:
        page=f"results/qc/{VISIT}.html",
        status=f"{WORK}visit_page.json",
    log:
        f"logs/visit_page/{VISIT}.log",
    group:
        "visit"
    conda:
        "../../envs/hqsm.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb(500, 2),
        runtime=runtime_min(5, 0.05),
        attempt=attempt_number,
    params:
        report=STAGES["report"],
        stages={
            name: STAGES[name]
            for name in ("gating", "fatwater", "liver", "susceptibility", "lic")
        },
        protocol=STAGES["protocol"],
        explant=STAGES["explant"],
        code=CODE["visit_page"],
    message:
        f"{VISIT_NAME}: the visit's page"
    script:
        "../scripts/visit_page.py"


rule visit_tables:
    # the visits' results joined with the records' groups -> visits.tsv, lic.tsv, liver_regions.tsv
    input:
        liver_iron=visit_paths(f"{WORK}liver_iron.json"),
        pages=visit_paths(f"{WORK}visit_page.json"),
    output:
        visits="results/tables/visits.tsv",
        lic=report(
            "results/tables/lic.tsv", caption="../report/table.rst", category="Tables"
        ),
        regions="results/tables/liver_regions.tsv",
        dictionaries=expand(
            "results/tables/{table}.json", table=["visits", "lic", "liver_regions"]
        ),
    log:
        "logs/visit_tables.log",
    localrule: True
    conda:
        "../../envs/hqsm.yaml"
    params:
        found=STUDY.found_visits(),
        records=[] if STUDY.sealed else STUDY.record_files("participants", "visits"),
        without_records=STUDY.sealed,
        blinding=STAGES["blinding"],
        decisions=STUDY.decisions_content(),
        parameters=STAGES["records"],
        protocol=STAGES["protocol"],
        explant=STAGES["explant"],
        maps="results/maps",
        code=CODE["visit_tables"],
    message:
        "tables of the visits"
    script:
        "../scripts/visit_tables.py"
