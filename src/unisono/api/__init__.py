"""Floor 7: the REST API under /v1, its live streams, health and metrics. ``app.create_app(context)`` makes it."""
