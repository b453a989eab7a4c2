"""Into how many shards the plant is split is a fact of its records: sites are placed by it, once and for all.

What was enrolled before knew one shard.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE plant_layout (is_the_one BOOLEAN NOT NULL, n_shards SMALLINT NOT NULL,"
        " CONSTRAINT plant_layout_pkey PRIMARY KEY (is_the_one),"
        " CONSTRAINT plant_layout_one_row_check CHECK (is_the_one))"
    )
    op.execute("INSERT INTO plant_layout SELECT true, 1 WHERE EXISTS (SELECT FROM site)")


def downgrade() -> None:
    op.drop_table("plant_layout")
