"""Floor 3: bytes <-> model, without sockets; both directions, so that simulated gateways speak the same codec.

``telemetry`` (JSON, NDJSON) and ``packed``: readings in; ``energies``, ``rules``: what they must hold; ``acks``,
``receipts``; ``frames``: commands and renewals out; ``topics``: names of MQTT topics and NATS subjects; ``idtable`` and
``natsbuffer``: whole socket buffers to columns without a Python object per message.
"""
