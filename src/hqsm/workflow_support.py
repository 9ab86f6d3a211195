"""Edge: what the Snakefile asks of the package, so that the workflow itself stays a list of rules.

Imports no numpy: a cluster job parses the Snakefile again, and should pay milliseconds for it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hqsm import fork_server, run_state
from hqsm.blinding import FOLDER as LOCKS
from hqsm.blinding import UNBLINDED, is_unblinded
from hqsm.code_digest import script_digest
from hqsm.config.study import StudyConfig, as_plain, load_config
from hqsm.decisions import read_decisions
from hqsm.errors import ConfigError, HqsmError, InputError
from hqsm.study import INDEX, StudyIndex, VisitFolder, describe_changes, discover, read_index, write_index

LAST_RUN = Path("results/work/last_run.json")
_FINISHING = "HQSM_FINISHING"
"""Set in the environment of the run within a run that finishes the cohort without the visits that were killed."""
_DRY_RUN = re.compile(r"-[A-Za-z]*n[A-Za-z]*\Z|--dry-?run\b")
_LOOKS = re.compile(_DRY_RUN.pattern + r"|--(lint|unlock|report|dag|rulegraph|filegraph|d3dag|summary|detailed-summary|list.*)\b")
"""Arguments of snakemake with which nothing runs."""

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


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study as the Snakefile sees it: what was found, the resolved parameters, the code that will run."""

    config: StudyConfig
    index: StudyIndex
    stage_parameters: dict[str, dict[str, Any]]
    code_digests: dict[str, str]
    retries: dict[str, int]
    """How often a visit was killed in a run before this one; each time makes it due again."""
    started: float = field(default_factory=time.time)

    def opening_line(self) -> str:
        """What is new, changed and removed since the last complete run, in one line."""
        if _FINISHING in os.environ:
            return "Finishing the cohort without the visits that were killed."
        line = describe_changes(read_index(LAST_RUN)[0] if LAST_RUN.is_file() else None, self.index)
        for name, reason in self.index.unusable:
            line += f"\n  left out: {name}: {reason}"
        return line

    def visit_paths(self, pattern: str) -> list[str]:
        """The pattern's path for every visit that was found."""
        return [pattern.format(participant=v.participant, session=v.session) for v in self.index.visits]

    @cached_property
    def _by_label(self) -> dict[tuple[str, str], VisitFolder]:
        return {(v.participant, v.session): v for v in self.index.visits}

    def _visit(self, wildcards: Any) -> VisitFolder:
        return self._by_label[wildcards.participant, wildcards.session]

    def visit_folder(self, wildcards: Any) -> str:
        """The visit's folder, below dicom/ or bids/."""
        return self._visit(wildcards).folder

    def visit_content(self, wildcards: Any) -> str:
        """Fingerprint of a visit's files, and how often it was killed: a killed visit is due again."""
        visit = self._visit(wildcards)
        count = self.retries.get(visit.name, 0)
        return f"{visit.content} again {count}" if count else visit.content

    def mask_content(self, wildcards: Any) -> str:
        """Fingerprint of a visit's reader masks; empty without any."""
        return self._visit(wildcards).rois

    def memory_mb(self, base: float, per_mb: float) -> Callable[[Any, int], int]:
        """Memory of a job [MB]: ``base`` and ``per_mb`` for each MB of the visit's files; doubles with each attempt."""
        return lambda wildcards, attempt: self._grown(wildcards, attempt, base, per_mb)

    def runtime_min(self, base: float, per_mb: float) -> Callable[[Any, int], int]:
        """Run time of a job [min]: ``base`` and ``per_mb`` for each MB of the visit's files; doubles with each attempt."""
        return lambda wildcards, attempt: self._grown(wildcards, attempt, base, per_mb)

    def _grown(self, wildcards: Any, attempt: int, base: float, per_mb: float) -> int:
        once: float = base + per_mb * self._visit(wildcards).n_bytes / 1e6
        return math.ceil(once) * int(2 ** (attempt - 1))

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


def attempt_number(wildcards: Any, attempt: int) -> int:
    """Which attempt a job is, from 1."""
    return attempt


def open_study(raw_config: Mapping[str, Any], scripts: Path, *, is_main_process: bool) -> OpenStudy:
    """Check the configuration and look at the study folder (the current directory).

    Only the main process looks; the jobs read what it found. A study that cannot be run ends the program with its
    sentence on stderr and exit status 2. ``scripts`` is the folder of the rules' scripts, ``<rule>.py``.
    """
    gc.set_threshold(100_000, 50, 100)  # Snakemake keeps hundreds of objects a job: looking at them all too often is a seventh of its time
    keep_paths_out_of_logs(is_main_process=is_main_process)
    try:
        config = load_config(raw_config)
        if is_main_process and _FINISHING not in os.environ:
            index, digests, again = _look(scripts)
        else:
            index, stored = read_index(INDEX)
            digests, again = stored["code_digests"], stored.get("retries", {})
    except HqsmError as error:
        sys.stderr.write(f"\nhqsm: {error}\n")
        sys.exit(2)
    study = OpenStudy(config=config, index=index, stage_parameters=as_plain(config), code_digests=digests, retries=again)
    if is_main_process and any(_DRY_RUN.match(argument) for argument in sys.argv[1:]):
        sys.stderr.write(study.opening_line() + "\n")  # a run says it when it starts
    return study


