"""The smallest change that is told starts the job that it is told, also beside promised deadlines and other limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dujiang.engines.contract import Isolation
from dujiang.scheduling.domain import (
    Change,
    ClusterRow,
    DeviceRow,
    NodeRow,
    Quota,
    Remedy,
    Request,
    Snapshot,
    TaskClass,
    Window,
    apply_change,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.queues import Queue, QueueTree, QuotaFlavor
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import GIB, NOW, a_fleet, a_job, holding, where
from tests.scheduling.test_queues_planned import a_queue

HOUR = timedelta(hours=1)


def told(snapshot: Snapshot) -> dict[str, Change | None]:
    """What each waiting job is told to change, each tried."""
    changes = {wait.job_id: wait.change for wait in plan(snapshot, NOW, changes=100).waits}
    for job_id, change in changes.items():
        if change is not None:
            changed, now = apply_change(snapshot, NOW, job_id, change)
            assert job_id in {start.job_id for start in plan(changed, now, changes=0).starts}, (job_id, change)
    return changes


def less_memory(gib: int) -> Change:
    return Change(Remedy.LOWER_ASK, resource="memory_bytes", to=gib * GIB)


def due(**more: object) -> Request:
    return a_job("due", memory_gib=60, after_s=5, runs_at_most_s=60, deadline=NOW + HOUR)


def test_asking_for_less_does_not_help_where_that_lets_one_before_it_start() -> None:
    """What is kept for its deadline holds `before` back; with less kept, `before` starts and takes the room."""
    before, passes = (
        a_job("before", memory_gib=16),
        a_job("passes", memory_gib=16, after_s=1, runs_at_most_s=60),
    )
    snapshot = snapshot_of_rows(a_fleet(1, 0, memory_gib=64), requests=[before, passes, due()])
    assert told(snapshot) == {"before": less_memory(4), "due": None}
    alone = replace(snapshot, requests=(passes, due()))
    assert told(alone) == {"due": less_memory(48)}


def test_asking_for_less_does_not_help_where_what_starts_before_goes_elsewhere_then() -> None:
    """Places are chosen by what all that wait ask for: when `last` asks for less, `host` takes the node left to it."""
    none, full = Isolation.COUNTED_ONLY, Isolation.ENFORCED  # so that `halves` would rather have n0
    kinds = (
        ("c", "n0", 8, "MI300X", none), ("c", "n1", 4, "MI300X", full), ("c", "n2", 8, "A100", full),
        ("d", "n3", 8, "MI300X", full),
    )  # fmt: skip
    fleet = fleet_of_rows([ClusterRow("c", True), ClusterRow("d", True, is_cloud=True)], [
        NodeRow(
            cluster, name, cpu * 1000, 64 * GIB, 0,
            (DeviceRow("g0", 0, "v", model, (80 if model == "A100" else 192) * GIB, isolation=kept),),
        ) for cluster, name, cpu, model, kept in kinds
    ])  # fmt: skip
    jobs = [
        a_job("whole", gpu=1, task_class=TaskClass.CORE),
        a_job("host", memory_gib=60),
        a_job("halves", gpu=0.5, ranks=2, after_s=1),
        a_job("last", gpu=0.125, cpu=8, memory_gib=60, after_s=1),
    ]
    snapshot = snapshot_of_rows(fleet, requests=jobs)
    assert where(plan(snapshot, NOW))["host"] == [("n0", [])]
    assert told(snapshot) == {"last": None}
    lower = Change(Remedy.LOWER_ASK, resource="cpu_milli", to=4000)
    assert where(plan(apply_change(snapshot, NOW, "last", lower)[0], NOW))["host"] == [("n1", [])]


def test_a_change_is_not_passed_on_to_a_job_that_could_still_run_when_a_kept_place_begins() -> None:
    short, longer = (
        a_job("short", memory_gib=40, runs_at_most_s=60),
        a_job("longer", memory_gib=40, after_s=1),
    )
    held = [holding("h", "n0", memory_gib=30, ends_in_s=600)]
    snapshot = snapshot_of_rows(a_fleet(1, 0, memory_gib=64), holdings=held, requests=[short, longer, due()])
    for rules in (Rules(), Rules(reservations=0)):
        changes = told(replace(snapshot, rules=rules))
        assert changes == {"short": less_memory(34), "longer": less_memory(4), "due": less_memory(34)}


def test_a_change_is_not_passed_on_to_a_project_that_is_over_its_quota() -> None:
    """Both wait for a window to end, and a time limit would let both begin before it, but for the quota of one."""
    jobs = [a_job("uses", cpu=3, project="q", runs_at_most_s=60)]
    jobs += [a_job(f"of-{project}", cpu=1, after_s=n, project=project) for n, project in enumerate("pq", start=1)]
    snapshot = snapshot_of_rows(a_fleet(1, 0), requests=jobs, quotas={"q": Quota(cpu_milli=3000)})
    window = Window("w", "c", (), NOW + HOUR, NOW + 2 * HOUR, ())
    changes = told(replace(snapshot, windows=(window,)))
    assert changes == {"of-p": Change(Remedy.LIMIT_TIME, seconds=3600.0), "of-q": None}


def test_a_change_is_not_passed_on_to_a_queue_that_has_less() -> None:
    queues = [a_queue("a", 2, borrow=0), a_queue("b", 1, borrow=0)]
    tree = QueueTree([Queue("all"), *queues], [QuotaFlavor("h")])
    jobs = [a_job(f"of-{project}", gpu=4, after_s=n, project=project) for n, project in enumerate("ab")]
    changes = told(replace(snapshot_of_rows(a_fleet(1, 4), requests=jobs), queues=tree))
    of_a, of_b = (Change(Remedy.LOWER_ASK, resource="gpu_milli", to=to) for to in (2000, 1000))
    assert changes == {"of-a": of_a, "of-b": of_b}
