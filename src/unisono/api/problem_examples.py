"""For each operation of the OpenAPI document, the problems it can answer with, each with an example of its own.

The bodies are made by the code that answers, from an error that this operation can really end in.
"""

from __future__ import annotations

import re
from typing import Any, Final

from unisono.api.problems import example_of_problem
from unisono.base.errors import Conflict, Forbidden, InvalidInput, NotFound, TooMany, Unavailable, UnisonoError
from unisono.base.ids import PREFIX_OF_KIND, check_id
from unisono.base.problems import MEDIA_TYPE, InProgress, Unauthenticated

# An id of the right form, for any kind, after its prefix.
_ULID: Final = "01KK79P8RC0000000000000000"
_EXAMPLE_OF_PARAMETER: Final = {f"{kind}_id": f"{prefix}_{_ULID}" for kind, prefix in PREFIX_OF_KIND.items()} | {
    "opt_out_id": f"opt_{_ULID}"
}
_KEY: Final = "my-request-17"
# What operations collide with, by method and end of the path; others, at most with their own repetition.
_CONFLICTS: Final = (
    ("put", "/{dispatch_id}", Conflict("dispatch", f"dsp_{_ULID}", "is at revision 2: the next one is 3, not 2")),
    ("post", "/cancel", Conflict("dispatch", f"dsp_{_ULID}", "is completed and can't be cancelled")),
    (
        "patch",
        "/{device_id}",
        Conflict("gateway_id", f"gwy_{_ULID}", "must stay while the device is active: suspend it first"),
    ),
    ("post", "/lifecycle", Conflict("device", f"dev_{_ULID}", "is retired and can't become active")),
    ("get", "/result", Conflict("job", f"job_{_ULID}", "is running: its result comes when it is completed")),
    ("post", "/portfolios", Conflict("portfolio name", "Portland batteries", "exists already")),
    ("post", "/organisations", Conflict("organisation name", "Rose City Power", "exists already")),
)
_PARAMETER: Final = re.compile(r"{(\w+)}")
# Operations that need no key tell nothing that could be refused.
_OPEN: Final = ("/healthz",)


def add_problem_examples(method: str, path: str, operation: dict[str, Any]) -> None:
    """Give each problem that ``operation`` lists an example; leave out those that it can't end in."""
    if path in _OPEN:
        return
    errors = _errors(method, path, operation)
    example_of_status = dict(example_of_problem(error, _filled(path)) for error in errors)
    answers = operation["responses"]
    for status in [status for status in answers if status.isdigit() and int(status) >= 400]:
        content = answers[status].get("content", {})
        if MEDIA_TYPE not in content:
            continue
        if int(status) in example_of_status:
            content[MEDIA_TYPE]["example"] = example_of_status[int(status)]
        else:
            del answers[status]


def _errors(method: str, path: str, operation: dict[str, Any]) -> list[UnisonoError]:
    [security] = operation["security"]
    found: list[UnisonoError] = [
        Unauthenticated("needs the header Authorization: Bearer <key>"),
        Forbidden(f"scope {security['key'][0]}"),
        TooMany("requests that wait for a thread", 256, retry_after_s=1.0),
        Unavailable("PostgreSQL", "no answer within 20 s"),
    ]
    named = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    ids = [name for name in named if name in _EXAMPLE_OF_PARAMETER]
    if ids:
        found.append(NotFound(ids[0].removesuffix("_id").replace("_", " "), _EXAMPLE_OF_PARAMETER[ids[0]]))
    if path.endswith("/keys") and method == "post":
        found.append(NotFound("organisation", _EXAMPLE_OF_PARAMETER["organisation_id"]))
    if wrong := _invalid(operation, named):
        found.append(wrong)
    if method != "get":
        found.append(TooMany("bytes of a body", 8 << 20))
    collides = [one for verb, end, one in _CONFLICTS if verb == method and path.endswith(end)]
    if collides or "Idempotency-Key" in named:
        found.append(collides[0] if collides else InProgress(_KEY))
    return found


def _invalid(operation: dict[str, Any], named: dict[str, Any]) -> InvalidInput | None:
    """Return what is wrong with the first thing that the operation takes."""
    key = named.get("Idempotency-Key")
    if key is not None and key["required"]:
        return InvalidInput("Idempotency-Key", None, "is required")
    if "requestBody" in operation:
        return InvalidInput("nmae", "Portland", "must not be given: there is no such field")
    if "limit" in named:
        return InvalidInput("limit", "0", "must be greater than or equal to 1")
    for name in named:
        if name.removesuffix("_id") in PREFIX_OF_KIND:
            try:
                check_id(name.removesuffix("_id"), "7", name)
            except InvalidInput as wrong:
                return wrong
    return None


def _filled(path: str) -> str:
    return _PARAMETER.sub(lambda match: _EXAMPLE_OF_PARAMETER[match[1]], path)
