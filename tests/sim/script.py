"""What is drawn for a story before it begins: the cluster, the jobs, and who does what when."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from dujiang.engines.simulated import Faults, FleetSpec, NodeGroup
from dujiang.jobs.spec import Cause, Checkpoint, Gpu, JobClass, JobSpec, Kind, Resources, Retry, Secret, read
from dujiang.scheduling.domain import Quota
from tests.sim.stage import Dice

GIB: Final = 2**30
LOST_AFTER_S: Final = 40.0
MOST_LAG_S: Final = 12.0
NOTICE_S: Final = 10.0
_WEIGHTS: Final = {JobClass.CORE: (800, 1000), JobClass.NORMAL: (400, 600), JobClass.LOW: (100, 300)}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job, when it comes, and when its owner loses interest."""

    at_s: float
    spec: JobSpec
    cancel_at_s: float | None


@dataclass(frozen=True, slots=True)
class Storm:
    """How much goes wrong until the quiet comes."""

    world: Faults
    busy: float
    refused: float
    unheard: float
    full: float
    kill: float
    """Chance of each step to end with the death of the process."""
    clock_steps: bool
    operator: float
    """Chance of each step that an operator does something to a node."""
    stops: float = 0.0
    """Chance of each plan to stop some running work beside what it decides, right or not."""


@dataclass(frozen=True, slots=True)
class Script:
    """All of it."""

    fleet: FleetSpec
    arrivals: tuple[Arrival, ...]
    quotas: dict[str, Quota]
    storm: Storm
    active_s: float
    replicas: int
    rented: FleetSpec | None = None
    """A second cluster, rented by use."""


def write(dice: Dice) -> Script:
    """Draw a story."""
    rng = dice.stream("script")
    fleet = _fleet(rng)
    active_s = rng.uniform(60, 140)
    count = rng.randint(20, 40)
    times = sorted(rng.uniform(0, active_s * 0.8) for _ in range(count))
    arrivals = tuple(_arrival(rng, number, at_s, fleet, active_s) for number, at_s in enumerate(times))
    script = Script(fleet, arrivals, _quotas(rng, fleet), _storm(rng), active_s, rng.choice((1, 2)))
    return _with_stops(script, dice.stream("stops"))  # of its own: what came before it is drawn as before


def _with_stops(script: Script, rng: random.Random) -> Script:
    """Draw how much work is stopped for other work, what programs use, and which gangs do with fewer ranks."""
    storm = replace(script.storm, stops=rng.uniform(0.05, 0.5) if rng.random() < 0.6 else 0.0)
    return replace(script, storm=storm, arrivals=tuple(_with_use(one, rng) for one in script.arrivals))


def _with_use(arrival: Arrival, rng: random.Random) -> Arrival:
    spec, idle = arrival.spec, rng.random() < 0.3
    words = rng.choice((" use=0.02", " use=0.9 idle-after=10", " use=0.0")) if idle else rng.choice(("", " use=0.95"))
    if spec.run.startswith("#sim"):
        first, *rest = spec.run.split("\n")
        spec = replace(spec, run="\n".join([first + words, *rest]))
    if spec.nodes > 1 and rng.random() < 0.4:
        spec = replace(spec, nodes_min=rng.randint(1, spec.nodes))
    return replace(arrival, spec=read(spec.document(reveal_secrets=True)))


def _fleet(rng: random.Random) -> FleetSpec:
    first = rng.randint(1, 4)
    groups = [_group(rng, first), _group(rng, rng.randint(1, 2))]
    return FleetSpec(tuple(groups) if first + groups[1].nodes <= 6 else tuple(groups[:1]))


def _group(rng: random.Random, nodes: int) -> NodeGroup:
    return NodeGroup(
        max(nodes, 1), rng.choice((0, 1, 2, 4, 4)), cpu_milli=rng.choice((4000, 8000, 16_000)),
        memory_bytes=rng.choice((16, 32, 64)) * GIB, disk_bytes=200 * GIB,
    )  # fmt: skip


