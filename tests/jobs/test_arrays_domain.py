"""What holds a job, what an array stands for, when a schedule is due: named cases in tables, and what always holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.jobs.domain import (
    NEVER_SATISFIED,
    Answer,
    Held,
    Job,
    JobState,
    Standing,
    Tally,
    answer,
    await_turn,
    depend,
    free,
)
from dujiang.jobs.domain.asking import array_env
from dujiang.jobs.domain.schedules import (
    BadCron,
    BadTimeZone,
    Outcome,
    Overlap,
    Schedule,
    check,
    look,
    next_due,
)
from dujiang.jobs.spec import BadIndices, JobArray, SpecInvalid, When, parse, parse_indices, read, upwards

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def a_job(**changes: object) -> Job:
    job = Job(
        id="job_b", project_id="prj_a", name="b", spec=read({"run": "true", "array": "3-5"}), state=JobState.PENDING,
        reason="Queued", sentence="", submitted_by="usr_a", created_at=NOW, queued_at=NOW,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def standing(state: str, *, ident: str = "job_a") -> Standing:
    return Standing(ident, "a", state not in ("PENDING", "RUNNING"), state)


# -- indices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", (0,)),
        ("7", (7,)),
        ("0-3", (0, 1, 2, 3)),
        ("3-0", (0, 1, 2, 3)),
        ("0-9:3", (0, 3, 6, 9)),
        ("9-0:4", (1, 5, 9)),
        ("0-2,15,20-30:5,1", (0, 1, 2, 15, 20, 25, 30)),
        ("0-9999", tuple(range(10_000))),
        ("007", (7,)),
    ],
)
def test_an_index_expression_is_a_set_of_indices(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_indices(text) == numbers


@pytest.mark.parametrize(
    ("text", "near"), [("1-5", "1-5"), ("5-1", "1-5"), ("9-0:4,3,2-1", "1-9:4,3,1-2"), ("9-7:4", "9-9:4"), ("7", "7")]
)
def test_a_range_from_its_greater_end_is_shown_as_it_is_to_be_written(text: str, near: str) -> None:
    assert upwards(text) == near
    assert parse_indices(near) == parse_indices(text)


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "1-2-3", "1:2", "1-9:0", "10000", "1,,2", " 1", "1 ", "²"])
def test_what_is_no_index_expression_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadIndices, match="0-9,15,20-30:2"):
        parse_indices(text)


@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.integers(0, 9999), st.integers(1, 9999), st.booleans()),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_an_index_expression_parses_to_the_set_that_it_writes(parts: list[tuple[int, int, int, bool]]) -> None:
    meant: set[int] = set()
    words = []
    for first, last, step, single in parts:
        if single:
            words.append(str(first))
            meant.add(first)
        else:
            words.append(f"{first}-{last}:{step}" if step > 1 else f"{first}-{last}")
            meant |= set(range(first, last + 1, step)) if first <= last else set(range(first, last - 1, -step))
    assert parse_indices(",".join(words)) == tuple(sorted(meant))


@pytest.mark.parametrize(
    ("written", "array"),
    [
        (5, JobArray("0-4")),
        (1, JobArray("0")),
        ("0-9", JobArray("0-9")),
        ("0-99%10", JobArray("0-99", 10)),
        ({"size": 100, "at_once": 4}, JobArray("0-99", 4)),
        ({"indices": "1,3"}, JobArray("1,3")),
    ],
)
def test_an_array_is_written_in_several_ways_and_reads_back(written: object, array: JobArray) -> None:
    spec = read({"run": "true", "array": written})
    assert spec.array == array
    assert read(spec.document()) == spec


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (0, "out of range"),
        (10_001, "out of range"),
        ("0-99%0", "not a list of indices"),
        ("1..5", "0-9,15,20-30:2"),
        (True, "whole number"),
        ({}, "needs the field"),
        ({"size": 3, "indices": "0-2"}, "not both"),
        ({"size": 3, "parallelism": 2}, "Write at_once"),
        ([1, 2], "list"),
    ],
)
def test_an_array_that_means_nothing_is_refused_at_its_place(written: object, why: str) -> None:
    with pytest.raises(SpecInvalid) as error:
        read({"run": "true", "array": written})
    assert why in " ".join(str(one) for one in error.value.problems)
    assert all(one.path.startswith("array") for one in error.value.problems)


def test_dependencies_are_written_in_several_ways_and_read_back() -> None:
    (spec,) = parse("run: x\nafter: [a, b:any, {job: c, when: notok}, {job: job_x}]\n")
    assert [(one.job, one.when) for one in spec.after] == [
        ("a", When.OK), ("b", When.ANY), ("c", When.NOTOK), ("job_x", When.OK),
    ]  # fmt: skip
    assert read(spec.document()) == spec


@pytest.mark.parametrize("after", ["a", ["a", "a:any"], ["a:maybe"], [{"when": "ok"}], [{"job": "a", "afterok": 1}]])
def test_a_dependency_that_means_nothing_is_refused(after: object) -> None:
    with pytest.raises(SpecInvalid) as error:
        read({"run": "x", "after": after})
    assert all(one.path.startswith("after") for one in error.value.problems)


def test_words_of_other_schedulers_lead_to_ours() -> None:
    for word, instead in (("depends_on", "after"), ("cron", "schedule create"), ("matrix", "array")):
        with pytest.raises(SpecInvalid, match=instead):
            read({"run": "x", word: 1})


# -- dependencies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "ok", "any_", "notok"),
    [
        ("PENDING", "open", "open", "open"),
        ("RUNNING", "open", "open", "open"),
        ("COMPLETED", "met", "met", "never"),
        ("FAILED", "never", "met", "met"),
        ("CANCELLED", "never", "met", "met"),
        ("TIMEOUT", "never", "met", "met"),
        ("NODE_FAIL", "never", "met", "met"),
        ("PREEMPTED", "never", "met", "met"),
        ("OUT_OF_MEMORY", "never", "met", "met"),
    ],
)
def test_what_a_dependency_says_of_each_state(state: str, ok: str, any_: str, notok: str) -> None:
    assert {str(state) for state in JobState} >= {state}
    told = [answer(when, standing(state)) for when in (When.OK, When.ANY, When.NOTOK)]
    assert told == [Answer(ok), Answer(any_), Answer(notok)]


def test_a_job_waits_for_the_first_that_is_open_and_says_how_many_more() -> None:
    on = [
        (When.ANY, standing("FAILED", ident="job_0")),
        (When.OK, standing("RUNNING", ident="job_1")),
        (When.ANY, standing("PENDING", ident="job_2")),
        (When.OK, standing("PENDING", ident="job_3")),
    ]
    job, edges = depend(a_job(), on, now=NOW)
    assert (job.held, job.reason, job.waits, job.state) == (Held.DEPENDENCY, "Dependency", True, JobState.PENDING)
    assert job.waiting is not None
    assert (job.waiting.blocking, job.waiting.reason) == ("job_1", "Dependency")
    assert job.sentence == "It can start once job_1 (a) has completed. 2 more are awaited too."
    assert job.waiting.advice
    assert [edge.on_id for edge in edges] == ["job_1", "job_2", "job_3"]
    later = free(job, now=NOW + timedelta(seconds=5))
    assert (later.held, later.reason, later.waiting, later.queued_at - NOW) == (
        None,
        "Queued",
        None,
        timedelta(seconds=5),
    )


def test_a_dependency_that_can_never_be_met_ends_the_job_and_names_the_other() -> None:
    job, edges = depend(
        a_job(), [(When.OK, standing("RUNNING", ident="job_1")), (When.OK, standing("FAILED"))], now=NOW
    )
    assert (job.state, job.reason, job.waits, job.held) == (JobState.CANCELLED, NEVER_SATISFIED, False, None)
    assert (job.finished_at, job.waiting, edges) == (NOW, None, [])
    assert job.sentence == "job_a (a) is FAILED; this job was to start only once that has completed."


def test_what_has_ended_as_wanted_counts_at_once() -> None:
    job = a_job()
    assert depend(job, [(When.OK, standing("COMPLETED")), (When.NOTOK, standing("TIMEOUT"))], now=NOW) == (job, [])
    assert depend(job, [], now=NOW) == (job, [])


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ({"PENDING": 3}, "PENDING"),
        ({"PENDING": 1, "RUNNING": 1, "FAILED": 1}, "RUNNING"),
        ({"PENDING": 1, "COMPLETED": 1}, "PENDING"),
        ({"COMPLETED": 4}, "COMPLETED"),
        ({"COMPLETED": 4, "TIMEOUT": 1}, "TIMEOUT"),
        ({"CANCELLED": 4}, "CANCELLED"),
        ({"CANCELLED": 4, "TIMEOUT": 1}, "FAILED"),
    ],
)
def test_an_array_has_one_state_of_its_tasks(states: dict[str, int], state: str) -> None:
    tally = Tally({JobState(name): count for name, count in states.items()})
    assert (str(tally.state), tally.has_ended) == (state, state not in ("PENDING", "RUNNING"))


def test_a_task_that_has_no_turn_says_why() -> None:
    job = await_turn(a_job(array_id="arr_a", array_index=4), 2, now=NOW)
    assert (job.held, job.reason) == (Held.ARRAY_LIMIT, "ArrayLimit")
    assert job.waiting is not None
    assert job.waiting.blocking == "arr_a"
    assert job.sentence == "2 tasks of its array may be at work at once, and as many are."


def test_a_task_finds_out_which_it_is_and_a_single_job_nothing() -> None:
    assert array_env(a_job()) == {}
    assert array_env(a_job(array_id="arr_a", array_index=4)) == {
        "DUJIANG_ARRAY_ID": "arr_a", "DUJIANG_ARRAY_INDEX": "4", "DUJIANG_ARRAY_SIZE": "3",
    }  # fmt: skip


# -- schedules ---------------------------------------------------------------------------------------------------------


def a_schedule(**changes: object) -> Schedule:
    made = Schedule(
        id="sch_a", project_id="prj_a", name="nightly", cron="0 3 * * *", time_zone="UTC", spec=read({"run": "true"}),
        overlap=Overlap.SKIP, catch_up_s=3600.0, created_by="usr_a", created_at=NOW, looked_at=NOW,
        next_at=datetime(2026, 3, 3, 3, 0, tzinfo=UTC),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def at(day: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        ("0 3 * * *", "UTC", "2026-03-02T12:00+00:00", "2026-03-03T03:00+00:00"),
        ("0 3 * * *", "UTC", "2026-03-02T03:00+00:00", "2026-03-03T03:00+00:00"),
        ("0 3 * * *", "Asia/Shanghai", "2026-03-02T12:00+00:00", "2026-03-02T19:00+00:00"),
        ("*/5 * * * *", "UTC", "2026-03-02T12:02:30+00:00", "2026-03-02T12:05+00:00"),
        ("0 0 L * *", "UTC", "2026-02-02T12:00+00:00", "2026-02-28T00:00+00:00"),
        ("0 0 29 2 *", "UTC", "2026-03-01T00:00+00:00", "2028-02-29T00:00+00:00"),
        # The clocks of Berlin: 02:30 is left out on 29 March and comes twice on 25 October.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00+00:00", "2026-03-29T01:00+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00+00:00", "2026-03-30T00:30+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+00:00", "2026-10-25T00:30+00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:30+00:00", "2026-10-25T01:00+00:00"),
    ],
)
def test_when_an_expression_is_due_next(cron: str, zone: str, after: str, due: str) -> None:
    assert next_due(cron, zone, datetime.fromisoformat(after)) == datetime.fromisoformat(due)


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "* * * * * *", "61 * * * *", "a b c d e", "0 0 31 2 *", "0 3 * * * " + "1," * 100, "é * * * *"],
)
def test_what_is_no_expression_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(BadCron, match="0 3"):
        check(cron, "UTC", now=NOW)


@pytest.mark.parametrize("zone", ["", "Mars", "../etc/passwd", "/etc/localtime", "asia/shanghai"])
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadTimeZone, match="Asia/Shanghai"):
        check("0 3 * * *", zone, now=NOW)


@pytest.mark.parametrize(
    ("now", "outcome", "due", "coming"),
    [
        (at(3, 2, 59, 59), None, None, at(3, 3)),
        (at(3, 3), "submitted", at(3, 3), at(4, 3)),
        (at(3, 3, 59), "submitted", at(3, 3), at(4, 3)),
        (at(3, 4, 0, 1), "missed", at(3, 3), at(4, 3)),  # an hour late, and a second
        (at(9, 3, 30), "submitted", at(9, 3), at(10, 3)),  # days away: the latest alone
        (at(9, 12), "missed", at(3, 3), at(10, 3)),
    ],
)
def test_what_was_missed_runs_once_if_it_is_not_too_late(
    now: datetime, outcome: str | None, due: datetime | None, coming: datetime
) -> None:
    verdict = look(a_schedule(), [], now=now)
    assert verdict.next_at == coming
    assert (verdict.run and str(verdict.run.outcome), verdict.run and verdict.run.due_at) == (outcome, due)


@pytest.mark.parametrize(
    ("overlap", "outcome", "cancel"),
    [("allow", "submitted", ()), ("skip", "skipped", ()), ("replace", "submitted", ("job_a", "arr_b"))],
)
def test_what_is_done_with_the_run_before(overlap: str, outcome: str, cancel: tuple[str, ...]) -> None:
    verdict = look(a_schedule(overlap=Overlap(overlap)), ["job_a", "arr_b"], now=at(3, 3))
    assert verdict.run is not None
    assert (str(verdict.run.outcome), verdict.cancel) == (outcome, cancel)
    assert ("job_a" in verdict.run.sentence) is (outcome == "skipped")
    free_way = look(a_schedule(overlap=Overlap(overlap)), [], now=at(3, 3))
    assert free_way.run is not None
    assert (free_way.run.outcome, free_way.cancel) == (Outcome.SUBMITTED, ())


def test_a_clock_that_was_set_back_makes_nothing_due() -> None:
    verdict = look(a_schedule(next_at=at(20, 3), looked_at=at(19, 3)), [], now=at(2, 12))
    assert (verdict.run, verdict.next_at) == (None, at(3, 3))


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0 3 * * *", "30 2 * * *", "0 */6 * * 1-5"]),
    st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]),
    st.lists(st.integers(1, 3 * 86400), min_size=1, max_size=20),
    st.sampled_from([60.0, 3600.0, 86400.0]),
)
def test_however_the_looks_fall_no_time_is_seen_to_twice_and_none_before_its_time(
    cron: str, zone: str, gaps: list[int], catch_up_s: float
) -> None:
    now = datetime(2026, 3, 27, 12, 0, tzinfo=UTC)
    one = a_schedule(cron=cron, time_zone=zone, catch_up_s=catch_up_s, next_at=next_due(cron, zone, now), looked_at=now)
    seen: list[datetime] = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        verdict = look(one, [], now=now)
        if verdict.run is not None:
            seen.append(verdict.run.due_at)
            assert verdict.run.due_at <= now
            if verdict.run.outcome is Outcome.SUBMITTED:
                assert now - verdict.run.due_at <= timedelta(seconds=catch_up_s)
        else:
            assert one.next_at is None or one.next_at > now
        assert verdict.next_at is None or verdict.next_at > now
        one = replace(one, next_at=verdict.next_at, looked_at=now)
    assert seen == sorted(set(seen))
