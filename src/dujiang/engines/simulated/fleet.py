"""What a virtual cluster consists of, written as `64x8` or `16x8:H200@nvidia:141GiB,32x0`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from dujiang.engines.contract import DeviceFacts, Isolation, NodeFacts
from dujiang.kit.errors import Invalid
from dujiang.kit.units import BadQuantity, parse_bytes

MAX_NODES: Final = 20_000
MAX_DEVICES: Final = 64
_NODES_PER_RACK: Final = 16
_RACKS_PER_SWITCH: Final = 4
_GROUP = re.compile(r"(\d{1,6})x(\d{1,3})(?::([\w.+-]{1,64})(?:@([a-z][\w-]{0,31}))?)?(?::([^:,]+))?")
_FORM = "Write NODESxDEVICES[:MODEL[@VENDOR]][:MEMORY], several joined by commas, such as 64x8:H200@nvidia:141GiB,16x0."


class BadFleet(Invalid):
    """A description of a virtual cluster that cannot be read."""

    code, title = "bad_fleet", "The virtual cluster cannot be read"


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that are alike."""

    nodes: int
    devices: int
    """Of each node."""
    model: str = "H100-SXM5-80GB"
    vendor: str = "nvidia"
    device_memory_bytes: int = 80 * 2**30
    cpu_milli: int = 128_000
    memory_bytes: int = 1024 * 2**30
    disk_bytes: int = 4096 * 2**30


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A virtual cluster."""

    groups: tuple[NodeGroup, ...]

    def __str__(self) -> str:
        """Return the form that `parse_fleet` reads."""
        return ",".join(
            f"{g.nodes}x{g.devices}:{g.model}@{g.vendor}:{_size(g.device_memory_bytes)}" for g in self.groups
        )

    def build(self) -> list[NodeFacts]:
        """Return the nodes as they are when nothing is wrong."""
        nodes: list[NodeFacts] = []
        for group in self.groups:
            for _ in range(group.nodes):
                nodes.append(self._node(len(nodes), group))
        return nodes

    def _node(self, number: int, group: NodeGroup) -> NodeFacts:
        name, rack = f"sim-{number + 1:04}", number // _NODES_PER_RACK
        devices = tuple(
            DeviceFacts(
                f"{name}-gpu{index}", index, group.vendor, group.model, group.device_memory_bytes,
                isolation=Isolation.ENFORCED, labels={"simulated": "true"},
            ) for index in range(group.devices)
        )  # fmt: skip
        switch = f"s{rack // _RACKS_PER_SWITCH + 1:02}"
        labels = {"simulated": "true", "rack": f"r{rack + 1:03}", "switch": switch}
        return NodeFacts(name, group.cpu_milli, group.memory_bytes, group.disk_bytes, devices, labels=labels)


def parse_fleet(text: str) -> FleetSpec:
    """Return the virtual cluster of its written form.

    Raises:
        BadFleet: it cannot be read, or is larger than 20,000 nodes of 64 devices.
    """
    groups: list[NodeGroup] = []
    for part in text.replace(" ", "").split(","):
        match = _GROUP.fullmatch(part)
        if match is None:
            raise BadFleet(f'"{part[:80]}" is not a virtual cluster. {_FORM}')
        nodes, devices, model, vendor, memory = match.groups()
        group = NodeGroup(int(nodes), int(devices))
        try:
            size = parse_bytes(memory) if memory else group.device_memory_bytes
        except BadQuantity as error:
            raise BadFleet(f"{error.sentence} {_FORM}") from error
        model, vendor = model or group.model, vendor or group.vendor
        groups.append(replace(group, model=model, vendor=vendor, device_memory_bytes=size))
    total = sum(group.nodes for group in groups)
    if not 1 <= total <= MAX_NODES or max(group.devices for group in groups) > MAX_DEVICES:
        raise BadFleet(f"A virtual cluster has 1 to {MAX_NODES} nodes of at most {MAX_DEVICES} devices.")
    return FleetSpec(tuple(groups))


def _size(size: int) -> str:
    return str(size) if size % 2**30 else f"{size >> 30}GiB"  # exact, unlike what people are shown elsewhere
