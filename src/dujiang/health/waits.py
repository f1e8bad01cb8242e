"""What the scheduler says of a job, as explanations show it: the same live and from a saved snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from dujiang.health.explain import Explanation, JobView, Topic, WaitView, explain
from dujiang.kit.errors import NotFound, did_you_mean
from dujiang.scheduling.domain import Change, Holding, Remedy
from dujiang.scheduling.domain.explaining import Answer, Explainer, in_the_way
from dujiang.scheduling.domain.forecast import Expected, Unknown
from dujiang.scheduling.domain.otherwise import Otherwise, Way


def wait_view(answer: Answer) -> WaitView:
    """Return what is said of a waiting job."""
    if answer.wait is None:
        where = f" on {', '.join(_nodes(answer))}" if answer.start is not None else ""
        if answer.start is not None and answer.start.rent is not None:
            where += f" in {answer.start.cluster}, which is rented {answer.start.rent.sentence}"
        return WaitView("", f"There is room for it now{where}: it starts within moments.")
    wait, expected = answer.wait, answer.expected
    return WaitView(
        reason=str(wait.reason), detail=wait.sentence, blocking=in_the_way(wait),
        position=wait.position, suggestion=wait.change.sentence if wait.change else "", advice=wait.advice,
        earliest=wait.earliest, expected_at=expected.at if expected else None,
        expected_after=expected.after if expected else None,
        is_certain=expected.is_certain if expected and expected.at else None,
        expected_on=expected.start.cluster if expected and expected.start else "",
        outlook=_outlook(expected) if expected else "",
        otherwise=tuple((str(way.way), way.sentence) for way in answer.ways if not _is_said(way, wait.change)),
    )  # fmt: skip


def held_view(told: WaitView, answer: Answer) -> WaitView:
    """Return what is said of a job that waits for others to end: what is known of it, and when it is to start."""
    expected = answer.expected
    if expected is None:
        return told
    return replace(
        told, expected_at=expected.at, expected_after=expected.after,
        is_certain=expected.is_certain if expected.at else None,
        expected_on=expected.start.cluster if expected.start else "", outlook=_outlook(expected),
    )  # fmt: skip


def explain_saved(explainer: Explainer, job_id: str, *, widely: bool) -> Explanation:
    """Return why a job of a saved snapshot is where it is, in the words in which the platform says it.

    Raises:
        NotFound: the snapshot has no such job.
    """
    snapshot, now = explainer.snapshot, explainer.now
    answer = explainer.answer(job_id, expecting=widely or explainer.is_small, widely=widely)
    if answer is not None and answer.is_held:
        one = explainer.dependents[job_id]
        shown = ", ".join(one.after[:5]) + (f" and {len(one.after) - 5} more" if len(one.after) > 5 else "")
        view = held_view(WaitView("Dependency", f"It waits for {shown} to end."), answer)
        return explain(JobView(job_id, "", "PENDING", "Dependency", since=one.request.submitted_at, wait=view), now)
    if answer is not None:
        request, view = explainer.requests[job_id], wait_view(answer)
        job = JobView(job_id, "", "PENDING", view.reason, since=request.submitted_at, wait=view)
        return explain(job, now)
    held = [holding for holding in snapshot.holdings if holding.job_id == job_id]
    if not held:
        known = [*explainer.requests, *explainer.dependents, *(holding.job_id for holding in snapshot.holdings)]
        raise NotFound(f'The snapshot has no job "{job_id[:64]}".{did_you_mean(job_id, known[:10_000])}')
    return _running(held[0], now)


def _running(held: Holding, now: datetime) -> Explanation:
    nodes = sorted({rank.node for rank in held.ranks})
    shown = ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    why = [f"It holds its place on {shown} in cluster {held.cluster}."]
    if held.ends_at is not None:
        why.append(f"It is over by {held.ends_at:%Y-%m-%d %H:%M:%S} UTC.")
    headline = f"{held.job_id} was running since {held.started_at:%Y-%m-%d %H:%M:%S} UTC."
    return Explanation(held.job_id, Topic.RUNS, headline, tuple(why))


def _is_said(way: Otherwise, change: Change | None) -> bool:
    """Say whether a way is the smallest change once more."""
    if change is None or change.remedy is not Remedy.LOWER_ASK:
        return False
    asked = {"ranks": way.request.ranks, "gpu_milli": way.request.ask.gpu_milli}.get(change.resource)
    return way.way in (Way.FEWER_RANKS, Way.FEWER_DEVICES) and asked == change.to


def _outlook(expected: Expected) -> str:
    """Return when a job starts, in words, and what that rests on."""
    if expected.at is None:
        match expected.unknown:
            case Unknown.ENDS:
                return "When it starts cannot be told: nothing that is known to end makes room for it."
            case Unknown.HORIZON:
                return "When it starts cannot be told: it lies more than a month ahead."
            case _:
                return "When it starts cannot be told: too many others end and start before."
    rests = "if all runs to its time limit" if expected.is_certain else "by how long work like that before it took"
    on = f" on {expected.start.cluster}" if expected.start else ""
    if expected.start is not None and expected.start.rent is not None:
        on += f", which is rented {expected.start.rent.sentence}"
    when = f"at {expected.at:%Y-%m-%d %H:%M:%S} UTC"
    if expected.after is not None:
        when = f"between {expected.after:%Y-%m-%d %H:%M:%S} and {expected.at:%Y-%m-%d %H:%M:%S} UTC"
    return f"It is expected to start {when}{on}, {rests}."


def _nodes(answer: Answer) -> Iterator[str]:
    nodes: Sequence[str] = sorted({rank.node for rank in answer.start.ranks}) if answer.start else ()
    yield from nodes[:5]
    if len(nodes) > 5:
        yield f"{len(nodes) - 5} more"
