"""Prints the description of the API: `python -m dujiang.bootstrap.openapi`. Nothing is started and nothing is kept."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI

from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.settings import Settings
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import MEMORY, Database
from dujiang.kit.objects import open_store


def main() -> int:
    """Write the description as it is committed in `docs/openapi.json`."""
    sys.stdout.write(asyncio.run(published()))
    return 0


async def published() -> str:
    """Return the description of the API of a platform without clusters: the same code gives the same text."""
    with tempfile.TemporaryDirectory(prefix="dujiang-") as folder:
        platform = Platform(_world(Path(folder)), Settings())
        try:
            return written(platform.app)
        finally:
            await platform.close()


def written(app: FastAPI) -> str:
    """Return the description of an application as text, one member a line, so that a change is a small diff."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _world(folder: Path) -> World:
    clock = ManualClock()
    return World(
        db=Database(MEMORY, clock=clock, journal_key=b"nothing is written"), clock=clock, ids=new_ids(clock, seed=0),
        objects=open_store(str(folder / "objects"), clock=clock), clusters={}, door_secret=b"nobody calls",
        cache=folder / "cache", lost_after_s={},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
