"""All nouns: the statements are in ``0001_all_nouns.sql`` beside this file, frozen once released."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Straight to the driver: several statements at once, and a % that is no placeholder.
    op.get_bind().connection.cursor().execute(statements)


def downgrade() -> None:
    raise NotImplementedError("before the first migration there is nothing; drop the database instead")
