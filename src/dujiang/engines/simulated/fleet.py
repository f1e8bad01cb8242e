"""What a virtual cluster consists of, written as `64x8` or `16x8:H200@nvidia:141GiB,32x0/rack=4/site=16`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from dujiang.engines.contract import DeviceFacts, Isolation, NodeFacts
from dujiang.kit.errors import Invalid
from dujiang.kit.units import BadQuantity, parse_bytes

MAX_NODES: Final = 20_000
MAX_DEVICES: Final = 64
_GROUP = re.compile(r"(\d{1,6})x(\d{1,3})(?::([\w.+-]{1,64})(?:@([a-z][\w-]{0,31}))?)?(?::([^:,]+))?")
_FORM = "Write NODESxDEVICES[:MODEL[@VENDOR]][:MEMORY], several joined by commas, such as 64x8:H200@nvidia:141GiB,16x0."
_PLACE_FORM = "Behind the nodes stands how many share a place: /switch=NODES, /rack=NODES, /site=NODES."


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
class Places:
    """How many nodes, in their order, share a switch, a rack and a site."""

    switch: int = 8
    rack: int = 16
    site: int = MAX_NODES

    def labels(self, number: int) -> dict[str, str]:
        """Return the labels that say where a node stands, in our own words for it."""
        return {
            "dujiang.io/switch": f"s{number // self.switch + 1:03}",
            "dujiang.io/rack": f"r{number // self.rack + 1:03}",
            "dujiang.io/site": f"site{number // self.site + 1}",
        }


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A virtual cluster."""

    groups: tuple[NodeGroup, ...]
    places: Places = Places()

    def __str__(self) -> str:
        """Return the form that `parse_fleet` reads."""
        groups = ",".join(
            f"{g.nodes}x{g.devices}:{g.model}@{g.vendor}:{_size(g.device_memory_bytes)}" for g in self.groups
        )
        usual = Places()
        unusual = {f.name: getattr(self.places, f.name) for f in fields(Places)}
        return groups + "".join(f"/{name}={n}" for name, n in unusual.items() if n != getattr(usual, name))

    def build(self) -> list[NodeFacts]:
        """Return the nodes as they are when nothing is wrong."""
        nodes: list[NodeFacts] = []
        for group in self.groups:
            for _ in range(group.nodes):
                nodes.append(self._node(len(nodes), group))
        return nodes

    def _node(self, number: int, group: NodeGroup) -> NodeFacts:
        name = f"sim-{number + 1:04}"
        devices = tuple(
            DeviceFacts(
                f"{name}-gpu{index}", index, group.vendor, group.model, group.device_memory_bytes,
                isolation=Isolation.ENFORCED, labels={"simulated": "true"},
            ) for index in range(group.devices)
        )  # fmt: skip
        labels = {"simulated": "true", **self.places.labels(number)}
        return NodeFacts(name, group.cpu_milli, group.memory_bytes, group.disk_bytes, devices, labels=labels)


def parse_fleet(text: str) -> FleetSpec:
    """Return the virtual cluster of its written form: groups of nodes, then how many of them share a place.

    Raises:
        BadFleet: it cannot be read, or is larger than 20,000 nodes of 64 devices.
    """
    groups: list[NodeGroup] = []
    nodes_text, *places_text = text.replace(" ", "").split("/")
    for part in nodes_text.split(","):
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
    return FleetSpec(tuple(groups), _places(places_text))


def _places(parts: Sequence[str]) -> Places:
    sizes: dict[str, int] = {}
    for part in parts:
        level, _, size = part.partition("=")
        if level not in _LEVELS or not re.fullmatch(r"[1-9]\d{0,4}", size) or int(size) > MAX_NODES:
            raise BadFleet(f'"/{part[:80]}" is not a place. {_PLACE_FORM}')
        if level in sizes:
            raise BadFleet(f"How many nodes share a {level} is said twice; keep one.")
        sizes[level] = int(size)
    usual = Places()
    site = sizes.get("site", usual.site)
    # What is not said is as usual where that goes with what is said.
    some = sizes.get("switch", usual.switch)
    rack = sizes.get("rack", some * max(1, usual.rack // some))
    if "rack" not in sizes and "site" in sizes and site % rack:
        rack = site
    switch = sizes.get("switch", usual.switch if rack % usual.switch == 0 else rack)
    if rack % switch or ("site" in sizes and site % rack):
        held = f"{switch}, {rack} and {site} nodes"
        raise BadFleet(f"A rack holds whole switches and a site whole racks; here they hold {held}. {_PLACE_FORM}")
    return Places(switch, rack, site)


_LEVELS: Final = ("switch", "rack", "site")


def _size(size: int) -> str:
    return str(size) if size % 2**30 else f"{size >> 30}GiB"  # exact, unlike what people are shown elsewhere
