"""The world of models, for any test here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from tests.models.serving.conftest import launch
from tests.models.worlds import ModelWorld, a_model_world

__all__ = ["launch", "world"]


@pytest.fixture
async def world(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[ModelWorld]:
    """A world on SQLite."""
    async with a_model_world(sqlite, clock, ids, tmp_path) as w:
        yield w
