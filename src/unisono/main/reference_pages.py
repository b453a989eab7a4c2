"""The generated pages of ``docs/reference``: the columns, from where they are defined, and the API, from its OpenAPI.

``python -m unisono.main.reference_pages docs/reference`` writes them; a test holds them against the code.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from unisono.api import openapi_telemetry
from unisono.api.app import DESCRIPTION, ROUTERS
from unisono.api.enrolment.line import DEFAULTS_OF_TECHNOLOGY, EnrolmentLine, LineDefaults
from unisono.api.openapi import install_openapi
from unisono.fleet.columns import column_table
from unisono.fleet.trust import LeaseState, SuspectReason
from unisono.main.config import Settings
from unisono.main.roles import retention_days
from unisono.model.technology import (
    AckCode,
    CommandKind,
    Fallback,
    Lifecycle,
    ReadingKind,
    ReferenceMethod,
    SourceKind,
    Technology,
    Trust,
)
from unisono.store.history.kinds import KINDS, Kind

VOCABULARIES: Final[tuple[type[IntEnum], ...]] = (
    Technology,
    Lifecycle,
    SourceKind,
    ReadingKind,
    Trust,
    SuspectReason,
    LeaseState,
    CommandKind,
    AckCode,
    Fallback,
    ReferenceMethod,
)
# Bounds as pydantic writes them into a schema, and the words for them.
_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
)
# Arrow's names for what numpy calls otherwise.
_DTYPE: Final = {"float": "float32", "double": "float64", "fixed_size_binary[384]": "96 float32 in a row"}
# Every operation may answer with these; they are told once.
_PROBLEM_FROM: Final = 400
# Where the examples of the page's head are taken from.
_REVISION: Final = ("put", "/v1/vpp/dispatches/{dispatch_id}")
_EXAMPLE_FROM: Final = {
    "401": _REVISION,
    "403": _REVISION,
    "404": _REVISION,
    "409": _REVISION,
    "422": ("get", "/v1/devices"),
    "429": _REVISION,
}
_SCHEMAS: Final = "#/components/schemas/"


def columns_page() -> str:
    """Return ``docs/reference/columns.md``."""
    codes = "".join(_vocabulary(kinds) for kinds in VOCABULARIES)
    history = "".join(_history_kind(kind) for kind in KINDS.values())
    return _COLUMNS_PAGE.format(fleet=column_table().replace("## ", "### "), codes=codes, history=history)


def api_page() -> str:
    """Return ``docs/reference/api.md``."""
    document = _document()
    parts = [_API_HEAD.format(description=DESCRIPTION.strip()), *_problem_examples(document)]
    tag = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"\n## {tag.capitalize()}\n")
            parts.append(_operation(method, path, operation))
    parts.append("\n## Schemas\n")
    schemas = document["components"]["schemas"]
    for name in sorted(schemas):
        if not name.startswith("Page_"):
            parts.append(_schema(name, schemas[name]))
        if name == EnrolmentLine.__name__:
            parts.append(_line_defaults())
    return "".join(parts)


def pages() -> dict[str, str]:
    """Return all pages by their file's name."""
    return {"columns.md": columns_page(), "api.md": api_page()}


def _document() -> dict[str, Any]:
    """Return the OpenAPI document, which needs the routes and nothing behind them."""
    app = FastAPI(title="Unisono")
    for router in ROUTERS:
        app.include_router(router)
    install_openapi(app, DESCRIPTION)
    return app.openapi()


def _vocabulary(kinds: type[IntEnum]) -> str:
    sentence = _plain((kinds.__doc__ or "").strip().splitlines()[0])
    values = ", ".join(f"{kind.value} {kind.name.lower()}" for kind in kinds)
    return f"- **{kinds.__name__}**: {values}. {sentence}\n"


def _history_kind(kind: Kind) -> str:
    days = retention_days(Settings()).get(kind.derived_from or kind.name, kind.retention_days)
    rows = "".join(
        f"| `{name}` | {_DTYPE.get(str(dtype), dtype)} | {'null' if is_nullable else 'never'} |\n"
        for name, dtype, is_nullable in ((column.name, column.type, column.nullable) for column in kind.schema)
    )
    return (
        f"### {kind.name}\n\nOne UTC day of `{kind.day_column}` a file, in the order {', '.join(kind.order)}; "
        f"kept {days:,} days by default.\n\n| column | type | missing |\n|---|---|---|\n{rows}\n"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"\n### {method.upper()} {path}\n", f"{operation['summary']}. {_needs(operation)}\n"]
    lines.append(_plain(operation.get("description", "")) + "\n")
    parameters = [parameter for parameter in operation.get("parameters", []) if parameter["in"] != "path"]
    if parameters:
        lines.append("| parameter | in | type | meaning |\n|---|---|---|---|")
        lines += [_parameter(parameter) for parameter in parameters]
        lines.append("")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body `{media_type}`{_of_schema(content)}:\n\n{_example(content)}\n")
    for status, answer in operation["responses"].items():
        if int(status) < _PROBLEM_FROM:
            lines += _answer(status, answer, with_example=_is_by_hand(operation))
    if problems := [status for status in operation["responses"] if int(status) >= _PROBLEM_FROM]:
        lines.append(f"Problems: {', '.join(sorted(problems))}.\n")
    return "\n".join(lines)


def _needs(operation: dict[str, Any]) -> str:
    security = operation.get("security")
    if not security:
        return "Open to everybody."
    return "A gateway's secret." if _is_by_hand(operation) else f"Scope `{security[0]['key'][0]}`."


