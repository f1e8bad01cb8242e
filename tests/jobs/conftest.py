"""The platform over a virtual cluster, for any test of jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from tests.platforms import Scene, a_scene


@pytest.fixture
async def scene(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene on SQLite, where the kind of database makes no difference."""
    async with a_scene(sqlite, clock, ids, tmp_path) as made:
        yield made


@pytest.fixture
async def both(database: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene once on SQLite and once on PostgreSQL."""
    async with a_scene(database, clock, ids, tmp_path) as made:
        yield made
