"""A server to talk to, and a home folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dujiang.cli import main
from tests.cli.standin import StandIn, serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of the platform; nothing of the machine's own environment tells where a server is."""
    for name in ("DUJIANG_URL", "DUJIANG_TOKEN", "DUJIANG_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    monkeypatch.setenv("DUJIANG_HOME", str(folder))
    return folder


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for the platform, found by DUJIANG_URL."""
    with serving() as stand_in:
        monkeypatch.setenv("DUJIANG_URL", stand_in.url)
        monkeypatch.setenv("DUJIANG_TOKEN", "dj_secret")
        yield stand_in


@pytest.fixture
def run(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run one command and return exit code, standard output and standard error."""

    def command(*args: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        code = main(args)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return command
