"""Called by Alembic with the connection that `migrate.upgrade` holds."""

from alembic import context

from onesheet.predictionlog.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=False)
context.run_migrations()
