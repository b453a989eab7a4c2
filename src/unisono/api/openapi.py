"""The OpenAPI document, with an example for every body that goes in or out, made from the schemas' own examples."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from unisono.api import openapi_telemetry
from unisono.api.enrolment.line import EnrolmentLine
from unisono.api.problem_examples import add_problem_examples

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_OF_TYPE: Final[dict[str, Any]] = {"string": "text", "integer": 1, "number": 1.5, "boolean": False, "null": None}
_BOUND_OF_WORD: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
}


def install_openapi(app: FastAPI, description: str) -> None:
    """Let ``app.openapi()`` return the completed document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=description, routes=app.routes)
            line = EnrolmentLine.model_json_schema(ref_template="#/components/schemas/{model}")
            components = made["components"]
            components["schemas"] |= {"EnrolmentLine": line}
            for path, operations in made["paths"].items():
                for method, operation in operations.items():
                    add_problem_examples(method, path, operation)
            with_examples(made)
            components["schemas"] |= openapi_telemetry.SCHEMAS
            components["securitySchemes"][openapi_telemetry.GATEWAY] = openapi_telemetry.SECURITY_SCHEME
            made["paths"] |= openapi_telemetry.telemetry_paths()
            app.openapi_schema = _with_standard_bounds(made)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to replace it


def _with_standard_bounds(node: Any) -> Any:
    """Return the document with JSON Schema's words for bounds, where pydantic leaves its own (behind a validator)."""
    if isinstance(node, dict):
        return {
            _BOUND_OF_WORD.get(key, key) if isinstance(part, int | float) else key: _with_standard_bounds(part)
            for key, part in node.items()
        }
    return [_with_standard_bounds(part) for part in node] if isinstance(node, list) else node


def with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Give every JSON body of every operation an example that has none yet; changes and returns ``document``."""
    schemas = document.get("components", {}).get("schemas", {})
    for operations in document["paths"].values():
        for method in _METHODS:
            operation = operations.get(method, {})
            bodies = [operation.get("requestBody", {}), *operation.get("responses", {}).values()]
            for body in bodies:
                for media_type, content in body.get("content", {}).items():
                    # FastAPI lists every problem as application/json too; it is never sent as such.
                    has_none = "example" not in content and "examples" not in content and "schema" in content
                    if has_none and media_type.endswith("json"):
                        content["example"] = example_of(content["schema"], schemas)
            for status, answer in operation.get("responses", {}).items():
                if int(status) >= 400 and "application/problem+json" in answer.get("content", {}):
                    answer["content"].pop("application/json", None)
    return document


def example_of(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Return an example of a JSON schema: its own, else one put together from its parts."""
    if "example" in schema:
        return schema["example"]
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return example_of(schema[choice][0], schemas)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas)] if schema.get("items") else []
    if "properties" in schema:
        return {name: example_of(part, schemas) for name, part in schema["properties"].items()}
    if schema.get("type") == "object":
        return {}
    return schema.get("default", _OF_TYPE.get(schema.get("type", ""), None))
