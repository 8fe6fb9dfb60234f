"""The label page: tasks that somebody skipped and why, and what was taken already of what came twice."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add columns to the labellings, and the table of receipts."""
    op.add_column("labellings", sa.Column("skipped_at", sa.BigInteger))
    op.add_column("labellings", sa.Column("reason", sa.Text))
    op.create_table(
        "receipts",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(80), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("receipts_by_age", "receipts", ["at"])
