"""A virtual world on disk: what runs there goes on while the platform is away, and is found again.

    world.lock                  held by the one platform process that uses the world
    world.json                  fleet, seed, cordons
    attempts/JOB.NUMBER.json    each attempt as it was when something was last done to it from outside
    forgotten/JOB.NUMBER.json   those that were forgotten: for their output, and so that they never start again

What follows from time alone is not written: it happens again, at the same moments, when the world is next looked at.
Secrets are not written at all. Nodes that were away are back after a restart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable, Launch
from dujiang.engines.simulated.attempt import Attempt, Rank, Stop
from dujiang.engines.simulated.fleet import BadFleet, FleetSpec
from dujiang.engines.simulated.program import script_of
from dujiang.engines.simulated.truth import Run
from dujiang.engines.simulated.world import World
from dujiang.kit.clock import Clock, to_micros


@dataclass
class _Record:
    """An attempt as it is written; names are those of `Attempt`, but for the last three."""

    launch: Launch
    run: Run
    arrived: int
    starts: int
    ports: tuple[int, ...]
    released: bool
    ranks: list[Rank]
    stop: Stop | None
    first_failed: int | None
    lost: End | None
    notice: int
    ended: int | None
    ended_rank: int | None
    forgotten: int | None
    evidence: list[tuple[str, str, int]]
    done_before: int
    speed: float
    written: int
    """When: the world's clock never goes back behind it."""


_RECORDS = TypeAdapter(_Record)
_SAME = [one.name for one in fields(_Record)][:-3]


def open_world(folder: Path, spec: FleetSpec, *, seed: int, clock: Clock, speed: float = 1.0) -> World:
    """Return the world that a folder keeps, as time has changed it, or a new one.

    Args:
        folder: of the world alone; made where it is missing.
        spec: the fleet, which must be the one that is kept.
        seed: of a new world; one that is kept has its own.
        clock: a real one; its wall time is the world's.
        speed: programs run this many times as fast, those that arrive from now on.

    Raises:
        EngineUnavailable: another process uses it, or it cannot be written.
        BadFleet: another fleet is kept there.
    """
    try:
        for part in ("attempts", "forgotten"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise EngineUnavailable(f"{folder} cannot be written: {error.strerror}") from error
    try:
        return KeptWorld(folder, spec, seed=seed, clock=clock, speed=speed, lock=lock)
    except BaseException:
        os.close(lock)
        raise


class KeptWorld(World):
    """A world on disk, by the wall clock: also a machine that slept finds it where it should be."""

    def __init__(self, folder: Path, spec: FleetSpec, *, seed: int, clock: Clock, speed: float, lock: int) -> None:
        self._folder, self._lock = folder, lock
        kept = _read_world(folder, spec)
        records = [_read_record(path) for path in sorted((folder / "attempts").glob("*.json"))]
        self._latest = max((record.written for record in records), default=0)
        super().__init__(spec, seed=kept.seed if kept else seed, clock=clock, speed=speed)
        for record in sorted(records, key=lambda one: (one.arrived, one.launch.key)):
            self.adopt(_attempt(record, self.seed))
        if kept is None:
            self.keep_world()
            return
        self.released = kept.released
        for name, reason in kept.cordons.items():
            self._nodes[name].cordon = reason

    def now(self) -> int:
        """Return the wall clock's time, or the latest that was told when that is later."""
        self._latest = max(self._latest, to_micros(self.clock.now()))
        return self._latest

    def close(self) -> None:
        """Let another process use the world."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def keep(self, attempt: Attempt) -> None:
        """Write the attempt's file whole."""
        first = attempt.script.ranks[0]
        record = _Record(
            **{name: getattr(attempt, name) for name in _SAME}, done_before=first.done_before,
            speed=attempt.script.speed, written=self._latest,
        )  # fmt: skip
        _write(self._path("attempts", attempt.key), _RECORDS.dump_json(record, exclude={"launch": {"secrets"}}))

    def keep_world(self) -> None:
        """Write the world's file whole."""
        cordons = {name: node.cordon for name, node in self._nodes.items() if node.cordon is not None}
        text = _WORLDS.dump_json(_KeptFacts(str(self.spec), self.seed, self.released, cordons), indent=1)
        _write(self._folder / "world.json", text)

    def keep_forgotten(self, attempt: Attempt) -> None:
        """Move the attempt's file away."""
        self.keep(attempt)
        os.replace(self._path("attempts", attempt.key), self._path("forgotten", attempt.key))

    def forgotten(self, key: AttemptKey) -> Attempt | None:
        """Read an attempt that was forgotten."""
        with contextlib.suppress(FileNotFoundError):
            return _attempt(_read_record(self._path("forgotten", key)), self.seed)
        return None

    def is_forgotten(self, key: AttemptKey) -> bool:
        """Say whether there is a file of a forgotten attempt."""
        return self._path("forgotten", key).exists()

    def _path(self, part: str, key: AttemptKey) -> Path:
        return self._folder / part / f"{key}.json"


@dataclass
class _KeptFacts:
    fleet: str
    seed: int
    released: bool
    cordons: dict[str, str]


_WORLDS = TypeAdapter(_KeptFacts)


def _read_world(folder: Path, spec: FleetSpec) -> _KeptFacts | None:
    try:
        kept = _WORLDS.validate_json((folder / "world.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _damaged(folder / "world.json") from error
    if kept.fleet != str(spec):
        raise BadFleet(
            f"The simulated cluster kept in {folder} is {kept.fleet}, not {spec}. Start with the one that is kept, "
            "choose another home, or remove that folder to begin anew."
        )
    return kept


def _read_record(path: Path) -> _Record:
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> EngineUnavailable:
    return EngineUnavailable(f"{path} is damaged: remove it to go on without what it holds")


def _attempt(record: _Record, seed: int) -> Attempt:
    script = script_of(record.launch, seed=seed, speed=record.speed, done_before=record.done_before)
    return Attempt(**{name: getattr(record, name) for name in _SAME}, script=script, seed=seed)


def _lock(folder: Path) -> int:
    lock = os.open(folder / "world.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise EngineUnavailable(f"another platform process uses {folder}: stop it, or choose another home") from error
    return lock


def _write(path: Path, text: bytes) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_suffix(".new")
    try:
        fresh.write_bytes(text)
        os.replace(fresh, path)
    except OSError as error:
        raise EngineUnavailable(f"{path} cannot be written: {error.strerror}; free some space, or mend it") from error
