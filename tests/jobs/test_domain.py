"""The decisions of jobs: what is done next about attempts, and what follows their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import AttemptKey, End, Observation, Phase, RankPlacement
from dujiang.jobs.diagnosis import Blame, Diagnosis
from dujiang.jobs.domain import (
    ATTEMPT_STATES,
    JOB_STATES,
    TERMINAL,
    Attempt,
    Began,
    Ended,
    Job,
    JobState,
    Lost,
    Never,
    Step,
    Stop,
    Submit,
    View,
    Waiting,
    begin,
    conclude,
    ended_event,
    judge,
    launch_of,
    plan,
    request_of,
)
from dujiang.jobs.domain.ending import LONGEST_PAUSE_S, MOST_AVOIDED, pause_s
from dujiang.jobs.events import JobEnded, JobRetried
from dujiang.jobs.spec import Cause, JobSpec, parse
from dujiang.scheduling.domain import TaskClass

T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEY = AttemptKey("job_a", 1)
DRAINED = "NodeDrained"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def a_spec(text: str = "") -> JobSpec:
    (spec,) = parse(f"name: train\nrun: python train.py\n{text}")
    return spec


def a_job(spec: str = "", **fields: Any) -> Job:
    """Return a job whose first attempt runs."""
    usual = {
        "id": "job_a", "project_id": "prj_a", "name": "train", "spec": a_spec(spec), "state": JobState.RUNNING,
        "reason": "Started", "sentence": "", "submitted_by": "usr_a", "created_at": T0, "queued_at": T0,
        "started_at": at(2), "attempt": 1, "waits": False,
    }  # fmt: skip
    return Job(**{**usual, **fields})


def an_attempt(state: JobState = JobState.RUNNING, **fields: Any) -> Attempt:
    """Return the first attempt of `a_job`."""
    usual = {
        "job_id": "job_a", "number": 1, "project_id": "prj_a", "state": state, "reason": "Started", "cluster": "c",
        "ranks": (RankPlacement(0, "n1", 1000, 1),), "created_at": at(1),
        "started_at": None if state is JobState.PENDING else at(2),
    }  # fmt: skip
    return Attempt(**{**usual, **fields})


def seen(phase: Phase = Phase.ENDED, end: End | None = None, **fields: Any) -> Observation:
    """Return what the engine shows of it; ended well unless told otherwise."""
    if phase is Phase.ENDED:
        fields = {"started_at": at(2), "finished_at": at(9), "end": end or End.EXITED, **fields}
        if end is None and "exit_code" not in fields:
            fields["exit_code"] = 0
    return Observation(KEY, phase, **fields)


def found(cause: str = "Unknown", blame: Blame = Blame.UNKNOWN, **fields: Any) -> Diagnosis:
    return Diagnosis(cause, blame, f"It was {cause}.", **fields)


# -- the next step -----------------------------------------------------------------------------------------------------

PENDING, RUNNING = JobState.PENDING, JobState.RUNNING
SEEN_PENDING, SEEN_RUNNING = seen(Phase.PENDING), seen(Phase.RUNNING, started_at=at(2))
SEEN_ENDED, SEEN_NEVER = seen(), seen(end=End.STOPPED, started_at=None)
SEEN_UNSAID = seen(exit_code=3, started_at=None)  # an engine that forgot to say when
STOP = Stop(KEY, "Cancelled", None)


@pytest.mark.parametrize(
    ("state", "view", "observed", "steps"),
    [
        # not seen: absent is not failed
        (PENDING, {}, None, [Submit(KEY)]),
        (PENDING, {"may_submit": False}, None, []),
        (PENDING, {"unseen_s": 1000.0}, None, [Submit(KEY)]),
        (RUNNING, {"unseen_s": 59.9}, None, []),
        (RUNNING, {"unseen_s": 60.0}, None, [Lost(KEY)]),
        (RUNNING, {"unseen_s": 5.0, "lost_after_s": 5.0}, None, [Lost(KEY)]),
        # to stop, and not seen: a submission may be under way
        (PENDING, {"stop": "Cancelled"}, None, [STOP]),
        (PENDING, {"stop": "Cancelled", "stop_asked": True}, None, []),
        (PENDING, {"stop": "Cancelled", "unseen_s": 60.0}, None, [Never(KEY, "Cancelled")]),
        (RUNNING, {"stop": "Cancelled"}, None, [STOP]),
        (RUNNING, {"stop": "Cancelled", "unseen_s": 60.0}, None, [Lost(KEY)]),
        # seen
        (PENDING, {}, SEEN_PENDING, []),
        (PENDING, {"stop": "Cancelled"}, SEEN_PENDING, [STOP]),
        (PENDING, {}, SEEN_RUNNING, [Began(KEY, SEEN_RUNNING)]),
        (PENDING, {"stop": "Cancelled"}, SEEN_RUNNING, [Began(KEY, SEEN_RUNNING), STOP]),
        (RUNNING, {}, SEEN_RUNNING, []),
        (RUNNING, {}, SEEN_PENDING, []),  # an old view
        (RUNNING, {"stop": "Cancelled"}, SEEN_RUNNING, [STOP]),
        (RUNNING, {"stop": "Cancelled", "stop_asked": True}, SEEN_RUNNING, []),
        (RUNNING, {"stop": "Cancelled", "grace_s": 3.0}, SEEN_RUNNING, [Stop(KEY, "Cancelled", 3.0)]),
        # ended
        (RUNNING, {}, SEEN_ENDED, [Ended(KEY, SEEN_ENDED)]),
        (RUNNING, {"stop": "Cancelled"}, SEEN_ENDED, [Ended(KEY, SEEN_ENDED)]),
        (PENDING, {}, SEEN_ENDED, [Began(KEY, SEEN_ENDED), Ended(KEY, SEEN_ENDED)]),
        (PENDING, {"stop": "Cancelled"}, SEEN_NEVER, [Ended(KEY, SEEN_NEVER)]),
        (PENDING, {}, SEEN_UNSAID, [Began(KEY, SEEN_UNSAID), Ended(KEY, SEEN_UNSAID)]),
    ],
)  # fmt: skip
def test_the_next_step(state: JobState, view: dict[str, Any], observed: Observation | None, steps: list[Step]) -> None:
    assert plan([View(an_attempt(state), **view)], {} if observed is None else {KEY: observed}) == steps


@st.composite
def observations(draw: st.DrawFn, key: AttemptKey = KEY) -> Observation:
    """Return any observation, also such as an engine should not give: an exit without a start."""
    phase = draw(st.sampled_from(Phase))
    started_at = at(draw(st.floats(-5, 20)))
    if phase is not Phase.ENDED:
        return Observation(key, phase, started_at=started_at if phase is Phase.RUNNING else None)
    end = draw(st.sampled_from(End))
    began = draw(st.booleans())
    signal = draw(st.integers(1, 31)) if end in (End.SIGNALED, End.OUT_OF_MEMORY) else None
    return Observation(
        key, phase, started_at=started_at if began else None, end=end, signal=signal,
        exit_code=draw(st.integers(0, 255)) if end is End.EXITED else None,
        finished_at=draw(st.none() | st.floats(-5, 2000).map(at)),
    )  # fmt: skip


@st.composite
def views(draw: st.DrawFn, number: int = 1) -> View:
    state = draw(st.sampled_from([PENDING, RUNNING]))
    stop = draw(st.sampled_from(["", "Cancelled", DRAINED]))
    return View(
        an_attempt(state, number=number, stop_reason=stop if stop == DRAINED and draw(st.booleans()) else ""),
        stop=stop, unseen_s=draw(st.floats(0, 120)), may_submit=draw(st.booleans()), stop_asked=draw(st.booleans()),
    )  # fmt: skip


@given(st.data())
def test_the_same_input_gives_the_same_steps_in_order_of_attempt(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(1, 20), unique=True))
    made = [data.draw(views(number)) for number in numbers]
    shown = {
        AttemptKey("job_a", number): data.draw(observations(AttemptKey("job_a", number)))
        for number in numbers
        if data.draw(st.booleans())
    }
    steps = plan(made, shown)
    assert steps == plan(list(reversed(made)), dict(reversed(shown.items())))
    keys = [step.key for step in steps]
    assert keys == sorted(keys)
    assert all(keys.count(key) <= 2 for key in keys)


@given(views(), st.none() | observations())
def test_what_was_done_is_not_done_again(view: View, observed: Observation | None) -> None:
    """After the steps are applied and the engine has followed, nothing is left to do."""
    shown = {} if observed is None else {KEY: observed}
    attempt: Attempt | None = view.attempt
    asked = False
    for step in plan([view], shown):
        match step:
            case Submit():
                shown = {KEY: seen(Phase.PENDING)}
            case Began():
                attempt = replace(view.attempt, state=RUNNING)
            case Stop():
                asked = True
            case Ended() | Lost() | Never():
                attempt = None
    if attempt is not None:
        settled = replace(view, attempt=attempt, stop_asked=asked or view.stop_asked)
        assert plan([settled], shown) == []


@given(views(), observations(), st.sampled_from(Blame), st.booleans(), st.integers(0, 5), st.none() | st.booleans())
def test_whatever_is_seen_leads_by_legal_steps_to_a_world_that_agrees(
    view: View, observed: Observation, blame: Blame, cancelled: bool, retries: int, retryable: bool | None
) -> None:
    attempt = view.attempt
    job = a_job(
        state=attempt.state, cancel_at=at(3) if cancelled else None, cancel_reason="Cancelled" if cancelled else "",
        retries=retries, started_at=attempt.started_at,
    )  # fmt: skip
    why = found("Anything", blame, retryable=retryable)
    now = at(30)
    for step in plan([view], {KEY: observed}):
        match step:
            case Began():
                job, attempt, _ = begin(job, attempt, step.seen, now=now)
                assert job.state is attempt.state is RUNNING
                assert attempt.created_at <= (attempt.started_at or T0) <= now
            case Ended():
                job, attempt, told = conclude(job, attempt, step.seen, why, now=now, checkpoint=None)
                assert attempt.state in TERMINAL
                assert (attempt.started_at or attempt.created_at) <= (attempt.finished_at or T0) <= now
                assert isinstance(told, JobEnded) == job.has_ended
                assert job.waits == (job.state is PENDING) == isinstance(told, JobRetried)
                assert not (cancelled and not job.has_ended)
                assert job.retries <= max(retries + 1, 0)
                assert not (job.has_ended and job.not_before)


# -- what follows an end -----------------------------------------------------------------------------------------------

INFRA = found("KilledFromOutside", Blame.INFRASTRUCTURE)
NODE = found("NodeLost", Blame.INFRASTRUCTURE, scope="node")
USER = found("UserCodeError", Blame.USER)
PLATFORM = found("LaunchFailed", Blame.PLATFORM)
UNKNOWN = found()
REFUSED = found("Refused", Blame.USER)


@pytest.mark.parametrize(
    ("observed", "diagnosis", "spec", "state", "cause", "retry"),
    [
        (seen(), found("Succeeded"), "", "COMPLETED", None, False),
        (seen(exit_code=3), USER, "", "FAILED", Cause.USER, False),
        (seen(exit_code=3), USER, "retry: {on: [user]}", "FAILED", Cause.USER, True),
        (seen(exit_code=3), UNKNOWN, "", "FAILED", Cause.UNKNOWN, False),
        (seen(exit_code=3), UNKNOWN, "retry: {on: [unknown]}", "FAILED", Cause.UNKNOWN, True),
        (seen(exit_code=3), INFRA, "", "FAILED", Cause.INFRASTRUCTURE, True),
        (seen(exit_code=3), replace(INFRA, retryable=False), "", "FAILED", Cause.INFRASTRUCTURE, False),
        (seen(exit_code=3), found("GpuOutOfMemory", Blame.USER), "", "FAILED", Cause.OUT_OF_MEMORY, False),
        (seen(exit_code=3), found("GpuOutOfMemory", Blame.USER), "retry: {on: [out_of_memory]}", "FAILED",
         Cause.OUT_OF_MEMORY, True),
        (seen(end=End.SIGNALED, signal=9), INFRA, "", "FAILED", Cause.INFRASTRUCTURE, True),
        (seen(end=End.SIGNALED, signal=9), INFRA, "retry: {limit: 0}", "FAILED", Cause.INFRASTRUCTURE, False),
        (seen(end=End.SIGNALED, signal=9), INFRA, "retry: {on: [user]}", "FAILED", Cause.INFRASTRUCTURE, False),
        (seen(end=End.OUT_OF_MEMORY, signal=9), found("HostOutOfMemory", Blame.USER), "", "OUT_OF_MEMORY",
         Cause.OUT_OF_MEMORY, False),
        (seen(end=End.TIME_LIMIT), found("TimeLimit", Blame.USER), "", "TIMEOUT", Cause.TIME_LIMIT, False),
        (seen(end=End.TIME_LIMIT), found("TimeLimit", Blame.USER), "retry: {on: [time_limit]}", "TIMEOUT",
         Cause.TIME_LIMIT, True),
        (seen(end=End.SETUP_FAILED, exit_code=1), USER, "", "FAILED", Cause.USER, False),
        (seen(end=End.LAUNCH_FAILED), PLATFORM, "", "FAILED", Cause.INFRASTRUCTURE, True),
        (seen(end=End.REFUSED), REFUSED, "", "FAILED", Cause.USER, False),
        (seen(end=End.REFUSED), REFUSED, "retry: {on: [user]}", "FAILED", Cause.USER, False),
        (seen(end=End.NODE_REFUSED), PLATFORM, "retry: {limit: 0, on: [user]}", "FAILED", Cause.INFRASTRUCTURE, True),
        (seen(end=End.LOST), INFRA, "", "NODE_FAIL", Cause.INFRASTRUCTURE, True),
        (seen(end=End.NODE_LOST), NODE, "", "NODE_FAIL", Cause.INFRASTRUCTURE, True),
    ],
)  # fmt: skip
def test_what_follows_an_end(
    observed: Observation, diagnosis: Diagnosis, spec: str, state: str, cause: Cause | None, retry: bool
) -> None:
    verdict = judge(a_job(spec), an_attempt(), observed, diagnosis, now=at(10))
    assert (str(verdict.state), verdict.cause, verdict.retry) == (state, cause, retry)
    assert (verdict.not_before is not None) == retry


def test_a_place_that_was_closed_meanwhile_counts_as_no_retry_and_is_asked_for_ever_less_often() -> None:
    verdicts = [
        judge(a_job(), an_attempt(number=number), seen(end=End.NODE_REFUSED), PLATFORM, now=at(10))
        for number in (1, 2, 3, 99)
    ]
    assert [one.counts for one in verdicts] == [False] * 4
    assert [one.not_before for one in verdicts] == [at(12), at(14), at(18), at(10 + LONGEST_PAUSE_S)]


def test_retries_are_counted_up_to_the_limit() -> None:
    broken = seen(end=End.SIGNALED, signal=9)
    for retries, again in ((0, True), (1, True), (2, False)):
        job = a_job("retry: {limit: 2}", retries=retries)
        assert judge(job, an_attempt(), broken, INFRA, now=at(10)).retry is again


def test_a_stop_by_the_platform_follows_the_policy_and_counts_as_no_retry() -> None:
    attempt = an_attempt(stop_reason=DRAINED)
    verdict = judge(a_job("retry: {limit: 0}"), attempt, seen(end=End.STOPPED), found("NodeDrained"), now=at(10))
    assert (verdict.state, verdict.retry, verdict.counts) == (JobState.PREEMPTED, True, False)
    verdict = judge(a_job("retry: {on: [user]}"), attempt, seen(end=End.STOPPED), found("NodeDrained"), now=at(10))
    assert (verdict.state, verdict.retry) == (JobState.PREEMPTED, False)


@pytest.mark.parametrize("observed", [seen(end=End.STOPPED), seen(end=End.SIGNALED, signal=9), seen(end=End.LOST)])
def test_whatever_ends_it_after_a_cancel_is_the_cancel(observed: Observation) -> None:
    job = a_job(cancel_at=at(5), cancel_reason="DeploymentRemoved")
    after, attempt, told = conclude(job, an_attempt(), observed, INFRA, now=at(10), checkpoint=None)
    assert (after.state, after.reason, attempt.state) == (JobState.CANCELLED, "DeploymentRemoved", JobState.CANCELLED)
    assert isinstance(told, JobEnded)
    completed, _, _ = conclude(job, an_attempt(), seen(), found("Succeeded"), now=at(10), checkpoint=None)
    assert completed.state is JobState.COMPLETED


def test_a_retry_waits_again_with_all_that_is_to_be_remembered() -> None:
    job = a_job(retries=1, resume_from="/c/1", avoid=(("c", "n0"),))
    observed = seen(end=End.NODE_LOST, finished_at=at(9))
    after, attempt, told = conclude(job, an_attempt(), observed, NODE, now=at(10), checkpoint="/c/2")
    assert (after.state, after.reason, after.waits, after.retries) == (PENDING, "Retrying", True, 2)
    assert (after.queued_at, after.not_before) == (at(10), at(12))
    assert after.started_at == at(2)
    assert (after.exit_code, after.signal, after.finished_at) == (None, None, None)
    assert after.avoid == (("c", "n0"), ("c", "n1"))
    assert after.resume_from == "/c/2"
    assert after.sentence == "Attempt 1: It was NodeLost."
    assert (attempt.state, attempt.reason, attempt.finished_at) == (JobState.NODE_FAIL, "NodeLost", at(9))
    assert told == JobRetried(
        subject="job_a", project_id="prj_a", attempt=1, state="NODE_FAIL", reason="NodeLost", exit_code=None,
        signal=None, resume_from="/c/2",
    )  # fmt: skip


def test_what_is_known_of_a_checkpoint_is_kept_when_none_is_found() -> None:
    job = a_job(resume_from="/c/1")
    after, _, _ = conclude(job, an_attempt(), seen(end=End.LOST), INFRA, now=at(10), checkpoint=None)
    assert after.resume_from == "/c/1"


def test_an_end_lies_between_the_start_and_now_whatever_the_engines_clock_says() -> None:
    for said, kept in ((at(-100), at(2)), (at(9), at(9)), (at(500), at(10)), (None, at(10))):
        after, attempt, _ = conclude(
            a_job(), an_attempt(), seen(finished_at=said), found("Succeeded"), now=at(10), checkpoint=None
        )
        assert (after.finished_at, attempt.finished_at) == (kept, kept)


def test_a_start_lies_between_the_placing_and_now_whatever_the_engines_clock_says() -> None:
    for said, kept in ((at(-100), at(1)), (at(3), at(3)), (at(500), at(10)), (None, at(10))):
        job, attempt, told = begin(
            a_job(state=PENDING, started_at=None), an_attempt(PENDING), seen(Phase.RUNNING, started_at=said), now=at(10)
        )
        assert (job.started_at, attempt.started_at) == (kept, kept)
        assert (told.attempt, told.cluster, told.node) == (1, "c", "n1")


def test_a_second_start_leaves_the_first_as_it_was_and_a_cancel_told() -> None:
    again = a_job(state=PENDING, attempt=2, cancel_at=at(8), reason="Cancelling", sentence="It was asked to stop.")
    job, _, _ = begin(again, an_attempt(PENDING, number=2), seen(Phase.RUNNING, started_at=at(9)), now=at(10))
    assert (job.started_at, job.reason, job.sentence) == (at(2), "Cancelling", "It was asked to stop.")


def test_only_what_is_broken_at_the_node_is_avoided_and_not_for_ever() -> None:
    ranks = tuple(RankPlacement(rank, f"n{rank}", 1000, 1) for rank in range(2))
    kept = tuple(("c", f"old{number}") for number in range(MOST_AVOIDED))
    attempt = an_attempt(ranks=ranks)
    broken = seen(end=End.NODE_LOST)
    verdict = judge(a_job(avoid=kept), attempt, broken, NODE, now=at(10))
    assert verdict.avoid == (*kept[2:], ("c", "n0"), ("c", "n1"))
    assert judge(a_job(avoid=kept), attempt, broken, INFRA, now=at(10)).avoid == kept
    assert judge(a_job(avoid=(("c", "n1"), ("c", "n9"))), attempt, broken, NODE, now=at(10)).avoid == (
        ("c", "n9"), ("c", "n0"), ("c", "n1"),
    )  # fmt: skip


def test_pauses_double_up_to_five_minutes() -> None:
    assert [pause_s(retries) for retries in range(6)] == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert pause_s(1000) == LONGEST_PAUSE_S


@given(st.integers(0, 10**6))
def test_a_pause_is_never_shorter_than_the_one_before(retries: int) -> None:
    assert 0 <= pause_s(retries) <= pause_s(retries + 1) <= LONGEST_PAUSE_S


def test_every_state_is_in_both_tables_and_ends_are_final() -> None:
    for machine in (ATTEMPT_STATES, JOB_STATES):
        assert set(machine.transitions) == set(JobState)
        assert machine.terminal == TERMINAL
    assert PENDING not in ATTEMPT_STATES.transitions[RUNNING]


def test_only_an_end_is_told_as_one() -> None:
    with pytest.raises(AssertionError):
        ended_event(a_job())


# -- what is asked for and what is run ---------------------------------------------------------------------------------

SPEC = """
class: core
weight: 0.9
nodes: 2
resources: {gpu: {fraction: 0.25, memory: 10GiB, vendor: nvidia, model: H100}, cpu: 2, memory: 4GiB, disk: 1GiB}
time_limit: 1h
grace: 1m
env: {A: '1'}
params: {learning_rate: 0.1, deep: true}
secrets: {TOKEN: {value: hush}}
checkpoint: {signal: SIGUSR1}
setup: pip list
workdir: /data
ports: 2
inputs: [{name: digits, path: data.npz}]
outputs: {model: {name: digits, path: model.onnx}}
labels: {team: a}
"""


def test_a_job_is_asked_for_as_it_was_written() -> None:
    request = request_of(a_job(SPEC, not_before=at(60), avoid=(("c", "n1"),)))
    assert (request.ask.gpu_milli, request.ask.gpu_memory_bytes, request.ask.vendor, request.ask.model) == (
        250, 10 * 2**30, "nvidia", "H100",
    )  # fmt: skip
    assert (request.ask.cpu_milli, request.ask.memory_bytes, request.ask.disk_bytes) == (2000, 4 * 2**30, 2**30)
    assert (request.ranks, request.task_class, request.weight) == (2, TaskClass.CORE, 0.9)
    assert (request.not_before, request.avoid, request.runs_at_most_s) == (at(60), (("c", "n1"),), 3660.0)
    assert (request.submitted_at, request.job_id, request.project_id) == (T0, "job_a", "prj_a")
    assert request_of(a_job()).runs_at_most_s is None


def test_an_engine_is_told_all_it_needs() -> None:
    job = a_job(SPEC, checkpoint_dir="/c/job_a", labels={"team": "a", "more": "b"})
    attempt = an_attempt(PENDING, resume_from="/c/job_a/3")
    launch = launch_of(job, attempt, {"TOKEN": "hush"}, project="vision")
    assert (launch.key, launch.name, launch.project, launch.run) == (KEY, "train", "vision", "python train.py")
    assert launch.env == {"A": "1", "DUJIANG_PARAM_LEARNING_RATE": "0.1", "DUJIANG_PARAM_DEEP": "true"}
    assert launch.secrets == {"TOKEN": "hush"}
    assert launch.checkpoint is not None
    assert (launch.checkpoint.path, launch.checkpoint.signal, launch.checkpoint.resume_from) == (
        "/c/job_a", 10, "/c/job_a/3",
    )  # fmt: skip
    assert (launch.setup, launch.workdir, launch.time_limit_s, launch.grace_s) == ("pip list", "/data", 3600, 60)
    assert (launch.ports, launch.record_environment, launch.ranks) == (2, True, attempt.ranks)
    assert [(data.name, data.path) for data in launch.inputs] == [("digits", "data.npz")]
    assert launch.labels == {"project_id": "prj_a", "team": "a", "more": "b"}
    assert launch_of(a_job(), an_attempt(), {}, project="p").checkpoint is None


def test_a_label_of_the_job_cannot_name_another_project() -> None:
    job = a_job(labels={"project_id": "prj_victim"})
    assert launch_of(job, an_attempt(), {}, project="p").labels["project_id"] == "prj_a"


def test_why_a_job_waits_is_kept_whole() -> None:
    waiting = Waiting("Resources", "Too little.", at(3), "job_b", at(99), "Ask for less.", "Wait.")
    assert Waiting.from_json(waiting.to_json()) == waiting
    assert Waiting.from_json({"reason": "R", "detail": "D", "at": T0.isoformat()}) == Waiting("R", "D", T0)
