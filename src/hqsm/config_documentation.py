"""The configuration's documentation, written from its JSON schema: nothing is said twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_Node = Mapping[str, Any]

_HEAD = """# Configuration

What a person may change, one block per stage. `STUDY/config.yaml` overrides the repository's `config.yaml`; a key that is left
out has its default, one that is not known is refused with the nearest known key. Written by `make schema` from the parameter types.
"""


def as_markdown(schema: _Node) -> str:
    """Every block of a schema as a table: key, default, what is allowed, meaning."""
    parts = [_HEAD]
    plain = {key: node for key, node in schema["properties"].items() if _block(node, schema) is None}
    if plain:
        parts.append(_table("Study-wide", "", plain, schema))
    for key, node in schema["properties"].items():
        block = _block(node, schema)
        if block is not None:
            parts += _sections(key, block, schema)
    return "\n".join(parts)


def _sections(name: str, block: _Node, schema: _Node) -> Iterator[str]:
    nested = {key: found for key, node in block["properties"].items() if (found := _block(node, schema)) is not None}
    plain = {key: node for key, node in block["properties"].items() if key not in nested}
    yield _table(f"`{name}`", str(block.get("description", "")), plain, schema)
    for key, node in nested.items():
        yield from _sections(f"{name}.{key}", node, schema)


def _table(title: str, text: str, nodes: Mapping[str, _Node], schema: _Node) -> str:
    lines = [f"## {title}", "", text, "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, node in nodes.items():
        default = f"`{json.dumps(node['default'])}`" if "default" in node else "required"
        cells = (f"`{key}`", default, _allowed(node, schema), str(node.get("description", "")).replace("\n", " "))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _block(node: _Node, schema: _Node) -> _Node | None:
    """The block that a key holds; None where it holds a value or a list."""
    found = _resolved(node, schema)
    return found if "properties" in found else None


def _resolved(node: _Node, schema: _Node) -> _Node:
    references = [node.get("$ref"), *(part.get("$ref") for part in node.get("allOf", []))]
    for reference in filter(None, references):
        found: _Node = schema["$defs"][str(reference).rsplit("/", 1)[-1]]
        return found
    return node


def _allowed(node: _Node, schema: _Node) -> str:
    """What a value may be, in a few words."""
    node = _resolved(node, schema)
    if "anyOf" in node:
        return " or ".join(_allowed(part, schema) for part in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if "properties" in node:
        return "a block of " + ", ".join(f"`{key}`" for key in node["properties"])
    if node.get("type") == "array":
        items = node.get("prefixItems") or [node.get("items", {})]
        return "list of " + _allowed(items[0], schema)
    words = {"null": "nothing", "boolean": "`true`, `false`", "string": "text", "object": "keys and values"}
    kind = words.get(str(node.get("type", "")), str(node.get("type", "")))
    bounds = (("exclusiveMinimum", "> {}"), ("minimum", "≥ {}"), ("exclusiveMaximum", "< {}"), ("maximum", "≤ {}"))
    limits = [words.format(node[key]) for key, words in bounds if key in node]
    return " ".join([kind, ", ".join(limits)]).strip()
