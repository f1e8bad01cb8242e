"""Writes a revision: `python -m dujiang.migrations "add quota"`."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from dujiang.kit import migrate
from dujiang.kit.clock import SystemClock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from dujiang.migrations import tables


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, write the revision and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m dujiang.migrations", description=__doc__)
    parser.add_argument("message", nargs="?", default="", help='what changes, as in "add quota"')
    parser.add_argument(
        "--first", action="store_true", help="write the first revision anew from the stores; only before a release"
    )
    given = parser.parse_args(arguments)
    if bool(given.message) == given.first:
        parser.error('say what changes ("add quota"), or give --first alone')
    try:
        file = asyncio.run(_write_first() if given.first else write(given.message))
    except DujiangError as error:
        print(error.sentence, file=sys.stderr)  # noqa: T201
        return 1
    if file is None:
        print("The stores and the latest revision agree; there is nothing to write.")  # noqa: T201
        return 0
    print(f"{file}\nRead it, then run the tests of kit/test_migrate.py.")  # noqa: T201
    return 0


async def write(message: str) -> Path | None:
    """Write the difference between the stores and the latest revision; return the file, None when there is none."""
    with tempfile.TemporaryDirectory(prefix="dujiang-") as folder:
        url = f"sqlite+aiosqlite:///{folder}/scratch.db"
        db = Database(url, clock=SystemClock(), journal_key=b"scratch", durable=False)
        try:
            if migrate.revisions():
                await migrate.upgrade(db)
            async with db.changing_tables() as connection:
                file = await connection.run_sync(_revision, message)
        finally:
            await db.close()
    if file is not None and find_spec("ruff"):
        for step in (["format", "-q"], ["check", "--fix", "-q"]):
            command = [sys.executable, "-m", "ruff", *step, str(file)]
            await asyncio.to_thread(subprocess.run, command, check=False)
    return file


async def _write_first() -> Path | None:
    for file in (migrate.SCRIPTS / "versions").glob("v*.py"):
        if not file.name.startswith("v0001_"):
            raise DujiangError(f"{file.name} follows the first revision, which therefore stays as it is.")
        file.unlink()
    migrate.revisions.cache_clear()
    return await write("first tables")


def _revision(connection: Connection, message: str) -> Path | None:
    from alembic import command

    def drop_empty(_context: Any, _revision: Any, directives: list[Any]) -> None:
        if directives[0].upgrade_ops.is_empty():
            directives[:] = []

    config = migrate.config()
    config.attributes |= {"connection": connection, "metadata": tables.load()}
    number = f"{len(migrate.revisions()) + 1:04}"
    script = command.revision(config, message, autogenerate=True, rev_id=number, process_revision_directives=drop_empty)
    migrate.revisions.cache_clear()
    if not isinstance(script, list) and script is not None:
        return _cleaned(Path(script.path))
    return None  # an empty list: there is no difference


def _cleaned(file: Path) -> Path:
    """Leave out the remarks that Alembic puts around what it wrote."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.lstrip().startswith("# ###")), encoding="utf-8")
    return file


if __name__ == "__main__":
    sys.exit(main())
