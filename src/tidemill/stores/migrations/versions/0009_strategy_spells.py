"""When which strategy was in force: one that comes in again has a second spell."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the table of spells, with the last one of each strategy: of those before nothing is known."""
    op.create_table(
        "strategy_spells",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
    earlier = "e.project = s.project AND (e.since < s.since OR (e.since = s.since AND e.number <= s.number))"
    op.execute(
        "INSERT INTO strategy_spells (project, revision, number, since) "
        f"SELECT project, (SELECT COUNT(*) FROM strategies e WHERE {earlier}), number, since FROM strategies s"
    )
