"""Tokens: who may ask a gateway for what."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create their table."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("project", sa.String(100)),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("trust", sa.String(20)),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("tail", sa.String(4), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.UniqueConstraint("digest", name="tokens_by_digest"),
    )
