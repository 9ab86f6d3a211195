"""Each visit's acquisition against the study's protocol, and against the same participant's visit before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hqsm.config.protocol import ExpectedProtocol, ProtocolParams
from hqsm.units import milliseconds_to_s

Facts = Mapping[str, Any]

_SAME_SHARE = 0.05
_SAME_VOXEL_SHARE = 0.02
_SAME_FLIP_DEGREES = 0.5
_OTHER_MODEL_SHARE = 0.2
"""Of the liver: at a visit it may gain or lose so many voxels to another order of the model without a word."""
_MODELS = (
    ("model_water_fat", "water and fat independent"),
    ("model_fat_constrained", "fat constrained"),
    ("model_no_fat", "fat given up"),
    ("model_two_echoes", "two echoes"),
)
_SCANNER = (("manufacturer", "manufacturer"), ("model", "scanner"), ("software", "software"))


def expected_protocol(params: ProtocolParams, participant: str, session: str) -> ExpectedProtocol:
    """The protocol of a visit, by its labels without prefixes."""
    for site in params.sites.values():
        if re.match(site.participants, participant) and re.match(site.sessions, session):
            return site
    return params.expected


def deviations(facts: Facts, wanted: ExpectedProtocol, *, echo_time_tolerance_s: float) -> list[str]:
    """What differs from the protocol, one phrase each; a fact that the header did not hold counts as a deviation.

    ``facts`` are those of the gated echoes: times in s, field in T, angles in degrees, voxels in mm.
    """
    found: list[str] = []

    def compare(name: str, measured: Any, expected: float | None, largest: float, unit: str, factor: float = 1.0) -> None:
        if expected is None:
            return
        if measured is None:
            found.append(f"{name} unknown instead of {expected:g} {unit}")
        elif abs(factor * float(measured) - expected) > largest:
            found.append(f"{name} {factor * float(measured):.4g} instead of {expected:g} {unit}")

    if wanted.manufacturer and wanted.manufacturer.lower() not in str(facts.get("manufacturer", "")).lower():
        found.append(f"manufacturer {facts.get('manufacturer') or 'unknown'} instead of {wanted.manufacturer}")
    nominal = wanted.field_strength_tesla
    compare("field strength", facts.get("field_strength_tesla"), nominal, _SAME_SHARE * (nominal or 0), "T")
    times_s = [float(t) for t in facts.get("echo_times_s", [])]
    wanted_s = [milliseconds_to_s(t) for t in wanted.echo_times_ms]
    if wanted_s and (
        len(times_s) != len(wanted_s) or any(abs(a - b) > echo_time_tolerance_s + 1e-9 for a, b in zip(times_s, wanted_s, strict=True))
    ):
        found.append(f"echo times {_milliseconds(times_s)} instead of {_milliseconds(wanted_s)} ms")
    tr = wanted.repetition_time_ms
    compare("repetition time", facts.get("repetition_time_s"), tr, _SAME_SHARE * (tr or 0), "ms", 1e3)
    compare("flip angle", facts.get("flip_angle_degrees"), wanted.flip_angle_degrees, _SAME_FLIP_DEGREES, "degrees")
    if wanted.matrix is not None and tuple(facts.get("shape", ())[:2]) != tuple(wanted.matrix):
        found.append(f"matrix {' x '.join(map(str, facts.get('shape', ['unknown'])[:2]))} instead of {' x '.join(map(str, wanted.matrix))}")
    size = [float(v) for v in facts.get("voxel_size_mm", [])]
    if wanted.voxel_size_mm is not None and (
        len(size) != 3 or any(abs(a - b) > _SAME_VOXEL_SHARE * b for a, b in zip(size, wanted.voxel_size_mm, strict=True))
    ):
        words = " x ".join(f"{v:.3g}" for v in size) or "unknown"
        found.append(f"voxels of {words} instead of {' x '.join(f'{v:g}' for v in wanted.voxel_size_mm)} mm")
    polarity = str(facts.get("readout", {}).get("polarity", "not-checked"))
    if wanted.readout != "any" and polarity not in {wanted.readout, "not-checked"}:
        found.append(f"{polarity} readout instead of {wanted.readout}")
    repetitions = facts.get("gating", {}).get("n_repetitions")
    if repetitions is not None and repetitions < wanted.least_repetitions:
        found.append(f"{repetitions} repetitions instead of at least {wanted.least_repetitions}")
    return found


def changes(before: Facts, now: Facts, *, echo_time_tolerance_s: float) -> tuple[list[str], list[str], list[str]]:
    """What changed between two visits of one participant: of the scanner, of the protocol, and of the models that the liver was fitted by.

    ``liver_fit`` of the facts holds the share of the liver that each order of the model has, where there is a liver.
    """
    scanner = [
        f"{name} {before.get(key) or 'unknown'} to {now.get(key) or 'unknown'}"
        for key, name in _SCANNER
        if (before.get(key) or "") != (now.get(key) or "")
    ]
    old, new = before.get("field_strength_tesla"), now.get("field_strength_tesla")
    if old is not None and new is not None and abs(old - new) > _SAME_SHARE * old:
        scanner.append(f"field strength {old:.3g} to {new:.3g} T")
    times = [[float(t) for t in facts.get("echo_times_s", [])] for facts in (before, now)]
    protocol: list[str] = []
    if len(times[0]) != len(times[1]) or any(abs(a - b) > echo_time_tolerance_s + 1e-9 for a, b in zip(*times, strict=True)):
        protocol.append(f"echo times {_milliseconds(times[0])} to {_milliseconds(times[1])} ms")
    for key, name, unit, factor, least in (
        ("flip_angle_degrees", "flip angle", "degrees", 1.0, _SAME_FLIP_DEGREES),
        ("repetition_time_s", "repetition time", "ms", 1e3, None),
    ):
        a, b = before.get(key), now.get(key)
        if a is not None and b is not None and abs(a - b) > (least if least is not None else _SAME_SHARE * a):
            protocol.append(f"{name} {factor * a:.4g} to {factor * b:.4g} {unit}")
    if list(before.get("shape", ())[:2]) != list(now.get("shape", ())[:2]):
        protocol.append(f"matrix {' x '.join(map(str, before['shape'][:2]))} to {' x '.join(map(str, now['shape'][:2]))}")
    old_fit, new_fit = before.get("liver_fit", {}), now.get("liver_fit", {})
    models = [
        f"{words} in {100 * old_fit[key]:.0f} to {100 * new_fit[key]:.0f} % of the liver"
        for key, words in _MODELS
        if key in old_fit and key in new_fit and abs(old_fit[key] - new_fit[key]) > _OTHER_MODEL_SHARE
    ]
    return scanner, protocol, models


def changes_by_visit(
    visits: Iterable[tuple[str, str, Facts]], *, echo_time_tolerance_s: float
) -> dict[tuple[str, str], tuple[list[str], list[str], list[str]]]:
    """Changes since the visit before, by participant and session.

    Visits are ordered by the date of acquisition, then by label; one that has no facts of an acquisition is passed over.
    """
    ordered: dict[str, list[tuple[str, str, Facts]]] = {}
    for participant, session, facts in visits:
        if facts.get("echo_times_s"):
            ordered.setdefault(participant, []).append((str(facts.get("acquisition_date", "")), session, facts))
    found = {}
    for participant, entries in ordered.items():
        entries.sort(key=lambda entry: entry[:2])
        for (_, _, before), (_, session, now) in zip(entries, entries[1:], strict=False):
            found[participant, session] = changes(before, now, echo_time_tolerance_s=echo_time_tolerance_s)
    return found


def _milliseconds(times_s: Sequence[float]) -> str:
    return ", ".join(f"{1e3 * t:.4g}" for t in times_s) or "unknown"
