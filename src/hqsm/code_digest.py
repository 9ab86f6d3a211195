"""Edge: which version of the package's code made a file.

Snakemake notices a changed script, not a changed package. The digest of a module covers the module and every
``hqsm`` module that it imports, directly or not, at the top or inside a function; it goes into each rule's ``params``
and into the sidecars.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).resolve().parent


def _path_of(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:]) if "." in module else Path()
    for candidate in (_PACKAGE_ROOT / relative.with_suffix(".py"), _PACKAGE_ROOT / relative / "__init__.py"):
        if candidate.is_file() and candidate.name != ".py":
            return candidate
    return None


@cache
def direct_imports(module: str) -> frozenset[str]:
    """The ``hqsm`` modules that a module names in its import statements, wherever they stand."""
    path = _path_of(module)
    if path is None:
        raise ValueError(f"no module {module} in the package")
    return imports_of(path)


def imports_of(path: Path) -> frozenset[str]:
    """The ``hqsm`` modules that a file of Python names in its import statements, wherever they stand."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "hqsm")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hqsm":
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    # `import a.b` runs a/__init__ too; names that are functions and not modules have no path and drop out
    parents = {name.rsplit(".", 1)[0] for name in found if name.count(".") > 1}
    return frozenset(name for name in found | parents if name != "hqsm" and _path_of(name) is not None)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement below a node; expressions, most of a module, hold none."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, field, ())
        for item in below if isinstance(below, list) else ():
            if isinstance(item, ast.stmt):
                yield item
            yield from _statements(item)


def module_closure(module: str) -> frozenset[str]:
    """A module and every ``hqsm`` module it reaches through imports."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(direct_imports(current))
    return frozenset(seen)


def code_digest(*modules: str, script: Path | None = None) -> str:
    """Twelve hexadecimal digits over the source of the modules, of all that they import from the package, and of a script."""
    names = sorted(frozenset().union(*(module_closure(module) for module in modules)))
    digest = hashlib.sha256()
    for name in names:
        path = _path_of(name)
        assert path is not None
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    if script is not None:
        digest.update(b"script\0" + script.read_bytes())
    return digest.hexdigest()[:12]


_RUNS_JOBS = "hqsm.stage"
"""Imported by every script; how a job is watched and tried again decides no result."""


def script_digest(script: Path) -> str:
    """The digest of a rule's script and of all that it imports from the package."""
    return code_digest(*sorted(imports_of(script) - {_RUNS_JOBS}), script=script)
