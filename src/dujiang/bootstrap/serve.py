"""`dujiang up`: the platform as a process. It starts in order, says where it is, and cuts nobody off when it stops."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dujiang
from dujiang.api.server import Server, listen
from dujiang.bootstrap.clusters import LOCAL, SIMULATED, connect
from dujiang.bootstrap.home import PlatformHome
from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.settings import Settings
from dujiang.engines.contract import EngineUnavailable
from dujiang.kit import log, migrate, tracing
from dujiang.kit import settings as kit_settings
from dujiang.kit.clock import Clock, SystemClock
from dujiang.kit.db import Database
from dujiang.kit.lease import first_of
from dujiang.kit.loop import Runner
from dujiang.kit.objects import open_store

_LOCAL_LOST_AFTER_S = 3.0
"""The local engine's view does not lag: what it does not show is not there. Some seconds for a start under way."""
_ENGINE_WAIT_S = 5.0
_logger = log.get(__name__)


def serve(
    root: Path, *, port: int | None = None, host: str | None = None, simulate: str | None = None, loops: bool = True,
    database: str | None = None, environ: Mapping[str, str] = os.environ,
) -> int:  # fmt: skip
    """Run the platform until a signal; return the exit status.

    Args:
        root: the home folder.
        port, host, simulate, loops, database: flags; None leaves it to environment and file.
        environ: of the process.

    Raises:
        DujiangError: it cannot start; the sentence says why and what to do.
    """
    state = root / SIMULATED if simulate else root
    home = PlatformHome(root, state)
    home.make()
    flags = {
        "server.port": port, "server.host": host, "simulated.fleet": simulate, "database.url": database,
        "server.loops": None if loops else False,
    }  # fmt: skip
    settings = kit_settings.load(Settings, file=home.settings_file, environ=environ, flags=flags)
    if settings.simulated.fleet and not simulate:
        home = PlatformHome(root, root / SIMULATED)
        home.make()
    lock = home.lock()
    try:
        sock = listen(settings.server.host, settings.server.port)
        with sock:
            log.configure(level=settings.server.log_level, file=home.log)
            if settings.server.offer_python:
                _offer_python()
            key = home.journal_key()
            import uvloop

            status: int = uvloop.run(_run(home, settings, sock, key, environ))
            return status
    finally:
        os.close(lock)


async def _run(home: PlatformHome, settings: Settings, sock: Any, key: bytes, environ: Mapping[str, str]) -> int:
    clock = SystemClock()
    db = open_database(home, settings, clock, key)
    await migrate.upgrade(db)
    platform = Platform(_world(home, settings, db, clock, key), with_home(settings, home))
    db.on_commit(platform.outbox.wake)
    stop_tracing = tracing.instrument(platform.app, environ, version=dujiang.__version__)
    try:
        token = await platform.install()
        if settings.server.loops:
            await _first_look(platform)
            await _prepare_plans(platform)
        bound_host, bound_port = sock.getsockname()[:2]
        url = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        home.publish({"url": url, "pid": os.getpid(), "version": dujiang.__version__}, token)
        _greet(home, settings, url, await _silent(platform))
        gc.collect()
        gc.freeze()  # what is loaded by now stays: the collector need not look through it again
        await _serve(platform, settings, sock, holder=_holder(home, db))
    finally:
        home.withdraw()
        stop_tracing()
        await platform.close()
    sys.stdout.write("Stopped. What was running goes on and is found again at the next start.\n")
    return 0


def _offer_python() -> None:
    """Put the folder of our interpreter first in the PATH that the local engine hands to jobs."""
    folder, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != folder:
        os.environ["PATH"] = folder + os.pathsep + path


def open_database(home: PlatformHome, settings: Settings, clock: Clock, key: bytes) -> Database:
    """Return the platform's database, not yet connected."""
    url = settings.database.url or f"sqlite+aiosqlite:///{home.database}"
    for plain in ("postgresql://", "postgres://"):
        if url.startswith(plain):
            url = "postgresql+asyncpg://" + url.removeprefix(plain)
    return Database(
        url, clock=clock, journal_key=key, durable=settings.database.durable,
        busy_timeout_s=settings.database.busy_timeout_s,
    )  # fmt: skip


