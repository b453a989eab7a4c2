"""Errors as problem details (RFC 9457): every one says which field, which value, which rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from unisono.base.errors import (
    Conflict,
    DamagedRecord,
    Forbidden,
    InvalidInput,
    NotFound,
    TooMany,
    Unavailable,
    UnisonoError,
)

MEDIA_TYPE: Final = "application/problem+json"
# Longest text of a caller's value that is sent back; the rest says nothing new and may be huge.
VALUE_TEXT_MAX: Final = 200
# When to come back after something of ours was away: engines restart within a second or two (measured 0.03-2.1 s).
RETRY_AFTER_S: Final = 2


class FieldError(BaseModel):
    """One field that breaks one rule."""

    field: str = Field(examples=["assets[3].zip"])
    value: Any = Field(default=None, examples=["00000"])
    rule: str = Field(examples=["is no ZIP code of the United States"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:unisono:problem:invalid-input",
                "title": "A field breaks a rule",
                "status": 422,
                "detail": "assets[3].zip = '00000': is no ZIP code of the United States",
                "instance": "/v1/vpp/portfolios",
                "field": "assets[3].zip",
                "value": "00000",
                "rule": "is no ZIP code of the United States",
                "errors": [{"field": "assets[3].zip", "value": "00000", "rule": "is no ZIP code of the United States"}],
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    field: str | None = None
    value: Any = None
    rule: str | None = None
    errors: list[FieldError] = []


class Unauthenticated(UnisonoError):
    """No key, or none that is valid now; ``rule`` says why without telling whether the key exists."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class ProblemsFound(UnisonoError):
    """Several fields break rules at once."""

    def __init__(self, errors: Sequence[InvalidInput]) -> None:
        assert errors, "at least one"
        super().__init__("; ".join(str(error) for error in errors))
        self.errors = tuple(errors)


