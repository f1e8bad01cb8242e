"""How a cluster stands by its answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dujiang.engines.answers import HELD_AGAINST_S, Answers, CallFacts
from dujiang.pool.domain.standing import ClusterState, Standing, judge, missing

AT = datetime(2026, 1, 1, 10, 31, 7, tzinfo=UTC)
FINE, WORSE, AWAY = ClusterState.REACHABLE, ClusterState.DEGRADED, ClusterState.UNREACHABLE


def silent(call: str) -> CallFacts:
    return CallFacts(call, overdue=1, asked_at=AT, is_silent=True)


@pytest.mark.parametrize(
    ("facts", "state", "why"),
    [
        ([], FINE, ""),
        ([CallFacts("inventory"), CallFacts("observe")], FINE, ""),
        ([silent("inventory")], AWAY, "It was asked what there is at 2026-01-01 10:31:07 UTC and has not answered."),
        ([CallFacts("inventory"), silent("observe")], AWAY, "what its attempts do at 2026-01-01 10:31:07 UTC"),
        ([CallFacts("inventory"), silent("submit")], AWAY, "for new work to be taken"),
        ([CallFacts("inventory", failed="no route to host")], AWAY, "no route to host"),
        # One attempt of many that hangs is not the end of the cluster.
        ([CallFacts("submit", overdue=2, asked_at=AT)], WORSE, "for new work to be taken at 2026-01-01 10:31:07 UTC"),
        ([CallFacts("submit", overdue=2, asked_at=AT)], WORSE, "has not answered that, 2 times in all."),
        ([silent("order")], WORSE, "for a node to be closed or opened"),
        ([CallFacts("observe", failed="lost")], WORSE, "It did not answer when asked what its attempts do: lost"),
        ([CallFacts("observe", late_s=12.34)], WORSE, "It took 12.3 s to answer when asked what its attempts do; 10 s"),
        # What keeps work away is told before what does not.
        ([CallFacts("cancel", failed="lost"), silent("observe")], AWAY, "what its attempts do"),
    ],
)
def test_a_cluster_stands_as_it_answers(facts: list[CallFacts], state: ClusterState, why: str) -> None:
    found, sentence = judge(facts, within_s=10.0)
    assert found is state
    assert why in sentence
    assert bool(sentence) is (state is not FINE)


def test_a_standing_is_made_worse_once() -> None:
    fine = Standing(answer_s=0.1)
    assert fine.degraded("") is fine
    worse = fine.degraded("It lists less.")
    assert worse == Standing(WORSE, "It lists less.", 0.1)
    away = replace(fine, state=AWAY, why="It is away.")
    assert away.degraded("It lists less.") is away


def test_which_nodes_are_missing_is_said_in_one_sentence() -> None:
    assert missing([], 4, 0) == ""
    assert missing(["n2"], 4, 1) == "It does not list 1 of its 4 nodes any more (n2), 1 of them with running work."
    names = [f"n{at}" for at in range(9, 4, -1)]
    assert missing(names, 12, 0) == "It does not list 5 of its 12 nodes any more (n5, n6, n7 ...)."


class TestAnswers:
    def test_nothing_is_held_against_a_cluster_for_ever(self) -> None:
        answers = Answers(10.0)
        answers.failed("cancel", "lost", 100.0)
        assert answers.facts("cancel", [], 100.0).failed == "lost"
        assert answers.facts("cancel", [], 100.0 + HELD_AGAINST_S).failed == ""
        answers.failed("cancel", "lost", 200.0)
        answers.answered("cancel", 200.0, 201.0)
        assert answers.facts("cancel", [], 201.0).failed == ""

    def test_silence_is_broken_by_an_answer_to_what_was_asked_later(self) -> None:
        answers = Answers(10.0)
        overdue = [(5.0, AT)]
        answers.answered("submit", 4.0, 6.0)
        assert answers.facts("submit", overdue, 20.0) == CallFacts("submit", 1, AT, is_silent=True)
        answers.answered("submit", 7.0, 8.0)
        assert answers.facts("submit", overdue, 20.0) == CallFacts("submit", 1, AT)

    def test_times_are_those_of_looks(self) -> None:
        answers = Answers(10.0)
        assert (answers.last_s, answers.p95_s) == (None, None)
        for at in range(1, 101):
            answers.answered("inventory", 0.0, float(at))
        answers.answered("submit", 0.0, 1000.0)
        assert (answers.last_s, answers.p95_s) == (100.0, 95.0)
        assert answers.facts("inventory", [], 100.0).late_s == 100.0
        answers.answered("inventory", 100.0, 101.0)
        assert answers.facts("inventory", [], 101.0).late_s is None
        assert answers.last_s == 1.0