def _world(home: PlatformHome, settings: Settings, db: Database, clock: Clock, key: bytes) -> World:
    objects = settings.objects
    store = open_store(
        objects.url or str(home.state / "objects"), clock=clock, staging=home.state / "staging",
        endpoint=objects.endpoint, access_key_id=objects.access_key_id, secret_access_key=objects.secret_access_key,
        region=objects.region,
    )  # fmt: skip
    return World(
        db=db, clock=clock, ids=new_ids(clock), objects=store,
        clusters=connect(home, settings, clock, key), door_secret=key + b"door",
        cache=home.state / "cache", lost_after_s={LOCAL: _LOCAL_LOST_AFTER_S},
    )  # fmt: skip


def with_home(settings: Settings, home: PlatformHome) -> Settings:
    """Return the settings with the folders that the home decides filled in."""
    root = settings.jobs.checkpoint_root or str(home.state / "checkpoints")
    return settings.model_copy(update={"jobs": replace(settings.jobs, checkpoint_root=root)})


async def _first_look(platform: Platform) -> None:
    """Know the pool before the first request; an engine that is away is looked for again by the loop."""
    clock = platform.world.clock
    looking = asyncio.ensure_future(platform.inventory.tick())
    try:
        while not looking.done():
            await first_of(clock, platform.settings.loops.answers_s, lambda: asyncio.wait({looking}))
            await platform.lines.tick()  # the loop that does this is not running yet
        looking.result()
    except Exception as error:  # the loop tells it again, with backoff
        log.failure(_logger, "the first look at the clusters failed", error)


async def _prepare_plans(platform: Platform) -> None:
    """Have what places work on devices compiled, where there are some: it takes seconds at the first start of all."""
    async with platform.world.db.reading() as tx:
        if not (await platform.pool.inventory(tx)).devices:
            return
    from dujiang.scheduling.domain.prospect import warm  # not above: it loads a compiler, 65 MB

    threading.Thread(target=warm, name="warm", daemon=True).start()


async def _serve(platform: Platform, settings: Settings, sock: Any, *, holder: str) -> None:
    closing = platform.door.closing
    server = Server(platform.app, closing=closing)
    tasks: list[asyncio.Task[Any]] = []
    if settings.server.loops:
        world = platform.world
        runner = Runner(
            platform.loops, db=world.db, clock=world.clock, metrics=platform.metrics, holder=holder,
            lease_s=settings.loops.lease_s,
        )  # fmt: skip
        tasks.append(asyncio.create_task(runner.run(closing)))
        tasks += [asyncio.create_task(_listen(name, platform, runner)) for name in world.clusters]
    try:
        await server.run_on(sock)
    finally:
        closing.set()
        for task in tasks[1:]:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _listen(cluster: str, platform: Platform, runner: Runner) -> None:
    """Have the attempts of a cluster looked at when its engine has news."""
    while True:
        if not runner.leading:
            await asyncio.sleep(0.1)
            continue
        try:
            if await platform.lines[cluster].changed(_ENGINE_WAIT_S):
                platform.running.wake(cluster)
        except EngineUnavailable:
            await asyncio.sleep(1.0)


def _holder(home: PlatformHome, db: Database) -> str:
    """Return our name in the lease: the home's lock lets one process in, so over a restart it is the same one."""
    return f"home:{home.state}"[:200] if db.is_sqlite else f"{os.uname().nodename}:{os.getpid()}:{os.urandom(4).hex()}"


async def _silent(platform: Platform) -> list[str]:
    """Return the names of the clusters that did not answer the first look."""
    async with platform.world.db.reading() as tx:
        found = (await platform.pool.inventory(tx)).clusters.values()
    return sorted(one.name for one in found if not one.reachable and not platform.pool.is_removed(one))


def _greet(home: PlatformHome, settings: Settings, url: str, silent: Sequence[str]) -> None:
    lines = [f"Dujiang {dujiang.__version__} listens at {url}"]
    if settings.simulated.fleet:
        lines.append(f"  SIMULATED: a virtual cluster of {settings.simulated.fleet}; nothing real runs.")
    lines += [
        f"  state        {home.state}   (log: {home.log})",
        "  signed in    commands of this account are, while DUJIANG_HOME is the same: try `dujiang pool`",
        "  others       `dujiang users add NAME --password-stdin`, then `dujiang login --url` from elsewhere",
        *([f"  no answer    from {', '.join(silent)}: `dujiang clusters` says why"] if silent else []),
        "Ctrl-C stops the platform; jobs go on.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
