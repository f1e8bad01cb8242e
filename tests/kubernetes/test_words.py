"""Kubernetes' words in ours: the tables of docs/kubernetes.md row by row, and what decides between ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, End, EngineRefused, EngineUnavailable, Phase
from dujiang.engines.kubernetes import kueue, planning, words
from dujiang.engines.kubernetes.errors import error_of
from dujiang.engines.kubernetes.planning import Delete, GiveUp, Go, Tell, Ungate
from dujiang.engines.kubernetes.records import GATE, KEEP, KEY, RANK, Record, Stop
from dujiang.engines.kubernetes.refusing import refusal_of
from dujiang.engines.kubernetes.seeing import Pod, reduce_pod

DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
TABLES = {
    "`DisruptionTarget`": words.TAKEN,
    "`status.reason` of the Pod": words.FAILED,
    "of the container": words.BROKEN,
}
T0, SECOND = 1_700_000_000_000_000, 1_000_000
"""2023-11-14T22:13:20Z, in microseconds."""
LAUNCH = {
    "nodes": ["n1", "n2"], "grace_s": 30.0, "at_us": T0, "ports": [], "workdir": "/w", "output_dir": "/o",
    "waits_for_go": False, "lineage": {},
}  # fmt: skip


def at(seconds: float) -> str:
    """Return a time so many seconds after T0, as Kubernetes writes it."""
    whole = int(seconds)
    return f"2023-11-14T22:{13 + (20 + whole) // 60:02}:{(20 + whole) % 60:02}Z"


def a_pod(rank: int = 0, *, node: str = "n1", state: dict[str, Any] | None = None, **more: Any) -> Pod:
    """Return a Pod as it is reduced from what the API server tells."""
    meta = {
        "name": f"p-{rank}", "namespace": "x", "uid": f"u{rank}", "creationTimestamp": at(0), "finalizers": [KEEP],
        "annotations": {KEY: "job_a.1"}, "labels": {RANK: str(rank)}, **more.pop("meta", {}),
    }  # fmt: skip
    gates = [{"name": name} for name in more.pop("gates", ())]
    status = {"phase": "Running", "podIP": f"10.0.0.{rank}", **more}
    if state is not None:
        status["containerStatuses"] = [{"name": "job", "state": state, "started": more.get("started", False)}]
    found = reduce_pod({"metadata": meta, "spec": {"nodeName": node, "schedulingGates": gates}, "status": status})
    assert found is not None
    return found


def running(rank: int = 0, **more: Any) -> Pod:
    return a_pod(rank, state={"running": {"startedAt": at(1)}}, **more)


def terminated(rank: int = 0, message: str = "", code: int = 0, reason: str = "Error", **more: Any) -> Pod:
    told = {"exitCode": code, "reason": reason, "message": message, "startedAt": at(1), "finishedAt": at(9)}
    return a_pod(rank, state={"terminated": told}, **{"phase": "Failed" if code else "Succeeded", **more})


def word(end: str = "Exited", **more: object) -> str:
    """Return a runner's last word."""
    told = {
        "v": 1, "end": end, "status": 0, "signal": "", "cause": "", "unstarted": "", "ran_cs": 250, "peak": 1 << 20,
        "cpu_us": 1500000, "oom": 0, "left": "", **more,
    }  # fmt: skip
    return "".join(f"{name}={value}\n" for name, value in told.items())


def a_record(**more: Any) -> Record:
    launch = {**LAUNCH, **more.pop("launch", {})}
    fields = {"is_made": True, "stop": None, "verdict": None, **more}
    return Record(AttemptKey("job_a", 1), "x", "dj-job-a-1", "uid", "7", launch, **fields)


def a_sight(
    *pods: Pod, now_s: float = 60.0, ready: bool | None = True, workloads: Mapping[str, kueue.Workload] | None = None,
    **more: Any,
) -> planning.Sight:  # fmt: skip
    launch = {"nodes": ["n1"] * len(pods), **more.pop("launch", {})}
    record = a_record(launch=launch, **more)
    return planning.see(
        record, {pod.rank: pod for pod in pods}, {}, lambda _: ready, T0 + int(now_s * SECOND), (workloads or {}).get
    )


