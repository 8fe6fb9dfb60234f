"""Policies: how scores become decisions, with a version of their own; until now a level in the manifest."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create their table, with what each project declares as its version 1."""
    policies = op.create_table(
        "policies",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    projects = sa.table("projects", sa.column("project"), sa.column("manifest"), sa.column("updated_at"))
    for project, manifest, updated_at in op.get_bind().execute(sa.select(projects)).all():
        level = json.loads(manifest).get("abstain_below")
        values = {"project": project, "number": 1, "body": json.dumps({"abstain_below": level}), "reason": ""}
        op.get_bind().execute(policies.insert().values(**values, created_at=updated_at, created_by="project file"))
