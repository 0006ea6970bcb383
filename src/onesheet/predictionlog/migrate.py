"""Bring the tables up to date with Alembic, from inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
# Any number, the same for everybody who wants to migrate.
_POSTGRES_LOCK: Final = 7_237_401


def upgrade(engine: Engine) -> None:
    """Run the missing migrations, in one transaction that excludes everybody else's."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
            # An index on a long log takes longer than an answer may.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
