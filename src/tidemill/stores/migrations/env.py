"""Run by Alembic: takes the connection of `stores.upgrade`, whose transaction the migrations become part of."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite has it too: our engines begin transactions themselves
)
with context.begin_transaction():
    context.run_migrations()