def _storm(rng: random.Random) -> Storm:
    def some(chance: float, most: float) -> float:
        return rng.uniform(0, most) if rng.random() < chance else 0.0

    def gap(chance: float, least: float, most: float) -> float:
        return rng.uniform(least, most) if rng.random() < chance else float("inf")

    world = Faults(
        before=some(0.7, 0.15), after=some(0.7, 0.15), inventory=some(0.6, 0.2), partial=some(0.6, 0.4),
        left_out=rng.uniform(0.1, 0.6), old=some(0.6, 0.4), lag_s=rng.uniform(0, MOST_LAG_S),
        node_lost_every_s=gap(0.6, 30, 120), node_away_s=rng.uniform(5, 90), killed_every_s=gap(0.6, 10, 60),
        supervisor_lost_every_s=gap(0.5, 20, 100), notice_s=rng.uniform(0, NOTICE_S),
    )  # fmt: skip
    return Storm(
        world, busy=some(0.5, 0.05), refused=some(0.5, 0.05), unheard=some(0.5, 0.05), full=some(0.4, 0.08),
        kill=some(0.6, 0.1), clock_steps=rng.random() < 0.5, operator=some(0.7, 0.12),
    )  # fmt: skip


def _quotas(rng: random.Random, fleet: FleetSpec) -> dict[str, Quota]:
    if rng.random() < 0.5:
        return {}
    gpu, cpu = _most_devices(fleet), max(group.cpu_milli for group in fleet.groups)
    return {"narrow": Quota(gpu_milli=max(gpu, 1) * 1000, cpu_milli=cpu)}


def _most_devices(fleet: FleetSpec) -> int:
    return max(group.devices for group in fleet.groups)


def _arrival(rng: random.Random, number: int, at_s: float, fleet: FleetSpec, active_s: float) -> Arrival:
    spec = _spec(rng, f"j{number:02}", fleet)
    cancel_at_s = None
    if spec.kind is Kind.SERVICE:
        cancel_at_s = rng.uniform(at_s, active_s) if rng.random() < 0.5 else active_s
    elif rng.random() < 0.15:
        cancel_at_s = at_s + rng.expovariate(1 / 20)
    return Arrival(at_s, spec, cancel_at_s)


def _spec(rng: random.Random, name: str, fleet: FleetSpec) -> JobSpec:
    job_class = rng.choice(list(JobClass))
    nodes = rng.choice((1, 1, 1, 1, 2, 3)) if sum(group.nodes for group in fleet.groups) > 1 else 1
    is_service = rng.random() < 0.08
    setup, run, limit = _program(rng, nodes, is_service=is_service)
    saves = rng.choice((None, "SIGUSR1", "SIGTERM"))
    spec = JobSpec(
        name=name,
        run=run,
        project=rng.choice(("default", "default", "narrow")),
        kind=Kind.SERVICE if is_service else Kind.TASK,
        job_class=job_class,
        weight_milli=rng.randint(*_WEIGHTS[job_class]),
        resources=_resources(rng, fleet),
        nodes=nodes,
        setup=setup,
        secrets={"TOKEN": Secret(value="hush")} if rng.random() < 0.1 else {},
        checkpoint=Checkpoint(interval_s=5.0, signal=saves) if rng.random() < 0.3 else None,
        retry=_retry(rng),
        time_limit_s=limit,
        grace_s=rng.choice((0.5, 3.0, 8.0)),
        ports=1 if is_service else 0,
    )
    return read(spec.document(reveal_secrets=True))  # what cannot be written by a user is not drawn


def _retry(rng: random.Random) -> Retry:
    if rng.random() < 0.5:
        return Retry()
    return Retry(rng.randint(0, 5), tuple(cause for cause in Cause if rng.random() < 0.6) or (Cause.INFRASTRUCTURE,))


