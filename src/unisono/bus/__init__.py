"""Floor 5: NATS: the one map of what flows where (``subjects``), and how to publish and consume it (``connection``)."""
