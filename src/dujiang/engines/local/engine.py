"""The local engine: runs attempts on this machine, each under a supervisor of its own that outlives the platform.

What an attempt is doing is read from its state file each time (`records`), never remembered, so an engine that starts
anew sees what the last one saw. The engine itself starts nothing: its helper forks the supervisors (`zygote`).

One process at a time uses a home. An attempt that was written down but never started is not seen: the platform, which
asks again with the same key, starts it. One process at a time is also what makes "not seen" certain here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dujiang.engines.contract import (
    AttemptKey,
    Capabilities,
    DeviceFacts,
    EngineRefused,
    EngineUnavailable,
    Isolation,
    Launch,
    LogChunk,
    NodeFacts,
    NodeRefused,
    Observation,
    Phase,
    Usage,
)
from dujiang.engines.folders import OutputFolders
from dujiang.engines.local import discovery, launching, records, rooms, strays
from dujiang.engines.local.environment import base_environment
from dujiang.engines.local.helper import Helper
from dujiang.engines.local.home import Home, read_whole, remove, write_whole
from dujiang.engines.local.inventory import Inventory
from dujiang.engines.local.reading import observation
from dujiang.engines.local.runtimes import FoundRuntime, find_runtime
from dujiang.engines.local.settings import LocalSettings
from dujiang.engines.local.supervisor import KICK
from dujiang.engines.local.using import Meter, Running
from dujiang.kit.beneath import Place
from dujiang.kit.clock import Clock
from dujiang.kit.files import read_at, size_of

_CHUNK_BYTES = 64 * 1024
_FOLLOW_S = 0.1
_RUNTIME_S = 60.0
"""How old the answer of a container runtime may be."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class _Attempt:
    """What the engine holds open of an attempt that is not over."""

    fd: int
    alive: bool = False
    """Whether it was alive when last looked at."""
    launch: dict[str, Any] | None = None
    started: dict[str, Any] | None = None


