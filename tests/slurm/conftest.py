"""One cluster for all tests of a module that need no other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, install


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three nodes with four GPUs each."""
    install()
    with scratch() as folder, Cluster(folder / "c") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rest(cluster: Cluster) -> str:
    """The URL of that cluster's slurmrestd."""
    return cluster.start_rest()


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for a cluster, which other users of the machine may enter; its path is short, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
