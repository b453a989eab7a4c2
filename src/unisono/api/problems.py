"""Errors as problem details (RFC 9457): every one says which field, which value, which rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from unisono.base.errors import NotFound, Unavailable, UnisonoError
from unisono.base.problems import MEDIA_TYPE, Broken, MethodNotAllowed, Told, told_of, told_of_fields
from unisono.base.rule_words import plain_value, rule_of_bad_json, rule_of_pydantic


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
                "detail": 'assets[3].zip = "00000": is no ZIP code of the United States',
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


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""
    app.add_exception_handler(UnisonoError, _on_unisono_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(TimeoutError, _on_timeout)


def problem_response(told: Told, path: str) -> JSONResponse:
    """Return a problem."""
    return JSONResponse(told.body(path), told.status, dict(told.headers), MEDIA_TYPE)


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


def broken_of(found: Mapping[str, Any]) -> Broken:
    """Return field, value and rule of one of pydantic's errors; the field is "" for the whole of what was sent."""
    rule = rule_of_pydantic(found)
    value = None if found["type"] == "missing" else plain_value(found.get("input"))
    return Broken(field_path(found["loc"]), value, rule)


def example_of_problem(error: UnisonoError, path: str) -> tuple[int, dict[str, Any]]:
    """Return status and body of what this error is answered with at ``path``."""
    told = told_of(error)
    assert told is not None, "an error that is answered"
    return told.status, told.body(path)


async def _on_unisono_error(request: Request, error: Exception) -> JSONResponse:
    told = told_of(error)
    if told is None:
        raise error
    return problem_response(told, request.url.path)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_broken_json(one) if one["type"] == "json_invalid" else broken_of(one) for one in error.errors()]
    return problem_response(told_of_fields(found), request.url.path)


def _broken_json(found: Mapping[str, Any]) -> Broken:
    # The place is where the parser stopped, counted from 0.
    return Broken("body", None, rule_of_bad_json(f"byte {found['loc'][-1] + 1}"))


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            told = told_of(NotFound("path", path))
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "").split(", ")
            told = told_of(MethodNotAllowed(request.method, sorted(allowed)))
        case HTTPStatus.BAD_REQUEST:
            # FastAPI says it for one thing only: bytes that no JSON parser takes (not UTF-8, nested too deeply).
            told = told_of_fields([Broken("body", None, "must be JSON in UTF-8 that can be parsed")])
            told = told._replace(status=HTTPStatus.BAD_REQUEST)
        case _:
            found = Broken("path", plain_value(path), str(error.detail))
            told = Told(error.status_code, "http", str(error.detail), f"{request.method} {path}", [found])
    assert told is not None, "each of them is answered"
    return problem_response(told, path)


async def _on_timeout(request: Request, error: Exception) -> JSONResponse:
    return await _on_unisono_error(request, Unavailable("service", str(error) or "no answer within the time allowed"))
