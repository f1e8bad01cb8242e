"""What becomes of a deployment after a look at its jobs."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.models.domain import (
    DEPLOYMENT_STATES,
    BeingRemoved,
    Deployment,
    DeploymentState,
    Judgement,
    Seen,
    Service,
    judge,
    model_url,
    move,
    ready_url,
    remove,
    serve_command,
    stay,
)
from dujiang.models.serving.__main__ import parse_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = "http://127.0.0.1:20001"
OTHER = "http://127.0.0.1:20002"
S = DeploymentState

WAITS = Seen(ended=False, running=False, reason="Priority", sentence="Others are first.")
RUNS = Seen(ended=False, running=True, reason="Started", base_url=BASE)
ANSWERS = replace(RUNS, answers=True)
ANSWERS_ELSEWHERE = replace(ANSWERS, base_url=OTHER)
ENDED = Seen(ended=True, running=False, reason="NonZeroExit", sentence="It exited with 1.")


def a_service(number: int = 1) -> Service:
    """Return a service of the version v1.N.0."""
    return Service(f"mv_{number}", f"v1.{number}.0", f"sha256:{number:064d}", f"job_{number}", {"cpu": 1})


def a_deployment(state: DeploymentState = S.PENDING, *, moving: bool = False) -> Deployment:
    """Return a deployment in a state, with the address it then has."""
    url = f"{BASE}/v2/models/digits" if state is S.READY else ""
    return Deployment(
        "dep_1", "prj_1", "digits", "mdl_1", "digits", state, "Started", "", a_service(), NOW, "usr_1", NOW, url=url,
        next=a_service(2) if moving else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "seen", "state", "reason"),
    [
        (S.PENDING, WAITS, S.PENDING, "Priority"),
        (S.PENDING, RUNS, S.STARTING, "Starting"),
        (S.PENDING, ANSWERS, S.READY, "Ready"),
        (S.PENDING, ENDED, S.FAILED, "NonZeroExit"),
        (S.STARTING, RUNS, S.STARTING, "Starting"),
        (S.STARTING, ANSWERS, S.READY, "Ready"),
        (S.STARTING, WAITS, S.PENDING, "Priority"),
        (S.STARTING, ENDED, S.FAILED, "NonZeroExit"),
        (S.READY, ANSWERS, S.READY, "Started"),
        (S.READY, WAITS, S.PENDING, "Priority"),
        (S.READY, ENDED, S.FAILED, "NonZeroExit"),
        (S.READY, ANSWERS_ELSEWHERE, S.READY, "Started"),
        (S.READY, replace(RUNS, base_url=OTHER), S.STARTING, "Starting"),
        (S.FAILED, ENDED, S.FAILED, "Started"),
        (S.STOPPING, ANSWERS, S.STOPPING, "Started"),
        (S.STOPPING, ENDED, S.REMOVED, "Removed"),
        (S.REMOVED, ENDED, S.REMOVED, "Started"),
    ],
)
def test_a_deployment_follows_its_job(before: S, seen: Seen, state: S, reason: str) -> None:
    after = judge(a_deployment(before), seen, None, now=NOW).deployment
    assert (after.state, after.reason) == (state, reason)
    assert after.url == (model_url(seen.base_url, "digits") if after.state is S.READY else "")
    assert (after.removed_at is not None) == (state is S.REMOVED and before is not S.REMOVED)


def test_a_retried_service_has_another_address() -> None:
    after = judge(a_deployment(S.READY), ANSWERS_ELSEWHERE, None, now=NOW).deployment
    assert after.url == f"{OTHER}/v2/models/digits"


def test_silence_counts_only_when_it_lasts() -> None:
    one = a_deployment(S.READY)
    for after_s, state in ((0.0, S.READY), (4.9, S.READY), (5.0, S.STARTING), (60.0, S.STARTING)):
        one = judge(one, RUNS, None, now=NOW + timedelta(seconds=after_s)).deployment
        assert one.state is state
    assert one.reason == "NotAnswering"
    assert judge(one, ANSWERS, None, now=NOW).deployment.state is S.READY
    hiccup = judge(a_deployment(S.READY), RUNS, None, now=NOW).deployment
    assert judge(hiccup, ANSWERS, None, now=NOW).deployment == a_deployment(S.READY)


def test_the_old_service_stays_until_the_new_one_answers() -> None:
    moved = move(a_deployment(S.READY), a_service(2), at=NOW)
    assert moved.cancel == ()
    waiting = moved.deployment
    for following in (WAITS, replace(RUNS, base_url=OTHER)):
        judged = judge(waiting, ANSWERS, following, now=NOW)
        assert (judged.deployment, judged.cancel) == (waiting, ())
    over = judge(waiting, ANSWERS, ANSWERS_ELSEWHERE, now=NOW)
    assert (over.moved, over.cancel) == (True, ("job_1",))
    assert over.deployment.service == a_service(2)
    assert (over.deployment.state, over.deployment.next) == (S.READY, None)
    assert over.deployment.url == f"{OTHER}/v2/models/digits"


def test_a_new_service_that_ends_leaves_the_old_one_in_use() -> None:
    judged = judge(a_deployment(S.READY, moving=True), ANSWERS, ENDED, now=NOW)
    after = judged.deployment
    assert (after.state, after.service, after.next) == (S.READY, a_service(), None)
    assert (after.reason, judged.move_failed, judged.cancel) == ("MoveFailed", "NonZeroExit", ())
    assert "v1.2.0 did not come up, so v1.1.0 stays: NonZeroExit" in after.sentence


def test_when_both_have_ended_it_has_failed_and_when_the_old_one_has_the_new_one_is_waited_for() -> None:
    both = judge(a_deployment(S.READY, moving=True), ENDED, ENDED, now=NOW)
    assert (both.deployment.state, both.deployment.next, both.move_failed) == (S.FAILED, None, "NonZeroExit")
    for following, state in ((WAITS, S.PENDING), (RUNS, S.STARTING)):
        after = judge(a_deployment(S.READY, moving=True), ENDED, following, now=NOW).deployment
        assert (after.state, after.service, after.next, after.url) == (state, a_service(2), None, "")


@pytest.mark.parametrize("state", [S.PENDING, S.STARTING, S.FAILED])
def test_what_does_not_answer_is_replaced_at_once(state: S) -> None:
    moved = move(a_deployment(state), a_service(2), at=NOW)
    assert moved.cancel == ("job_1",)
    assert (moved.deployment.state, moved.deployment.service, moved.deployment.next) == (S.PENDING, a_service(2), None)


def test_moving_again_and_staying_give_up_the_move_under_way() -> None:
    again = move(a_deployment(S.READY, moving=True), a_service(3), at=NOW)
    assert (again.cancel, again.deployment.next) == (("job_2",), a_service(3))
    back = stay(a_deployment(S.READY, moving=True))
    assert (back.cancel, back.deployment.next, back.deployment.reason) == (("job_2",), None, "Ready")
    assert stay(a_deployment(S.READY)).deployment == a_deployment(S.READY)


def test_removal_stops_both_services_and_waits_for_both() -> None:
    gone = remove(a_deployment(S.READY, moving=True), at=NOW)
    assert (gone.deployment.state, gone.cancel) == (S.STOPPING, ("job_1", "job_2"))
    assert remove(gone.deployment, at=NOW).cancel == ()
    assert judge(gone.deployment, ENDED, RUNS, now=NOW).deployment.state is S.STOPPING
    assert judge(gone.deployment, ENDED, ENDED, now=NOW).deployment.state is S.REMOVED
    with pytest.raises(BeingRemoved):
        move(gone.deployment, a_service(2), at=NOW)


seens = st.sampled_from([WAITS, RUNS, ANSWERS, ENDED, ANSWERS_ELSEWHERE, replace(RUNS, base_url=OTHER)])
acts = st.one_of(st.tuples(seens, seens), st.sampled_from(["move", "stay", "remove"]))


@given(st.lists(acts, max_size=30))
def test_whatever_happens_the_history_is_legal_and_nothing_is_left_running(given_acts: list[object]) -> None:
    """Jobs that are dropped are cancelled exactly once, except those that had ended by themselves."""
    one, number, at = a_deployment(), 1, NOW
    live, ended = {"job_1"}, set[str]()
    for act in given_acts:
        at += timedelta(seconds=3)
        before = one
        judged = _act(one, act, a_service(number + 1), at)
        if act == "move" and judged is not None:
            number += 1
            live.add(f"job_{number}")
        if isinstance(act, tuple):
            ended |= {s.job_id for s, seen in zip(_services(before), act, strict=False) if seen.ended}
        if judged is None:
            continue
        one = judged.deployment
        if one.state is not before.state:
            DEPLOYMENT_STATES.check("it", before.state, one.state)
        for job_id in judged.cancel:
            assert job_id in live
            if one.state is not S.STOPPING:  # there they are waited for
                live.remove(job_id)
        assert live - ended <= {service.job_id for service in _services(one)}
        assert (one.url != "") or one.state is not S.READY
        if isinstance(act, tuple) and len(_services(one)) == len(_services(before)) and one.service == before.service:
            again = judge(one, act[0], act[1] if one.next else None, now=at)
            assert again == Judgement(one), "the same look twice changes nothing"


def _services(one: Deployment) -> list[Service]:
    return [one.service, *([one.next] if one.next else [])]


def _act(one: Deployment, act: object, service: Service, at: datetime) -> Judgement | None:
    match act:
        case "move":
            try:
                return move(one, service, at=at)
            except BeingRemoved:
                return None
        case "stay":
            return stay(one) if one.state is S.READY else None
        case "remove":
            return remove(one, at=at)
        case (Seen() as seen, Seen() as following):
            return judge(one, seen, following if one.next else None, now=at)
    raise AssertionError(act)


@pytest.mark.parametrize("path", ["/a/b.onnx", "/with space, and = comma/it's $HOME.onnx"])
def test_the_command_says_just_what_is_to_be_served(path: str) -> None:
    words = shlex.split(serve_command("/opt/my python", "digits", "v1.0.0", path))
    assert words[:4] == ["exec", "/opt/my python", "-m", "dujiang.models.serving"]
    assert words[4] == "--model"
    assert words[6:] == ["--port", "$PORT"]
    model = parse_model(words[5])
    assert (model.name, str(model.path), model.version) == ("digits", path, "v1.0.0")
    assert ready_url(BASE, "digits", "v1.0.0") == f"{BASE}/v2/models/digits/versions/v1.0.0/ready"