def steps(*pods: Pod, now_s: float = 60.0, **more: Any) -> list[planning.Step]:
    sight = a_sight(*pods, now_s=now_s, **more)
    return planning.steps(sight, now_us=T0 + int(now_s * SECOND), wait_us=900 * SECOND)


def verdict(*pods: Pod, **more: Any) -> tuple[End, int | None, int | None, int]:
    told = planning.decide(a_sight(*pods, **more), now_us=T0 + 60 * SECOND)
    return End(told["end"]), told["exit_code"], told["signal"], told["rank"]


# -- the tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_the_documented_table_is_the_table(name: str) -> None:
    section = DOCS.read_text().partition(f"| {name} |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|", section, re.MULTILINE)
    assert {reason: End(end) for reason, end in rows} == dict(TABLES[name])


@pytest.mark.parametrize("reason", sorted(words.TAKEN))
def test_who_takes_a_pod_away_says_how_it_ended(reason: str) -> None:
    taken = [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "for others"}]
    for pod in (
        terminated(message=word(cause="term", status=143, signal=15), code=143, conditions=taken),
        terminated(code=137, conditions=taken),
    ):
        end = words.end_of(pod, is_ready=True)
        assert (end.end, end.cause) == (words.TAKEN[reason], "taken")
        assert any(f"{reason}: for others" in line for _, line in end.evidence)


@pytest.mark.parametrize("reason", [*sorted(words.FAILED), "OutOfnvidia.com/gpu"])
def test_what_the_kubelet_calls_a_failed_pod_says_how_it_ended(reason: str) -> None:
    end = words.end_of(a_pod(phase="Failed", reason=reason, message="as it is"), is_ready=True)
    assert end.end is words.FAILED.get(reason, End.NODE_REFUSED)
    assert any(f"{reason}: as it is" in line for _, line in end.evidence)


@pytest.mark.parametrize("reason", sorted(words.BROKEN))
def test_a_container_without_a_word_is_judged_by_its_reason(reason: str) -> None:
    end = words.end_of(terminated(reason=reason, code=128), is_ready=True)
    assert (end.end, end.exit_code, end.signal) == (words.BROKEN[reason], None, None)


@pytest.mark.parametrize(
    ("pod", "ready", "end"),
    [
        (a_pod(phase="Failed", reason="Evicted", conditions=[{"type": "DisruptionTarget", "status": "True",
         "reason": "TerminationByKubelet"}]), True, End.PREEMPTED),
        (a_pod(phase="Failed", reason="Terminated", conditions=[{"type": "DisruptionTarget", "status": "True",
         "reason": "TerminationByKubelet"}]), True, End.NODE_LOST),
        (a_pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True",
         "reason": "DeletionByTaintManager"}]), True, End.PREEMPTED),
        (a_pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True",
         "reason": "DeletionByTaintManager"}]), False, End.NODE_LOST),
        (a_pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "New"}]), True,
         End.PREEMPTED),
        (terminated(code=137, meta={"deletionTimestamp": at(5)}), True, End.STOPPED),
        (a_pod(node="", phase="Pending", meta={"deletionTimestamp": at(5)}), None, End.STOPPED),
        (a_pod(phase="Failed"), True, End.LOST),
        (terminated(code=3), True, End.EXITED),
        (terminated(code=137), True, End.SIGNALED),
        (terminated(code=255), True, End.EXITED),
    ],
)  # fmt: skip
def test_what_is_not_in_one_table_alone(pod: Pod, ready: bool | None, end: End) -> None:
    assert words.end_of(pod, is_ready=ready).end is end


