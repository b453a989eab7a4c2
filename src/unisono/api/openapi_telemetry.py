"""The three paths of gateways in the OpenAPI document, written by hand: they are served without a framework.

``links.http_push`` answers them, on a port of its own and with keys of their own; `docs/reference/wire.md` explains the
fields. The tests send these examples through its codecs.
"""

from __future__ import annotations

from typing import Any, Final

from unisono.base.errors import InvalidInput, TooMany, Unavailable, UnisonoError
from unisono.base.problems import MEDIA_TYPE, Unauthenticated
from unisono.links.http_push import UnsupportedMedia, problem_of
from unisono.links.http_push.app import BODY_BYTES_MAX, IN_FLIGHT_MAX, NEEDS
from unisono.wire.acks import ACKS_PER_MESSAGE_MAX
from unisono.wire.energies import WH_PER_KWH
from unisono.wire.rules import ENERGY_RULES, RULES
from unisono.wire.telemetry import READINGS_PER_BATCH_MAX, SOURCE_OF_NAME

# Who may call: the scheme's name in the document.
GATEWAY: Final = "gateway"
SECURITY_SCHEME: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "Authorization: Bearer <gateway_id>.<secret>, of a gateway that is not revoked",
}
SERVERS: Final = [{"url": "http://127.0.0.1:8081", "description": "telemetry_host and telemetry_port of a front"}]
TAG: Final = "gateways over HTTP"

BATCH_EXAMPLE: Final = {
    "seq": 17,
    "readings": [
        {
            "id": "dev_01KK79P8RC0000000000000000",
            "ts": 1795212000000,
            "p": -1200.0,
            "soc": 0.55,
            "tc": 24.5,
            "v": 239.8,
        },
        {"no": 42, "ts": 1795212000000, "p": 3150.0, "src": "meter"},
        {"no": 43, "ts": 1795212000000, "interval_start_ms": 1795211100000, "energy_kwh": -0.3, "src": "meter"},
        {"no": 44, "ts": 1795212000000, "register_kwh": -48211.7, "src": "meter"},
    ],
}
LINES_EXAMPLE: Final = (
    '{"id": "dev_01KK79P8RC0000000000000000", "ts": 1795212000000, "p": -1200.0, "soc": 0.55}\n'
    '{"no": 42, "ts": 1795212000000, "p": 3150.0, "src": "meter"}\n'
)
ACKS_EXAMPLE: Final = {"acks": [[41, 3, 9001, 0, 1795212001000], [-1, 3, 9001, 0, 1795212021000]]}
FETCHED_EXAMPLE: Final = {
    "frames": [
        {
            "type": "frame",
            "epoch": 3,
            "issued_ms": 1795212000000,
            "commands": [
                {
                    "no": 41,
                    "seq": 9001,
                    "kind": "power_setpoint",
                    "value": 3200,
                    "start_ms": 0,
                    "expires_ms": 1795212060000,
                    "ttl_s": 60,
                    "fallback": "normal_operation",
                }
            ],
        },
        {
            "type": "renewal",
            "epoch": 3,
            "through_seq": 9001,
            "issued_ms": 1795212020000,
            "expires_ms": 1795212080000,
        },
    ],
    "next": 77,
}
_TAKEN_EXAMPLE: Final = {
    "accepted": 1,
    "rejected": [{"row": 1, "field": "no", "value": "42", "rule": "must be a device of this gateway"}],
}


def _object(description: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": required | (optional or {}),
        "required": list(required),
    }


def _list_of(name: str, n_max: int | None = None) -> dict[str, Any]:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    return items if n_max is None else items | {"maxItems": n_max}


def _bounded(kind: str, field: str, description: str) -> dict[str, Any]:
    [rule] = [rule for rule in (*RULES, *ENERGY_RULES) if rule.field == field]
    # Energies are kept in Wh and told in kWh.
    per_unit = WH_PER_KWH if field.endswith("_kwh") else 1
    return {"type": kind, "description": description, "minimum": rule.low / per_unit, "maximum": rule.high / per_unit}


