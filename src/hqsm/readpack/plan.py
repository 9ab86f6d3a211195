"""Who reads what, under which code, in which order: the part of blinding that is arithmetic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from hqsm.errors import InputError

ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Letters and digits that nobody confuses in handwriting."""
_CODE_LENGTH = 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of one reader: the line of the key that links a code to a scan.

    ``position`` is the place in the reader's worklist from 1; ``reading`` is 2 for a hidden repeat.
    """

    reader: str
    position: int
    code: str
    participant_id: str
    session_id: str
    reading: int


def assign(visits: Sequence[tuple[str, str]], readers: Sequence[str], repeat_share: float, source: random.Random) -> list[Case]:
    """Every reader's cases: own codes, own order, own hidden repeats, each repeat far from its first reading.

    Parameters
    ----------
    visits
        (participant_id, session_id) of each scan.
    readers
        Names of the readers, letters and digits.
    repeat_share
        Share of the scans that come twice; at least one where there are four scans or more, none for 0.
    source
        Where chance comes from.

    Raises
    ------
    InputError
        Without scans, or with a reader's name that is not plain or comes twice.
    """
    if not visits:
        raise InputError(
            "There is no scan to read.", remedy="Run the workflow first: its gated echoes are what is read.", code="PACK_EMPTY"
        )
    if len(set(readers)) != len(readers) or not all(name.isalnum() and name.isascii() for name in readers) or not readers:
        raise InputError(
            f"The readers' names {', '.join(readers)!r} are not plain and different.",
            remedy="Use letters and digits, for example --readers A,B.",
            code="PACK_READERS",
        )
    used: set[str] = set()
    cases: list[Case] = []
    for reader in readers:
        order = list(visits)
        source.shuffle(order)
        readings = [(visit, 1) for visit in order]
        n_repeats = round(repeat_share * len(order))
        if repeat_share > 0 and len(order) >= 4:
            n_repeats = max(1, n_repeats)
        for visit in source.sample(order, n_repeats):
            first = readings.index((visit, 1))
            apart = max(1, len(order) // 3)
            if first + apart > len(readings):  # too late in the list to wait: it changes places with an early one
                early = source.randrange(0, max(1, len(readings) - apart))
                if readings[early][1] == 1 and (readings[early][0], 2) not in readings:
                    readings[first], readings[early] = readings[early], readings[first]
                    first = early
            readings.insert(source.randint(min(first + apart, len(readings)), len(readings)), (visit, 2))
        for position, ((participant, session), reading) in enumerate(readings, start=1):
            code = _new_code(used, source)
            cases.append(Case(reader=reader, position=position, code=code, participant_id=participant, session_id=session, reading=reading))
    return cases


def _new_code(used: set[str], source: random.Random) -> str:
    while True:
        code = "".join(source.choice(ALPHABET) for _ in range(_CODE_LENGTH))
        if code not in used:
            used.add(code)
            return code
