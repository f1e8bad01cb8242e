"""Promised deadlines hold against whatever comes later: played by `plan` and time, everything ending when it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import (
    Change,
    Fleet,
    Holding,
    Plan,
    Quota,
    Reason,
    Remedy,
    Request,
    Snapshot,
    Stop,
    TaskClass,
    Window,
    explain,
    plan,
)
from dujiang.scheduling.domain.deadlines import promise
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.saved import dump, load
from dujiang.scheduling.domain.snapshot import snapshot_of_rows
from dujiang.scheduling.domain.turns import Turns
from tests.scheduling.building import NOW, a_fleet, a_job, holding

STEP_S = 10.0
RULES = Rules(min_run_s=0.0, grows=False)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@dataclass
class World:
    """A pool in virtual time: jobs come, `plan` is followed, everything ends by its limit or before."""

    fleet: Fleet
    coming: list[Request]
    part: dict[str, float] = field(default_factory=dict)
    """Of its limit that each job runs; 1 where none is named."""
    quotas: dict[str, Quota] = field(default_factory=dict)
    rules: Rules = RULES
    now: datetime = NOW
    held: list[Holding] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    over: dict[str, datetime] = field(default_factory=dict)
    last: Plan | None = None

    def snapshot(self) -> Snapshot:
        found = snapshot_of_rows(self.fleet, holdings=self.held, requests=self.waiting, quotas=self.quotas)
        kept = () if self.last is None else self.last.slots
        return replace(found, rules=self.rules, slots=kept)

    def run(self) -> None:
        for _ in range(500):
            self.step()
            moments = [self.ends(one) for one in self.held] + [one.submitted_at for one in self.coming]
            moments += [one.moves_up_at for one in self.waiting]
            moments += [one.at for one in self.last.slots] if self.last else []
            later = [moment for moment in moments if moment is not None and moment > self.now]
            if not later:
                return
            self.now = min(later)
        raise AssertionError("it does not come to rest")

    def step(self) -> None:
        """Let end what ends, take in what comes, and do what the plan says."""
        self.held = [one for one in self.held if (end := self.ends(one)) is None or end > self.now]
        while self.coming and self.coming[0].submitted_at <= self.now:
            self.submit(self.coming.pop(0))
        snapshot = self.snapshot()
        self.last = plan(snapshot, self.now)
        waiting = {one.job_id: one for one in self.waiting}
        for start in self.last.starts:
            job = waiting.pop(start.job_id)
            limit = None if job.runs_at_most_s is None else self.now + timedelta(seconds=job.runs_at_most_s)
            held = Holding(
                job.job_id, job.project_id, start.cluster, start.ranks, self.now, limit, task_class=job.task_class,
                may_stop=job.deadline is None, request=replace(job, is_promised=False), had_device_s=job.had_device_s,
            )  # fmt: skip
            self.held.append(held)
            if limit is not None:
                self.over[job.job_id] = limit
        self.waiting = list(waiting.values())
        for stop in self.last.stops:
            self.stop(stop)

    def submit(self, job: Request) -> None:
        if job.deadline is not None:
            found = promise(self.snapshot(), self.now, [job])
            if not found.is_kept and found.earliest is not None:
                job = replace(job, deadline=found.earliest)
                assert promise(self.snapshot(), self.now, [job]).is_kept
            elif not found.is_kept:
                return
            self.admitted.append(job)
        self.waiting.append(job)

    def stop(self, stop: Stop) -> None:
        """Stopped work gives everything back after a while, and waits again; whom it was for is promised the room."""
        for number, held in enumerate(self.held):
            if held.job_id == stop.job_id:
                assert held.request is not None
                assert held.request.deadline is None
                gone = min(held.ends_at or at(1e9), self.now + timedelta(seconds=3))
                self.held[number] = replace(held, is_stopping=True, ends_at=gone)
                had_s = held.total()[0] / 1000 * (gone - held.started_at).total_seconds()
                again = replace(held.request, not_before=gone, had_device_s=held.had_device_s + had_s)
                self.waiting.append(again)
        self.waiting = [
            replace(one, is_promised=True) if one.job_id == stop.for_job else one for one in self.waiting
        ]  # fmt: skip

    def ends(self, held: Holding) -> datetime | None:
        """When it ends, which nobody knows before."""
        if held.ends_at is None or held.is_stopping:
            return held.ends_at
        part = self.part.get(held.job_id, 1.0)
        return held.started_at + part * (held.ends_at - held.started_at)

    def late(self) -> list[str]:
        """Admitted jobs that were not over by their deadline."""
        return [
            one.job_id for one in self.admitted
            if one.deadline is None or one.job_id not in self.over or self.over[one.job_id] > one.deadline
        ]  # fmt: skip


def due(job_id: str, by_s: float, takes_s: float, **more: object) -> Request:
    return a_job(job_id, deadline=at(by_s), runs_at_most_s=takes_s, **more)  # type: ignore[arg-type]


def played(*jobs: Request, nodes: int = 1, gpus: int = 2, rules: Rules = RULES) -> World:
    world = World(a_fleet(nodes, gpus), sorted(jobs, key=lambda one: one.submitted_at), rules=rules)
    world.run()
    return world


class TestLaterWork:
    """An hour's job that has to be over in three, and what may come after it was promised."""

    FIRST = a_job("first", gpu=2, runs_at_most_s=3600)
    DUE = due("due", 3 * 3600, 3600, gpu=2, after_s=10)

    def test_of_a_higher_class_does_not_pass(self) -> None:
        long = a_job("core", gpu=2, runs_at_most_s=9000, after_s=20, task_class=TaskClass.CORE)
        world = played(self.FIRST, self.DUE, long)
        assert world.late() == []
        assert world.over["core"] == world.over["due"] + timedelta(seconds=9000)

    def test_of_a_higher_class_passes_where_there_is_time(self) -> None:
        short = a_job("core", gpu=2, runs_at_most_s=3000, after_s=20, task_class=TaskClass.CORE)
        world = played(self.FIRST, self.DUE, short)
        assert world.late() == []
        assert world.over["core"] < world.over["due"]

    def test_without_a_limit_leaves_the_place(self) -> None:
        world = played(self.FIRST, self.DUE, a_job("ever", gpu=1, after_s=20, task_class=TaskClass.CORE))
        assert world.late() == []

    def test_of_a_heavier_weight_does_not_pass(self) -> None:
        heavy = a_job("heavy", gpu=2, runs_at_most_s=9000, after_s=20, weight=0.6)
        assert played(self.FIRST, self.DUE, heavy).late() == []

    def test_lighter_work_deep_in_the_queue_does_not_fill_its_place(self) -> None:
        """The prepared start is of another job, whose place a filler leaves alone; it takes that of the deadline."""
        head = a_job("head", gpu=2, after_s=5, runs_at_most_s=3600, weight=0.6)
        filler = a_job("filler", gpu=1, after_s=20, task_class=TaskClass.LOW)
        half = a_job("half", gpu=1, runs_at_most_s=3600)
        assert played(half, head, due("due", 4 * 3600, 3600, gpu=2, after_s=10), filler).late() == []

    def test_stops_nothing_for_a_place_that_it_may_not_have(self) -> None:
        low = a_job("low", gpu=2, runs_at_most_s=3600, task_class=TaskClass.LOW)
        core = a_job("core", gpu=2, runs_at_most_s=9000, after_s=20, task_class=TaskClass.CORE)
        world = played(low, replace(self.DUE, task_class=TaskClass.LOW, weight=None), core)
        assert world.late() == []
        assert world.over["core"] == world.over["due"] + timedelta(seconds=9000)

    def test_of_the_same_project_leaves_the_quota(self) -> None:
        jobs = [self.FIRST, self.DUE, a_job("core", gpu=2, runs_at_most_s=9000, after_s=20, task_class=TaskClass.CORE)]
        world = World(a_fleet(2, 2), jobs, quotas={"p": Quota(gpu_milli=2000)})
        world.run()
        assert world.late() == []


