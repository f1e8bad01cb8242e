"""Shapes known not to fit, so that the ten-thousandth job of a kind costs nothing to refuse."""

from __future__ import annotations

from dataclasses import dataclass, field

from dujiang.scheduling.domain.request import Shape

Amounts = tuple[int, ...]
Family = tuple[object, ...]


@dataclass(slots=True)
class Walls:
    """The smallest shapes that did not fit in one room, which only ever gets fuller.

    Placement is exact: where a shape does not fit, nothing fits that asks for as much or more of everything and may go
    to the same places.
    """

    _exact: set[Shape] = field(default_factory=set)
    _smallest: dict[Family, list[Amounts]] = field(default_factory=dict)

    def stop(self, shape: Shape) -> bool:
        """Say whether it is known not to fit."""
        if shape in self._exact:
            return True
        if shape.avoid:  # what may be used then depends on the size: a smaller one's wall says nothing
            return False
        family, amounts = _family(shape), _amounts(shape)
        for wall in self._smallest.get(family, ()):
            if all(a >= b for a, b in zip(amounts, wall, strict=True)):
                self._exact.add(shape)
                return True
        return False

    def add(self, shape: Shape) -> None:
        """Remember that it does not fit."""
        if shape in self._exact:
            return
        self._exact.add(shape)
        if shape.avoid:
            return
        family, amounts = _family(shape), _amounts(shape)
        walls = self._smallest.setdefault(family, [])
        walls[:] = [wall for wall in walls if not all(a <= b for a, b in zip(amounts, wall, strict=True))]
        walls.append(amounts)


def _family(shape: Shape) -> Family:
    """Return what must be alike for amounts to be compared: places, kind of device, how device memory is counted."""
    ask = shape.ask
    kind = (ask.is_fraction, ask.whole_devices > 0, ask.gpu_memory_bytes > 0, ask.vendor, ask.model)
    return shape.where, shape.barred, kind


def _amounts(shape: Shape) -> Amounts:
    ask = shape.ask
    return shape.ranks, ask.gpu_milli, ask.gpu_memory_bytes, ask.cpu_milli, ask.memory_bytes, ask.disk_bytes
