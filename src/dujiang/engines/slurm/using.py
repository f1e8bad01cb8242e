"""What running attempts use of their processors, from what their runners write down."""

from __future__ import annotations

from collections.abc import Collection

from dujiang.engines.contract import AttemptKey
from dujiang.engines.slurm.folder import Folder

_Sample = tuple[float, float, float]


class Meter:
    """Compares each sample with the one before it, node by node: their clocks are not each other's."""

    def __init__(self) -> None:
        self._before: dict[AttemptKey, dict[str, _Sample]] = {}
        self._told: dict[AttemptKey, float | None] = {}

    def cpu(self, key: AttemptKey, folder: Folder) -> float | None:
        """Return the share of its processors that an attempt used between the last two samples; None before."""
        samples = _samples(folder)
        before = self._before.setdefault(key, samples)
        if samples != before:
            self._before[key] = samples
            self._told[key] = _share(before, samples)
        return self._told.get(key)

    def keep(self, keys: Collection[AttemptKey]) -> None:
        """Forget all other attempts."""
        for known in (self._before, self._told):
            for key in [key for key in known if key not in keys]:
                del known[key]


def _samples(folder: Folder) -> dict[str, _Sample]:
    found: dict[str, _Sample] = {}
    for node in folder.nodes():
        if (told := folder.used(node)) is not None:
            found[node] = (float(told["at_s"]), float(told["cpu_s"]), float(told["cores"]))
    return found


def _share(before: dict[str, _Sample], now: dict[str, _Sample]) -> float | None:
    used, could = 0.0, 0.0
    for node, (at_s, cpu_s, cores) in now.items():
        if node in before and at_s > before[node][0]:
            used += max(0.0, cpu_s - before[node][1])
            could += (at_s - before[node][0]) * cores
    return min(1.0, used / could) if could > 0 else None
