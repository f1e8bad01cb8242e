"""FGD as one would write it down in plain Python: every node scored anew at every decision. The measure of our speed.

It decides exactly as the compiled one does, which is what the tests hold it to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, Shapes
from dujiang.scheduling.simulator.fragments import Typical


@dataclass(slots=True)
class PlainNode:
    """What is free on one node."""

    cpu_milli: int
    memory_mib: int
    model: int
    gpu_milli: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlainPod:
    """What one pod asks for."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    models: int


TypicalPods = list[tuple[PlainPod, float]]


def plain_nodes(cluster: Cluster) -> list[PlainNode]:
    """Return the nodes of a cluster."""
    columns = (cluster.cpu_milli, cluster.memory_mib, cluster.model, cluster.gpus)
    return [
        PlainNode(cpu, memory, model, free[:gpus])
        for cpu, memory, model, gpus, free in zip(
            *(each.tolist() for each in columns), cluster.gpu_milli.tolist(), strict=True
        )
    ]


def plain_pods(shapes: Shapes) -> list[PlainPod]:
    """Return the shapes."""
    return [PlainPod(*row) for row in zip(*(column.tolist() for column in shapes), strict=True)]


def plain_typical(typical: Typical) -> TypicalPods:
    """Return the typical pods."""
    columns = (typical.cpu_milli, typical.gpus, typical.gpu_milli, typical.models, typical.share)
    return [
        (PlainPod(cpu, 0, gpus, milli, models), share)
        for cpu, gpus, milli, models, share in zip(*(each.tolist() for each in columns), strict=True)
    ]


def plain_fragments(cpu_milli: int, gpu_milli: list[int], model: int, typical: TypicalPods) -> float:
    """Return the expected fragments of one node, as `fragments.node_fragments` does."""
    total = sum(gpu_milli)
    if not total:
        return 0.0
    expected = 0.0
    for pod, share in typical:
        lost = total
        if pod.gpu_milli and cpu_milli >= pod.cpu_milli and (pod.models >> model) & 1:
            below = [free for free in gpu_milli if free < pod.gpu_milli]
            if len(gpu_milli) - len(below) >= pod.gpus:
                lost = sum(below)
        expected += share * lost
    return expected


def plain_fgd(nodes: list[PlainNode], pod: PlainPod, typical: TypicalPods) -> tuple[int, list[int]] | None:
    """Return the node where FGD places a pod and its devices there, None when it fits on none."""
    best, chosen = -1, None
    for number, node in enumerate(nodes):
        if not _fits(node, pod):
            continue
        before = plain_fragments(node.cpu_milli, node.gpu_milli, node.model, typical)
        grade, devices = -1, list[int]()
        for taken in _choices(node, pod):
            after = [free - pod.gpu_milli if i in taken else free for i, free in enumerate(node.gpu_milli)]
            lost = plain_fragments(node.cpu_milli - pod.cpu_milli, after, node.model, typical)
            found = int(100.0 / (1.0 + math.exp(-(before - lost) / WHOLE)))
            if found > grade:
                grade, devices = found, taken
        if grade > best:
            best, chosen = grade, (number, devices)
    return chosen


def plain_take(node: PlainNode, pod: PlainPod, devices: list[int]) -> None:
    """Place a pod."""
    node.cpu_milli -= pod.cpu_milli
    node.memory_mib -= pod.memory_mib
    for device in devices:
        node.gpu_milli[device] -= pod.gpu_milli


def _fits(node: PlainNode, pod: PlainPod) -> bool:
    if node.cpu_milli < pod.cpu_milli or node.memory_mib < pod.memory_mib:
        return False
    if pod.gpus and not (pod.models >> node.model) & 1:
        return False
    return sum(free >= pod.gpu_milli for free in node.gpu_milli) >= pod.gpus


def _choices(node: PlainNode, pod: PlainPod) -> list[list[int]]:
    able = [i for i, free in enumerate(node.gpu_milli) if free >= pod.gpu_milli]
    if pod.gpus == 1 and pod.gpu_milli < WHOLE:
        return [[i] for i in able]
    return [able[: pod.gpus]]
