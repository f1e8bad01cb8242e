"""Queues in a plan: who may start, who borrows, who gives back, and for whom what is left is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import (
    ADVICE,
    ClusterRow,
    Holding,
    Reason,
    Request,
    Snapshot,
    TaskClass,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.queue_round import QueueRound, amounts_of
from dujiang.scheduling.domain.queue_usage import Usage
from dujiang.scheduling.domain.queues import Limits, Queue, QueueTree, QuotaFlavor, QuotaLine
from dujiang.scheduling.domain.shares import FairShare
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes, where, why
from tests.scheduling.test_properties import check_capacity

CORE, NORMAL, LOW = TaskClass.CORE, TaskClass.NORMAL, TaskClass.LOW


def gpus(count: float | None) -> Limits:
    return Limits(gpu_milli=None if count is None else round(count * 1000))


def a_queue(
    name: str, nominal: float, parent: str = "all", *, borrow: float | None = None, keep: float | None = None
) -> Queue:
    line = QuotaLine("h", gpus(nominal), gpus(borrow), guarantee=gpus(keep))
    return Queue(name, parent, (line,), projects=(name,))


def shared(a: float = 2, b: float = 2, **more: Any) -> QueueTree:
    """Two queues, each of its own project, that lend to one another."""
    return QueueTree([Queue("all"), a_queue("a", a, **more), a_queue("b", b)], [QuotaFlavor("h")])


def world(
    tree: QueueTree, *, nodes: int = 1, holdings: list[Holding] | None = None, requests: list[Request] | None = None
) -> Snapshot:
    made = snapshot_of_rows(a_fleet(nodes), holdings=holdings or [], requests=requests or [])
    return replace(made, queues=tree)


def runs(job_id: str, project: str, *devices: int, **more: Any) -> Holding:
    return holding(job_id, "n0", devices=devices, started_s=-3600, project=project, may_stop=True, **more)


class TestWhoMayStart:
    def test_a_queue_borrows_what_another_leaves_idle(self) -> None:
        done = plan(world(shared(), requests=[a_job("x", gpu=4, project="a")]), NOW)
        assert list(where(done)) == ["x"]

    def test_not_beyond_its_borrowing_limit(self) -> None:
        requests = [a_job("x", gpu=3, project="a", after_s=1), a_job("y", gpu=1, project="a")]
        done = plan(world(shared(borrow=1), requests=requests), NOW)
        assert why(done) == {"x": "QueueQuota"}
        assert done.waits[0].sentence == "Queue a can have 2 more gpu of h by its borrowing limit, this job needs 3."
        assert (done.waits[0].is_for_good, done.waits[0].advice) == (False, ADVICE[Reason.QUEUE_QUOTA])

    def test_of_equal_places_the_one_with_quota(self) -> None:
        """The first flavor is used up, so it goes where its queue still has something."""
        nodes = some_nodes(1, 4, model="A100") + some_nodes(1, 4, model="B200", gpu_gib=180, prefix="m")
        lines = (QuotaLine("a100", gpus(1)), QuotaLine("b200", gpus(4)))
        tree = QueueTree(
            [Queue("q", "", lines, projects=("p",))],
            [QuotaFlavor("a100", model="A100"), QuotaFlavor("b200", model="B200")],
        )
        snapshot = snapshot_of_rows(fleet_of_rows([ClusterRow("c")], nodes), requests=[a_job("x", gpu=2)])
        done = plan(replace(snapshot, queues=tree), NOW)
        assert where(done)["x"][0][0] == "m0"

    def test_what_is_left_is_kept_for_the_first_that_waits(self) -> None:
        held = [runs("old", "a", 0, 1)]
        requests = [a_job("large", gpu=2, project="a"), a_job("small", gpu=1, project="a", after_s=5)]
        tree = QueueTree([a_queue("a", 3, "")], [QuotaFlavor("h")])
        done = plan(world(tree, holdings=held, requests=requests), NOW)
        assert why(done) == {"large": "QueueQuota", "small": "QueueQuota"}
        assert done.waits[1].blocking_job == "large"

    def test_an_elastic_job_takes_what_its_queue_has(self) -> None:
        tree = QueueTree([a_queue("a", 3, "")], [QuotaFlavor("h")])
        done = plan(world(tree, requests=[a_job("x", gpu=1, ranks=4, ranks_min=2, project="a")]), NOW)
        assert len(done.starts[0].ranks) == 3

    def test_who_has_used_less_comes_first(self) -> None:
        shares = {name: FairShare(name, used * 3600, 3600, 0.5, used) for name, used in (("a", 0.9), ("b", 0.1))}
        requests = [a_job("x", gpu=4, project="a"), a_job("y", gpu=4, project="b", after_s=60)]
        snapshot = world(shared(), requests=requests)
        assert list(where(plan(snapshot, NOW))) == ["x"]
        assert list(where(plan(replace(snapshot, shares=shares), NOW))) == ["y"]


class TestWhoGivesBack:
    def test_a_queue_takes_back_what_it_is_guaranteed(self) -> None:
        held = [runs("one", "a", 0, 1), runs("two", "a", 2, 3)]
        done = plan(world(shared(), holdings=held, requests=[a_job("x", gpu=2, project="b")]), NOW)
        assert [(stop.why, stop.for_job) for stop in done.stops] == [("Reclaimed", "x")]
        assert why(done) == {"x": "Preempting"}

    def test_not_more_than_the_other_holds_beyond_its_own(self) -> None:
        held = [runs("one", "a", 0, 1), runs("two", "a", 2, 3)]
        done = plan(world(shared(), holdings=held, requests=[a_job("x", gpu=4, project="b")]), NOW)
        assert done.stops == ()
        assert why(done) == {"x": "QueueQuota"}

    def test_a_higher_class_does_not_break_a_guarantee(self) -> None:
        """What b holds is its own: core work that a would only borrow for waits."""
        held = [runs("one", "a", 0, 1, task_class=CORE), runs("two", "b", 2, 3, task_class=LOW)]
        done = plan(world(shared(), holdings=held, requests=[a_job("x", gpu=2, project="a", task_class=CORE)]), NOW)
        assert done.stops == ()

    def test_a_department_within_its_guarantee_gives_nothing_to_others(self) -> None:
        """What r1 holds is lent by r2 of the same department: r2 may have it back, a queue of another may not."""
        tree = QueueTree(
            [
                Queue("all"),
                Queue("right", "all"),
                a_queue("left", 2),
                a_queue("r1", 0, "right"),
                a_queue("r2", 2, "right"),
            ],
            [QuotaFlavor("h")],
        )
        held = [runs("one", "r1", 0, 1), runs("two", "nobody", 2, 3, task_class=CORE)]
        asked = {project: a_job("x", gpu=2, project=project) for project in ("left", "r2")}
        stops = {
            project: [stop.job_id for stop in plan(world(tree, holdings=held, requests=[job]), NOW).stops]
            for project, job in asked.items()
        }
        assert stops == {"left": [], "r2": ["one"]}

    def test_within_one_queue_the_class_decides(self) -> None:
        held = [runs("one", "a", 0, 1, task_class=LOW), runs("two", "b", 2, 3, task_class=LOW)]
        done = plan(world(shared(), holdings=held, requests=[a_job("x", gpu=2, project="a", task_class=CORE)]), NOW)
        assert [(stop.job_id, stop.why) for stop in done.stops] == [("one", "Preempted")]


@st.composite
def crowded(draw: st.DrawFn) -> Snapshot:
    """Three queues under one, work of theirs that runs, and more that waits."""
    nominal = [draw(st.integers(0, 6)) for _ in range(3)]
    borrow = [draw(st.sampled_from([None, 0, 2])) for _ in range(3)]
    tree = QueueTree(
        [
            Queue("all"),
            *(a_queue(name, own, borrow=cap) for name, own, cap in zip("abc", nominal, borrow, strict=True)),
        ],
        [QuotaFlavor("h")],
    )
    sizes, classes = st.sampled_from([0.5, 1, 2, 4]), st.sampled_from([LOW, NORMAL, CORE])

    def some(prefix: str, most: int) -> list[Request]:
        return [
            a_job(
                f"{prefix}{n}", gpu=draw(sizes), task_class=draw(classes), project=draw(st.sampled_from("abc")),
                after_s=n,
            ) for n in range(draw(st.integers(0, most)))
        ]  # fmt: skip

    fleet, first = a_fleet(2), some("old", 10)
    started = plan(replace(snapshot_of_rows(fleet, requests=first), queues=tree), NOW).starts
    class_of = {one.job_id: one.task_class for one in first}
    held = [
        Holding(
            s.job_id, s.project_id, s.cluster, s.ranks, NOW - timedelta(seconds=900), task_class=class_of[s.job_id],
            may_stop=draw(st.booleans()),
        ) for s in started
    ]  # fmt: skip
    return replace(snapshot_of_rows(fleet, holdings=held, requests=some("new", 8)), queues=tree)


def check_queues(snapshot: Snapshot, held: list[Holding]) -> None:
    """Each job that is held could be taken in some order: no queue has more than it has and may borrow."""
    usage, counted = Usage(snapshot.queues), QueueRound.begin(snapshot.queues, snapshot.fleet)
    for one in held:
        queue, flavor = snapshot.queues.queue_of(one.project_id), counted.flavor(one.cluster, one.ranks)
        assert usage.fits(queue, flavor, amounts_of(one.ranks)) is None, one.job_id
        usage.take(queue, flavor, amounts_of(one.ranks))


@settings(deadline=None)
@given(crowded())
def test_no_queue_ever_has_too_much(snapshot: Snapshot) -> None:
    done = plan(snapshot, NOW)
    held = [*snapshot.holdings, *(Holding(s.job_id, s.project_id, s.cluster, s.ranks, NOW) for s in done.starts)]
    check_capacity(snapshot.fleet, held)
    check_queues(snapshot, held)
    assert plan(replace(snapshot, requests=snapshot.requests[::-1]), NOW) == done


@settings(deadline=None, max_examples=60)
@given(crowded(), st.randoms(use_true_random=False))
def test_it_comes_to_rest(snapshot: Snapshot, chance: Any) -> None:
    now, held, requests = NOW, list(snapshot.holdings), {r.job_id: r for r in snapshot.requests}
    again = {
        h.job_id: a_job(h.job_id, gpu=h.total()[0] / 1000, task_class=h.task_class, project=h.project_id, after_s=-9)
        for h in held
    }
    for _ in range(80):
        check_queues(snapshot, held)
        done = plan(_at(snapshot, held, requests), now)
        stops = {stop.job_id for stop in done.stops}
        if not done.starts and not stops and not any(h.is_stopping for h in held):
            return
        for start in done.starts:
            request = again[start.job_id] = replace(requests.pop(start.job_id), is_promised=False)
            held.append(Holding(
                start.job_id, start.project_id, start.cluster, start.ranks, now, task_class=request.task_class,
                may_stop=True,
            ))  # fmt: skip
        held = [
            replace(h, is_stopping=True, ends_at=now + timedelta(seconds=30)) if h.job_id in stops else h for h in held
        ]
        for stop in done.stops:
            requests[stop.for_job] = replace(requests[stop.for_job], is_promised=True)
        for each in [h for h in held if h.is_stopping and chance.random() < 0.6]:
            held.remove(each)
            requests[each.job_id] = again[each.job_id]
        now += timedelta(seconds=chance.choice([5, 400]))
    raise AssertionError("it does not come to rest")


def _at(snapshot: Snapshot, held: list[Holding], requests: dict[str, Request]) -> Snapshot:
    made = snapshot_of_rows(snapshot.fleet, holdings=held, requests=list(requests.values()))
    return replace(made, queues=snapshot.queues)