class InProgress(UnisonoError):
    """The first request with this Idempotency-Key is still being worked on."""

    def __init__(self, key: str, retry_after_s: int = 1) -> None:
        super().__init__(f"the first request with Idempotency-Key {key!r} is still in progress")
        self.key = key
        self.retry_after_s = retry_after_s


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""
    app.add_exception_handler(UnisonoError, _on_unisono_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(TimeoutError, _on_timeout)


def problem_response(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    request: Request | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem; the first of ``errors`` is repeated at the top for callers who look no further."""
    body = _body(_Told(status, kind, title, detail, errors), request.url.path if request is not None else "")
    return JSONResponse(body, status, dict(headers or {}), MEDIA_TYPE)


def _body(told: _Told, path: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": f"urn:unisono:problem:{told.kind}",
        "title": told.title,
        "status": told.status,
        "detail": told.detail,
        "instance": path,
    }
    if told.errors:
        body |= told.errors[0].model_dump() | {"errors": [error.model_dump() for error in told.errors]}
    return body


def plain_rule(words: str) -> str:
    """Return pydantic's words as a rule that reads on from the field and its value."""
    return words.replace("Input should be", "must be").replace("Field required", "is required")


def plain_value(value: Any) -> Any:
    """Return ``value`` as JSON can hold it, shortened."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else repr(value)
    # A lone surrogate can be received in JSON but not be sent as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= VALUE_TEXT_MAX else text[:VALUE_TEXT_MAX] + "..."


def field_path(location: Sequence[str | int]) -> str:
    """Return a pydantic location as callers write it.

    >>> field_path(("body", "assets", 3, "zip"))
    'assets[3].zip'
    >>> field_path(("query", "limit"))
    'limit'
    >>> field_path(("body", "members", 0, "(filter)", "vendor"))
    'members[0].vendor'
    """
    # Which branch of a union was meant is our business: its tag stands in parentheses (``schemas.portfolios``).
    parts = [part for part in location if not (isinstance(part, str) and part.startswith("("))]
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header", "cookie"):
        parts = parts[1:]
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path


def _field_error(error: InvalidInput) -> FieldError:
    return FieldError(field=error.field, value=plain_value(error.value), rule=error.rule)


class _Told(NamedTuple):
    """What a problem says, apart from the request."""

    status: int
    kind: str
    title: str
    detail: str
    errors: Sequence[FieldError]
    headers: Mapping[str, str] = {}


def example_of_problem(error: UnisonoError, path: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of what this error is answered with at ``path``."""
    told = _told_of_input(error) or _told_of_state(error)
    assert told is not None, "an error that is answered"
    return told.status, _body(told, path)


async def _on_unisono_error(request: Request, error: Exception) -> JSONResponse:
    told = _told_of_input(error) or _told_of_state(error)
    if told is None:
        raise error
    return problem_response(
        told.status,
        told.kind,
        told.title,
        told.detail,
        request=request,
        errors=told.errors,
        headers=told.headers,
    )


def _told_of_input(error: Exception) -> _Told | None:
    """Errors that the caller mends by sending something else."""
    match error:
        case InvalidInput():
            fields = [_field_error(error)]
            return _Told(422, "invalid-input", "A field breaks a rule", str(error), fields)
        case ProblemsFound():
            fields = [_field_error(one) for one in error.errors]
            return _Told(422, "invalid-input", "Fields break rules", str(error), fields)
        case Unauthenticated():
            fields = [FieldError(field="Authorization", rule=error.rule)]
            headers = {"WWW-Authenticate": 'Bearer realm="unisono"'}
            return _Told(401, "unauthenticated", "A valid key is needed", error.rule, fields, headers)
        case Forbidden():
            fields = [FieldError(field="scopes", rule=f"needs {error.needs}")]
            return _Told(403, "forbidden", "This key may not do this", str(error), fields)
        case NotFound():
            fields = [FieldError(field=error.kind, value=error.ref, rule="must exist")]
            return _Told(404, "not-found", "No such thing, or none that this key may see", str(error), fields)
    return None


def _told_of_state(error: Exception) -> _Told | None:
    """Errors of the moment: the same request may succeed later, or never in this state."""
    match error:
        case InProgress():
            rule = "come back when the first request has been answered"
            fields = [FieldError(field="Idempotency-Key", value=plain_value(error.key), rule=rule)]
            headers = {"Retry-After": str(error.retry_after_s)}
            return _Told(409, "in-progress", "The first request is still in progress", str(error), fields, headers)
        case Conflict():
            fields = [FieldError(field=error.kind, value=error.ref, rule=error.rule)]
            return _Told(409, "conflict", "This collides with the present state", str(error), fields)
        case TooMany():
            fields = [FieldError(field=error.what, rule=f"the limit is {error.limit}")]
            if error.retry_after_s is None:
                return _Told(413, "too-many", "A limit is reached", str(error), fields)
            headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
            return _Told(429, "too-many", "A limit is reached", str(error), fields, headers)
        case Unavailable():
            fields = [FieldError(field=error.what, rule=error.why)]
            detail = f"{error}; repeat the same call, with the same Idempotency-Key if it had one"
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return _Told(503, "unavailable", "Something behind the API is away", detail, fields, headers)
        case DamagedRecord():
            fields = [FieldError(field=error.what, rule=error.why)]
            return _Told(500, "damaged-record", "A stored record is damaged", str(error), fields)
    return None


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = []
    for found in error.errors():
        rule = plain_rule(str(found["msg"]))
        if found["type"] == "json_invalid":
            rule = f"is no valid JSON: {found.get('ctx', {}).get('error', '')} at byte {found['loc'][-1]}"
            errors.append(FieldError(field="body", rule=rule))
            continue
        value = None if found["type"] == "missing" else plain_value(found.get("input"))
        errors.append(FieldError(field=field_path(found["loc"]), value=value, rule=rule))
    first = errors[0]
    detail = f"{first.field} = {first.value!r}: {first.rule}"
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    return problem_response(422, "invalid-input", "A field breaks a rule", detail, request=request, errors=errors)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http")
    # FastAPI says 400 for one thing only: bytes that no JSON parser takes (not UTF-8, nested too deeply).
    is_body = error.status_code == HTTPStatus.BAD_REQUEST
    found = FieldError(field="path", value=plain_value(request.url.path), rule=str(error.detail))
    if is_body:
        found = FieldError(field="body", rule="must be JSON in UTF-8 that can be parsed")
    return problem_response(
        error.status_code,
        kind,
        str(error.detail),
        f"{request.method} {request.url.path}",
        request=request,
        headers=error.headers,
        errors=[found],
    )


async def _on_timeout(request: Request, error: Exception) -> JSONResponse:
    return await _on_unisono_error(request, Unavailable("service", str(error) or "no answer within the time allowed"))
