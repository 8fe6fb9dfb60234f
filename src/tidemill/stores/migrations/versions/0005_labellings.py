"""Labellings: who was given which task of the queue and said what; golden examples, to measure labellers by."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create their tables."""
    op.create_table(
        "labellings",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("example", sa.String(80), primary_key=True),
        sa.Column("labeller", sa.String(200), primary_key=True),
        sa.Column("asked_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leased_until", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("label", sa.Text),
    )
    op.create_index("labellings_by_labeller", "labellings", ["project", "labeller", "answered_at"])
    op.create_table(
        "golden",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("example", sa.String(80), primary_key=True),
        sa.Column("label", sa.Text, nullable=False),
    )
