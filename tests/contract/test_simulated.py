"""The simulated engine keeps the contract: with its world in memory, and with its world on disk."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.engines.simulated import SimulatedEngine, World, open_world, parse_fleet
from dujiang.kit.clock import ManualClock
from tests.contract.engine_contract import EngineContract
from tests.contract.harness import ByRank, Dies, Exits, Grows, Harness, Program, Saves, Stubborn, Waits

FLEET = parse_fleet("3x4")


class SimulatedHarness(Harness):
    """A virtual cluster in virtual time, which passes while a test waits; its programs are `#sim` lines."""

    node = "sim-0002"
    reads_outputs = False

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = self.new_world()
        self.engine = self._new_engine()

    @abstractmethod
    def new_world(self) -> World:
        """Return the world as a process that starts finds it."""

    def _new_engine(self) -> SimulatedEngine:
        return SimulatedEngine(self.world, sleep=self.clock.sleep)

    def body(self, program: Program) -> str:
        programs = program.programs if isinstance(program, ByRank) else (program,)
        lines = [f"#sim {_words(each)}" for each in programs]
        if isinstance(program, ByRank):
            lines = [line.replace("#sim", f"#sim rank={rank}") for rank, line in enumerate(lines)]
        return "\n".join(lines)

    def release(self) -> None:
        self.world.release()

    def runs(self, key: AttemptKey) -> int:
        run = self.world.truth.of(key)
        return run.starts if run else 0

    async def restart(self) -> None:
        await self.engine.close()
        self.engine = self._new_engine()


class InMemory(SimulatedHarness):
    """The world outlives the engine, as a cluster does."""

    def new_world(self) -> World:
        return World(FLEET, seed=7, clock=self.clock)


class OnDisk(SimulatedHarness):
    """The world is read back from its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__()

    def new_world(self) -> World:
        return open_world(self.folder / "world", FLEET, seed=7, clock=self.clock)

    async def restart(self) -> None:
        await self.engine.close()
        self.world = self.new_world()
        self.engine = self._new_engine()


def _words(program: Program) -> str:
    match program:
        case Exits(code, text):
            return f"exit={code}" + (f" print={text}" if text else "")
        case Dies(number):
            return f"signal={int(number)}"
        case Waits(code):
            return f"print=ready duration=released exit={code}"
        case Saves(number, code):
            return f"print=ready duration=forever saves={int(number)} saved-exit={code}"
        case Stubborn():
            return "print=ready duration=forever stubborn=1"
        case Grows():
            return "memory=400MiB"
        case ByRank():
            raise AssertionError("a rank has one program")


class TestSimulatedInMemory(EngineContract):
    @pytest.fixture
    def harness(self) -> InMemory:
        return InMemory()


class TestSimulatedOnDisk(EngineContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> OnDisk:
        return OnDisk(tmp_path)