def jobs_of(coming: Sequence[tuple[int, float, int, int, int, TaskClass, bool, bool, float]]) -> list[Request]:
    made = []
    for n, (come, gpu, ranks, takes, spare, kind, is_due, has_limit, _) in enumerate(sorted(coming)):
        made.append(
            a_job(
                f"j{n}", gpu=gpu, ranks=ranks, after_s=come * STEP_S, task_class=kind,
                runs_at_most_s=takes * STEP_S if is_due or has_limit else None,
                deadline=at((come + takes + spare) * STEP_S) if is_due else None, may_restart=True,
            )
        )  # fmt: skip
    return made


arrivals = st.lists(
    st.tuples(
        st.integers(0, 9), st.sampled_from([0.5, 1, 2]), st.integers(1, 2), st.integers(1, 12), st.integers(0, 30),
        st.sampled_from(list(TaskClass)), st.booleans(), st.integers(0, 5).map(bool),
        st.sampled_from([0.1, 0.5, 0.9, 1.0, 1.0]),
    ),
    min_size=1, max_size=9,
)  # fmt: skip


@given(
    arrivals, st.sampled_from([(1, 1), (1, 2), (2, 2)]), st.sampled_from([None, None, 2000]), st.integers(0, 2),
    st.sampled_from([None, None, Turns(first_device_s=15.0, patience=4.0)]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_every_promise_comes_true(
    coming: list[tuple[int, float, int, int, int, TaskClass, bool, bool, float]], fleet: tuple[int, int],
    quota: int | None, reservations: int, turns: Turns | None,
) -> None:  # fmt: skip
    """Whatever comes later, of any class, with a limit or without; what runs ends by its limit or before."""
    part = {f"j{n}": one[-1] for n, one in enumerate(sorted(coming))}
    rules = replace(RULES, reservations=reservations, turns=turns)
    world = World(a_fleet(*fleet), jobs_of(coming), part, {"p": Quota(gpu_milli=quota)} if quota else {}, rules)
    world.run()
    assert world.late() == []


class TestWhatIsSaid:
    """The words, and what a person or a lost node does to a promise."""

    DUE = due("due", 3 * 3600, 3600, gpu=2, after_s=10)

    def waiting(self, *more: Request, **fleet: Any) -> Snapshot:
        held = [holding("first", "n0", devices=(0, 1), ends_in_s=3000)]
        return snapshot_of_rows(a_fleet(1, 2, **fleet), holdings=held, requests=[self.DUE, *more])

    def test_who_waits_for_a_deadline_says_for_whose(self) -> None:
        free = snapshot_of_rows(a_fleet(1, 2), requests=[replace(self.DUE, not_before=at(600))])
        core = a_job("core", gpu=2, runs_at_most_s=9000, task_class=TaskClass.CORE)
        told = explain(replace(free, requests=(*free.requests, core)), NOW, "core")
        assert told is not None
        assert (told.reason, told.blocking_job) == (Reason.RESERVED, "due")
        assert told.sentence == (
            "There is room, but due, whose deadline was promised, needs it from 2026-01-01 01:59:00 UTC on, and this "
            "job could still run then."
        )
        assert told.change == Change(Remedy.LIMIT_TIME, seconds=7140.0)
        ever = replace(core, runs_at_most_s=None)
        told = explain(replace(free, requests=(*free.requests, ever)), NOW, "core")
        assert told is not None
        assert told.sentence.endswith("and this job has no time limit.")

    def test_a_lost_node_puts_it_at_risk(self) -> None:
        good = plan(self.waiting(), NOW)
        assert (len(good.slots), good.risks) == (1, ())
        lost = replace(self.waiting(closed=("n0",)), slots=good.slots)
        done = plan(lost, NOW)
        assert (done.slots, [risk.job_id for risk in done.risks]) == ((), ["due"])
        said = (
            "Its deadline 2026-01-01 03:00:00 UTC is at risk: nodes that it fits on are closed or gone; they have to "
            "come back."
        )
        assert done.risks[0].sentence == said
        assert done.waits[0].sentence.endswith(said)

    def test_another_place_takes_that_of_a_lost_one(self) -> None:
        both = snapshot_of_rows(a_fleet(2, 2), holdings=[holding("x", "n0", devices=(0, 1), ends_in_s=3000),
                                holding("y", "n1", devices=(0, 1), ends_in_s=4000)], requests=[self.DUE])  # fmt: skip
        (slot,) = plan(both, NOW).slots
        node = slot.ranks[0].node
        other = {"n0": "n1", "n1": "n0"}[node]
        closed = snapshot_of_rows(a_fleet(2, 2, closed=(node,)), holdings=both.holdings, requests=[self.DUE])
        done = plan(replace(closed, slots=(slot,)), NOW)
        assert ([one.ranks[0].node for one in done.slots], done.risks) == ([other], ())

    def test_a_reservation_puts_it_at_risk(self) -> None:
        window = Window("reservation r", "c", (), at(3000), at(3 * 3600))
        done = plan(replace(self.waiting(), windows=(window,)), NOW)
        assert done.risks[0].sentence == (
            "Its deadline 2026-01-01 03:00:00 UTC is at risk: reservation r keeps the nodes that it fits on until "
            "after it."
        )

    def test_a_lowered_quota_puts_it_at_risk(self) -> None:
        done = plan(replace(self.waiting(), quotas={"p": Quota(gpu_milli=1000)}), NOW)
        assert "the quota of its project or queue does not let it start in time" in done.risks[0].sentence

    def test_nothing_is_kept_where_nobody_promises(self) -> None:
        done = plan(replace(self.waiting(), rules=Rules(keeps_deadlines=False)), NOW)
        assert (done.slots, done.risks) == ((), ())

    def test_what_is_kept_is_saved(self) -> None:
        snapshot = replace(self.waiting(), slots=plan(self.waiting(), NOW).slots)
        assert load(dump(snapshot, NOW))[0].slots == snapshot.slots
