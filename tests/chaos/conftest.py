"""A platform of its own for each test, gone with all that it started when the test is over."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.process import PlatformProcess


@pytest.fixture
def make_platform(tmp_path: Path) -> Iterator[Callable[..., PlatformProcess]]:
    """A platform in a folder, not started."""
    made: list[PlatformProcess] = []

    def make(home: Path | None = None, **fields: object) -> PlatformProcess:
        made.append(PlatformProcess(home or tmp_path / f"home{len(made)}", **fields))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for platform in made:
        with contextlib.suppress(Exception):
            platform.kill()
        for pid in platform.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def platform(make_platform: Callable[..., PlatformProcess]) -> PlatformProcess:
    """One that is ready."""
    made = make_platform()
    made.start()
    return made
