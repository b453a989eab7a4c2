"""How Alembic runs our migrations: on the connection that ``store.migrate`` hands over, in one transaction."""

from __future__ import annotations

from alembic import context

from unisono.store.tables.all import ALL_TABLES

context.configure(connection=context.config.attributes["connection"], target_metadata=ALL_TABLES)
with context.begin_transaction():
    context.run_migrations()
