"""Floor 5: the embedded PostgreSQL and nats-server: find their binaries, start, inspect and stop them as child processes."""