# -- the runner's word ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason", "expected"),
    [
        (word(), "Completed", (End.EXITED, 0, None)),
        (word(status=137), "Error", (End.EXITED, 137, None)),
        (word(status=137, signal=9), "Error", (End.SIGNALED, None, 9)),
        (word(status=137, signal=9), "OOMKilled", (End.OUT_OF_MEMORY, None, 9)),
        (word(status=137, signal=9, oom=2), "Error", (End.OUT_OF_MEMORY, None, 9)),
        (word(oom=2), "OOMKilled", (End.EXITED, 0, None)),
        (word("SetupFailed", status=9), "Error", (End.SETUP_FAILED, 9, None)),
        (word("SetupFailed", status=143, signal=15, cause="asked"), "Error", (End.STOPPED, None, 15)),
        (word(status=0, cause="asked"), "Completed", (End.STOPPED, 0, None)),
        (word(status=0, cause="asked", unstarted=1), "Completed", (End.STOPPED, None, None)),
        (word(status=143, signal=15, cause="limit"), "Error", (End.TIME_LIMIT, None, 15)),
        ("v=1\nend=LaunchFailed\nran_cs=1\nwhy=no such folder\n", "Error", (End.LAUNCH_FAILED, None, None)),
    ],
)
def test_the_runners_word_counts(said: str, reason: str, expected: tuple[object, ...]) -> None:
    end = words.end_of(terminated(message=said, reason=reason, code=1), is_ready=True)
    assert (end.end, end.exit_code, end.signal) == expected


def test_the_runner_tells_time_use_and_what_was_left() -> None:
    end = words.end_of(terminated(message=word(left="sleep:12,python3:7")), is_ready=True)
    assert end.started_us == T0 + SECOND
    assert end.at_us == T0 + SECOND + 2_500_000
    assert end.facts == {"peak_memory_bytes": 1 << 20, "peak_memory_of": "limit group", "cpu_seconds": 1.5}
    assert end.evidence[-1][1] == "left behind when the program had ended, and killed: sleep (12), python3 (7)"


def test_a_message_of_the_programs_own_is_no_word_of_the_runner() -> None:
    assert words.said_by_runner("end=Exited\n") is None
    assert words.said_by_runner("") is None


# -- between ranks ----------------------------------------------------------------------------------------------------


def test_a_gang_is_over_when_all_its_ranks_are() -> None:
    assert not a_sight(terminated(0, word()), running(1)).is_over
    assert verdict(terminated(0, word()), terminated(1, word())) == (End.EXITED, 0, None, 0)


def test_the_rank_that_failed_first_decides_and_not_those_that_were_stopped_for_it() -> None:
    pods = (
        terminated(0, word(status=143, signal=15, cause="sibling", ran_cs=300)),
        terminated(1, word(status=5, ran_cs=200)),
        terminated(2, word(status=6, ran_cs=250)),
    )
    assert verdict(*pods) == (End.EXITED, 5, None, 1)


@pytest.mark.parametrize(
    ("asked_s", "expected"),
    [(10.0, (End.EXITED, 5, None, 0)), (2.0, (End.STOPPED, 5, None, 0))],
)
def test_what_happened_first_decides(asked_s: float, expected: tuple[object, ...]) -> None:
    stop = Stop("asked", T0 + int(asked_s * SECOND), T0 + 40 * SECOND)
    assert verdict(terminated(0, word(status=5)), stop=stop) == expected  # it failed 3.5 s after T0


def test_a_stop_before_the_start_has_no_exit_code() -> None:
    stop = Stop("asked", T0 + SECOND, T0 + 30 * SECOND)
    gone = a_pod(node="", phase="Pending", meta={"deletionTimestamp": at(1)})
    assert verdict(gone, stop=stop) == (End.STOPPED, None, None, 0)


def test_what_waited_too_long_could_not_start() -> None:
    stop = Stop("start", T0 + SECOND, T0 + SECOND, "rank 0 has waited 900 s")
    gone = a_pod(node="", phase="Pending", meta={"deletionTimestamp": at(1)})
    sight = a_sight(gone, stop=stop)
    told = planning.decide(sight, now_us=T0 + 60 * SECOND)
    assert told["end"] == "LaunchFailed"
    assert told["evidence"][0] == ["engine", "rank 0 has waited 900 s", T0 + SECOND]


def test_a_pod_that_its_node_never_confirms_is_a_lost_node_when_kubernetes_gives_it_up() -> None:
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "taint"}
    ]
    pod = running(meta={"deletionTimestamp": at(20)}, conditions=conditions)
    assert not a_sight(pod, ready=False, now_s=30).is_over
    assert not a_sight(pod, ready=True, now_s=60).is_over
    assert verdict(pod, ready=False, now_s=60) == (End.NODE_LOST, None, None, 0)
    assert verdict(pod, ready=None, now_s=60) == (End.NODE_LOST, None, None, 0)


