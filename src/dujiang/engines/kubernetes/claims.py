"""Dynamic resource allocation: devices that drivers publish in ResourceSlices, and claims for them. Pure.

A claim names its devices by an attribute that no other device of that driver on that node has, such as `uuid`: the
expressions of claims know nothing of the name in the slice. So the scheduler can give exactly the devices that the
platform chose, and none else. The API is the same in its versions, but that `v1beta1` wraps devices and unwraps
requests.

Source: Kubernetes, resource.k8s.io/v1 (types.go); dynamic-resource-allocation/cel for what an expression may use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dujiang.engines.kubernetes.quantities import whole_of
from dujiang.kit.units import BadQuantity

GROUP: Final = "resource.k8s.io"
VERSIONS: Final = ("v1", "v1beta2", "v1beta1")
"""Of the group, the best first."""
DeviceId = tuple[str, str, str]
"""Driver, pool, name: what Kubernetes knows a device by."""

_CLASSES: Final[Mapping[tuple[str, str], str]] = {("gpu.nvidia.com", "mig"): "mig.nvidia.com"}
"""DeviceClass by driver and the device's `type`, where it is not called as the driver.

Source: dra-driver-nvidia-gpu."""
_NOT_FOR_WORK: Final = frozenset({"vfio"})
"""`type` of devices that are handed to virtual machines."""
_BEST_PINS: Final = ("uuid", "resource.kubernetes.io/pciBusID", "pciAddr", "serial")
_MAX_REQUESTS: Final = 32
"""Of one claim."""


@dataclass(frozen=True, slots=True)
class KubeDevice:
    """A device as its driver publishes it."""

    id: DeviceId
    node: str
    """That it belongs to; empty for one that is not a node's own."""
    model: str
    memory_bytes: int
    type: str
    pins: tuple[tuple[str, str | int], ...]
    """Attributes by which it may be told from others, by qualified name, the best first."""
    counters: tuple[str, ...]
    """What it draws on together with other devices: they are parts of one card, and not all can be had at once."""
    is_tainted: bool
    """Its driver or an administrator keeps it from being given away."""


@dataclass(frozen=True, slots=True)
class KubeSlice:
    """A part of a pool of devices."""

    driver: str
    pool: str
    generation: int
    devices: tuple[KubeDevice, ...]


@dataclass(frozen=True, slots=True)
class KubeClaim:
    """What a claim was given."""

    namespace: str
    name: str
    is_ours: bool
    devices: tuple[DeviceId, ...]


def reduce_slice(piece: Mapping[str, Any]) -> KubeSlice | None:
    """Return what is kept of a ResourceSlice of any version."""
    spec = piece.get("spec") or {}
    driver, pool = spec.get("driver", ""), spec.get("pool") or {}
    if not driver or not pool.get("name"):
        return None
    name = sys.intern(pool["name"])
    found = (_device(one, sys.intern(driver), name, spec.get("nodeName") or "") for one in spec.get("devices") or ())
    return KubeSlice(
        driver=sys.intern(driver),
        pool=name,
        generation=int(pool.get("generation", 0)),
        devices=tuple(device for device in found if device.type not in _NOT_FOR_WORK),
    )


def reduce_claim(claim: Mapping[str, Any], *, mark: tuple[str, str]) -> KubeClaim | None:
    """Return which devices a ResourceClaim holds; None when it holds none.

    Args:
        claim: of any version.
        mark: the label by which objects of this platform are known, and its value; an empty value takes any.
    """
    meta, status = claim.get("metadata") or {}, claim.get("status") or {}
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    held = tuple((r["driver"], r["pool"], r["device"]) for r in results if not r.get("adminAccess"))
    labels = meta.get("labels") or {}
    is_ours = mark[0] in labels and mark[1] in ("", labels[mark[0]])
    return KubeClaim(meta.get("namespace", ""), meta.get("name", ""), is_ours, held) if held else None


def devices_by_node(slices: Iterable[KubeSlice]) -> dict[str, list[KubeDevice]]:
    """Return the devices of each node, in order of name, of the newest generation of each pool.

    Of devices that draw on the same counters only the largest is taken: a driver that cuts cards up when asked
    publishes the card and all parts it could become.
    """
    slices = list(slices)
    newest: dict[tuple[str, str], int] = {}
    for piece in slices:
        key = piece.driver, piece.pool
        newest[key] = max(newest.get(key, 0), piece.generation)
    found: dict[str, list[KubeDevice]] = {}
    for piece in slices:
        if piece.generation == newest[piece.driver, piece.pool]:
            for device in piece.devices:
                found.setdefault(device.node, []).append(device)
    found.pop("", None)
    return {node: sorted(_whole(devices), key=lambda device: device.id) for node, devices in found.items()}