class LocalEngine(OutputFolders):
    """Runs attempts on this machine. Use from one event loop; `changed` from one waiter."""

    kind: ClassVar[str] = "local"

    def __init__(self, home: Path, *, clock: Clock, settings: LocalSettings | None = None) -> None:
        self._home, self._clock = Home(str(home.absolute())), clock
        self._settings = settings or LocalSettings()
        self._inventory = Inventory(home, self._settings)
        self._meter = Meter(self._inventory.nvml)
        self._found: discovery.Found | None = None
        self._runtime: tuple[float, FoundRuntime] | None = None
        self._lock_fd = -1
        self._opening = asyncio.Lock()
        self._helper: Helper | None = None
        self._events: socket.socket | None = None
        self._news = asyncio.Event()
        self._live: dict[AttemptKey, _Attempt] = {}
        self._ended: dict[AttemptKey, Observation] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        """Say which limits and which isolation of devices there are here."""
        found, devices, images = self._limits(), self._inventory.devices(), await self._images()
        shares = Isolation.ENFORCED if devices and self._inventory.mps_pipe_dir() else Isolation.COUNTED_ONLY
        missing = [*found.missing, *images.missing]
        if self._inventory.nvml.missing:
            missing.append(self._inventory.nvml.missing)
        elif shares is Isolation.COUNTED_ONLY:
            missing.append("shares of a GPU are only counted: start the NVIDIA MPS daemon to have them enforced")
        return Capabilities(
            kind=self.kind,
            limits=found.isolation,
            limits_by=found.plan.by,
            device_isolation=shares,
            stacks_ranks=True,
            images=images.runtime.name if images.runtime else "",
            version=_version(devices),
            missing=tuple(missing),
        )

    async def inventory(self) -> Sequence[NodeFacts]:
        """Return this machine."""
        return [self._inventory.node(cordoned_because=self._cordoned())]

    async def attempts(self) -> Sequence[AttemptKey]:
        """Return every attempt that has a state file."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(AttemptKey.parse(name) for name in os.listdir(self._home.state_dir))
        return []

    async def strays(self) -> Sequence[strays.Stray]:
        """Return processes of attempts that nobody watches over any more; none, when all is well."""
        return await asyncio.to_thread(strays.find, self._home.mark, self._limits().plan.folders, self._is_watched)

    # -- start --------------------------------------------------------------------------------------------------------

    async def submit(self, launch: Launch) -> None:
        """Write the attempt down and have its supervisor started."""
        helper = await self._open()
        key = str(launch.key)
        launching.refuse_bad_name(launch.key)
        if self._is_known(key):  # asked first: what runs already is not refused for a device that has gone since
            return
        needs_devices = any(rank.devices for rank in launch.ranks)
        devices = {device.name for device in self._inventory.devices()} if needs_devices else set[str]()
        if needs_devices and self._inventory.nvml.is_away:  # as while a driver is exchanged: not for good
            raise EngineUnavailable(f"the devices do not answer now ({self._inventory.nvml.missing}); ask again")
        images = await self._images() if launch.image is not None else FoundRuntime(None)
        launching.refuse_impossible(
            launch, node=self._inventory.name, devices=devices, no_images="; ".join(images.missing)
        )
        if not helper.is_asked(key):
            reason = self._cordoned()
            if reason is not None:
                raise NodeRefused(f"node {self._inventory.name!r} is closed to new work: {reason}")
            self._write_down(launch, images)
        await helper.start(key)
        self._attempt(launch.key)
        self._news.set()

    def _is_known(self, key: str) -> bool:
        state = records.open_state(self._home.state(key))
        if state is None:
            return os.path.exists(self._home.forgotten(key))
        try:
            return bool(records.is_locked(state) or records.read_started(state) or records.read_end(state))
        finally:
            os.close(state)

    def _write_down(self, launch: Launch, images: FoundRuntime) -> None:
        key = str(launch.key)
        shares = any(device.gpu_milli < 1000 for rank in launch.ranks for device in rank.devices)
        mps = self._inventory.mps_pipe_dir() if shares else None
        plan = self._limits().plan
        record = launching.describe(
            launch, home=self._home, plan=plan, mps=mps, runtime=images.runtime, settings=self._settings
        )
        try:
            os.makedirs(self._home.folder(key), mode=0o700, exist_ok=True)
            if launch.secrets:
                write_whole(self._home.secrets(key), dict(launch.secrets))
            write_whole(self._home.launch(key), record)
            os.close(records.create_state(self._home.state(key)))
        except OSError as error:
            raise self._unwritable(error) from error

    # -- look ---------------------------------------------------------------------------------------------------------

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Return what the state files say of these attempts."""
        await self._open()
        seen: dict[AttemptKey, Observation] = {}
        for key in keys:
            if (observed := await self._observe(key)) is not None:
                seen[key] = observed
        return seen

    async def _observe(self, key: AttemptKey) -> Observation | None:
        if key in self._ended:
            return self._ended[key]
        attempt = self._attempt(key)
        if attempt is None:
            return None
        attempt.alive = records.is_locked(attempt.fd)  # before the end is read: it is written before the lock goes
        end = records.read_end(attempt.fd)
        attempt.started = attempt.started or records.read_started(attempt.fd)
        if not attempt.alive and attempt.started is None:
            waits = self._helper is not None and self._helper.is_asked(str(key))
            return self._read(key, attempt, Phase.PENDING) if waits else None
        if not attempt.alive and (end is None or not end["final"]):
            end = await self._bury(key, attempt, end)
        if end is None or not end["final"]:
            return self._read(key, attempt, Phase.RUNNING if attempt.started else Phase.PENDING)
        self._ended[key] = self._read(key, attempt, Phase.ENDED, end)
        self._drop(key)
        return self._ended[key]

    def _read(self, key: AttemptKey, attempt: _Attempt, phase: Phase, end: dict[str, Any] | None = None) -> Observation:
        attempt.launch = attempt.launch or read_whole(self._home.launch(str(key)))
        facts = (read_whole(self._home.facts(str(key))) or {}) if end else {}
        output_dir = self._home.output_dir(str(key))
        return observation(key, phase, attempt.launch or {}, attempt.started or {}, end, facts, output_dir=output_dir)

    async def _bury(self, key: AttemptKey, attempt: _Attempt, end: dict[str, Any] | None) -> dict[str, Any] | None:
        """Clear up after a supervisor that was killed, and write the end that it could not; None while not all is gone.

        Where it had got as far as knowing how the program ended, that stands.
        """
        parents = sorted({*self._limits().plan.folders, *self._parents_of(key, attempt)})
        killed, all_gone = await asyncio.to_thread(strays.sweep, self._home.mark, parents, self._is_watched)
        if not all_gone:
            return None
        left = await asyncio.to_thread(rooms.sweep, self._home, self._is_watched)
        now_us = max(records.wall_us(), int((attempt.started or {}).get("at", 0)))
        restarted = (attempt.started or {}).get("boot") != records.boot_id()
        why = "the machine was restarted" if restarted else "its supervisor was killed"
        evidence = [("engine", f"{why}; {self._home.log} holds what it may have said", now_us)]
        mine = [f"{stray.name} ({stray.pid})" for stray in killed if stray.key == str(key)]
        if mine:
            evidence.append(("engine", f"still ran without a supervisor, and killed: {', '.join(mine[:10])}", now_us))
        evidence += [("engine", told, now_us) for told in left if f"-{key}." in told]
        nothing = dict.fromkeys(("exit_code", "signal", "rank"))
        lost: dict[str, Any] = {**nothing, "end": "Lost", "at": now_us, "facts": {}}
        buried = {**(end or lost), "final": True}
        buried["evidence"] = [*(end or {}).get("evidence", []), *evidence]
        remove(self._home.secrets(str(key)))
        records.write_end(attempt.fd, buried)
        return records.read_end(attempt.fd)

    def _parents_of(self, key: AttemptKey, attempt: _Attempt) -> list[str]:
        """Return where the attempt's limit groups were made, also by a platform that stood in another group."""
        attempt.launch = attempt.launch or read_whole(self._home.launch(str(key)))
        return list((attempt.launch or {}).get("limits", {}).get("parents", {}).values())

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return what NVML and the limit groups count of these attempts."""
        await self._open()
        running: list[Running] = []
        for key in keys:
            attempt = self._attempt(key) if key not in self._ended else None
            if attempt is None or not records.is_locked(attempt.fd) or records.read_end(attempt.fd) is not None:
                continue
            attempt.started = attempt.started or records.read_started(attempt.fd)
            attempt.launch = attempt.launch or read_whole(self._home.launch(str(key)))
            if attempt.started and attempt.launch:
                running.append(Running(key, int(attempt.started["pid"]), attempt.launch))
        if not running:
            return {}
        now, at_s = self._clock.now(), self._clock.monotonic_s()
        return {one.key: one for one in await asyncio.to_thread(self._meter.measure, running, now, at_s)}

    # -- change -------------------------------------------------------------------------------------------------------

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Have the supervisor send a signal to the program of every rank."""
        if not 1 <= number <= 64:
            raise EngineRefused(f"there is no signal {number}")
        await self._open()
        attempt = self._attempt(key)
        if attempt is not None and records.is_locked(attempt.fd):
            records.request_signal(attempt.fd, number)
            self._kick(attempt)

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Write the stop down in the attempt's state file and wake its supervisor."""
        await self._open()
        attempt = self._attempt(key)
        if attempt is None:
            return
        if grace_s is None:
            attempt.launch = attempt.launch or read_whole(self._home.launch(str(key)))
            grace_s = float((attempt.launch or {}).get("grace_s", 0.0))
        records.request_stop(attempt.fd, max(0.0, grace_s))
        self._kick(attempt)

    def _kick(self, attempt: _Attempt) -> None:
        """Wake the supervisor. One that has not written its start yet reads the requests after that by itself."""
        started = records.read_started(attempt.fd)
        if started is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(int(started["pid"]))
            try:
                if records.is_locked(attempt.fd):  # still the supervisor: the number cannot have been used again
                    signal.pidfd_send_signal(process, KICK)
            finally:
                os.close(process)

    async def cordon(self, node: str, reason: str) -> None:
        """Close this machine to new attempts until `uncordon`, over restarts too."""
        self._refuse_other(node)
        try:
            self._home.make()
            write_whole(self._home.cordon, {"reason": reason})
        except OSError as error:
            raise self._unwritable(error) from error

    async def uncordon(self, node: str) -> None:
        """Open this machine again."""
        self._refuse_other(node)
        remove(self._home.cordon)

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Close this machine and begin to stop every attempt on it."""
        await self.cordon(node, reason)
        for key in await self.attempts():
            await self.cancel(key, grace_s=grace_s)

    async def forget(self, key: AttemptKey) -> None:
        """Drop the records of an attempt that is over; its output stays, and it never starts again."""
        await self._open()
        observed, name = await self._observe(key), str(key)
        if observed.phase is not Phase.ENDED if observed else key not in self._live:
            return
        try:
            os.close(os.open(self._home.forgotten(name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise self._unwritable(error) from error
        for path in (self._home.secrets(name), self._home.launch(name), self._home.facts(name), self._home.state(name)):
            remove(path)
        self._drop(key)
        self._ended.pop(key, None)

    # -- listen -------------------------------------------------------------------------------------------------------

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Yield a rank's output in chunks of at most 64 KiB."""
        path = self._home.output(str(key), rank)
        there = size_of(path)
        at, until = max(0, there + offset if offset < 0 else offset), None if follow else there
        while True:
            over = not self._is_watched(str(key))  # asked first: what is written before the end is still read below
            while data := read_at(path, at, _CHUNK_BYTES if until is None else min(_CHUNK_BYTES, until - at)):
                yield LogChunk(rank, at, data)
                at += len(data)
                await asyncio.sleep(0)
            if over or not follow:
                return
            await self._clock.sleep(_FOLLOW_S)

    def output_place(self, key: AttemptKey) -> Place:
        """Return where the output folder of an attempt is."""
        return Place(os.path.realpath(self._home.root), self._home.output_steps(str(key)))

    async def changed(self, timeout_s: float) -> bool:
        """Wait for word from a supervisor, or for a running attempt to be found over when its word was lost."""
        await self._open()
        deadline = self._clock.monotonic_s() + timeout_s
        while not self._news.is_set():
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(left, self._settings.poll_s))
                break
            if any(attempt.alive and not records.is_locked(attempt.fd) for attempt in self._live.values()):
                break
        self._news.clear()
        return True

    async def close(self) -> None:
        """Let go of everything; what runs goes on under its supervisors."""
        for key in list(self._live):
            self._drop(key)
        if self._helper is not None:
            self._helper.close()
            self._helper = None
        if self._events is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None
        if self._lock_fd >= 0:
            for folder in self._limits().plan.folders:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # refused by the kernel while groups of running attempts are in it
            self._found = None
            os.close(self._lock_fd)
            self._lock_fd = -1
        self._inventory.nvml.close()

    # -- the home -----------------------------------------------------------------------------------------------------

    async def _open(self) -> Helper:
        """Become the one that uses this home, clear up what the last one could not, and begin to listen."""
        if self._helper is not None:
            return self._helper
        async with self._opening:
            if self._helper is None:
                try:
                    self._home.make()
                    await self._take_home()
                    self._listen()
                except OSError as error:
                    raise self._unwritable(error) from error
                environment = base_environment(os.environ, self._settings.pass_env)
                await asyncio.to_thread(strays.sweep, self._home.mark, self._limits().plan.folders, self._is_watched)
                await asyncio.to_thread(rooms.sweep, self._home, self._is_watched)
                self._helper = Helper(self._home, self._lock_fd, environment, self._settings.start_timeout_s)
        return self._helper

    async def _take_home(self) -> None:
        fd = os.open(self._home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = self._clock.monotonic_s() + self._settings.takeover_s
        while not records.take_lock(fd):
            if self._clock.monotonic_s() > deadline:
                other = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                raise EngineUnavailable(
                    f"another platform process ({other}) uses {self._home.root}: stop it, or choose another home"
                )
            await self._clock.sleep(0.02)
        os.pwrite(fd, f"{os.getpid():<31}\n".encode(), 0)
        self._lock_fd = fd

    def _listen(self) -> None:
        folder = os.open(self._home.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # by way of the descriptor, since a socket's path may have 107 bytes only
            path = f"/proc/self/fd/{folder}/events.sock"
            remove(path)
            self._events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._events.setblocking(False)
            self._events.bind(path)
        finally:
            os.close(folder)
        asyncio.get_running_loop().add_reader(self._events, self._hear)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            while self._events is not None:
                self._events.recv(4096)
        self._news.set()

    async def _images(self) -> FoundRuntime:
        now_s = self._clock.monotonic_s()
        if self._runtime is None or now_s - self._runtime[0] > _RUNTIME_S:
            self._runtime = now_s, await asyncio.to_thread(find_runtime, self._settings)
        return self._runtime[1]

    def _limits(self) -> discovery.Found:
        if self._found is None:
            self._found = discovery.find_limits(self._home.mark, allow_groups=self._settings.limit_groups)
        return self._found

    def _attempt(self, key: AttemptKey) -> _Attempt | None:
        if key not in self._live:
            fd = records.open_state(self._home.state(str(key)))
            if fd is None:
                return None
            self._live[key] = _Attempt(fd, alive=records.is_locked(fd))
        return self._live[key]

    def _drop(self, key: AttemptKey) -> None:
        attempt = self._live.pop(key, None)
        if attempt is not None:
            os.close(attempt.fd)

    def _is_watched(self, key: str) -> bool:
        fd = records.open_state(self._home.state(key))
        if fd is None:
            return False
        try:
            return records.is_locked(fd)
        finally:
            os.close(fd)

    def _cordoned(self) -> str | None:
        closed = read_whole(self._home.cordon)
        return None if closed is None else str(closed.get("reason", ""))

    def _refuse_other(self, node: str) -> None:
        if node != self._inventory.name:
            raise NodeRefused(f"there is no node {node!r} here, only {self._inventory.name!r}")

    def _unwritable(self, error: OSError) -> EngineUnavailable:
        if error.errno in _NO_ROOM:
            return EngineUnavailable(f"no space is left for {self._home.root}: free some, and it goes on by itself")
        return EngineUnavailable(f"{self._home.root} cannot be written: {error}")


def _version(devices: Sequence[DeviceFacts]) -> str:
    """Return what runs the work here: the kernel, and the driver of the devices where there are some."""
    kernel = os.uname()
    drivers = sorted({driver for device in devices if (driver := device.labels.get("driver"))})
    return ", ".join([f"{kernel.sysname} {kernel.release}", *(f"driver {driver}" for driver in drivers)])