def test_a_verdict_is_told_as_it_was_written() -> None:
    record = a_record(verdict=planning.decide(a_sight(terminated(0, word(status=3))), now_us=T0 + 60 * SECOND))
    seen = planning.ended(record)
    assert (seen.phase, seen.end, seen.exit_code, seen.rank) == (Phase.ENDED, End.EXITED, 3, 0)
    assert (seen.host, seen.node, seen.limits_by, seen.output_dir) == ("10.0.0.0", "n1", "kubernetes", "/o")
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert (seen.finished_at - seen.started_at).total_seconds() == 2.5
    assert seen.facts["ran_s"] == 2.5


# -- what is done -----------------------------------------------------------------------------------------------------


def test_a_gang_is_let_go_when_all_of_it_is_there() -> None:
    gated = [a_pod(rank, node="", phase="Pending", gates=[GATE]) for rank in (0, 1)]
    assert steps(*gated) == [Ungate(gated[0]), Ungate(gated[1])]
    assert steps(*gated, is_made=False) == []
    half = planning.see(a_record(), {0: gated[0]}, {}, lambda _: True, T0)
    assert planning.steps(half, now_us=T0, wait_us=SECOND * 900) == []


def test_the_others_go_when_the_setup_is_done() -> None:
    launch = {"waits_for_go": True}
    assert steps(running(0), running(1), launch=launch) == []
    assert steps(running(0, started=True), running(1), launch=launch) == [Go(running(1))]
    assert steps(terminated(0, word()), running(1), launch=launch) == [Go(running(1))]


def test_a_failed_rank_stops_the_others_within_its_grace() -> None:
    waiting = a_pod(2, node="", phase="Pending")
    found = steps(terminated(0, word(status=5), code=5), running(1), waiting, now_s=4.0)
    stops_us = T0 + 3_500_000 + 5 * SECOND
    assert found == [Tell(running(1), "sibling", stops_us), Delete(waiting, 5)]


def test_a_stop_tells_what_runs_deletes_what_does_not_and_insists() -> None:
    stop = Stop("asked", T0, T0 + 10 * SECOND)
    waiting = a_pod(1, state={"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
    told = Tell(running(0), "asked", stop.deadline_us)
    assert steps(running(0), waiting, stop=stop, now_s=2.0) == [told, Delete(waiting, 8)]
    assert steps(running(0), stop=stop, now_s=41.0) == [told, Delete(running(0), 1)]
    going = a_pod(1, phase="Pending", meta={"deletionTimestamp": at(5)})
    assert steps(going, stop=stop) == []


def test_an_earlier_end_of_a_stop_counts_and_the_first_cause() -> None:
    first, second = Stop("start", 1, 100, "why"), Stop("asked", 5, 50)
    assert second.sooner(first) == Stop("start", 1, 50, "why")
    assert Stop("asked", 5, 500).sooner(first) == first
    assert first.sooner(None) == first


@pytest.mark.parametrize(
    ("pod", "now_s", "gives_up"),
    [
        (a_pod(state={"waiting": {"reason": "InvalidImageName", "message": "no"}}, phase="Pending"), 1.0, True),
        (a_pod(state={"waiting": {"reason": "ImagePullBackOff", "message": "rpc error: code = NotFound desc = x"}},
         phase="Pending"), 1.0, True),
        (a_pod(state={"waiting": {"reason": "ImagePullBackOff", "message": "connection refused"}}, phase="Pending"),
         1.0, False),
        (a_pod(state={"waiting": {"reason": "ImagePullBackOff", "message": "connection refused"}}, phase="Pending"),
         901.0, True),
        (a_pod(node="", phase="Pending", conditions=[{"type": "PodScheduled", "status": "False",
         "reason": "Unschedulable", "message": "0/2 nodes"}]), 899.0, False),
        (a_pod(node="", phase="Pending", conditions=[{"type": "PodScheduled", "status": "False",
         "reason": "Unschedulable", "message": "0/2 nodes"}]), 901.0, True),
        (running(), 9000.0, False),
    ],
)  # fmt: skip
def test_what_waits_is_given_up_when_waiting_does_not_help(pod: Pod, now_s: float, gives_up: bool) -> None:
    found = steps(pod, now_s=now_s)
    assert [type(step) for step in found] == ([GiveUp] if gives_up else [])
    if gives_up:
        assert isinstance(found[0], GiveUp)
        assert words.why_waiting(pod) in found[0].why


def test_a_rank_that_is_taken_away_before_it_began_is_not_the_first_that_failed() -> None:
    """It was deleted because another rank had failed, and nobody tells when."""
    deleted = {"phase": "Failed", "meta": {"deletionTimestamp": at(14)}}
    unknown = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
    failed = terminated(1, word(status=6, ran_cs=100), code=6)
    for state, end in ((None, End.STOPPED), ({"terminated": unknown}, End.LOST)):
        taken = a_pod(state=state, **deleted)
        assert verdict(taken, failed) == (End.EXITED, 6, None, 1)
        assert verdict(taken, terminated(1, word()))[0] is end


def test_a_queue_of_the_cluster_may_hold_work_for_as_long_as_it_likes() -> None:
    """The condition of a Pod that is let go keeps the time of when it was first held: its Workload knows better."""
    queued = {"labels": {RANK: "0", "kueue.x-k8s.io/managed": "true"}}
    waits = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "",
              "lastTransitionTime": at(0)}]  # fmt: skip
    held = a_pod(node="", phase="Pending", gates=["kueue.x-k8s.io/admission"], conditions=waits, meta=queued)
    freed = a_pod(node="", phase="Pending", conditions=waits, meta=queued)
    bound = a_pod(phase="Pending", meta=queued, conditions=[
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(50)}])  # fmt: skip
    admitted = {"u0": kueue.Workload(("u0",), T0 + 50 * SECOND, "")}
    pending = {"u0": kueue.Workload(("u0",), None, "quota")}
    assert steps(held, now_s=90_000.0) == steps(held, now_s=90_000.0, workloads=pending) == []
    for pod, workloads in ((freed, admitted), (bound, admitted), (bound, {})):
        assert steps(pod, now_s=949.0, workloads=workloads) == []
        assert [type(step) for step in steps(pod, now_s=951.0, workloads=workloads)] == [GiveUp]
    assert steps(freed, now_s=90_000.0) == []  # nobody tells us since when