_WHOLE: Final = {"type": "integer"}
_TEXT: Final = {"type": "string"}
SCHEMAS: Final[dict[str, Any]] = {
    "GatewayReading": _object(
        "One reading of a device of this gateway, named by `id` or by `no`: a power, the energy of an interval, or a "
        "register; positive into the grid.",
        {"ts": _bounded("integer", "ts", "Measured, ms since 1970 UTC; of an interval, its end.")},
        {
            "p": _bounded("number", "p", "W"),
            "energy_kwh": _bounded("number", "energy_kwh", "kWh from `interval_start_ms` to `ts`."),
            "interval_start_ms": _WHOLE | {"description": "Beside `energy_kwh`: before `ts`, by at most 25 h."},
            "register_kwh": _bounded("number", "register_kwh", "What the meter's register shows, in kWh."),
            "id": _TEXT | {"description": "device_id"},
            "no": _WHOLE | {"description": "device_no", "minimum": 0},
            "soc": _bounded("number", "soc", "State of charge, a fraction."),
            "tc": _bounded("number", "tc", "degC"),
            "v": _bounded("number", "v", "V"),
            "st": _bounded("integer", "st", "The device's own code."),
            "src": {"type": "string", "enum": list(SOURCE_OF_NAME), "description": "Absent: the device itself."},
        },
    )
    | {
        "oneOf": [
            {"required": ["p"]},
            {"required": ["energy_kwh", "interval_start_ms"]},
            {"required": ["register_kwh"]},
        ]
    },
    "GatewayBatch": _object(
        "Readings with the gateway's own sequence: a repeated one is known by it and changes nothing.",
        {"seq": _WHOLE | {"minimum": 0}, "readings": _list_of("GatewayReading", READINGS_PER_BATCH_MAX)},
    ),
    "GatewayAcks": _object(
        "Answers to commands: [device_no, epoch, seq, code, answered_ms]; device_no -1 answers a renewal.",
        {
            "acks": {
                "type": "array",
                "maxItems": ACKS_PER_MESSAGE_MAX,
                "items": {"type": "array", "items": _WHOLE, "minItems": 5, "maxItems": 5},
            }
        },
    ),
    "GatewayTaken": _object(
        "What is kept, and why the other rows are not.",
        {"accepted": _WHOLE, "rejected": _list_of("GatewayRowRefused")},
    ),
    "GatewayRowRefused": _object(
        "A row that breaks a rule; the others are kept.", {"row": _WHOLE, "field": _TEXT, "value": _TEXT, "rule": _TEXT}
    ),
    "GatewayFetched": _object(
        "Frames and renewals in order, as they stand in the reference of the wire; `next` is the next `after`.",
        {"frames": {"type": "array", "items": {"type": "object"}}, "next": _WHOLE},
    ),
}
_SECRET: Final = Unauthenticated(NEEDS)
_BUSY: Final = Unavailable("telemetry intake", f"{IN_FLIGHT_MAX} requests are in progress")
_LARGE: Final = TooMany("bytes of a body", BODY_BYTES_MAX)


def _problem(description: str, wrong: UnisonoError, path: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    example = problem_of(wrong).body(path)
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


def _answers(status: str, name: str, example: object, wrong: InvalidInput, *, path: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": example}}
    takes_body = status == "202"
    found = {
        status: {"description": "Kept." if takes_body else "What waits.", "content": content},
        "400": _problem("It breaks a rule as a whole; nothing of it is kept.", wrong, path),
        "401": _problem("No secret, or none that is valid now.", _SECRET, path),
    }
    if takes_body:
        found["413"] = _problem("The body is too large.", _LARGE, path)
    return found | {"503": _problem("NATS is away, or too many requests are in progress; repeat it.", _BUSY, path)}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": content}


def _json_of(name: str, example: object) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": example}


def _operation(name: str, summary: str, description: str, **more: Any) -> dict[str, Any]:
    return {
        "tags": [TAG],
        "operationId": name,
        "summary": summary,
        "description": description,
        "security": [{GATEWAY: []}],
        "servers": SERVERS,
        **more,
    }


def telemetry_paths() -> dict[str, Any]:
    """Return the paths, as they stand in a document that has SCHEMAS and SECURITY_SCHEME."""
    no_batch = InvalidInput("seq", -1, "must be a whole number from 0 to 2^63 - 1")
    no_acks = InvalidInput("acks", ACKS_PER_MESSAGE_MAX + 1, f"must be at most {ACKS_PER_MESSAGE_MAX} a message")
    no_cursor = InvalidInput("after", "x", "must be the `next` of an earlier answer, or 0")
    return {
        "/v1/telemetry": {
            "post": _operation(
                "push_telemetry",
                "Push readings",
                "202 comes after they are kept. One bad row never spoils the others.",
                requestBody=_body(
                    {
                        "application/json": _json_of("GatewayBatch", BATCH_EXAMPLE),
                        "application/x-ndjson": {"schema": _TEXT, "example": LINES_EXAMPLE},
                        "application/vnd.unisono.packed": {
                            "schema": {"type": "string", "format": "binary"},
                            "example": "UPK1...",
                        },
                    }
                ),
                responses=_answers("202", "GatewayTaken", _TAKEN_EXAMPLE, no_batch, path="/v1/telemetry")
                | {"415": _problem("Readings don't come so.", UnsupportedMedia("text/plain"), "/v1/telemetry")},
            )
        },
        "/v1/acks": {
            "post": _operation(
                "push_acks",
                "Answer commands",
                "202 comes after they are kept.",
                requestBody=_body({"application/json": _json_of("GatewayAcks", ACKS_EXAMPLE)}),
                responses=_answers("202", "GatewayTaken", _TAKEN_EXAMPLE, no_acks, path="/v1/acks"),
            )
        },
        "/v1/commands": {
            "get": _operation(
                "fetch_commands",
                "Fetch commands",
                "Frames and renewals after the cursor that have not expired.",
                parameters=[
                    {
                        "name": "after",
                        "in": "query",
                        "required": False,
                        "description": "`next` of the answer before; 0 at first.",
                        "schema": {"type": "integer", "minimum": 0, "default": 0},
                    }
                ],
                responses=_answers("200", "GatewayFetched", FETCHED_EXAMPLE, no_cursor, path="/v1/commands"),
            )
        },
    }
