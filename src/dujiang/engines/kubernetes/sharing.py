"""What a Pod must ask for to get the devices that the platform chose for a rank: pure.

Whole devices are asked for by their resource, or by a claim that names them. Shares need somebody who gives them: HAMi
or KAI, where the cluster has one; else they are refused, or get a whole device (`fractions`). What HAMi and KAI are
asked with follows their documents; neither was seen running here.

Sources: Kubernetes, "Schedule GPUs" (devices in limits, whole numbers only); HAMi, docs/develop/protocol.md and
docs/config.md; KAI, docs/gpu-sharing and pkg/common/constants (annotations `gpu-fraction`, `gpu-fraction-num-devices`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dujiang.engines.contract import DeviceShare, EngineRefused, Isolation, NodeRefused, RankPlacement
from dujiang.engines.kubernetes import hami
from dujiang.engines.kubernetes.claims import KubeDevice, claim_spec
from dujiang.engines.kubernetes.devices import KAI, Slot, isolation_of, shares_by
from dujiang.engines.kubernetes.others import DEVICES
from dujiang.engines.kubernetes.settings import KubernetesSettings

_WHOLE = 1000
_MIB = 1 << 20
_MAX_CLAIMED = 32
Shares = Sequence[tuple[DeviceShare, Slot]]


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What goes into a rank's Pod for its devices."""

    limits: Mapping[str, str] = field(default_factory=dict)
    """Of the one container, beside CPU and memory: Kubernetes asks for devices by limits alone."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of the Pod; among them the slots that it holds, by which the inventory knows them again."""
    env: Mapping[str, str] = field(default_factory=dict)
    claim: Mapping[str, Any] | None = None
    """`spec` of a ResourceClaim that the Pod and its container must name."""
    scheduler: str = ""
    """`schedulerName` that the Pod needs, before that of the settings; empty where any will do."""
    isolation: Isolation = Isolation.ENFORCED
    """How far the rank is held to what it was given: whole devices by the device plugin or driver, which hands a
    container no others; shares as said of their device."""


def request_for(
    rank: RankPlacement,
    slots: Sequence[Slot],
    settings: KubernetesSettings,
    *,
    claimable: Sequence[KubeDevice] = (),
    version: str = "v1",
) -> DeviceRequest:
    """Return what a rank's Pod must ask for.

    Args:
        rank: with its devices.
        slots: all of its node.
        settings: of the cluster.
        claimable: the node's devices of dynamic resource allocation.
        version: of that API, as the cluster serves it.

    Raises:
        EngineRefused: the node has no such device, or nothing gives such shares; the sentence says what to set.
    """
    known = {slot.facts.name: slot for slot in slots}
    for share in rank.devices:
        if share.name not in known:
            raise NodeRefused(f"Node {rank.node!r} has no device {share.name!r}.")
    if not rank.devices:
        # Images that NVIDIA's tools were built into ask for all devices, and its runtime gives them without a request.
        has_nvidia = any(slot.facts.vendor == "nvidia" for slot in slots)
        return DeviceRequest(env={"NVIDIA_VISIBLE_DEVICES": "void"} if has_nvidia else {})
    shares = [(share, known[share.name]) for share in rank.devices]
    given = [isolation_of(slot, settings) for share, slot in shares if share.gpu_milli < _WHOLE]
    parts = [
        _by_resource([pair for pair in shares if _way(pair, settings) == "resource"]),
        _by_hami([pair for pair in shares if _way(pair, settings) == "hami"], rank, settings),
        _by_kai([pair for pair in shares if _way(pair, settings) == "kai"], shares, rank),
    ]
    claimed = [slot.device for pair in shares for slot in (pair[1],) if slot.device and _way(pair, settings) == "claim"]
    return DeviceRequest(
        limits={name: amount for part in parts for name, amount in part.limits.items()},
        annotations={
            DEVICES: ",".join(share.name for share in rank.devices),
            **{name: text for part in parts for name, text in part.annotations.items()},
        },
        claim=_claim(claimed, claimable, version, rank),
        scheduler=next((part.scheduler for part in parts if part.scheduler), ""),
        isolation=max(given, key=list(Isolation).index, default=Isolation.ENFORCED),
    )


