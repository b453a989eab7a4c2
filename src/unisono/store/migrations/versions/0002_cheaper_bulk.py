"""Bulk enrolment checks each row once less, and keeps what is written once and read once as it is.

A rating, a placement and a connection point take their organisation from the device or site that they refer to. Bodies
of jobs and messages of the outbox are large and soon read again: compressing them cost more than the disk.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("device_rating", "device_topology", "connection_point"):
        op.drop_constraint(f"{table}_organisation_id_fkey", table, type_="foreignkey")
    for table, column in (("outbox", "payload"), ("job", "request")):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")


def downgrade() -> None:
    for table in ("device_rating", "device_topology", "connection_point"):
        name = f"{table}_organisation_id_fkey"
        op.create_foreign_key(name, table, "organisation", ["organisation_id"], ["organisation_id"])
    for table, column in (("outbox", "payload"), ("job", "request")):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTENDED")
