"""Deadlines that are kept together, refused ones with what could be promised, and that promises come true."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Holding, Request, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.deadlines import promise
from tests.scheduling.building import NOW, a_fleet, a_job, after, holding

HOUR_S = 3600.0


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def due(job_id: str, by_s: float, takes_s: float, **more: float | str | TaskClass | None) -> Request:
    return a_job(job_id, deadline=at(by_s), runs_at_most_s=takes_s, **more)  # type: ignore[arg-type]


class TestOneJob:
    FLEET = a_fleet(1, 4)

    def test_a_free_pool(self) -> None:
        found = promise(snapshot_of_rows(self.FLEET), NOW, [due("a", 100, 100, gpu=4)])
        assert (found.is_kept, found.late, found.earliest) == (True, (), None)

    def test_room_comes_too_late(self) -> None:
        held = [holding("h", "n0", devices=(0,), ends_in_s=1000)]
        found = promise(snapshot_of_rows(self.FLEET, holdings=held), NOW, [due("a", 1099, 100, gpu=4)])
        assert (found.is_kept, found.late, found.over_at) == (False, ("a",), at(1100))
        assert found.earliest == at(1200)  # the next whole minute, and one to spare
        assert found.sentence(at(1099)) == (
            "The deadline 2026-01-01 00:18:19 UTC cannot be promised: as far as is known now it would be over at "
            "2026-01-01 00:18:20 UTC. The earliest that could be promised is 2026-01-01 00:20:00 UTC."
        )
        assert promise(snapshot_of_rows(self.FLEET, holdings=held), NOW, [due("a", 1100, 100, gpu=4)]).is_kept

    def test_a_guess_is_not_believed(self) -> None:
        held = [replace(holding("h", "n0", devices=(0,), ends_in_s=1000), expected_end=at(10))]
        assert not promise(snapshot_of_rows(self.FLEET, holdings=held), NOW, [due("a", 500, 100, gpu=4)]).is_kept

    def test_work_without_a_limit_keeps_what_it_holds(self) -> None:
        held = [holding("h", "n0", devices=(0,))]
        found = promise(snapshot_of_rows(self.FLEET, holdings=held), NOW, [due("a", 9999, 100, gpu=4)])
        assert (found.is_kept, found.over_at, found.earliest) == (False, None, None)
        assert found.sentence(at(9999)) == (
            "The deadline 2026-01-01 02:46:39 UTC cannot be promised: it cannot be told when it starts: what it waits "
            "for has no time limit, or ends too far ahead. Give it a shorter time_limit, ask for less, or leave the "
            "deadline out."
        )

    def test_nobody_is_stopped_for_a_promise(self) -> None:
        held = [holding("h", "n0", devices=(0,), ends_in_s=1000, task_class=TaskClass.LOW, may_stop=True,
                        started_s=-9999)]  # fmt: skip
        core = due("a", 500, 100, gpu=4, task_class=TaskClass.CORE)
        assert not promise(snapshot_of_rows(self.FLEET, holdings=held), NOW, [core]).is_kept


class TestWithOthers:
    FLEET = a_fleet(1, 4)

    def test_it_would_make_late_what_was_promised_before(self) -> None:
        waiting = [due("old", 150, 100, gpu=4, after_s=5)]
        held = [holding("h", "n0", devices=(0,), ends_in_s=40)]
        snapshot = snapshot_of_rows(self.FLEET, holdings=held, requests=waiting)
        found = promise(snapshot, NOW, [due("new", 148, 99, gpu=4, after_s=9)])
        assert (found.is_kept, found.endangered) == (False, ("old",))
        assert "old, whose deadline was promised before, would be late" in found.sentence(at(148))
        assert found.earliest == at(300)  # behind it: 40 + 100 + 99, up to the minute, and one to spare
        assert promise(snapshot, NOW, [due("new", 300, 99, gpu=4, after_s=9)]).is_kept

    def test_what_is_late_already_keeps_nobody_else_out(self) -> None:
        held = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=500)]
        snapshot = snapshot_of_rows(self.FLEET, holdings=held, requests=[due("lost", 150, 100, gpu=4)])
        assert promise(snapshot, NOW, [due("new", 900, 100, gpu=4, after_s=1)]).is_kept

    def test_several_together(self) -> None:
        jobs = [due(f"j{n}", 250, 100, gpu=4) for n in range(3)]
        assert promise(snapshot_of_rows(self.FLEET), NOW, jobs[:2]).is_kept
        found = promise(snapshot_of_rows(self.FLEET), NOW, jobs)
        assert (found.late, found.over_at, found.earliest) == (("j2",), at(300), at(360))

    def test_work_without_deadline_stands_where_its_weight_puts_it(self) -> None:
        snapshot = snapshot_of_rows(self.FLEET, requests=[a_job("first", gpu=4, runs_at_most_s=1000)])
        assert promise(snapshot, NOW, [due("a", 1150, 100, gpu=4, after_s=1)]).is_kept
        assert not promise(snapshot, NOW, [due("a", 1050, 100, gpu=4, after_s=1)]).is_kept
        assert promise(snapshot, NOW, [due("a", 150, 100, gpu=4, after_s=1)]).is_kept  # no time to spare: it goes first


arrivals = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.sampled_from([0.5, 1, 2, 4]),
        st.integers(1, 2),
        st.integers(1, 12),
        st.integers(0, 30),
        st.sampled_from([0.4, 0.5, 0.6]),
    ),
    min_size=1,
    max_size=7,
)


@given(arrivals)
@settings(max_examples=120, deadline=None)
def test_every_promise_comes_true(coming: list[tuple[int, float, int, int, int, float]]) -> None:
    """With admitted jobs alone, each taking its whole limit: jobs come one by one, the plan is followed by events."""
    fleet = a_fleet(2, 2)
    jobs = [
        a_job(f"j{n}", gpu=gpu, ranks=ranks if gpu <= 2 else 1, after_s=come * 10, runs_at_most_s=takes * 10.0,
              deadline=at((come + takes + spare) * 10.0), weight=weight)
        for n, (come, gpu, ranks, takes, spare, weight) in enumerate(sorted(coming)) if gpu <= 2
    ]  # fmt: skip
    held: list[Holding] = []
    waiting: list[Request] = []
    admitted: list[Request] = []
    over: dict[str, datetime] = {}
    now = NOW
    while True:
        held = [one for one in held if one.ends_at is None or one.ends_at > now]
        while jobs and jobs[0].submitted_at <= now:
            job = jobs.pop(0)
            found = promise(snapshot_of_rows(fleet, holdings=held, requests=waiting), now, [job])
            if not found.is_kept and found.earliest is not None:
                other = replace(job, deadline=found.earliest)
                assert promise(snapshot_of_rows(fleet, holdings=held, requests=waiting), now, [other]).is_kept
                job = other
            elif not found.is_kept:
                continue
            waiting.append(job)
            admitted.append(job)
        world: Snapshot = snapshot_of_rows(fleet, holdings=held, requests=waiting)
        done = plan(world, now, telling=False)
        held = after(world, done, now)
        for start in done.starts:
            job = next(one for one in waiting if one.job_id == start.job_id)
            over[job.job_id] = now + timedelta(seconds=job.runs_at_most_s or 0)
        waiting = [one for one in waiting if one.job_id not in over]
        moments = [one.ends_at for one in held if one.ends_at] + [one.submitted_at for one in jobs]
        moments += [one.moves_up_at for one in waiting if one.moves_up_at]
        later = [moment for moment in moments if moment > now]
        if not later:
            break
        now = min(later)
    for job in admitted:
        assert job.deadline is not None
        assert over[job.job_id] <= job.deadline, job.job_id