def _look(scripts: Path) -> tuple[StudyIndex, dict[str, str], dict[str, int]]:
    """Discover the study and tell the jobs; a process that only looks leaves alone what a run beside it reads."""
    only_looks = any(_LOOKS.match(argument) for argument in sys.argv[1:])
    try:
        beside = run_state.take_study()
    except InputError as error:
        if not only_looks:
            raise
        beside = str(error)
    if beside and not only_looks:
        raise InputError(beside[0].upper() + beside[1:], code="STUDY_IN_USE")
    previous = read_index(INDEX)[1] if INDEX.is_file() else {}
    index, cache = discover(Path(), previous.get("cache"))
    _refuse_an_empty_study(index)
    read_decisions(Path("decisions.csv"))  # a line that is refused is told now, not after the images
    digests = {script.stem: script_digest(script) for script in sorted(scripts.glob("*.py"))}
    again = run_state.retries()
    if not beside:
        try:
            write_index(INDEX, index, cache, {"code_digests": digests, "retries": again})
        except OSError as error:
            raise run_state.cannot_write(error) from error
    return index, digests, again


def _refuse_an_empty_study(index: StudyIndex) -> None:
    if not index.visits:
        found = "; ".join(f"{name}: {reason}" for name, reason in index.unusable) or "nothing"
        raise ConfigError(
            f"No visit was found under dicom/ or bids/ (found: {found}).",
            remedy="Put each visit's DICOM into dicom/sub-<P>/ses-<S>/, or name the study with --directory STUDY.",
            code="STUDY_EMPTY",
        )


def failed_jobs(workflow: Any) -> list[tuple[str, str]]:
    """Rule, and visit (``sub-P_ses-S``; empty for a rule of the cohort) of each job that failed in its last attempt."""
    jobs = [job for failed in workflow.scheduler.failed for job in (failed.jobs if failed.is_group() else [failed])]
    return sorted((job.rule.name, _visit_of(job.wildcards_dict)) for job in jobs)


def _visit_of(wildcards: Mapping[str, str]) -> str:
    return f"sub-{wildcards['participant']}_ses-{wildcards['session']}" if "session" in wildcards else ""


def finishing_command(workflow: Any) -> list[str]:
    """Snakemake's arguments that finish a run on this machine without the visits that were killed."""
    triggers = sorted(trigger.item_to_choice() for trigger in workflow.rerun_triggers)
    arguments = ["--snakefile", str(workflow.main_snakefile), "--cores", "1", "--nolock", "--keep-going", "--rerun-incomplete"]
    arguments += ["--workflow-profile", "none", "--quiet", "all", "--rerun-triggers", *triggers]
    given = workflow.config_settings.config_args
    arguments += ["--config", *given] if given else []
    files = [str(path) for path in workflow.overwrite_configfiles or []]
    arguments += ["--configfile", *files] if files else []
    return [*arguments, "--", *sorted(str(target) for target in workflow.dag_settings.targets)]


def start_run(study: OpenStudy, retries: int, *, jobs_run_here: bool) -> None:
    """Say what is new, changed and removed; tell the jobs how often they are tried; notice from here on a request to stop.

    ``jobs_run_here``: whether jobs run on this machine, in this environment, so that a :mod:`hqsm.fork_server` can do their imports.
    """
    sys.stderr.write(study.opening_line() + "\n")
    run_state.begin_run(attempts=retries + 1)
    run_state.listen_for_interrupts()
    if jobs_run_here:
        fork_server.start()


