"""Edge: the folder of the study's secret and of the crosswalk between persons and blind labels.

It lies outside of the study and of any repository and is readable by its owner alone; anything else is refused.
"""

from __future__ import annotations

import csv
import os
import re
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hqsm.errors import InputError
from hqsm.intake.policy import Blinding, next_session
from hqsm.private_folder import private_file, private_folder, refuse_readable

SECRET = "secret.key"
CROSSWALK = "crosswalk.csv"
_LABEL = re.compile(r"[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One line of the crosswalk: a study of a person at a site, and the blind visit that it becomes.

    ``participant`` and ``session`` may be edited by the person who keeps the keys, before or after an intake; two lines of
    the same participant and session are one visit.
    """

    site: str
    patient_id: str
    study_instance_uid: str
    study_date: str
    participant: str
    session: str
    shift_days: int


class Keys:
    """An open folder of keys: the secret, and the crosswalk as it grows."""

    def __init__(self, folder: Path, blinding: Blinding, visits: list[Visit]) -> None:
        self.folder = folder
        self.blinding = blinding
        self.visits = visits

    def visit(self, site: str, patient_id: str, study_instance_uid: str, study_date: str) -> Visit:
        """The blind visit of a study; a new one gets the person's label and the next free session."""
        for visit in self.visits:
            if (visit.site, visit.patient_id, visit.study_instance_uid) == (site, patient_id, study_instance_uid):
                return visit
        same = [visit for visit in self.visits if (visit.site, visit.patient_id) == (site, patient_id)]
        participant = same[0].participant if same else self.blinding.participant(site, patient_id)
        shift_days = same[0].shift_days if same else self.blinding.shift_days(site, patient_id)
        made = Visit(
            site=site,
            patient_id=patient_id,
            study_instance_uid=study_instance_uid,
            study_date=study_date,
            participant=participant,
            session=next_session(visit.session for visit in same),
            shift_days=shift_days,
        )
        self.visits.append(made)
        self._check()
        return made

    def save(self) -> None:
        """Write the crosswalk, readable by its owner alone, as a whole or not at all."""
        temporary = self.folder / f".{CROSSWALK}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        with private_file(temporary) as handle:
            writer = csv.DictWriter(handle, [entry.name for entry in fields(Visit)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(visit) for visit in self.visits)
        temporary.replace(self.folder / CROSSWALK)

    def _check(self) -> None:
        owners: dict[str, tuple[str, str]] = {}
        shifts: dict[str, int] = {}
        for line, visit in enumerate(self.visits, start=2):
            if not _LABEL.fullmatch(visit.participant) or not _LABEL.fullmatch(visit.session):
                raise InputError(
                    f"{CROSSWALK} line {line}: participant and session are 1 to 16 letters and digits.",
                    remedy="Correct the line.",
                    code="KEYS_LABEL",
                )
            owner = owners.setdefault(visit.participant, (visit.site, visit.patient_id))
            if owner != (visit.site, visit.patient_id) or shifts.setdefault(visit.participant, visit.shift_days) != visit.shift_days:
                raise InputError(
                    f"{CROSSWALK} line {line}: the participant is used for another person or with another date shift above.",
                    remedy="One person, one label, one shift.",
                    code="KEYS_TWO_PERSONS",
                )


def open_keys(folder: Path, study: Path) -> Keys:
    """Open the folder of keys, or make it with a new secret.

    Raises
    ------
    InputError
        As :func:`hqsm.private_folder.private_folder`; ``KEYS_SECRET``: the secret is too short; ``KEYS_LABEL``,
        ``KEYS_TWO_PERSONS``: the crosswalk was edited wrongly.
    """
    place = private_folder(folder, study, create=True)
    for name in (SECRET, CROSSWALK):
        refuse_readable(place / name)
    secret_path = place / SECRET
    if not secret_path.exists():
        if (place / CROSSWALK).exists():
            raise InputError(
                f"There is a {CROSSWALK}, but no {SECRET}.",
                remedy="Put the secret of this study back from its backup; with a new one every UID would change.",
                code="KEYS_SECRET",
            )
        with private_file(secret_path) as handle:
            handle.write(secrets.token_hex(32) + "\n")
    secret = secret_path.read_text(encoding="ascii", errors="replace").strip().encode()
    if len(secret) < 32:
        raise InputError(f"{SECRET} has fewer than 32 characters.", remedy="Make a new folder of keys.", code="KEYS_SECRET")
    keys = Keys(place, Blinding(secret=secret), _read_crosswalk(place / CROSSWALK))
    keys._check()
    return keys


def _read_crosswalk(path: Path) -> list[Visit]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle)
        wanted = [entry.name for entry in fields(Visit)]
        if reader.fieldnames is None or any(name not in reader.fieldnames for name in wanted):
            raise InputError(f"{CROSSWALK} lacks a column of: {', '.join(wanted)}.", remedy="Restore it.", code="KEYS_LABEL")
        visits = []
        for line, row in enumerate(reader, start=2):
            try:
                visits.append(Visit(**{name: row[name] for name in wanted if name != "shift_days"}, shift_days=int(row["shift_days"])))
            except (TypeError, ValueError):
                raise InputError(f"{CROSSWALK} line {line}: shift_days is no number.", remedy="Restore it.", code="KEYS_LABEL") from None
    return visits
