"""What Alembic runs for every history: the caller's connection and transaction, nothing of its own."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes.get("metadata"),
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
