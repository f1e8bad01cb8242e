"""The local engine keeps the contract: under limit groups where this machine has them, and without."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, Isolation
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.local.settings import LocalSettings
from dujiang.kit.clock import SystemClock
from tests.contract.engine_contract import EngineContract
from tests.contract.harness import ByRank, Dies, Exits, Grows, Harness, Program, Saves, Stubborn, Waits
from tests.contract.process_contract import ProcessContract


class LocalHarness(Harness):
    """The local engine in a folder of the test's own; its programs are shell text."""

    def __init__(self, folder: Path, *, limit_groups: bool) -> None:
        self.folder, self.clock = folder, SystemClock()
        self.settings = LocalSettings(node_name="here", reserve_memory_bytes=0, limit_groups=limit_groups)
        self.node = "here"
        self.engine: LocalEngine = self._new()

    def _new(self) -> LocalEngine:
        return LocalEngine(self.folder / "engine", clock=self.clock, settings=self.settings)

    def text(self, program: Program) -> str:
        begin = f'echo began >> "{self.folder}/began-$DUJIANG_JOB_ID-$DUJIANG_ATTEMPT-$RANK"\n'
        return begin + self.body(program)

    def body(self, program: Program) -> str:
        match program:
            case Exits(code, text):
                return (f"echo '{text}'\n" if text else "") + f"exit {code}"
            case Dies(number):
                return f"kill -{int(number)} $$"
            case Waits(code):
                return f"echo ready\nuntil [ -e {self.folder}/released ]; do sleep 0.02; done\nexit {code}"
            case Saves(number, code):
                return f"trap 'echo saved; exit {code}' {int(number)}\necho ready\nsleep 1000 &\nwait"
            case Stubborn():
                return "trap '' TERM USR1 USR2\necho ready\nwhile :; do sleep 1000; done"
            case Grows():
                return f"exec {sys.executable} -c 'x = bytearray(400 << 20)'"
            case ByRank(programs):
                cases = "".join(f"{rank})\n{self.body(each)}\n;;\n" for rank, each in enumerate(programs))
                return f"case $RANK in\n{cases}esac"

    def release(self) -> None:
        (self.folder / "released").touch()

    def runs(self, key: AttemptKey) -> int:
        witness = self.folder / f"began-{key.job_id}-{key.number}-0"
        return len(witness.read_text().splitlines()) if witness.exists() else 0

    async def restart(self) -> None:
        await self.engine.close()
        self.engine = self._new()

    async def clean(self) -> None:
        """Stop whatever a test has left, and see that nothing outlives it."""
        for key in await self.engine.attempts():
            await self.engine.cancel(key, grace_s=0.0)
        for key in await self.engine.attempts():
            await self.ended(key)
        strays = await self.engine.strays()
        await self.engine.close()
        assert strays == []


@pytest.fixture
async def local(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalHarness]:
    harness = LocalHarness(tmp_path, limit_groups=request.cls.limit_groups)
    if request.cls.limit_groups and (await harness.engine.capabilities()).limits is Isolation.COUNTED_ONLY:
        pytest.skip("this machine has no limit groups that may be written to")
    yield harness
    await harness.clean()


class _Local(EngineContract, ProcessContract):
    @pytest.fixture
    def harness(self, local: LocalHarness) -> LocalHarness:
        return local


class TestLocalWithLimitGroups(_Local):
    limit_groups = True


class TestLocalWithoutLimitGroups(_Local):
    limit_groups = False
