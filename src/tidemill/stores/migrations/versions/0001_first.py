"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them."""
    _catalog()
    _journal()
    _log()
    _reservoir()


def _catalog() -> None:
    op.create_table(
        "projects",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("paused_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "strategies",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("project", "digest", name="strategies_by_digest"),
    )
    op.create_table(
        "models",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("artefact", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("dataset", sa.String(64)),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("cycle", sa.Integer),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.UniqueConstraint("project", "run", name="models_by_run"),
    )
    op.create_table(
        "runs",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("cycle", sa.Integer),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "routes",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("lapses_at", sa.BigInteger),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def _journal() -> None:
    op.create_table(
        "states",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "cycles",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("trigger", sa.Text, nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("step", sa.String(40), nullable=False),
        sa.Column("candidate", sa.Integer),
        sa.Column("dataset", sa.String(64)),
        sa.Column("closed_at", sa.BigInteger),
        sa.Column("outcome", sa.String(20)),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "steps",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("cycle", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("done_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["project", "cycle"], ["cycles.project", "cycles.number"], name="steps_of_cycles"),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project", sa.String(100), nullable=False),
        sa.Column("cycle", sa.Integer),
        sa.Column("step", sa.String(60), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("given_at", sa.BigInteger, nullable=False),
    )
    op.create_index("verdicts_by_cycle", "verdicts", ["project", "cycle", "id"])
    op.create_table(
        "commands",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project", sa.String(100), nullable=False),
        sa.Column("verb", sa.String(40), nullable=False),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("sent_by", sa.String(200), nullable=False),
        sa.Column("sent_at", sa.BigInteger, nullable=False),
        sa.Column("handled_at", sa.BigInteger),
        sa.Column("result", sa.Text),
    )
    op.create_index("commands_waiting", "commands", ["project", "handled_at", "id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )


def _log() -> None:
    op.create_table(
        "log_files",
        sa.Column("path", sa.String(300), primary_key=True),
        sa.Column("project", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("num_rows", sa.Integer, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("committed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("log_files_by_time", "log_files", ["project", "kind", "last_at"])
    op.create_table(
        "consumed",
        sa.Column("segment", sa.String(200), primary_key=True),
        sa.Column("num_rows", sa.Integer, nullable=False),
        sa.Column("committed_at", sa.BigInteger, nullable=False),
    )


def _reservoir() -> None:
    op.create_table(
        "examples",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("request_id", sa.String(36)),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("picked_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(100), nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("split", sa.String(10), nullable=False),
        sa.Column("content", sa.String(32), nullable=False),
        sa.Column("duplicates", sa.String(32), nullable=False),
        sa.Column("chunk", sa.String(64), nullable=False),
        sa.Column("chunk_row", sa.Integer, nullable=False),
        sa.Column("decision", sa.Text),
        sa.Column("version", sa.Integer),
        sa.Column("label", sa.Text),
        sa.Column("trust", sa.String(20)),
        sa.Column("source", sa.String(100)),
        sa.Column("labelled_at", sa.BigInteger),
    )
    op.create_index("examples_by_chunk", "examples", ["project", "chunk", "chunk_row"])
    op.create_index("examples_by_content", "examples", ["project", "content"])
    op.create_index("examples_by_group", "examples", ["project", "duplicates"])
    op.create_index("examples_by_request", "examples", ["project", "request_id"])
    op.create_table(
        "duplicate_leaders",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("leader", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("duplicates", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "duplicate_bands",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("band", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leader", sa.Integer, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "queue",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("example", sa.String(80), primary_key=True),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("answered_by", sa.String(200)),
    )
    op.create_index("queue_waiting", "queue", ["project", "answered_at", "priority"])
    op.create_table(
        "datasets",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("parent", sa.String(64)),
        sa.Column("formed_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("num_train", sa.Integer, nullable=False),
        sa.Column("num_test", sa.Integer, nullable=False),
        sa.UniqueConstraint("project", "number", name="datasets_by_number"),
    )
    op.create_table(
        "dataset_tags",
        sa.Column("project", sa.String(100), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tagged_at", sa.BigInteger, nullable=False),
    )
