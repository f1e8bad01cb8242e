"""Builds the engine of every cluster that the settings name; none is asked anything yet."""

from __future__ import annotations

import hashlib

from dujiang.bootstrap.home import PlatformHome
from dujiang.bootstrap.settings import ClusterSettings, Settings
from dujiang.engines.contract import Engine, EngineRefused
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.simulated import SimulatedEngine, open_world, parse_fleet
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.kit.clock import Clock

LOCAL, SIMULATED = "local", "simulated"


def connect(home: PlatformHome, settings: Settings, clock: Clock, key: bytes) -> dict[str, Engine]:
    """Return engines by the name of their cluster.

    Args:
        home: where engines of this machine keep their files.
        settings: of the platform; a simulated fleet takes the place of all others.
        clock: for all of them.
        key: the platform's own: what it made elsewhere is known again by it.

    Raises:
        EngineRefused: a cluster's table contradicts itself; the sentence says which and how.
    """
    if settings.simulated.fleet:
        spec = settings.simulated
        world = open_world(
            home.state / "world", parse_fleet(spec.fleet or ""), seed=spec.seed, clock=clock, speed=spec.speed
        )
        return {SIMULATED: SimulatedEngine(world, sleep=clock.sleep)}
    found: dict[str, Engine] = {LOCAL: LocalEngine(home.state / "engine", clock=clock, settings=settings.local)}
    for name, each in sorted(settings.clusters.items()):
        if each.slurm is None and each.kubernetes is None:
            continue
        kinds = [kind for kind in ("slurm", "kubernetes") if getattr(each, kind) is not None]
        if len(kinds) > 1:
            raise EngineRefused(f"[clusters.{name}] is both a Slurm and a Kubernetes cluster; keep one of the tables")
        if name in (LOCAL, SIMULATED):
            raise EngineRefused(f"[clusters.{name}.{kinds[0]}]: {name!r} is taken, give the cluster another name")
        try:
            found[name] = _engine(name, each, home, clock, key)
        except EngineRefused as error:
            raise EngineRefused(f"[clusters.{name}.{kinds[0]}]: {error.sentence}") from error
    return found


def _engine(name: str, each: ClusterSettings, home: PlatformHome, clock: Clock, key: bytes) -> Engine:
    if each.slurm is not None:
        return SlurmEngine(each.slurm, clock=clock)
    assert each.kubernetes is not None, "it is one or the other"
    # Not above: its client is 20 MB, which a site without Kubernetes does without.
    from dujiang.engines.kubernetes.engine import KubernetesEngine

    mark = hashlib.blake2s(key + name.encode(), digest_size=5).hexdigest()
    return KubernetesEngine(each.kubernetes, clock=clock, archive=home.state / "clusters" / name, mark=mark)
