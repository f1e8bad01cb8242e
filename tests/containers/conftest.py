"""Each runtime once, with the tests' images in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.registry import Registry
from tests.containers.runtimes import Store, install


def _store(name: str) -> Iterator[Store]:
    install()
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        with Store(name, folder / "s") as store:
            yield store
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def podman() -> Iterator[Store]:
    yield from _store("podman")


@pytest.fixture(scope="session")
def containerd() -> Iterator[Store]:
    yield from _store("containerd")


@pytest.fixture(scope="session")
def docker() -> Iterator[Store]:
    yield from _store("docker")


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """The runtime that a test class names in `runtime`, or a parameter."""
    found: Store = request.getfixturevalue(getattr(request, "param", None) or request.cls.runtime)
    return found
