"""How a parameter block is declared: a frozen dataclass that refuses unknown keys and values out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def parameters(cls: type[_Class]) -> type[_Class]:
    """Class decorator: frozen, keyword-only, unknown keys refused, attribute docstrings become descriptions."""
    wrapped: type[_Class] = dataclass(  # type: ignore[assignment]  # pydantic returns the same class, decorated
        frozen=True,
        kw_only=True,
        config=ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False),
    )(cls)
    return wrapped


def block(kind: type[_Class], plain: Mapping[str, Any]) -> _Class:
    """One block back from :func:`hqsm.config.study.as_plain`'s form."""
    return TypeAdapter(kind).validate_python(dict(plain))
