"""Where an attempt runs whose nodes Slurm chose: its launch, moved from the nodes that the platform chose. Pure.

Slurm gives every node of a job the same, so that it does not matter which takes whose part. Standard library only: it
runs on the nodes (`archive`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dujiang.engines.slurm.reading import expand


def chosen(listed: str, first: str) -> list[str]:
    """Return the nodes of a job, the one of its batch script first."""
    return [first, *(node for node in expand(listed) if node != first)]


def settled(launch: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Return a launch on other nodes.

    Args:
        launch: the record, with the addresses of all nodes.
        nodes: as many as it has.

    Raises:
        RuntimeError: these are more or fewer.
    """
    planned = list(dict.fromkeys(rank["node"] for rank in launch["ranks"]))
    if len(planned) != len(nodes):
        raise RuntimeError(f"Slurm gave {len(nodes)} nodes for {len(planned)}")
    taken = dict(zip(planned, nodes, strict=True))
    ranks = [{**rank, "node": taken[rank["node"]]} for rank in launch["ranks"]]
    hosts = [launch["addresses"].get(rank["node"], rank["node"]) for rank in ranks]
    return {**launch, "ranks": ranks, "hosts": hosts, "master_addr": hosts[0]}
