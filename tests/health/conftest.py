"""What the tests of health share: the shipped library is read once."""

from __future__ import annotations

import pytest

from dujiang.health.diagnose import Diagnoser
from dujiang.health.signatures import Library, load_shipped


@pytest.fixture(scope="session")
def library() -> Library:
    return load_shipped()


@pytest.fixture(scope="session")
def diagnoser(library: Library) -> Diagnoser:
    return Diagnoser(library)
