from hqsm.stage import run_visit_stage


def work(job):
    from dataclasses import asdict
    from pathlib import Path

    from hqsm.bids import write_echoes, write_repetitions
    from hqsm.bids_input import read_study_visit
    from hqsm.bipolar import correct_odd_even_phase
    from hqsm.config.base import block
    from hqsm.config.dicom import DicomParams
    from hqsm.config.gating import GatingParams
    from hqsm.derivatives import acquisition_facts, write_gating, write_manifest
    from hqsm.gating.gate import gate
    from hqsm.physio import read_respiratory_record

    folder, params = Path(job.input.visit), block(GatingParams, job.params.gating)
    dicom = block(DicomParams, job.params.dicom)
    visit = read_study_visit(folder, dicom)
    record = read_respiratory_record(folder, visit.echoes.repetition_times_of_day_s, params)
    echoes, report = gate(visit.echoes, visit.navigator, params, record)
    echoes, readout = correct_odd_even_phase(echoes, smallest_rms_rad=dicom.smallest_odd_even_phase_rad)
    prefix = f"sub-{job.wildcards.participant}_ses-{job.wildcards.session}"
    write_echoes(Path(job.output.bids_folder), prefix, echoes, visit.info)
    if dicom.keep_repetitions and visit.echoes.n_repetitions > 1:
        write_repetitions(Path(job.output.bids_folder), prefix, visit.echoes, visit.info)
    write_manifest(Path(job.output.manifest), visit.info)
    gating = write_gating(Path(job.output.gating), report)
    codes = [*report.codes, *(["BIPOLAR_CORRECTED"] if readout.polarity == "bipolar" else [])]
    return {**acquisition_facts(echoes, visit.info), "readout": asdict(readout), "gating": gating, "codes": codes}


run_visit_stage(snakemake, work)
