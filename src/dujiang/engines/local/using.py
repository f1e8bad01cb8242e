"""Measures what running attempts use of what they were given: devices by NVML, processors by limit groups or /proc.

A whole device is busy when anything computes on it, as NVML counts it: the part of the time, not of its units. Of a
shared device only the attempt's own processes count; under MPS the driver does not tell whose they are. Where it is not
told, nothing is: unknown is not idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dujiang.engines.contract import AttemptKey, Usage
from dujiang.engines.local import procfs
from dujiang.engines.local.limits import Group, LimitPlan, Share
from dujiang.engines.local.nvml import Nvml

_WHOLE = 1000
_SHORTEST_S = 0.5
"""Between two looks at processor time; a shorter time says nothing."""


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt under its supervisor."""

    key: AttemptKey
    supervisor: int
    launch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Held:
    """A share of a device."""

    key: AttemptKey
    gpu_milli: int
    is_told: bool
    """Whether the driver can say what this share of the device did."""


class Meter:
    """Measures; remembers the processor time of the last look."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._cpu: dict[AttemptKey, tuple[float, float]] = {}

    def measure(self, running: Sequence[Running], now: datetime, at_s: float) -> list[Usage]:
        """Return what each uses; blocking.

        Args:
            running: all attempts of interest; what is remembered of others is forgotten.
            now: the time.
            at_s: the same, on a clock that does not jump.
        """
        below = {one.key: procfs.descendants(one.supervisor) for one in running}
        devices = self._devices(running, below)
        self._cpu = {key: last for key, last in self._cpu.items() if key in below}
        return [
            Usage(one.key, now, devices=devices.get(one.key), cpu=self._cpu_use(one, below[one.key], at_s))
            for one in running
        ]

    def _devices(self, running: Sequence[Running], below: Mapping[AttemptKey, list[int]]) -> dict[AttemptKey, float]:
        held: dict[int, list[_Held]] = {}
        for one in running:
            for index, gpu_milli in _shares(one.launch):
                is_told = gpu_milli >= _WHOLE or not one.launch.get("mps")
                held.setdefault(index, []).append(_Held(one.key, gpu_milli, is_told))
        if not held:
            return {}
        wanted = {
            index: [set[int]() if share.gpu_milli >= _WHOLE else set(below[share.key]) or {0} for share in shares]
            for index, shares in held.items()
        }
        used: dict[AttemptKey, float] = {}
        total: dict[AttemptKey, int] = {}
        unknown: set[AttemptKey] = set()
        for index, parts in self._nvml.busy(wanted).items():
            for share, part in zip(held[index], parts, strict=True):
                if part is None or not share.is_told:
                    unknown.add(share.key)
                    continue
                of_share = min(1.0, part * _WHOLE / share.gpu_milli)
                used[share.key] = used.get(share.key, 0.0) + of_share * share.gpu_milli
                total[share.key] = total.get(share.key, 0) + share.gpu_milli
        return {key: used[key] / total[key] for key in used if key not in unknown}

    def _cpu_use(self, one: Running, pids: Sequence[int], at_s: float) -> float | None:
        given_s: float = sum(rank["cpu_milli"] for rank in one.launch["ranks"]) / 1000
        used_s = _cpu_s(one, pids)
        before = self._cpu.get(one.key)
        if before is not None and at_s - before[0] < _SHORTEST_S:
            return None
        self._cpu[one.key] = (at_s, used_s)
        if before is None or given_s <= 0:
            return None
        return max(0.0, min(1.0, float(used_s - before[1]) / (at_s - before[0]) / given_s))


def _shares(launch: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for rank in launch["ranks"]:
        for device in rank.get("devices", ()):
            yield int(device["index"]), int(device["gpu_milli"])


def _cpu_s(one: Running, pids: Sequence[int]) -> float:
    plan = LimitPlan(one.launch["limits"]["by"], one.launch["limits"]["parents"])
    counted = [
        Group(plan, f"{one.key}.{rank['rank']}", Share(0, 0, 0)).cpu_s() for rank in one.launch["ranks"]
    ]  # fmt: skip
    known = [each for each in counted if each is not None]
    return sum(known) if len(known) == len(counted) else procfs.cpu_s(pids)
