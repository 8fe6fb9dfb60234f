"""The catalog's tables, the same on SQLite and PostgreSQL. Times are integer microseconds since 1970, UTC.

JSON is text in canonical form, so that both databases treat it alike. Every table but `leases`, `consumed`,
`log_files` and `tokens` is keyed by project.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

projects = Table(
    "projects",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("manifest", Text, nullable=False),
    Column("strategy", String(16), nullable=False),
    Column("secret", LargeBinary, nullable=False),  # keys the request ids and the hashes of sensitive inputs
    Column("file", Text, nullable=False),  # where the project file was, for people
    Column("paused_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False),
)

strategies = Table(
    "strategies",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(16), nullable=False),
    Column("body", Text, nullable=False),
    Column("since", BigInteger, nullable=False),  # when it last came into force
    UniqueConstraint("project", "digest"),
)

strategy_spells = Table(
    "strategy_spells",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("since", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("artefact", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("dataset", String(64)),
    Column("strategy", String(16), nullable=False),
    Column("parent", Integer),
    Column("cycle", Integer),
    Column("run", String(64), nullable=False),
    Column("status", String(20), nullable=False),
    Column("retired_at", BigInteger),  # since when its artefact is gone
    UniqueConstraint("project", "run"),  # registering twice after a crash finds the first
)

runs = Table(
    "runs",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("run", String(64), primary_key=True),
    Column("cycle", Integer),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("status", String(20), nullable=False),  # running, done, failed
    Column("body", Text, nullable=False),  # parameters, metrics, data, code and environment
)

routes = Table(
    "routes",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("revision", Integer, primary_key=True),  # the compare-and-set: two writers cannot insert the same one
    Column("body", Text, nullable=False),
    Column("lapses_at", BigInteger),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

states = Table(
    "states",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("body", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

cycles = Table(
    "cycles",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("strategy", String(16), nullable=False),
    Column("step", String(40), nullable=False),
    Column("candidate", Integer),
    Column("dataset", String(64)),
    Column("closed_at", BigInteger),
    Column("outcome", String(20)),
    Column("reason", Text, nullable=False, default=""),
)

steps = Table(
    "steps",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("cycle", Integer, primary_key=True),
    Column("name", String(60), primary_key=True),  # stable names, so that code may change while a cycle waits
    Column("body", Text, nullable=False),
    Column("done_at", BigInteger, nullable=False),
    ForeignKeyConstraint(["project", "cycle"], ["cycles.project", "cycles.number"]),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project", String(100), nullable=False),
    Column("cycle", Integer),
    Column("step", String(60), nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("body", Text, nullable=False),
    Column("given_at", BigInteger, nullable=False),
    Index("verdicts_by_cycle", "project", "cycle", "id"),
)

commands = Table(
    "commands",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project", String(100), nullable=False),
    Column("verb", String(40), nullable=False),
    Column("args", Text, nullable=False),
    Column("sent_by", String(200), nullable=False),
    Column("sent_at", BigInteger, nullable=False),
    Column("handled_at", BigInteger),
    Column("result", Text),
    Index("commands_waiting", "project", "handled_at", "id"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", Integer, nullable=False),  # grows with every change of holder: the fence
    Column("expires_at", BigInteger, nullable=False),
)

log_files = Table(
    "log_files",
    metadata,
    Column("path", String(300), primary_key=True),  # relative to the log's folder
    Column("project", String(100), nullable=False),
    Column("kind", String(20), nullable=False),  # predictions or feedback
    Column("day", String(10), nullable=False),
    Column("num_rows", Integer, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
    Index("log_files_by_time", "project", "kind", "last_at"),
)

consumed = Table(
    "consumed",
    metadata,
    Column("segment", String(200), primary_key=True),
    Column("num_rows", Integer, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
)

examples = Table(
    "examples",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("request_id", String(36)),
    Column("unit", Text, nullable=False),
    Column("subject", Text),  # whom it is about, so that it can be deleted after the log has gone
    Column("received_at", BigInteger, nullable=False),
    Column("picked_at", BigInteger, nullable=False),
    Column("reason", String(100), nullable=False),
    Column("probability", Float),
    Column("split", String(10), nullable=False),
    Column("content", String(32), nullable=False),  # hash of the inputs that make it a duplicate of another
    Column("duplicates", String(32), nullable=False),  # its duplicate group: the content of the group's first example
    Column("chunk", String(64), nullable=False),  # the Arrow chunk that holds the inputs, and the row in it
    Column("chunk_row", Integer, nullable=False),
    Column("decision", Text),  # JSON
    Column("version", Integer),
    Column("label", Text),  # JSON
    Column("trust", String(20)),
    Column("source", String(100)),
    Column("labelled_at", BigInteger),
    Index("examples_by_request", "project", "request_id"),
    Index("examples_by_content", "project", "content"),
    Index("examples_by_group", "project", "duplicates"),
    Index("examples_by_chunk", "project", "chunk", "chunk_row"),
)

duplicate_leaders = Table(
    "duplicate_leaders",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("leader", Integer, primary_key=True, autoincrement=False),
    Column("duplicates", String(32), nullable=False),  # the group that it is the first of
    Column("fingerprint", LargeBinary, nullable=False),
)

duplicate_bands = Table(
    "duplicate_bands",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("band", BigInteger, primary_key=True, autoincrement=False),
    Column("leader", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,  # the key is the row: half the size
)

queue = Table(
    "queue",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("example", String(80), primary_key=True),
    Column("asked_at", BigInteger, nullable=False),
    Column("priority", Float, nullable=False),
    Column("answered_at", BigInteger),
    Column("answered_by", String(200)),
    Index("queue_waiting", "project", "answered_at", "priority"),
)

labellings = Table(  # what each labeller was given of the queue, and said
    "labellings",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("example", String(80), primary_key=True),
    Column("labeller", String(200), primary_key=True),
    Column("asked_at", BigInteger, primary_key=True),  # of the queue's row; 0 for a golden example
    Column("leased_until", BigInteger, nullable=False),
    Column("answered_at", BigInteger),
    Column("label", Text),
    Column("skipped_at", BigInteger),  # they would not say; then there is no answer
    Column("reason", Text),  # why they skipped it
    Index("labellings_by_labeller", "project", "labeller", "answered_at"),
)
receipts = Table(  # keys of what was taken from a page, so that what is sent twice counts once
    "receipts",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("key", String(80), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Index("receipts_by_age", "at"),
)

golden = Table(  # examples whose label is known, to measure labellers by
    "golden",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("example", String(80), primary_key=True),
    Column("label", Text, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("parent", String(64)),
    Column("formed_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("num_train", Integer, nullable=False),
    Column("num_test", Integer, nullable=False),
    Column("erased_at", BigInteger),  # since when its rows are gone: somebody in it was forgotten,
    Column("retired_at", BigInteger),  # or it was too old to keep
    UniqueConstraint("project", "number"),
)

dataset_tags = Table(
    "dataset_tags",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("tagged_at", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(60), nullable=False),
    Column("project", String(100)),  # null: every project
    Column("scopes", String(100), nullable=False),
    Column("trust", String(20)),  # of its feedback; null: what the project says
    Column("digest", LargeBinary, nullable=False),
    Column("tail", String(4), nullable=False),  # the last characters, for people
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),  # a row is never deleted: feedback names it as its source
    UniqueConstraint("digest"),
)

policies = Table(
    "policies",
    metadata,
    Column("project", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project", String(100), nullable=False),
    Column("name", String(300), nullable=False),  # the member as people read it
    Column("cohort", String(100), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("fired_at", BigInteger, nullable=False),  # the last time
    Column("closed_at", BigInteger),
    Column("silent_until", BigInteger),
    Column("verdict", Text, nullable=False),
    Column("told_at", BigInteger),
    Column("tries", Integer, nullable=False),
    Column("problem", Text, nullable=False),  # why it could not be told, empty when it was
    Index("alerts_by_project", "project", "name", "closed_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project", String(100)),  # null: every project
    Column("at", BigInteger, nullable=False),
    Column("by", String(200), nullable=False),
    Column("verb", String(60), nullable=False),
    Column("thing", String(300), nullable=False),
    Column("reason", Text, nullable=False),
    Column("result", Text, nullable=False),  # in words, or `refused: why`
    Column("via", String(20), nullable=False),  # cli, page or loop
    Index("audit_by_project", "project", "id"),
)

erasures = Table(  # persons whose data is deleted: how far it is, and what it came to
    "erasures",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("project", String(100), nullable=False),
    Column("subject", Text),  # null once it is done: only the mark stays
    Column("mark", String(32), nullable=False),  # a keyed hash of the subject
    Column("by_unit", Integer, nullable=False),  # 0 or 1
    Column("with_datasets", Integer, nullable=False),  # 0 or 1
    Column("asked_at", BigInteger, nullable=False),
    Column("asked_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("via", String(20), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("done_at", BigInteger),
    Index("erasures_waiting", "project", "done_at", "id"),
    Index("erasures_by_mark", "project", "mark"),
)