def test_what_holds_a_gang_back_is_told_once() -> None:
    gates, mark = ["kueue.x-k8s.io/admission"], {"kueue.x-k8s.io/managed": "true"}
    pods = [
        a_pod(rank, node="", phase="Pending", gates=gates, meta={"labels": {RANK: str(rank), **mark}})
        for rank in (0, 1)
    ]
    says = kueue.Workload(("u0", "u1"), None, "Kueue: no quota")
    seen = planning.observation(a_sight(*pods, workloads={"u0": says, "u1": says}))
    assert [each.line for each in seen.evidence] == ["rank 0 waits: Kueue: no quota"]
    unseen = planning.observation(a_sight(*pods))
    assert {each.line for each in unseen.evidence} == {
        f"rank {rank} waits: Kueue holds it back, and does not show us why" for rank in (0, 1)
    }


# -- refusals ---------------------------------------------------------------------------------------------------------


QUOTA = 'pods "x" is forbidden: exceeded quota: q, requested: {}, used: {}, limited: {}'


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, QUOTA.format("limits.cpu=2,pods=1", "limits.cpu=0,pods=0", "limits.cpu=1,pods=9"), EngineRefused),
        (403, QUOTA.format("pods=1", "pods=2", "pods=2"), EngineUnavailable),
        (403, QUOTA.format("requests.memory=2Gi", "requests.memory=1Gi", "requests.memory=2048Mi"), EngineUnavailable),
        (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile', EngineRefused),
        (403, 'admission webhook "policy.example" denied the request: no latest tags', EngineRefused),
        (403, 'pods "x" is forbidden: namespace y because it is being terminated', EngineUnavailable),
        (422, 'Pod "x" is invalid: spec.containers[0].env[0].name: Invalid value', EngineRefused),
        (404, 'namespaces "y" not found', EngineUnavailable),
    ],
)
def test_a_refusal_is_for_good_or_for_now(status: int, message: str, kind: type[Exception]) -> None:
    error = error_of(status, {"message": message}, "https://x")
    assert not isinstance(error, EngineUnavailable)
    assert type(refusal_of(error)) is kind
