"""Edge: what the Snakefile asks of the package, so that the workflow itself stays a list of rules.

Imports no numpy: a cluster job parses the Snakefile again, and should pay milliseconds for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqsm.blinding import FOLDER as LOCKS
from hqsm.blinding import UNBLINDED, is_unblinded
from hqsm.code_digest import code_digest
from hqsm.config.study import StudyConfig, as_plain, load_config
from hqsm.errors import ConfigError, HqsmError
from hqsm.study import INDEX, StudyIndex, describe_changes, discover, read_index, write_index

LAST_RUN = Path("results/work/last_run.json")

TABLE_NAMES = (
    "visits",
    "lic",
    "liver_regions",
    "exposure",
    "annual_change",
    "regression",
    "method_comparison",
    "influence",
    "explants",
    "histology_effects",
    "explant_agreement",
    "repeatability",
    "baseline",
    "readers",
    "reader_agreement",
    "exclusions",
)

STAGE_MODULES: dict[str, tuple[str, ...]] = {
    "gated_echoes": ("hqsm.bids_input", "hqsm.physio", "hqsm.gating.gate", "hqsm.bipolar", "hqsm.derivatives"),
    "water_fat": ("hqsm.fatwater.separation", "hqsm.derivatives"),
    "regions": ("hqsm.liver", "hqsm.masks", "hqsm.derivatives"),
    "susceptibility": ("hqsm.susceptibility", "hqsm.derivatives"),
    "liver_iron": ("hqsm.lic",),
    "visit_page": ("hqsm.report.visit_page", "hqsm.report.viewer", "hqsm.report.assemble"),
    "visit_tables": ("hqsm.cohort_tables",),
    "exposure": ("hqsm.records.exposure", "hqsm.records.intervals", "hqsm.records.overview", "hqsm.cohort_tables"),
    "annual_change": ("hqsm.statistics.annual_change", "hqsm.tables"),
    "regression": ("hqsm.statistics.regression", "hqsm.statistics.comparison", "hqsm.tables"),
    "explants": ("hqsm.statistics.effects", "hqsm.statistics.method_agreement", "hqsm.statistics.repeatability", "hqsm.cohort_tables"),
    "readers": ("hqsm.statistics.readers", "hqsm.tables"),
    "exclusions": ("hqsm.cohort", "hqsm.tables"),
    "study_report": ("hqsm.report.study_report", "hqsm.report.qc_index", "hqsm.report.blinded_report", "hqsm.blinding", "hqsm.tables"),
    "dicom_export": ("hqsm.dicom_out.export",),
    "bids_datasets": ("hqsm.bids",),
}
"""The modules whose code (and that of all they import) decides a rule's result."""


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study as the Snakefile sees it: what was found, the resolved parameters, the code that will run."""

    config: StudyConfig
    index: StudyIndex
    stage_parameters: dict[str, dict[str, Any]]
    code_digests: dict[str, str]
    last_run: StudyIndex | None

    def opening_line(self) -> str:
        """What is new, changed and removed since the last complete run, in one line."""
        line = describe_changes(self.last_run, self.index)
        for name, reason in self.index.unusable:
            line += f"\n  left out: {name}: {reason}"
        return line

    def visit_paths(self, pattern: str) -> list[str]:
        """The pattern's path for every visit that was found."""
        return [pattern.format(participant=v.participant, session=v.session) for v in self.index.visits]

    def visit_folder(self, wildcards: Any) -> str:
        """The visit's folder, below dicom/ or bids/."""
        return self.index.visit(wildcards.participant, wildcards.session).folder

    def visit_content(self, wildcards: Any) -> str:
        """Fingerprint of a visit's files."""
        return self.index.visit(wildcards.participant, wildcards.session).content

    def mask_content(self, wildcards: Any) -> str:
        """Fingerprint of a visit's reader masks; empty without any."""
        return self.index.visit(wildcards.participant, wildcards.session).rois

    def found_visits(self) -> list[list[str]]:
        """Participant, session of every visit, and the folders that cannot be visits with their reason."""
        visits = [[v.participant, v.session, str(v.n_files)] for v in self.index.visits]
        return visits + [[name, "", reason] for name, reason in self.index.unusable]

    def record_files(self, *tables: str) -> list[str]:
        """``name=hash`` of the record files (all, or those of the named tables): what reruns when a record changes."""
        wanted = {f"{table}.csv" for table in tables} | {"redcap.csv", "redcap_dictionary.csv"}
        return [f"{name}={value}" for name, value in self.index.records.items() if not tables or name in wanted]

    @property
    def sealed(self) -> bool:
        """Whether the study is blinded and images and records must not meet yet."""
        return self.config.blinding and not is_unblinded(Path())

    def unblinded_content(self) -> str:
        """Hash of the record of the unblinding; empty before it."""
        path = LOCKS / UNBLINDED
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""

    def input_hashes(self) -> dict[str, Any]:
        """Fingerprints of everything that went in, for the run's record."""
        visits = {f"sub-{v.participant}_ses-{v.session}": {"dicom": v.content, "masks": v.rois} for v in self.index.visits}
        return {"visits": visits, "records": dict(self.index.records), "decisions": self.decisions_content()}

    def decisions_content(self) -> str:
        """Hash of decisions.csv; empty without it."""
        path = Path("decisions.csv")
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


