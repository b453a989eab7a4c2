"""The region in real time, as a process of its own that knows only the platform's public front doors.

``python -m unisono.sim.live --config FILE`` enrols its devices over REST, connects its gateways over MQTT and its
vendor clouds over HTTP, reports, obeys, and keeps the truth. It writes a status line (JSON) a second to stdout and
takes commands (JSON lines) from stdin: ``{"do": "misbehave"}``, ``{"do": "truth"}``, ``{"do": "stop"}``.
"""