def run_failed(study: OpenStudy, failed_jobs: Sequence[tuple[str, str]], command: Sequence[str], *, keeps_going: bool) -> int:
    """What follows a run with failed jobs; returns its exit status.

    Visits whose jobs were killed from outside, so that they could not say so themselves, are given up, and the cohort's tables
    and the report are made without them by a second, short run.

    Parameters
    ----------
    study
        The study of the run.
    failed_jobs
        Rule, and visit (``sub-P_ses-S``; empty for a rule of the cohort) of each job that failed in its last attempt.
    command
        Snakemake's arguments with which the cohort is finished.
    keeps_going
        Whether the run did all that does not depend on the failed jobs.
    """
    visits = sorted({visit for _, visit in failed_jobs if visit})
    cohort = sorted({rule for rule, visit in failed_jobs if not visit})
    if run_state.was_interrupted():
        sys.stderr.write("\nStopped on request. The same command goes on where it stopped.\n")
        return 130
    if run_state.disk_is_full(visits, study.started):
        sys.stderr.write("\nhqsm: The disk of the study is full, or results/ cannot be written. Make room, then repeat the command.\n")
        return 2
    if visits and not cohort and keeps_going and _FINISHING not in os.environ:
        run_state.give_up(visits, study.started)
        try:
            arguments = [sys.executable, "-m", "snakemake", *command]
            return subprocess.run(arguments, env={**os.environ, _FINISHING: "1"}, check=False).returncode
        finally:
            run_state.GIVEN_UP.unlink(missing_ok=True)
    lines = [f"  {rule}: see logs/{rule}{f'/{visit}' if visit else ''}.log" for rule, visit in failed_jobs]
    lines += ["`hqsm status STUDY` says how far each visit is. The same command goes on where this one stopped."]
    return close_run(study, succeeded=False, remarks=["These jobs failed:", *lines])


def close_run(study: OpenStudy, *, succeeded: bool, remarks: Sequence[str] = ()) -> int:
    """Say how the run ended; write its provenance; return the exit status it deserves (0, 1, or 3 for rejected visits)."""
    from hqsm.blinding import blind_state
    from hqsm.provenance import write_run_record

    rejected: list[tuple[str, str]] = []
    again: list[str] = []
    for visit in study.index.visits:
        failure = _failure_of(visit.name)
        if failure:
            rejected.append((f"sub-{visit.participant}/ses-{visit.session}", failure["reason"]))
            again += [visit.name] if failure.get("transient") else []
    rejected += study.index.unusable
    n_found = len(study.index.visits) + len(study.index.unusable)
    if succeeded:
        run_state.try_again(again)
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
    lines = [f"{n_found - len(rejected)} of {n_found} visits are in the tables."] if succeeded else []
    if stamp:
        lines.append(stamp)
    if study.sealed:
        lines.append("Blinded: the report is the blinded edition until both arms are locked and the study is unblinded.")
    if rejected:
        were = "1 visit was" if len(rejected) == 1 else f"{len(rejected)} visits were"
        lines.append(f"{were} rejected (results/tables/visits.tsv, `hqsm status STUDY` and results/qc/ say why):")
        lines += [f"  {name}: {reason}" for name, reason in rejected]
    if again:
        lines.append(f"{len(again)} of them were killed or ran out of memory: the same command tries them again.")
    lines += [f"decisions.csv decides about {name}, which is no visit of this study." for name in _decided_and_absent(study)]
    errors = _errors_in_records()
    if errors:
        of = "an error" if errors == 1 else f"{errors} errors"
        lines.append(f"The records have {of}: `hqsm check records STUDY` says in which line, what it stops and what to do.")
    kept = _results_without_images(study)
    if kept:
        shown = ", ".join(kept[:5]) + (" ..." if len(kept) > 5 else "")
        lines.append(f"In no table, but still under results/ (bids, maps, work, qc), to be deleted by hand: {shown}.")
    lines += remarks
    lines.append(f"Report: {Path('results/report/index.html').resolve()}" if succeeded else "The run did not finish.")
    sys.stderr.write("\n" + "\n".join(lines) + "\n")
    if not succeeded:
        return 1
    return 3 if rejected and study.config.study.fail_on_rejected_visit else 0


def _decided_and_absent(study: OpenStudy) -> list[str]:
    found = {visit.name for visit in study.index.visits}
    return [f"{p}/{s}" for p, s in read_decisions(Path("decisions.csv")) if f"{p}_{s}" not in found]


def _results_without_images(study: OpenStudy) -> list[str]:
    """Visits whose images are gone and whose results are not."""
    found = {visit.name for visit in study.index.visits}
    return sorted(path.name for path in Path("results/work").glob("sub-*_ses-*") if path.is_dir() and path.name not in found)


def _errors_in_records() -> int:
    path = Path("results/work/records/findings.json")
    findings = json.loads(path.read_text(encoding="utf-8"))["findings"] if path.is_file() else []
    return sum(finding["severity"] == "error" for finding in findings)


def _failure_of(visit: str) -> dict[str, Any] | None:
    """The failure that rejected a visit (``sub-P_ses-S``); None where there is none, or where it did not get so far."""
    for stage in ("liver_iron", "visit_page"):
        path = Path(f"results/work/{visit}/{stage}.json")
        if path.is_file():
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if facts.get("failed"):
                return facts
    return None


def _stamp_tables(stamp: str) -> None:
    """Leave a note beside the tables where they are not those that were unblinded; take it away where they are."""
    note = Path("results/tables/CHANGED_AFTER_UNBLINDING.txt")
    if stamp and note.parent.is_dir():
        note.write_text(stamp + "\n", encoding="utf-8")
    else:
        note.unlink(missing_ok=True)