class _WithoutPaths(logging.Formatter):
    """What another formatter writes, without the paths around the study: a folder above it can bear a person's name."""

    _HEADER = re.compile(r"^( *(?:Command|Snakefile|Base directory|Run directory|Working directory|Config file\(s\))): .*$", re.M)

    def __init__(self, inner: logging.Formatter, study: Path) -> None:
        super().__init__()
        self._inner = inner
        self._paths = sorted({str(study.absolute()), str(study.resolve())}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The inner formatter's text with the study's path as STUDY and the header's paths left out."""
        text = self._HEADER.sub(r"\1: (not kept)", str(self._inner.format(record)))
        for path in self._paths:
            text = text.replace(path, "STUDY")
        return text


def keep_paths_out_of_logs(*, is_main_process: bool) -> None:
    """Make Snakemake's log files (in a cluster job, its output too, which ends in a file) name no path around the study."""
    for handler in logging.getLogger("snakemake.logging").handlers:
        if isinstance(handler, logging.FileHandler) or not is_main_process:
            handler.setFormatter(_WithoutPaths(handler.formatter or logging.Formatter(), Path.cwd()))


def memory_mb(base: int) -> Callable[[Any, int], int]:
    """Memory of a job [MB] that doubles with each attempt."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)  # noqa: ARG005


def open_study(raw_config: Mapping[str, Any], *, is_main_process: bool) -> OpenStudy:
    """Check the configuration and look at the study folder (the current directory).

    Only the main process looks; the jobs read what it found. A study that cannot be run ends the program with its
    sentence on stderr and exit status 2.
    """
    keep_paths_out_of_logs(is_main_process=is_main_process)
    try:
        config = load_config(raw_config)
        if is_main_process:
            previous = read_index(INDEX)[1] if INDEX.is_file() else {}
            index, cache = discover(Path(), previous.get("cache"))
            _refuse_an_empty_study(index)
            digests = {stage: code_digest(*modules) for stage, modules in STAGE_MODULES.items()}
            write_index(INDEX, index, cache, {"code_digests": digests})
        else:
            index, stored = read_index(INDEX)
            digests = stored["code_digests"]
    except HqsmError as error:
        sys.stderr.write(f"\nhqsm: {error}\n")
        sys.exit(2)
    return OpenStudy(
        config=config,
        index=index,
        stage_parameters=as_plain(config),
        code_digests=digests,
        last_run=read_index(LAST_RUN)[0] if LAST_RUN.is_file() else None,
    )


def _refuse_an_empty_study(index: StudyIndex) -> None:
    if not index.visits:
        found = "; ".join(f"{name}: {reason}" for name, reason in index.unusable) or "nothing"
        raise ConfigError(
            f"No visit was found under dicom/ or bids/ (found: {found}).",
            remedy="Put each visit's DICOM into dicom/sub-<P>/ses-<S>/, or name the study with --directory STUDY.",
            code="STUDY_EMPTY",
        )


def close_run(study: OpenStudy, *, succeeded: bool) -> int:
    """Say how the run ended; write its provenance; return the exit status it deserves (0, or 3 for rejected visits)."""
    from hqsm.blinding import blind_state
    from hqsm.provenance import write_run_record

    rejected = []
    for visit in study.index.visits:
        path = Path(f"results/work/sub-{visit.participant}_ses-{visit.session}/liver_iron.json")
        if path.is_file():
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["failed"]:
                rejected.append((f"sub-{visit.participant}/ses-{visit.session}", facts["reason"]))
        elif succeeded is False:
            rejected.append((f"sub-{visit.participant}/ses-{visit.session}", "did not finish; see logs/"))
    stamp = blind_state(Path(), blinding=study.config.blinding, statistics=study.stage_parameters["statistics"]).stamp()
    _stamp_tables(stamp)
    write_run_record(
        study.stage_parameters,
        study.code_digests,
        succeeded=succeeded,
        rejected=[name for name, _ in rejected],
        inputs=study.input_hashes(),
        stamp=stamp,
    )
    if succeeded:
        write_index(LAST_RUN, study.index, {}, {})
    lines = [f"{len(study.index.visits) - len(rejected)} of {len(study.index.visits)} visits are in the tables."]
    if stamp:
        lines.append(stamp)
    if study.sealed:
        lines.append("Blinded: the report is the blinded edition until both arms are locked and the study is unblinded.")
    if rejected:
        lines.append(f"{len(rejected)} visits were rejected (results/tables/visits.tsv says why):")
        lines += [f"  {name}: {reason}" for name, reason in rejected]
    lines.append(f"Report: {Path('results/report/index.html').resolve()}" if succeeded else "The run did not finish.")
    sys.stderr.write("\n" + "\n".join(lines) + "\n")
    return 3 if rejected and study.config.study.fail_on_rejected_visit else 0


def _stamp_tables(stamp: str) -> None:
    """Leave a note beside the tables where they are not those that were unblinded; take it away where they are."""
    note = Path("results/tables/CHANGED_AFTER_UNBLINDING.txt")
    if stamp and note.parent.is_dir():
        note.write_text(stamp + "\n", encoding="utf-8")
    else:
        note.unlink(missing_ok=True)
