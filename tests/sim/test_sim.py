"""Plays many seeds. `make sim SIM_SEEDS=1000` plays that many, `make sim SEED=7` one; each failure names its seed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog

from dujiang.billing import store as billing_store
from dujiang.bootstrap.settings import ClusterSettings
from dujiang.jobs.domain import JobState, ending
from dujiang.jobs.loop import running
from dujiang.pool import service as pool_service
from dujiang.pool.domain.inventory import Used
from dujiang.scheduling.domain import growing
from dujiang.scheduling.settings import BurstSettings, SchedulingSettings
from tests.sim import simulation
from tests.sim.script import with_rent, with_room, write
from tests.sim.simulation import RENT_PER_DEVICE_HOUR, RENTED, Story, make_template, run

pytestmark = pytest.mark.sim

CHUNK = 25
ONE = os.environ.get("SIM_SEED", "")
SEEDS = [int(ONE)] if ONE else list(range(int(os.environ.get("SIM_SEEDS") or 25)))
CHUNKS = [SEEDS[at : at + CHUNK] for at in range(0, len(SEEDS), CHUNK)]
GROWN = range(3000, 3016)
"""Stories of growth and moves."""
RENTING = range(4000, 4016)
"""Stories of a rented cluster."""
TURNING = range(5000, 5016)
"""Stories of work that takes turns."""
FOUND = {
    15: "a node opened right after it was closed stayed closed at its engine",
    74: "a cancelled commit of a closed connection raised something else",
    137: "an attempt that nobody had looked for counted as lost",
}
"""Seeds that once found a fault, and which."""


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    kept = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    yield
    structlog.configure(**kept)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return asyncio.run(make_template(tmp_path))


def told(seed: int, folder: Path, template: Path) -> str:
    """Play a seed; return what was wrong, empty when all is well."""
    try:
        run(seed, folder, template)
    except Exception as error:
        return f"seed {seed}: {type(error).__name__}: {error} (again: make sim SEED={seed})"
    finally:
        for file in folder.glob(f"{seed}.db*"):
            file.unlink()
    return ""


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_whatever_goes_wrong_every_job_ends_once_and_as_it_really_did(
    seeds: list[int], tmp_path: Path, template: Path
) -> None:
    failed = [wrong for seed in seeds if (wrong := told(seed, tmp_path, template))]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("seed", FOUND, ids=lambda seed: f"{seed}: {FOUND[seed]}")
def test_seeds_that_once_found_a_fault_hold(seed: int, tmp_path: Path, template: Path) -> None:
    assert not told(seed, tmp_path, template)


def test_the_same_seed_tells_the_same_story_in_any_process(tmp_path: Path, template: Path) -> None:
    seed = SEEDS[0]
    here = run(seed, tmp_path, template).head
    program = (
        "import asyncio, logging, sys, structlog; from pathlib import Path\n"
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))\n"
        "from tests.sim.simulation import make_template, run\n"
        "folder = Path(sys.argv[1])\n"
        "print(*run(int(sys.argv[2]), folder, asyncio.run(make_template(folder))).head)"
    )
    for hash_seed in ("1", "2"):  # the order of sets of texts is another in each
        folder = tmp_path / hash_seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder), str(seed)], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.stdout == f"{here[0]} {here[1]}\n", done.stderr[-3000:]


def test_stories_hold_every_kind_of_mishap(tmp_path: Path, template: Path) -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    stories: list[Story] = [run(seed, tmp_path, template) for seed in range(1007, 1019)]
    counted = sum((story.counted for story in stories), start=Counter[str]())
    wanted = (
        "killed", "clock step", "failed tick", "unreachable", "stale", "stop", "cordon", "drain", "uncordon", "order",
        "database busy", "database refused", "database unheard", "database full", "ended NODE_FAIL", "ended PREEMPTED",
        "stopped Preempted", "stopped Idle", "stopped Resized", "ended CANCELLED", "ended TIMEOUT",
        "ended OUT_OF_MEMORY", "ended FAILED", "ended COMPLETED", "retried", "gang",
    )  # fmt: skip
    assert [name for name in wanted if not counted[name]] == []


def test_stories_with_growth_and_moves_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
    """Pools that empty, where elastic work grows and shares are moved together, hurriedly: nothing is lost by it."""
    hurried = SchedulingSettings(
        min_run_s=3.0, regrow_s=15.0, defragment="act", fresh_s=60.0, most_moves_hourly=1000
    )  # fmt: skip
    monkeypatch.setattr(simulation, "SETTINGS", simulation.SETTINGS.model_copy(update={"scheduling": hurried}))
    monkeypatch.setattr(simulation, "write", lambda dice: with_room(write(dice), dice))
    monkeypatch.setattr(growing, "RESTART_S", 0.0)
    stories = [run(seed, tmp_path, template) for seed in GROWN]
    counted = sum((story.counted for story in stories), start=Counter[str]())
    assert counted["planned Resized"]
    assert counted["planned Moved"]
    assert counted["killed"]


def test_stories_with_turns_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
    """Work of one class takes turns, hurriedly: what is stopped again and again ends all the same, once."""
    turns = SchedulingSettings(min_run_s=3.0, turn_device_s=5.0, turn_patience=4.0)
    monkeypatch.setattr(simulation, "SETTINGS", simulation.SETTINGS.model_copy(update={"scheduling": turns}))
    stories = [run(seed, tmp_path, template) for seed in TURNING]
    counted = sum((story.counted for story in stories), start=Counter[str]())
    assert counted["took turns"] >= 4
    assert counted["killed"]


def test_stories_with_rented_nodes_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
    """A pool too small beside a rented one whose nodes come and go: the budget holds, nothing runs on both."""
    spends = SchedulingSettings(burst=BurstSettings(on=True, after_s=5.0, budget_per_day=Decimal("0.5")))
    terms = {RENTED: ClusterSettings(cloud=True, price_per_device_hour=RENT_PER_DEVICE_HOUR, interruptions_per_day=2.0)}
    changed = {"scheduling": spends, "clusters": terms}
    monkeypatch.setattr(simulation, "SETTINGS", simulation.SETTINGS.model_copy(update=changed))
    monkeypatch.setattr(simulation, "write", lambda dice: with_rent(write(dice), dice))
    stories = [run(seed, tmp_path, template) for seed in RENTING]
    counted = sum((story.counted for story in stories), start=Counter[str]())
    assert counted[f"on {RENTED}"] > len(stories)
    assert counted["killed"]


class TestPlanted:
    """Faults that are planted on purpose are found: a check that cannot fail is none."""

    def found(self, folder: Path, template: Path, *, says: str, among: int = 12) -> None:
        heard = []
        for seed in range(among):
            heard.append(told(seed, folder, template))
            if says in heard[-1]:
                return
        pytest.fail(f"nobody noticed: {heard}")

    def test_work_given_up_too_soon(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
        hasty = simulation.SETTINGS.model_copy(update={"jobs": replace(simulation.SETTINGS.jobs, lost_after_s=1.0)})
        monkeypatch.setattr(simulation, "SETTINGS", hasty)
        monkeypatch.setattr(running, "_FEWEST_LOOKS", 1)
        self.found(tmp_path, template, says="ran at once", among=24)

    def test_places_given_without_looking(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path
    ) -> None:
        async def nothing(*_: Any) -> Used:
            return Used()

        monkeypatch.setattr(pool_service.ledger_store, "read_used", nothing)
        self.found(tmp_path, template, says="more than there is", among=3)

    def test_a_charge_left_out(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
        insert = billing_store.insert_charges

        async def leaves_one_out(tx: Any, made: Any, currency: str) -> None:
            await insert(tx, made[1:], currency)

        monkeypatch.setattr(billing_store, "insert_charges", leaves_one_out)
        self.found(tmp_path, template, says="charge", among=2)

    def test_success_that_is_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: Path) -> None:
        state = ending._state

        def rosy(attempt: Any, seen: Any) -> JobState:
            found = state(attempt, seen)
            return JobState.COMPLETED if seen.signal else found

        monkeypatch.setattr(ending, "_state", rosy)
        self.found(tmp_path, template, says="really S", among=3)
