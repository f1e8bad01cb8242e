"""What the contract's tests need of each engine: programs in its own language, a restart, waiting without sleeping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dujiang.engines.contract import AttemptKey, Engine, Launch, Observation, Phase, RankPlacement
from dujiang.engines.outputs import OutputRefused
from dujiang.kit.clock import Clock

WITHIN_S = 20.0
"""How long anything may take before a test gives up; far above what it does take."""


@dataclass(frozen=True)
class Exits:
    """Prints a text and ends with an exit code."""

    code: int = 0
    text: str = ""


@dataclass(frozen=True)
class Dies:
    """Ends by a signal that nobody outside sent."""

    signal: int


@dataclass(frozen=True)
class Waits:
    """Prints `ready`, runs until released, then ends with an exit code."""

    code: int = 0


@dataclass(frozen=True)
class Saves:
    """Prints `ready`; on the signal it prints `saved` and ends with an exit code. SIGTERM ends it without a save."""

    on: int
    code: int = 0


@dataclass(frozen=True)
class Stubborn:
    """Prints `ready` and runs for ever; only SIGKILL ends it."""


@dataclass(frozen=True)
class Grows:
    """Takes more memory than any share in these tests, and touches all of it."""


@dataclass(frozen=True)
class ByRank:
    """Another program for each rank."""

    programs: tuple[Program, ...]


Program = Exits | Dies | Waits | Saves | Stubborn | Grows | ByRank


class Harness(ABC):
    """One engine under test, with its world."""

    engine: Engine
    clock: Clock
    node: str
    """Where ranks are placed."""
    memory_bytes: int = 128 << 20
    """What each rank is given."""
    reads_outputs: bool = True
    """Whether the files that attempts leave are to be had."""

    @abstractmethod
    def body(self, program: Program) -> str:
        """Return a program in this engine's language: a `setup` text as it is."""

    def text(self, program: Program) -> str:
        """Return a program as a `run` text; where `runs` counts what programs leave behind, it leaves that too."""
        return self.body(program)

    @abstractmethod
    def release(self) -> None:
        """Let every program that waits go on."""

    @abstractmethod
    def runs(self, key: AttemptKey) -> int:
        """Return how often the first rank's program of an attempt really began."""

    @abstractmethod
    async def restart(self) -> None:
        """Put a new engine in the place of the old, over the same world, as after a restart of the platform."""

    def launch(self, program: Program, *, job: str = "job_a", number: int = 1, ranks: int = 1, **fields: Any) -> Launch:
        """Return a small launch of a program."""
        return self.launch_text(self.text(program), job=job, number=number, ranks=ranks, **fields)

    def launch_text(self, text: str, *, job: str = "job_a", number: int = 1, ranks: int = 1, **fields: Any) -> Launch:
        """Return a small launch of a `run` text."""
        return Launch(
            **{
                "key": AttemptKey(job, number),
                "name": "a-job",
                "project": "a-project",
                "run": text,
                "ranks": tuple(RankPlacement(rank, self.node, 500, self.memory_bytes) for rank in range(ranks)),
                "grace_s": 5.0,
                **fields,
            }
        )

    async def submit(self, program: Program, **fields: Any) -> AttemptKey:
        """Submit a small launch; returns its key."""
        launch = self.launch(program, **fields)
        await self.engine.submit(launch)
        return launch.key

    async def until(self, key: AttemptKey, holds: Callable[[Observation | None], bool]) -> Observation | None:
        """Wait for an observation, on `changed` alone."""
        deadline = self.clock.monotonic_s() + WITHIN_S
        while True:
            seen = (await self.engine.observe([key])).get(key)
            if holds(seen):
                return seen
            assert self.clock.monotonic_s() < deadline, f"{key} is still {seen}"
            await self.engine.changed(1.0)

    async def ended(self, key: AttemptKey) -> Observation:
        """Wait for the end of an attempt."""
        seen = await self.until(key, lambda seen: seen is not None and seen.phase is Phase.ENDED)
        assert seen is not None
        return seen

    async def said(self, key: AttemptKey, word: bytes, *, rank: int = 0) -> None:
        """Wait until a program has printed a word."""
        printed = b""
        async for chunk in self.engine.logs(key, rank=rank, follow=True):
            printed += chunk.data
            if word in printed:
                return
        raise AssertionError(f"{key} ended without saying {word!r}: {printed[-500:]!r}")

    async def ready(self, key: AttemptKey, *, rank: int = 0) -> None:
        """Wait until a program that says `ready` has said it."""
        await self.said(key, b"ready", rank=rank)

    async def left(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int = 1 << 30) -> bytes:
        """Return what a file of an attempt's output folder holds."""
        pieces = self.engine.output(key, path, offset=offset, most_bytes=most_bytes)
        return b"".join([piece async for piece in pieces])

    async def why_not(self, key: AttemptKey, path: str) -> type[OutputRefused]:
        """Return why a file of an output folder cannot be had."""
        try:
            pieces = await self.left(key, path)
        except OutputRefused as error:
            return type(error)
        raise AssertionError(f"{path!r} was read: {pieces[:100]!r}")

    async def printed(self, key: AttemptKey, *, rank: int = 0, offset: int = 0) -> bytes:
        """Return what a rank has printed so far."""
        return b"".join([chunk.data async for chunk in self.engine.logs(key, rank=rank, offset=offset)])
