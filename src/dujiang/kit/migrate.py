"""Brings a database to the tables that this version of the platform needs, and refuses one of a newer version.

The revisions lie in `dujiang/migrations/versions`, one after the other. The usual start finds that there is nothing to
do from two small queries and the names of those files; Alembic (0.4 s to import) is loaded only when there is. All
revisions of one upgrade are one transaction, on SQLite too, and of processes that start at once one does the work.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, inspect, text

from dujiang.kit.db import Database
from dujiang.kit.errors import Conflict

SCRIPTS: Final = Path(__file__).resolve().parent.parent / "migrations"
_VERSION_TABLE: Final = "alembic_version"
_REVISION: Final = re.compile(r'^revision\b[^=]*=\s*"(\w+)"', re.MULTILINE)
_DOWN: Final = re.compile(r'^down_revision\b[^=]*=\s*(?:"(\w+)"|None)', re.MULTILINE)

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class DatabaseIsNewer(Conflict):
    """A newer version of the platform has changed the tables."""

    code: ClassVar[str] = "database_is_newer"
    title: ClassVar[str] = "The database belongs to a newer version"


class DatabaseIsForeign(Conflict):
    """There are tables, and nothing says of which version."""

    code: ClassVar[str] = "database_is_foreign"
    title: ClassVar[str] = "The version of the database is unknown"


@cache
def revisions() -> tuple[str, ...]:
    """Return the revisions that this version knows, the oldest first.

    Raises:
        ValueError: they are not one chain.
    """
    following: dict[str, str] = {}
    for file in sorted((SCRIPTS / "versions").glob("*.py")):
        source = file.read_text(encoding="utf-8")
        revision, down = _REVISION.search(source), _DOWN.search(source)
        if revision and down:
            before = down[1] or ""
            if before in following:
                raise ValueError(f"two migrations follow {before or 'the empty database'}")
            following[before] = revision[1]
    chain: list[str] = []
    while (one := following.pop(chain[-1] if chain else "", None)) is not None:
        chain.append(one)
    if following:
        raise ValueError(f"migrations that nothing leads to: {sorted(following.values())}")
    return tuple(chain)


def head() -> str:
    """Return the revision that this version needs."""
    return revisions()[-1]


async def current(db: Database) -> str | None:
    """Return the revision of the database, or None where no upgrade has been."""
    async with db.reading() as tx:
        return await tx.connection.run_sync(_read_current)


async def upgrade(db: Database) -> list[str]:
    """Bring the database to `head`.

    Returns:
        The revisions that were applied; none, and quickly, when it was there already.

    Raises:
        DatabaseIsNewer: a newer version of the platform was here; nothing is changed.
        DatabaseIsForeign: there are tables of unknown origin; nothing is changed.
        Unavailable, StorageFull: the database is away, locked or full; nothing is changed.
    """
    if not _missing(await current(db)):
        return []
    # Alembic keeps the migration at work in a module, so within a process it is one at a time, too.
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()), db.changing_tables() as connection:
        missing = _missing(await connection.run_sync(_read_current))  # another process may have been faster
        if missing:
            await connection.run_sync(_run, missing[-1])
        return list(missing)


def config() -> Any:
    """Return Alembic's configuration; loads Alembic."""
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    found.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    found.set_main_option("path_separator", "os")
    return found


def _missing(current: str | None) -> Sequence[str]:
    known = revisions()
    if current is None:
        return known
    if current not in known:
        raise DatabaseIsNewer(
            f"The database is at revision {current}, and this version of Dujiang knows it only up to {known[-1]}: a "
            "newer version has used it. Start that version, or go back to a copy from before the upgrade.",
            revision=current,
            known=known[-1],
        )
    return known[known.index(current) + 1 :]


def _read_current(connection: Connection) -> str | None:
    tables = inspect(connection).get_table_names()
    if _VERSION_TABLE in tables:
        found = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()
        return str(found) if found else None
    if "journal" in tables:
        raise DatabaseIsForeign(
            "The database holds tables of Dujiang, but not the revision they are at, so they cannot be upgraded. Start "
            "with an empty database, or restore a complete copy."
        )
    return None


def _run(connection: Connection, target: str) -> None:
    from alembic import command

    found = config()
    found.attributes["connection"] = connection
    command.upgrade(found, target)
