"""The migrations give exactly the tables of the stores, once, on both databases, and refuse what they do not know."""

from __future__ import annotations

import ast
import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, TextClause, inspect, text

import dujiang
from dujiang.kit import migrate
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import MEMORY, Database
from dujiang.kit.errors import Conflict, Unavailable
from dujiang.kit.tables import metadata
from dujiang.migrations import __main__ as command
from dujiang.migrations import tables

SOURCES = Path(dujiang.__file__).parent


@pytest.fixture
async def empty(database: Database) -> Database:
    """A database without tables."""
    await _empty(database)
    return database


async def _empty(database: Database) -> None:
    everything = MetaData()
    async with database.changing_tables() as connection:
        await connection.run_sync(everything.reflect)
        await connection.run_sync(everything.drop_all)


def _is_test_table(name: str | None) -> bool:
    return (name or "").startswith("test_")


def differences(connection: Connection) -> list[Any]:
    options = {
        "compare_server_default": True,
        "include_name": lambda name, kind, _parents: kind != "table" or not _is_test_table(name),
        "include_object": lambda _item, name, kind, _reflected, _other: kind != "table" or not _is_test_table(name),
    }
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.load()))


def shape(connection: Connection) -> dict[str, Any]:
    """Return what the database itself says of each table; more than Alembic compares."""
    found, names = inspect(connection), ("columns", "pk_constraint", "foreign_keys", "indexes")
    shapes: dict[str, Any] = {}
    for table in found.get_table_names():
        if table == "alembic_version" or _is_test_table(table):
            continue
        facts = {name: getattr(found, f"get_{name}")(table) for name in names}
        facts["unique"], facts["checks"] = found.get_unique_constraints(table), found.get_check_constraints(table)
        shapes[table] = {
            name: sorted(_plain(one) for one in fact) if isinstance(fact, list) else _plain(fact)
            for name, fact in facts.items()
        }
    return shapes


def _plain(fact: Any) -> str:
    if isinstance(fact, dict):
        return "; ".join(f"{name}={_plain(fact[name])}" for name in sorted(fact))
    return str(fact) if isinstance(fact, TextClause) else repr(fact)


async def look(database: Database, at: Any) -> Any:
    async with database.reading() as tx:
        return await tx.connection.run_sync(at)


async def test_an_empty_database_gets_exactly_the_tables_of_the_stores(empty: Database) -> None:
    tables.load()
    assert await migrate.current(empty) is None
    assert await migrate.upgrade(empty) == list(migrate.revisions())
    assert await migrate.current(empty) == migrate.head()
    assert await look(empty, differences) == []
    migrated = await look(empty, shape)
    await _empty(empty)
    await empty.create_all()
    assert migrated == await look(empty, shape)
    assert len(migrated) > 20


async def test_a_second_upgrade_does_nothing(empty: Database) -> None:
    await migrate.upgrade(empty)
    async with empty.transaction() as tx:
        await tx.connection.exec_driver_sql("INSERT INTO outbox_cursors (name, seq) VALUES ('kept', 7)")
    assert await migrate.upgrade(empty) == []
    async with empty.reading() as tx:
        assert (await tx.connection.exec_driver_sql("SELECT seq FROM outbox_cursors")).scalar() == 7


async def test_upgrades_at_once_do_it_once(empty: Database, clock: ManualClock) -> None:
    others = [Database(empty.url, clock=clock, journal_key=b"k") for _ in range(3)]
    try:
        applied = await asyncio.gather(*(migrate.upgrade(one) for one in [empty, *others]))
        assert sorted(applied) == [[], [], [], list(migrate.revisions())]
    finally:
        for one in others:
            await one.close()


START = """
import asyncio, sys
from dujiang.kit import migrate
from dujiang.kit.clock import SystemClock
from dujiang.kit.db import Database

async def main():
    database = Database(sys.argv[1], clock=SystemClock(), journal_key=b"k")
    print(len(await migrate.upgrade(database)), "alembic" in sys.modules)
    await database.close()

asyncio.run(main())
"""


async def test_processes_that_start_at_once_do_not_break_each_other(empty: Database) -> None:
    async def start() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", START, empty.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode().strip()

    said = sorted(await asyncio.gather(start(), start(), start()))
    assert [one.split()[0] for one in said] == ["0", "0", str(len(migrate.revisions()))]
    assert await look(empty, differences) == []
    assert await start() == "0 False"  # with nothing to do, Alembic is not even loaded


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(empty: Database) -> None:
    await migrate.upgrade(empty)
    async with empty.transaction() as tx:
        await tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrate.DatabaseIsNewer, match=r"at revision 9999.*newer version has used it"):
        await migrate.upgrade(empty)
    assert await migrate.current(empty) == "9999"


async def test_tables_without_a_revision_are_refused(database: Database) -> None:
    with pytest.raises(migrate.DatabaseIsForeign, match="Start with an empty database"):
        await migrate.upgrade(database)


async def test_an_upgrade_that_fails_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection, target: str) -> None:
        run(connection, target)
        raise ZeroDivisionError

    run = migrate._run
    monkeypatch.setattr(migrate, "_run", fail)
    with pytest.raises(ZeroDivisionError):
        await migrate.upgrade(empty)
    monkeypatch.undo()
    assert await look(empty, lambda connection: inspect(connection).get_table_names()) == []
    assert await migrate.upgrade(empty) == list(migrate.revisions())


