"""Deleting a person's data, and the artefacts and rows of old versions."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Say whom examples are about and which versions are gone, and create the table of erasures."""
    op.add_column("examples", sa.Column("subject", sa.Text))
    op.add_column("models", sa.Column("retired_at", sa.BigInteger))
    op.add_column("datasets", sa.Column("erased_at", sa.BigInteger))
    op.add_column("datasets", sa.Column("retired_at", sa.BigInteger))
    op.create_table(
        "erasures",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(100), nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("mark", sa.String(32), nullable=False),
        sa.Column("by_unit", sa.Integer, nullable=False),
        sa.Column("with_datasets", sa.Integer, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("asked_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("via", sa.String(20), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("done_at", sa.BigInteger),
    )
    op.create_index("erasures_waiting", "erasures", ["project", "done_at", "id"])
    op.create_index("erasures_by_mark", "erasures", ["project", "mark"])
