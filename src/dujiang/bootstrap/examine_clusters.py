"""What `dujiang doctor` tells of the clusters that the settings name: each is connected and asked, none is changed."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dujiang.bootstrap.clusters import engine_of, kind_of
from dujiang.bootstrap.home import PlatformHome
from dujiang.bootstrap.settings import ClusterSettings, Settings
from dujiang.engines.contract import Capabilities, Engine, NodeFacts
from dujiang.kit.clock import Clock
from dujiang.kit.errors import DujiangError
from dujiang.pool.domain.standing import ClusterState

_TRY: Final[Mapping[str, str]] = {
    "slurm": "see that `sinfo` and `squeue` answer here as the platform's user, or that `rest_url` can be reached from"
    " here",
    "kubernetes": "see that `kubectl get nodes` answers here with the same kubeconfig and context",
}
_TOLD: Final = re.compile(
    r"[:;.,] (?:`chmod|add|allow|correct|grant|install|look|make|mend|mount|name|put|renew|run|see|set|try) | must ",
    re.IGNORECASE,
)
"""How the reasons of engines go on where they say what to do."""


async def examine_clusters(home: PlatformHome, settings: Settings, clock: Clock) -> list[dict[str, Any]]:
    """Return how each cluster stands: `state`, `version`, what it shows, what it may not do, what to do next.

    Args:
        home: of the platform; nothing is made in it.
        settings: of the platform.
        clock: for the engines.
    """
    wanted = [(name, each) for name, each in sorted(settings.clusters.items()) if kind_of(each)]
    key = _key(home)
    return list(await asyncio.gather(*(_one(name, each, home, settings, clock, key) for name, each in wanted)))


async def _one(
    name: str, each: ClusterSettings, home: PlatformHome, settings: Settings, clock: Clock, key: bytes
) -> dict[str, Any]:
    kind, within_s = kind_of(each), settings.pool.answer_within_s
    began_s = clock.monotonic_s()
    try:
        engine = engine_of(name, each, home, clock, key)
    except DujiangError as error:
        return _away(name, kind, error.sentence, f"correct [clusters.{name}.{kind}] in dujiang.toml")
    try:
        capabilities, nodes = await asyncio.wait_for(_ask(engine), within_s)
    except TimeoutError:
        return _away(name, kind, f"It has not answered within {within_s:g} s.", _TRY[kind])
    except DujiangError as error:
        return _away(name, kind, error.sentence, advised(kind, error.sentence))
    finally:
        with contextlib.suppress(DujiangError):
            await engine.close()
    return _here(name, kind, capabilities, nodes, clock.monotonic_s() - began_s)


def advised(kind: str, why: str) -> str:
    """Return what to do about a cluster that is away for a reason; empty where the reason says it already."""
    return "" if _TOLD.search(why) else _TRY[kind]


async def _ask(engine: Engine) -> tuple[Capabilities, Sequence[NodeFacts]]:
    nodes = await engine.inventory()  # first: what an engine can do it may tell without asking the cluster
    return await engine.capabilities(), nodes


def _here(
    name: str, kind: str, capabilities: Capabilities, nodes: Sequence[NodeFacts], took_s: float
) -> dict[str, Any]:
    ready = sum(node.ready and not node.cordoned for node in nodes)
    state, why, advice = ClusterState.REACHABLE, "", ""
    if not ready:
        state, why = ClusterState.DEGRADED, "It shows no node that takes work." if nodes else "It shows no node."
        setting = "node_selector" if kind == "kubernetes" else "partition"
        advice = f"look at its nodes there, and at `{setting}` of [clusters.{name}.{kind}]"
    return {
        "name": name, "kind": kind, "state": str(state), "version": capabilities.version, "nodes": len(nodes),
        "ready": ready, "devices": sum(len(node.devices) for node in nodes), "answered_in_s": round(took_s, 3),
        "why": why, "advice": advice, "missing": list(capabilities.missing),
    }  # fmt: skip


def _away(name: str, kind: str, why: str, advice: str) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "state": str(ClusterState.UNREACHABLE), "version": "", "nodes": 0, "ready": 0,
        "devices": 0, "answered_in_s": None, "why": why, "advice": advice, "missing": [],
    }  # fmt: skip


def _key(home: PlatformHome) -> bytes:
    """Return the platform's key where it has one; without it what it made elsewhere counts as that of others."""
    try:
        return bytes.fromhex((home.state / "keys" / "journal.key").read_text().strip())
    except (OSError, ValueError):
        return b""