def _way(pair: tuple[DeviceShare, Slot], settings: KubernetesSettings) -> str:
    """Say how one share is asked for.

    Raises:
        EngineRefused: nothing gives shares of that device.
    """
    share, slot = pair
    plain = "claim" if slot.device else "hami" if slot.hami else "resource"
    if share.gpu_milli >= _WHOLE:
        return plain
    by = shares_by(slot, settings)
    if by == "refuse":
        raise EngineRefused(
            f"Nothing in this cluster gives shares of {slot.facts.model} ({slot.facts.name}): install HAMi or KAI, ask"
            " for whole devices, or set `fractions` to `whole`, which gives a whole device and counts the share."
        )
    return plain if by == "whole" else by


def _by_resource(shares: Shares) -> DeviceRequest:
    limits: dict[str, int] = {}
    for _, slot in shares:
        limits[slot.resource] = limits.get(slot.resource, 0) + 1
    return DeviceRequest(limits={name: str(count) for name, count in limits.items()})


def _by_hami(shares: Shares, rank: RankPlacement, settings: KubernetesSettings) -> DeviceRequest:
    """Ask HAMi: so many devices, and of each the same memory and percent of cores."""
    limits: dict[str, str] = {}
    notes: dict[str, str] = {}
    by_words: dict[hami.HamiWords, list[tuple[DeviceShare, Slot]]] = {}
    for share, slot in shares:
        assert slot.hami is not None
        by_words.setdefault(hami.words_of(slot.hami), []).append((share, slot))
    for words, own in by_words.items():
        _refuse_unlike("HAMi", own, rank)
        share, slot = own[0]
        milli = _WHOLE if shares_by(slot, settings) == "whole" else share.gpu_milli
        limits[words.count] = str(len(own))
        if milli < _WHOLE or words.cores:
            limits[words.memory] = str(max(1, _memory(words, milli, share.memory_bytes, slot.facts.memory_bytes)))
        if words.cores:
            limits[words.cores] = str(max(1, min(100, milli // 10)))
        if words.uuids:
            notes[words.uuids] = ",".join(slot.uuid for _, slot in own)
    return DeviceRequest(limits=limits, annotations=notes)


def _memory(words: hami.HamiWords, milli: int, wanted: int, whole: int) -> int:
    """Return the memory that is asked of HAMi for each device, in MiB or percent: rounded down, so that all fits."""
    if milli >= _WHOLE or not wanted:
        return milli // 10 if words.memory_is_percent else whole * milli // _WHOLE // _MIB
    return wanted * 100 // max(1, whole) if words.memory_is_percent else wanted // _MIB


def _by_kai(shares: Shares, all_shares: Shares, rank: RankPlacement) -> DeviceRequest:
    if not shares:
        return DeviceRequest()
    if len(shares) < len(all_shares):
        raise EngineRefused(f"KAI gives a Pod whole devices or shares, not both as rank {rank.rank} asks for.")
    _refuse_unlike("KAI", shares, rank)
    share, slot = shares[0]
    whole = slot.facts.memory_bytes
    notes = {"gpu-fraction": f"{share.gpu_milli / _WHOLE:g}"}
    if whole and share.memory_bytes * _WHOLE > share.gpu_milli * whole:
        notes = {"gpu-memory": str(-(-share.memory_bytes // _MIB))}
    if len(shares) > 1:
        notes["gpu-fraction-num-devices"] = str(len(shares))
    return DeviceRequest(annotations=notes, scheduler=KAI)


def _refuse_unlike(who: str, shares: Shares, rank: RankPlacement) -> None:
    if len({(share.gpu_milli, share.memory_bytes) for share, _ in shares}) > 1:
        raise EngineRefused(f"{who} gives a Pod the same share of each device; rank {rank.rank} asks for unlike ones.")


def _claim(
    devices: Sequence[KubeDevice], claimable: Sequence[KubeDevice], version: str, rank: RankPlacement
) -> Mapping[str, Any] | None:
    if not devices:
        return None
    if len(devices) > _MAX_CLAIMED:
        raise EngineRefused(f"A claim names {_MAX_CLAIMED} devices at most; rank {rank.rank} has {len(devices)}.")
    spec = claim_spec(devices, claimable, version)
    if spec is None:
        raise EngineRefused(
            f"A device of node {rank.node!r} has no attribute by which a claim could tell it from others."
        )
    return spec
