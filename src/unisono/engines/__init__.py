"""Floor 5: the embedded PostgreSQL and nats-server: find, start, inspect, stop."""
