"""Virtual launches and worlds, short to write."""

from __future__ import annotations

from typing import Any

from dujiang.engines.contract import AttemptKey, Checkpointing, DeviceShare, Launch, Observation, RankPlacement
from dujiang.engines.simulated import SimulatedEngine, World, parse_fleet
from dujiang.kit.clock import ManualClock

FLEET = parse_fleet("4x2")
SAVES = Checkpointing(path="/checkpoints/of-the-job", signal=10)


def a_launch(
    text: str = "#sim duration=100", *, job: str = "job_a", number: int = 1, nodes: tuple[int, ...] = (1,),
    device: int | None = None, gpu_milli: int = 1000, **fields: Any,
) -> Launch:  # fmt: skip
    """Return a launch with one rank on each of the nodes numbered so, with a share of one device where one is named."""
    names = [f"sim-{number:04}" for number in nodes]
    shares = [
        () if device is None else (DeviceShare(f"{name}-gpu{device}", device, gpu_milli, 1 << 30),) for name in names
    ]
    ranks = tuple(
        RankPlacement(rank, name, 1000, 1 << 30, devices=share)
        for rank, (name, share) in enumerate(zip(names, shares, strict=True))
    )
    return Launch(
        **{"key": AttemptKey(job, number), "name": "a-job", "project": "p", "run": text, "ranks": ranks, **fields}
    )


def a_world(clock: ManualClock, **fields: Any) -> World:
    """Return a world of four nodes with two devices each."""
    return World(FLEET, **{"seed": 7, "clock": clock, **fields})


async def look(engine: SimulatedEngine, key: AttemptKey) -> Observation | None:
    """Return what is seen of one attempt."""
    return (await engine.observe([key])).get(key)
