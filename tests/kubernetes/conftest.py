"""One cluster with containers, and one of fake nodes, for all tests that need no other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two real nodes with four GPUs each, which are not there."""
    yield from _started(Cluster(_scratch() / "c", nodes=2))


@pytest.fixture(scope="session")
def control() -> Iterator[Cluster]:
    """A cluster without real nodes: KWOK lets fake ones live, as many as a test adds."""
    yield from _started(Cluster(_scratch() / "c", nodes=0, with_fakes=True))


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="kubernetes-"))


def _started(cluster: Cluster) -> Iterator[Cluster]:
    try:
        with cluster:
            yield cluster
    finally:
        shutil.rmtree(cluster.folder.parent, ignore_errors=True)
