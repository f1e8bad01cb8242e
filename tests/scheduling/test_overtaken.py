"""A job that finds no room where there was some at first is told for whom that was kept, or who has it, by name."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dujiang.scheduling.domain import ClusterRow, Fleet, Plan, Request, TaskClass, fleet_of_rows, plan, snapshot_of_rows
from dujiang.scheduling.domain.queues import Limits, Queue, QueueTree, QuotaFlavor, QuotaLine
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes, where, why

HOUR = timedelta(hours=1)


def planned(fleet: Fleet, *jobs: Request, reservations: int = 1, **more: object) -> Plan:
    snapshot = snapshot_of_rows(fleet, requests=jobs, **more)  # type: ignore[arg-type]
    return plan(replace(snapshot, rules=Rules(reservations=reservations, preempts=False)), NOW)


def test_it_was_held_back_for_a_deadline_that_starts_in_its_place() -> None:
    promised = a_job("promised", gpu=4, after_s=1, runs_at_most_s=60, deadline=NOW + HOUR)
    for reservations in (0, 1):
        done = planned(a_fleet(1), a_job("endless", gpu=1), promised, reservations=reservations)
        assert list(where(done)) == ["promised"]
        assert (why(done), done.waits[0].blocking_job) == ({"endless": "Reserved"}, "promised")
        assert done.waits[0].sentence == (
            "There was room, but it was held back for promised, whose deadline was promised and which starts there now."
        )


def test_who_merely_starts_before_it_is_not_named() -> None:
    promised = a_job("promised", gpu=4, after_s=1, runs_at_most_s=60, deadline=NOW + HOUR)
    done = planned(a_fleet(1), a_job("elsewhere", cpu=1, after_s=-1), a_job("endless", gpu=1), promised)
    assert set(where(done)) == {"elsewhere", "promised"}
    assert (why(done), done.waits[0].blocking_job) == ({"endless": "Reserved"}, "promised")


def test_a_lower_class_whose_deadline_lets_it_wait_no_longer_is_named() -> None:
    due = a_job(
        "due", gpu=4, after_s=1, runs_at_most_s=60, deadline=NOW + timedelta(seconds=60), task_class=TaskClass.LOW
    )  # fmt: skip
    done = planned(a_fleet(1), a_job("core", gpu=1, runs_at_most_s=600, task_class=TaskClass.CORE), due)
    assert list(where(done)) == ["due"]
    assert (why(done), done.waits[0].blocking_job) == ({"core": "Reserved"}, "due")
    assert "due starts there, whose deadline was promised and lets it wait no longer" in done.waits[0].sentence


def test_of_several_prepared_starts_the_one_in_its_way_is_named() -> None:
    fleet = a_fleet(3)
    held = [holding(f"h{i}", f"n{i}", devices=(0,)) for i in range(3)]
    on = [{"selector": (("name", f"n{i}"),)} for i in range(3)]
    jobs = [
        a_job("first", gpu=4, **on[0]), a_job("second", gpu=4, after_s=1, **on[1]),
        a_job("small", gpu=1, after_s=2, **on[0]), a_job("third", gpu=4, after_s=3, **on[2]),
    ]  # fmt: skip
    done = planned(fleet, *jobs, reservations=3, holdings=held)
    told = {wait.job_id: (wait.reason, wait.blocking_job) for wait in done.waits}
    assert told["small"] == ("Reserved", "first")  # not `second`, which is elsewhere, nor `third`, which is behind it
    assert {told[name][0] for name in ("first", "second", "third")} == {"Resources"}


def test_room_that_its_queue_may_not_use_was_none() -> None:
    kinds = [QuotaFlavor("a", model="A"), QuotaFlavor("b", model="B")]
    lines = tuple(QuotaLine(name, Limits(gpu_milli=amount)) for name, amount in (("a", 8000), ("b", 0)))
    tree = QueueTree([Queue("q", lines=lines, projects=("p",))], kinds)
    nodes = [*some_nodes(1, 4, model="A"), *some_nodes(1, 4, model="B", prefix="m")]
    snapshot = snapshot_of_rows(
        fleet_of_rows([ClusterRow("c")], nodes), holdings=[holding("h", "n0", devices=(0, 1, 2, 3))],
        requests=[a_job("elsewhere", cpu=1), a_job("waits", gpu=1, after_s=1)],
    )  # fmt: skip
    done = plan(replace(snapshot, queues=tree), NOW)
    assert list(where(done)) == ["elsewhere"]
    assert (why(done), done.waits[0].blocking_job) == ({"waits": "Resources"}, "h")
