"""From a fleet back to the rows that it could be made of: `fleet_of_rows(*rows_of_fleet(fleet))` is the same fleet."""

from __future__ import annotations

import numpy as np

from dujiang.scheduling.domain.fleet import ClusterRow, DeviceRow, Fleet, NodeRow
from dujiang.scheduling.domain.request import LEVELS, Level


def rows_of_fleet(fleet: Fleet) -> tuple[tuple[ClusterRow, ...], tuple[NodeRow, ...]]:
    """Return the clusters and nodes of a fleet as rows, in its order.

    Names of switches, racks and sites are numbers: a fleet keeps no more than which nodes share one. O(n + d).
    """
    devices: list[list[DeviceRow]] = [[] for _ in fleet.node_names]
    columns = (fleet.device_index, fleet.device_node, fleet.device_flavor, fleet.device_open)
    rows = zip(fleet.device_names, *(column.tolist() for column in columns), strict=True)
    for name, index, node, number, is_open in rows:
        kind = fleet.flavors[number]
        row = DeviceRow(name, index, kind.vendor, kind.model, kind.memory_bytes, is_open, kind.isolation)
        devices[node].append(row)
    limits, domains = fleet.node_limit.T.tolist(), _domains(fleet)
    nodes = tuple(
        NodeRow(
            cluster=fleet.clusters[cluster].name, name=fleet.node_names[at], cpu_milli=limits[at][0],
            memory_bytes=limits[at][1], disk_bytes=limits[at][2], devices=tuple(devices[at]), is_open=is_open,
            state=fleet.node_states[at], labels=fleet.node_labels[at], taints=fleet.node_taints[at],
            domains=domains[at],
        ) for at, (cluster, is_open) in enumerate(
            zip(fleet.node_cluster.tolist(), fleet.node_open.tolist(), strict=True)
        )
    )  # fmt: skip
    return fleet.clusters, nodes


def _domains(fleet: Fleet) -> list[dict[Level, str]]:
    """Return which domains each node shares with others; one that has its domain for itself is of unknown place."""
    found: list[dict[Level, str]] = [{} for _ in fleet.node_names]
    for level, row in zip(LEVELS, fleet.node_domains, strict=True):
        shared = np.bincount(row)[row] > 1 if row.size else row
        for at in np.flatnonzero(shared).tolist():
            found[at][level] = str(row[at])
    return found
