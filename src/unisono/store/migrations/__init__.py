"""Alembic's scripts, shipped with the package; ``store.migrate`` runs them without any file outside it."""
