"""Floor 6: one file per loop that lives as long as its process; the only owners of retries and pace."""