def _resources(rng: random.Random, fleet: FleetSpec) -> Resources:
    """Draw what fits on some node."""
    group = rng.choice(fleet.groups)
    gpu = None
    if group.devices and rng.random() < 0.6:
        milli = rng.choice((125, 250, 300, 500, 500, 1000, 1000, 1000 * group.devices))
        gpu = Gpu(milli, model=rng.choice((None, None, "H100")))
    cpu = rng.choice((10, 250, 1000, 1000, 2000, group.cpu_milli // 2))
    return Resources(cpu_milli=cpu, memory_bytes=rng.choice((1, 2, 4)) * GIB, gpu=gpu)


def _program(rng: random.Random, nodes: int, *, is_service: bool) -> tuple[str, str, float | None]:
    """Draw (setup, run, time limit)."""
    if is_service:
        return "", "#sim duration=forever" + rng.choice(("", " saves=15", " stubborn=1")), None
    duration = round(min(rng.expovariate(1 / 25), 120), 1)
    words = f"#sim duration={duration}s start={rng.choice((0, 0, 0.3, 2))}s"
    match rng.randrange(12):
        case 0:
            return "", f"{words} exit={rng.choice((1, 2, 77, 127, 137, 143))} print=it_broke", None
        case 1:
            return "", f"{words} signal={rng.choice((6, 9, 11, 15))}", None
        case 2:
            return "", f"{words} memory=900GiB", None
        case 3:
            return "#sim exit=3", words, None
        case 4:
            forever = words.replace(f"duration={duration}s", "duration=forever")
            return "", forever + rng.choice(("", " stubborn=1", " saves=10 saved-exit=4")), rng.uniform(3, 40)
        case 5:
            return "", f"{words} saves=10 saved-exit={rng.choice((0, 143))}", None
        case 6:
            return "", "python train.py", rng.choice((20.0, 40.0))
        case 7 if nodes > 1:
            return "", f"{words}\n#sim rank=1 duration={duration / 2:.1f}s exit=5", None
        case _:
            return "", words, rng.choice((None, None, 200.0))


def with_room(script: Script, dice: Dice) -> Script:
    """Return a story of a pool that empties: elastic gangs that began small, shares of devices spread over the nodes,
    and late jobs that want whole nodes.
    """  # fmt: skip
    rng = dice.stream("room")
    fleet = FleetSpec((NodeGroup(4, 2, cpu_milli=16_000, memory_bytes=64 * GIB, disk_bytes=200 * GIB),))
    arrivals = [_lasting(rng, f"fill{n}", Gpu(1000), rng.uniform(5, 40), rng.uniform(0, 10)) for n in range(6)]
    for n in range(rng.randint(0, 2)):
        gpu, ranks = Gpu(rng.choice((500, 1000))), rng.randint(2, 4)
        arrivals.append(_lasting(rng, f"wide{n}", gpu, rng.uniform(100, 300), rng.uniform(0, 10), nodes=ranks))
    for n in range(rng.randint(8, 14)):  # well placed at first; when the short ones have gone, the others are spread
        lasts_s = rng.uniform(120, 300) if n % 3 == 0 else rng.uniform(15, 40)
        arrivals.append(_lasting(rng, f"part{n}", Gpu(rng.choice((300, 400, 500, 600))), lasts_s, rng.uniform(0, 25)))
    arrivals += [
        _lasting(rng, f"late{n}", Gpu(2000), rng.uniform(5, 20), rng.uniform(30, 100)) for n in range(rng.randint(2, 6))
    ]
    storm = replace(script.storm, stops=0.0)  # while others are stopped for no reason, nothing grows or moves
    return replace(
        script, fleet=fleet, quotas={}, storm=storm, arrivals=tuple(sorted(arrivals, key=lambda one: one.at_s))
    )


def with_rent(script: Script, dice: Dice) -> Script:
    """Return a story of a pool too small for what comes, beside a rented cluster that holds more of it."""
    rng = dice.stream("rent")
    fleet = FleetSpec((NodeGroup(1, 2, cpu_milli=16_000, memory_bytes=64 * GIB, disk_bytes=200 * GIB),))
    rented = FleetSpec((NodeGroup(rng.randint(1, 3), 2, cpu_milli=8_000, memory_bytes=32 * GIB),))
    arrivals = [
        _lasting(rng, f"much{n}", Gpu(rng.choice((500, 1000, 2000))), rng.uniform(10, 80), rng.uniform(0, 60))
        for n in range(rng.randint(10, 20))
    ]
    limited = [replace(one, spec=replace(one.spec, time_limit_s=200.0)) for one in arrivals]  # rent is told beforehand
    kept = [one for one in script.arrivals if one.spec.resources.gpu is None]
    everything = sorted([*limited, *kept], key=lambda one: (one.at_s, one.spec.name))
    return replace(script, fleet=fleet, rented=rented, quotas={}, arrivals=tuple(everything))


def _lasting(
    rng: random.Random, name: str, gpu: Gpu, duration_s: float, at_s: float, *, nodes: int = 1
) -> Arrival:  # fmt: skip
    """Return a job that saves itself after each of its epochs."""
    spec = JobSpec(
        name=name, run=f"#sim duration={duration_s:.1f}s saves=15 use=0.9", project="default", kind=Kind.TASK,
        job_class=JobClass.NORMAL, weight_milli=rng.randint(*_WEIGHTS[JobClass.NORMAL]),
        resources=Resources(cpu_milli=500, memory_bytes=GIB, gpu=gpu), nodes=nodes, nodes_min=1 if nodes > 1 else None,
        checkpoint=Checkpoint(interval_s=5.0, signal="SIGUSR1"), grace_s=3.0,
    )  # fmt: skip
    return Arrival(at_s, read(spec.document(reveal_secrets=True)), None)
