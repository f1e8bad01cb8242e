"""Builds the engine of every cluster that the settings name; none is asked anything yet."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from dujiang.bootstrap.home import PlatformHome
from dujiang.bootstrap.settings import ClusterSettings, Settings
from dujiang.engines.contract import Engine, EngineRefused
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.simulated import SimulatedEngine, open_world, parse_fleet
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.kit.clock import Clock
from dujiang.kit.settings import SettingsInvalid

LOCAL, SIMULATED = "local", "simulated"
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")


def connect(home: PlatformHome, settings: Settings, clock: Clock, key: bytes) -> dict[str, Engine]:
    """Return engines by the name of their cluster.

    Args:
        home: where engines of this machine keep their files.
        settings: of the platform; a simulated fleet takes the place of all others.
        clock: for all of them.
        key: the platform's own: what it made elsewhere is known again by it.

    Raises:
        SettingsInvalid: a cluster's table cannot be; the sentence says which, and what to write.
    """
    check(settings)
    if settings.simulated.fleet:
        spec = settings.simulated
        world = open_world(
            home.state / "world", parse_fleet(spec.fleet or ""), seed=spec.seed, clock=clock, speed=spec.speed
        )
        return {SIMULATED: SimulatedEngine(world, sleep=clock.sleep)}
    found: dict[str, Engine] = {LOCAL: LocalEngine(home.state / "engine", clock=clock, settings=settings.local)}
    for name, each in sorted(settings.clusters.items()):
        if kind_of(each):
            found[name] = engine_of(name, each, home, clock, key)
    return found


def check(settings: Settings) -> None:
    """Refuse tables of clusters by which nothing can be connected.

    Raises:
        SettingsInvalid: with what to write, for each of them.
    """
    tables, is_simulated = sorted(settings.clusters.items()), bool(settings.simulated.fleet)
    if wrong := [said for name, each in tables if (said := _wrong(name, each, is_simulated=is_simulated))]:
        raise SettingsInvalid(wrong)


def engine_of(name: str, each: ClusterSettings, home: PlatformHome, clock: Clock, key: bytes) -> Engine:
    """Return the engine of a cluster whose table says what runs work there.

    Raises:
        SettingsInvalid: the table contradicts itself; the sentence says how.
    """
    try:
        return _engine(name, each, home, clock, key)
    except EngineRefused as error:
        raise SettingsInvalid([f"[clusters.{name}.{kind_of(each)}]: {error.sentence}"]) from error


def _wrong(name: str, each: ClusterSettings, *, is_simulated: bool) -> str:
    """Return why nothing can be connected by a cluster's table and what to write; empty when it can."""
    kinds = _kinds(each)
    if not _NAME.fullmatch(name):
        return (
            f"[clusters.{name!r}]: a cluster is named in letters and digits, with `-`, `_` or `.` between them, at most"
            " 63 in all: jobs, labels and folders are named by it"
        )
    if len(kinds) > 1:
        return f"[clusters.{name}] is both a Slurm and a Kubernetes cluster; keep one of the tables"
    if kinds and name in (LOCAL, SIMULATED):
        return f"[clusters.{name}.{kinds[0]}]: {name!r} is taken, give the cluster another name"
    if not kinds and name not in (LOCAL, SIMULATED) and not is_simulated:
        return (
            f"[clusters.{name}] does not say what runs work there: add a table [clusters.{name}.slurm] or"
            f" [clusters.{name}.kubernetes], or take it out; only `local` and `simulated` need none"
        )
    return ""


def kind_of(each: ClusterSettings) -> str:
    """Return what runs work on a cluster by its table, `slurm` or `kubernetes`; empty when it does not say."""
    return next(iter(_kinds(each)), "")


def _kinds(each: ClusterSettings) -> list[str]:
    return [kind for kind in ("slurm", "kubernetes") if getattr(each, kind) is not None]


def _engine(name: str, each: ClusterSettings, home: PlatformHome, clock: Clock, key: bytes) -> Engine:
    if each.slurm is not None:
        return SlurmEngine(each.slurm, clock=clock)
    assert each.kubernetes is not None, "it is one or the other"
    # Not above: its client is 20 MB, which a site without Kubernetes does without.
    from dujiang.engines.kubernetes.engine import KubernetesEngine

    mark = hashlib.blake2s(key + name.encode(), digest_size=5).hexdigest()
    return KubernetesEngine(each.kubernetes, clock=clock, archive=home.state / "clusters" / name, mark=mark)
