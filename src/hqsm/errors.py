"""Errors that a person can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations


class HqsmError(Exception):
    """A failure with a sentence for the person who runs the study.

    Parameters
    ----------
    problem
        One plain sentence: what is wrong, with the two facts that disagree where there are two.
    remedy
        One plain sentence: what to do.
    code
        Stable upper-case code; :mod:`hqsm.codes` and ``docs/records.md`` say what those on a page or in a table mean.
    """

    exit_status = 2
    """What a command that ends with this error returns."""

    def __init__(self, problem: str, *, remedy: str = "", code: str = "ERROR") -> None:
        self.problem = problem
        self.remedy = remedy
        self.code = code
        super().__init__(f"{problem} {remedy}".strip())


class InputError(HqsmError):
    """The data given cannot be used: a file, a field, a folder."""


class ConfigError(HqsmError):
    """The configuration is wrong: an unknown key, a value out of its range."""


class BlindingError(HqsmError):
    """Refused because it would break the blind, or promise one that does not hold."""

    exit_status = 4


class ProcessingError(HqsmError):
    """A stage could not make a valid result from valid-looking data."""
