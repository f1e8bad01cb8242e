"""Plays many seeds. `make sim SIM_SEEDS=1000` plays that many, `SIM_SEED=7` one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.simulation import make_template, run

pytestmark = pytest.mark.sim

CHUNK = 25
ONE = os.environ.get("SIM_SEED", "")
SEEDS = [int(ONE)] if ONE else list(range(int(os.environ.get("SIM_SEEDS") or 25)))
CHUNKS = [SEEDS[at : at + CHUNK] for at in range(0, len(SEEDS), CHUNK)]


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.fixture
async def template(tmp_path: Path) -> Path:
    return await make_template(tmp_path)


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_whatever_goes_wrong_every_job_ends_once_and_as_it_really_did(seeds: list[int], tmp_path: Path) -> None:
    import asyncio

    template = asyncio.run(make_template(tmp_path))
    failed = []
    for seed in seeds:
        try:
            run(seed, tmp_path, template)
        except AssertionError as error:
            failed.append(f"seed {seed}: {error}")
    assert not failed, "\n".join(failed)