def selector_of(device: KubeDevice, siblings: Sequence[KubeDevice]) -> str | None:
    """Return the CEL expression that is true of this device of its node and no other; None when no attribute tells it.

    Args:
        device: to be told.
        siblings: all devices of its node.
    """
    near = [other for other in siblings if other.id[0] == device.id[0] and other.id != device.id]
    for name, value in device.pins:
        if all((name, value) not in other.pins for other in near):
            domain, _, word = name.rpartition("/")
            where = f"device.attributes[{_cel(domain or device.id[0])}]"
            return (
                f"device.driver == {_cel(device.id[0])} && {_cel(word)} in {where} && {where}.{word} == {_cel(value)}"
            )
    return None


def class_of(device: KubeDevice) -> str:
    """Return the name of the DeviceClass that a device is asked for with."""
    return _CLASSES.get((device.id[0], device.type), device.id[0])


def claim_spec(devices: Sequence[KubeDevice], siblings: Sequence[KubeDevice], version: str) -> dict[str, Any] | None:
    """Return the `spec` of a ResourceClaim for exactly these devices; None when one of them cannot be told from others.

    Args:
        devices: of one node.
        siblings: all devices of that node.
        version: of the API, as the cluster serves it.
    """
    assert len(devices) <= _MAX_REQUESTS
    requests: list[dict[str, Any]] = []
    for number, device in enumerate(devices):
        expression = selector_of(device, siblings)
        if expression is None:
            return None
        asked = {"deviceClassName": class_of(device), "selectors": [{"cel": {"expression": expression}}]}
        named: dict[str, Any] = {"name": f"device-{number}"}
        requests.append(named | (asked if version == "v1beta1" else {"exactly": asked}))
    return {"devices": {"requests": requests}}


def _whole(devices: Iterable[KubeDevice]) -> Iterator[KubeDevice]:
    largest: dict[tuple[str, str, str], KubeDevice] = {}
    for device in devices:
        if not device.counters:
            yield device
        for counter in device.counters:
            key = device.id[0], device.id[1], counter
            known = largest.get(key)
            if known is None or (device.memory_bytes, known.id) > (known.memory_bytes, device.id):
                largest[key] = device
    yield from {device.id: device for device in largest.values()}.values()


def _device(one: Mapping[str, Any], driver: str, pool: str, node: str) -> KubeDevice:
    basic = one.get("basic") or one  # v1beta1
    attributes = {
        str(name): value.get("string", value.get("int"))  # versions and truths tell no device from another
        for name, value in (basic.get("attributes") or {}).items()
    }
    capacity = basic.get("capacity") or {}
    taints = [taint for taint in basic.get("taints") or () if taint.get("effect") != "None"]
    pins = [(name, value) for name, value in attributes.items() if value is not None and value != ""]
    pins.sort(key=lambda pin: (_rank(pin[0]), pin[0]))
    return KubeDevice(
        id=(driver, pool, sys.intern(one["name"])),
        node=sys.intern(basic.get("nodeName") or node),
        model=sys.intern(str(_plain(attributes, "productName") or _plain(attributes, "model") or one["name"])),
        memory_bytes=_memory(capacity),
        type=sys.intern(str(_plain(attributes, "type") or "")),
        pins=tuple((sys.intern(name), sys.intern(v) if isinstance(v, str) else v) for name, v in pins),
        counters=tuple(str(used.get("counterSet")) for used in basic.get("consumesCounters") or ()),
        is_tainted=bool(taints),
    )


def _rank(name: str) -> int:
    word = name if name.startswith("resource.kubernetes.io/") else name.rpartition("/")[2]
    return _BEST_PINS.index(word) if word in _BEST_PINS else len(_BEST_PINS)


def _plain(attributes: Mapping[str, Any], word: str) -> Any:
    """Return an attribute by its plain name, whether or not the driver's domain is written before it."""
    return attributes.get(word) or next((v for n, v in attributes.items() if n.endswith(f"/{word}")), None)


def _memory(capacity: Mapping[str, Any]) -> int:
    for name, amount in capacity.items():
        if name.rpartition("/")[2] == "memory":
            try:
                return whole_of(amount["value"] if isinstance(amount, Mapping) else amount)
            except (BadQuantity, KeyError):
                return 0
    return 0


def _cel(value: str | int) -> str:
    """Return a literal of CEL; its strings are written as JSON's."""
    return json.dumps(value)