def _is_by_hand(operation: dict[str, Any]) -> bool:
    """Whether gateways call it: there is no record for its bodies, their examples tell the most."""
    return bool(operation["tags"][0] == openapi_telemetry.TAG)


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    need = "required" if parameter["required"] else ""
    told = [need, parameter.get("description", ""), _default(schema)]
    meaning = "; ".join(part.rstrip(".") for part in told if part)
    kind = _type(schema).removesuffix(" or null")
    return f"| `{parameter['name']}` | {parameter['in']} | {kind} | {_cell(meaning)} |"


def _answer(status: str, answer: dict[str, Any], *, with_example: bool) -> Iterator[str]:
    for media_type, content in answer.get("content", {}).items():
        told = f"Answer {status} `{media_type}`{_of_schema(content)}"
        yield f"{told}:\n\n{_example(content)}\n" if with_example else f"{told}.\n"


def _problem_examples(document: dict[str, Any]) -> Iterator[str]:
    """Yield an example of each status, from the operation that has most to tell of it."""
    for status, (method, path) in _EXAMPLE_FROM.items():
        answer = document["paths"][path][method]["responses"][status]
        [content] = answer["content"].values()
        yield f"\n{status}. {answer['description']}\n\n{_example(content)}\n"


def _of_schema(content: dict[str, Any]) -> str:
    schema = content.get("schema", {})
    return f", {_type(schema)}" if "$ref" in schema else ""


def _example(content: dict[str, Any]) -> str:
    example = content.get("example", next(iter(content.get("examples", {}).values()), {}))
    if isinstance(example, str):
        return f"```text\n{example.strip()}\n```"
    return f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"| `{field}` | {_type(part)} | {'yes' if field in required else ''} | {_cell(_meaning(part))} |\n"
        for field, part in schema.get("properties", {}).items()
    )
    table = f"| field | type | required | meaning |\n|---|---|---|---|\n{rows}" if rows else ""
    return f"\n### {name}\n\n{_plain(schema.get('description', ''))}\n\n{table}"


def _line_defaults() -> str:
    """Return the table of what an enrolled device takes, by technology, for what its line leaves out."""
    names = [field.name for field in dataclasses.fields(LineDefaults)]
    rows = [["technology", *(f"`{name}`" for name in names)], ["---"] * (1 + len(names))]
    for technology, defaults in DEFAULTS_OF_TECHNOLOGY.items():
        values = [getattr(defaults, name) for name in names]
        rows.append([f"`{technology.asset_type}`", *("" if math.isnan(value) else f"{value:g}" for value in values)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        f"\nDefaults by technology; others take 1 for an efficiency, 0 for a reserve, and no comfort band.\n\n{table}"
    )


def _meaning(schema: dict[str, Any]) -> str:
    return "; ".join(part.rstrip(".") for part in (schema.get("description", ""), _default(schema)) if part)


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return f"default {json.dumps(default)}" if default not in (None, "", [], {}) else ""


def _type(schema: dict[str, Any]) -> str:
    """Return a schema's type in words, with its bounds; a reference links to its own table."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        if name.startswith("Page_"):
            item = name.removeprefix("Page_").rstrip("_")
            return f"page of [{item}](#{item.lower()})" if "dict" not in item else "page of objects"
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(choice) for choice in choices)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`" if schema["const"] else "empty"
    if schema.get("type") == "array":
        return _bounded(f"list of {_type(schema.get('items', {}))}", schema)
    return _bounded(schema.get("format") or schema.get("type") or "any", schema)


def _bounded(words: str, schema: dict[str, Any]) -> str:
    found = [text.format(f"{schema[key]:,.12g}") for key, text in _BOUNDS if key in schema]
    return f"{words}, {', '.join(found)}" if found else words


def _plain(text: str) -> str:
    """Return a docstring's paragraphs as Markdown: reST's double backquotes become single ones."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("``", "`").split("\n\n"))


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


_COLUMNS_PAGE: Final = """# Columns and codes

<!-- Written by `python -m unisono.main.reference_pages docs/reference`; do not edit. -->

One row is one device, site or gateway; one column is one fact. Power is positive into the grid. A "missing" of nan or
-1 stands for "not known", never for zero.

## The fleet in memory

`unisono.fleet.columns` defines every column once; allocation, checkpoints, kernels and this page come from there.

{fleet}## Codes

Integers that are written into columns, streams and history. They are never renumbered.

{codes}
## History on disk

Parquet files, `<kind>/shard=<n>/day=<UTC date>/*.parquet`. Columns are matched by name, so that one added later reads
as null from older files. Which files belong to the table is said by `history_file` in PostgreSQL.

{history}"""

_API_HEAD: Final = """# The REST API

<!-- Written by `python -m unisono.main.reference_pages docs/reference`; do not edit. -->

{description}

The same as a machine-readable document: `GET /openapi.json`, with an example for every body and every problem. Gateways
use three paths of another port, [gateways over HTTP](#gateways-over-http); their fields are told in
[the wire](wire.md).

## Problems

Operations answer 401 (no valid key), 403 (a scope is missing), 404 (no such thing, or none of this organisation), 409
(it collides with the present state), 413 (too large), 422 (a field breaks a rule), 429 (too many wait) and 503
(something behind the API is away) as [Problem](#problem). 429, 503 and a request in progress carry `Retry-After`.
"""


def main(arguments: list[str]) -> int:
    """Write all pages into the folder that ``arguments`` name."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m unisono.main.reference_pages FOLDER", file=sys.stderr)
        return 2
    for name, text in pages().items():
        Path(arguments[0], name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
