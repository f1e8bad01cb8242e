"""Jobs that wait for others to end: when they start, and their deadlines."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from dujiang.scheduling.domain import Dependent, Request, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.deadlines import promise
from dujiang.scheduling.domain.explaining import Explainer
from dujiang.scheduling.domain.forecast import Unknown, forecast
from dujiang.scheduling.domain.saved import dump, load
from tests.scheduling.building import NOW, a_fleet, a_job, holding


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def world(*dependents: Dependent, requests: tuple[Request, ...] = (), ends_s: float | None = 100) -> Snapshot:
    held = [holding("run", "n0", devices=(0,), ends_in_s=ends_s)]
    return replace(snapshot_of_rows(a_fleet(1, 2), holdings=held, requests=requests), dependents=dependents)


THEN = Dependent(a_job("then", gpu=1, runs_at_most_s=50), ("run",))


class TestForecast:
    def test_it_starts_when_what_it_waits_for_has_ended(self) -> None:
        found = forecast(world(THEN), NOW)["then"]
        assert (found.at, found.is_certain) == (at(100), True)

    def test_a_chain(self) -> None:
        last = Dependent(a_job("last", gpu=2), ("then", "run"))
        found = forecast(world(THEN, last), NOW)
        assert (found["then"].at, found["last"].at) == (at(100), at(150))
        assert forecast(world(THEN, last), NOW, job_id="last")["last"].at == at(150)

    def test_others_are_told_what_will_wait_before_them(self) -> None:
        """The room of what ends goes to what waited for its end, which is heavier."""
        next_one = a_job("next", gpu=2, runs_at_most_s=10)
        heavy = Dependent(a_job("heavy", gpu=2, task_class=TaskClass.CORE, runs_at_most_s=500), ("run",))
        assert forecast(world(requests=(next_one,)), NOW)["next"].at == at(100)
        assert forecast(world(heavy, requests=(next_one,)), NOW)["next"].at == at(600)
        assert forecast(world(heavy, requests=(next_one,)), NOW, job_id="next")["next"].at == at(600)

    def test_a_guess_is_told_as_one(self) -> None:
        snapshot = world(THEN)
        guessed = replace(snapshot, holdings=tuple(replace(one, expected_end=at(20)) for one in snapshot.holdings))
        found = forecast(guessed, NOW)["then"]
        assert (found.at, found.is_certain) == (at(20), False)

    def test_where_it_cannot_be_told(self) -> None:
        assert forecast(world(THEN, ends_s=None), NOW)["then"].unknown is Unknown.ENDS
        assert forecast(world(replace(THEN, is_known=False)), NOW)["then"].unknown is Unknown.ENDS

    def test_no_plan_starts_it_before(self) -> None:
        assert plan(world(THEN), NOW).starts == ()

    def test_its_answer_says_when(self) -> None:
        answer = Explainer(world(THEN), NOW).answer("then", expecting=True)
        assert answer is not None
        assert answer.is_held
        assert answer.expected is not None
        assert answer.expected.at == at(100)

    def test_it_is_saved(self) -> None:
        assert load(dump(world(THEN), NOW))[0].dependents == (THEN,)


class TestDeadlines:
    def due(self, by_s: float) -> Request:
        return replace(THEN.request, deadline=at(by_s))

    def test_what_it_waits_for_counts(self) -> None:
        after = {"then": THEN}
        assert promise(world(), NOW, [self.due(150)], after).is_kept
        found = promise(world(), NOW, [self.due(149)], after)
        assert (found.is_kept, found.over_at, found.earliest) == (False, at(150), at(240))
        assert not promise(world(), NOW, [self.due(9999)], {"then": replace(THEN, is_known=False)}).is_kept

    def test_its_place_is_kept_while_it_waits_for_others(self) -> None:
        promised = replace(THEN, request=replace(self.due(200), ask=a_job(gpu=2).ask))
        core = a_job("core", gpu=1, task_class=TaskClass.CORE, runs_at_most_s=900)
        done = plan(world(promised, requests=(core,)), NOW)
        assert done.starts == ()
        assert "then, whose deadline was promised" in done.waits[0].sentence
        assert plan(world(THEN, requests=(core,)), NOW).starts
