"""Builders of fleets and jobs in a few words."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    Constraints,
    DeviceRow,
    Fleet,
    Holding,
    NodeRow,
    Plan,
    Request,
    Snapshot,
    fleet_of_rows,
)  # fmt: skip

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30


def a_fleet(
    nodes: int = 2, gpus: int = 4, *, cpu: int = 32, memory_gib: int = 256, stacks: bool = True, cluster: str = "c",
    model: str = "A100", vendor: str = "nvidia", gpu_gib: int = 80, cpu_nodes: int = 0, closed: tuple[str, ...] = (),
) -> Fleet:  # fmt: skip
    """A cluster of nodes `n0 n1 ...` with devices, and of nodes `x0 x1 ...` without."""
    return fleet_of_rows([ClusterRow(cluster, stacks)], some_nodes(
        nodes, gpus, cpu=cpu, memory_gib=memory_gib, cluster=cluster, model=model, vendor=vendor, gpu_gib=gpu_gib,
        cpu_nodes=cpu_nodes, closed=closed,
    ))  # fmt: skip


def some_nodes(
    nodes: int, gpus: int, *, cpu: int = 32, memory_gib: int = 256, cluster: str = "c", model: str = "A100",
    vendor: str = "nvidia", gpu_gib: int = 80, cpu_nodes: int = 0, closed: tuple[str, ...] = (), prefix: str = "n",
) -> list[NodeRow]:  # fmt: skip
    def node(name: str, count: int) -> NodeRow:
        devices = tuple(DeviceRow(f"g{i}", i, vendor, model, gpu_gib * GIB) for i in range(count))
        return NodeRow(
            cluster, name, cpu * 1000, memory_gib * GIB, 1000 * GIB, devices, is_open=name not in closed,
            state="CORDONED" if name in closed else "", labels={"name": name},
        )  # fmt: skip

    return [node(f"{prefix}{i}", gpus) for i in range(nodes)] + [node(f"x{i}", 0) for i in range(cpu_nodes)]


def a_job(
    job_id: str = "a", *, gpu: float = 0, cpu: float = 0, memory_gib: float = 0, ranks: int = 1, after_s: float = 0,
    project: str = "p", gpu_gib: float = 0, vendor: str = "", model: str = "", disk_gib: float = 0, **more: Any,
) -> Request:  # fmt: skip
    named = [field.name for field in fields(Constraints) if field.name in more]
    more["where"] = more.get("where") or Constraints(**{name: more.pop(name) for name in named})
    ask = Ask(
        round(gpu * 1000), int(gpu_gib * GIB), vendor, model, round(cpu * 1000),
        int(memory_gib * GIB), int(disk_gib * GIB),
    )  # fmt: skip
    return Request(job_id, project, ask, NOW + timedelta(seconds=after_s), ranks=ranks, **more)


def holding(
    job_id: str, node: str, *, devices: tuple[int, ...] = (), milli: int = 1000, gib: float | None = None,
    cpu: float = 0, memory_gib: float = 0, project: str = "p", ends_in_s: float | None = None, started_s: float = -100,
    cluster: str = "c", **more: Any,
) -> Holding:  # fmt: skip
    held = int((80 * milli / 1000 if gib is None else gib) * GIB)
    shares = tuple(DeviceShare(f"g{i}", i, milli, held) for i in devices)
    rank = RankPlacement(0, node, round(cpu * 1000), int(memory_gib * GIB), 0, shares)
    ends = None if ends_in_s is None else NOW + timedelta(seconds=ends_in_s)
    return Holding(job_id, project, cluster, (rank,), NOW + timedelta(seconds=started_s), ends, **more)


def after(snapshot: Snapshot, plan: Plan, now: datetime = NOW) -> list[Holding]:
    """What is held once a plan is carried out."""
    waiting = {request.job_id: request for request in snapshot.requests}
    started = []
    for start in plan.starts:
        request = waiting[start.job_id]
        limit = request.runs_at_most_s
        ends = None if limit is None else now + timedelta(seconds=limit)
        started.append(
            Holding(start.job_id, start.project_id, start.cluster, start.ranks, now, ends, apart=request.where.apart)
        )
    return [*snapshot.holdings, *started]


def where(plan: Plan) -> dict[str, list[tuple[str, list[int]]]]:
    """Job to its ranks' (node, device indexes)."""
    return {s.job_id: [(r.node, [d.index for d in r.devices]) for r in s.ranks] for s in plan.starts}


def why(plan: Plan) -> dict[str, str]:
    return {wait.job_id: str(wait.reason) for wait in plan.waits}
