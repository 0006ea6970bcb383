"""Bring the tables up to date with Alembic, from inside the package."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text

from onesheet.errors import LogUnavailableError
from onesheet.predictionlog.schema import METADATA

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
# Any number, the same for everybody who wants to migrate.
_POSTGRES_LOCK: Final = 7_237_401
# Alembic keeps what it works on in global variables.
_ALONE: Final = threading.Lock()


def upgrade(engine: Engine) -> None:
    """Run the missing migrations, in one transaction that excludes everybody else's, and make tables that were dropped.

    Raises:
        LogUnavailableError: The tables were made by a newer onesheet.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with _ALONE, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
            # An index on a long log takes longer than an answer may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LogUnavailableError(
                "the tables of the prediction log were made by another version of onesheet: upgrade this one, or name "
                "another database in ONESHEET_LOG_URL"
            ) from error
        METADATA.create_all(connection)
        connection.commit()
