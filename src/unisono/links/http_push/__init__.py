"""HTTP: gateways post telemetry and acknowledgements and fetch their commands, at a raw ASGI ``TelemetryApp``.

(A framework's request costs five times the bare one; measured.) ``held`` keeps what waits to be fetched.
"""

from unisono.links.http_push.app import HttpPushLink, TelemetryApp, UnsupportedMedia, problem_of
from unisono.links.http_push.held import HeldCommands

__all__ = ["HeldCommands", "HttpPushLink", "TelemetryApp", "UnsupportedMedia", "problem_of"]