async def test_a_memory_database(clock: ManualClock) -> None:
    database = Database(MEMORY, clock=clock, journal_key=b"k")
    assert await migrate.upgrade(database) == list(migrate.revisions())
    assert await migrate.upgrade(database) == []
    await database.close()


async def test_a_database_that_is_away_is_said(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db", clock=clock, journal_key=b"k")
    with pytest.raises(Unavailable):
        await migrate.upgrade(database)
    await database.close()


async def test_references_hold_again_after_a_change(sqlite: Database) -> None:
    async with sqlite.changing_tables() as connection:
        await connection.exec_driver_sql("CREATE TABLE test_parents (id INTEGER PRIMARY KEY)")
        await connection.exec_driver_sql(
            "CREATE TABLE test_children (parent INTEGER REFERENCES test_parents (id) ON DELETE CASCADE)"
        )
        await connection.exec_driver_sql("INSERT INTO test_parents VALUES (1)")
        await connection.exec_driver_sql("INSERT INTO test_children VALUES (1)")
    async with sqlite.changing_tables() as connection:  # as a change of a table is done: copy, drop, rename
        await connection.exec_driver_sql("CREATE TABLE test_copy (id INTEGER PRIMARY KEY, more TEXT)")
        await connection.exec_driver_sql("INSERT INTO test_copy SELECT id, '' FROM test_parents")
        await connection.exec_driver_sql("DROP TABLE test_parents")
        await connection.exec_driver_sql("ALTER TABLE test_copy RENAME TO test_parents")
    async with sqlite.reading() as tx:
        assert (await tx.connection.exec_driver_sql("SELECT * FROM test_children")).all() == [(1,)]
    with pytest.raises(Conflict, match="1 rows refer"):
        async with sqlite.changing_tables() as connection:
            await connection.exec_driver_sql("DELETE FROM test_parents")
    for _ in range(3):  # whichever connection comes next, it follows references
        with pytest.raises(Conflict):
            async with sqlite.transaction() as tx:
                await tx.connection.exec_driver_sql("INSERT INTO test_children VALUES (2)")


def test_every_table_of_the_sources_is_known() -> None:
    declared = set()
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("Table"), args=[ast.Constant(name), ast.Name("metadata"), *_]):
                    declared.add(name)
    tables.load()
    assert declared == {name for name in metadata.tables if not _is_test_table(name)}


def test_revisions_are_one_chain_with_numbers() -> None:
    assert list(migrate.revisions()) == [f"{number:04}" for number in range(1, len(migrate.revisions()) + 1)]


@pytest.fixture
async def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A copy of the migrations that may be written to."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrate.SCRIPTS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "SCRIPTS", copy)
    migrate.revisions.cache_clear()
    yield copy
    monkeypatch.undo()
    migrate.revisions.cache_clear()


@pytest.fixture
def more() -> MetaData:
    """A registry with one column and one table more than the stores have."""
    copy = MetaData(naming_convention=metadata.naming_convention)
    for table in tables.load().sorted_tables:
        if not _is_test_table(table.name):
            table.to_metadata(copy)
    copy.tables["outbox_cursors"].append_column(Column("note", String(20), nullable=True))
    Table("quotas_more", copy, Column("id", Integer, primary_key=True))
    return copy


async def test_a_new_revision_holds_the_difference_and_follows(
    scripts: Path, more: MetaData, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.upgrade(empty)
    async with empty.transaction() as tx:
        await tx.connection.exec_driver_sql("INSERT INTO outbox_cursors (name, seq) VALUES ('kept', 7)")
    monkeypatch.setattr(tables, "load", lambda: more)
    file = await command.write("add a note")
    assert file is not None
    number = len(migrate.revisions())
    assert file.name == f"v{number:04}_add_a_note.py"
    assert file.read_text().startswith('"""Add a note."""\n')
    assert await migrate.upgrade(empty) == [f"{number:04}"]
    async with empty.reading() as tx:
        assert (await tx.connection.exec_driver_sql("SELECT name, seq, note FROM outbox_cursors")).all() == [
            ("kept", 7, None)
        ]
    assert await look(empty, differences) == []
    assert await command.write("nothing") is None


CHECK = """
import sys
from pathlib import Path
from dujiang.kit import migrate
migrate.SCRIPTS = Path(sys.argv[1])
from dujiang.migrations.__main__ import main
sys.exit(main(["check"]))
"""


def test_the_stores_and_the_latest_revision_agree(scripts: Path) -> None:
    """`make migration` has nothing to write; where this fails, run it (before the first release: with --first)."""
    before = sorted(scripts.glob("versions/*.py"))
    command = [sys.executable, "-c", CHECK, str(scripts)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "nothing to write" in found.stdout, found.stdout + found.stderr
    assert sorted(scripts.glob("versions/*.py")) == before


@pytest.mark.parametrize("arguments", [[], ["add", "--first"]])
def test_a_command_that_says_nothing_is_told_what_to_say(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "say what changes" in capsys.readouterr().err
