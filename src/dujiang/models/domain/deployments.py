"""Deployments: a version that answers over HTTP, the job that serves it, and how it is moved to another version. Pure.

A deployment has one service in use and, while it is moved, a second one that is to take its place. The old one stays
in use until the new one answers; if that never answers, the old one just stays.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final
from urllib.parse import quote

from dujiang.kit.errors import Conflict, DujiangError, NotFound, Unavailable
from dujiang.kit.state import Machine

DEFAULT_RESOURCES: Final[Mapping[str, Any]] = {"cpu": 1, "memory": "1GiB"}
PATIENCE_S: Final = 5.0
"""A service that answered is asked for so long before silence counts: one late answer is no fault."""


class DeploymentState(StrEnum):
    """Where a deployment stands."""

    PENDING = "PENDING"
    """Its service waits for a place on the pool."""
    STARTING = "STARTING"
    """Its service runs and does not answer yet, or not any more."""
    READY = "READY"
    """It answers."""
    FAILED = "FAILED"
    """Its service has ended."""
    STOPPING = "STOPPING"
    """Someone removed it; its service is being stopped."""
    REMOVED = "REMOVED"


_S = DeploymentState
DEPLOYMENT_STATES: Final = Machine(
    "deployment",
    {
        _S.PENDING: frozenset({_S.STARTING, _S.READY, _S.FAILED, _S.STOPPING}),
        _S.STARTING: frozenset({_S.PENDING, _S.READY, _S.FAILED, _S.STOPPING}),
        _S.READY: frozenset({_S.PENDING, _S.STARTING, _S.FAILED, _S.STOPPING}),
        _S.FAILED: frozenset({_S.PENDING, _S.STOPPING}),
        _S.STOPPING: frozenset({_S.REMOVED}),
        _S.REMOVED: frozenset(),
    },
    start=_S.PENDING,
)
WATCHED: Final = (_S.PENDING, _S.STARTING, _S.READY, _S.STOPPING)
"""States in which something may happen by itself."""


@dataclass(frozen=True, slots=True)
class Service:
    """A job that serves a version."""

    version_id: str
    version: str
    """`v1.0.0`."""
    digest: str
    job_id: str
    resources: Mapping[str, Any] = field(default_factory=dict)
    """As in a job's specification."""

    def serves(self, version_id: str, resources: Mapping[str, Any]) -> bool:
        """Say whether it is this version with these resources."""
        return self.version_id == version_id and dict(self.resources) == dict(resources)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A name under which a version of a model answers."""

    id: str
    project_id: str
    name: str
    model_id: str
    model: str
    state: DeploymentState
    reason: str
    sentence: str
    service: Service
    """In use."""
    created_at: datetime
    created_by: str
    state_since: datetime
    url: str = ""
    """`http://host:port/v2/models/NAME` of the service in use; empty while none runs."""
    next: Service | None = None
    """What it is being moved to."""
    silent_since: datetime | None = None
    """Since when a READY one has not answered."""
    removed_at: datetime | None = None
    lock: int = 0
    """Counts changes of the row."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a service's job."""

    ended: bool
    running: bool
    reason: str
    """The job's own, PascalCase."""
    sentence: str = ""
    base_url: str = ""
    """`http://host:port` of the running attempt; empty when there is none."""
    answers: bool = False
    """It said just now that it serves the version."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a deployment after a look at its jobs."""

    deployment: Deployment
    cancel: tuple[str, ...] = ()
    """Jobs that are not needed any more."""
    moved: bool = False
    """The next service took over."""
    move_failed: str = ""
    """Why the next service will not take over: its job's reason."""


class NoSuchDeployment(NotFound):
    """No deployment of that name, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_deployment"


class NotServing(Unavailable):
    """The deployment does not answer now."""

    code: ClassVar[str] = "not_serving"
    title: ClassVar[str] = "The deployment does not answer now"


class ServiceGone(DujiangError):
    """The service was there a moment ago and does not answer."""

    code: ClassVar[str] = "service_gone"
    http_status: ClassVar[int] = 502
    retryable: ClassVar[bool] = True
    title: ClassVar[str] = "The service does not answer"


class ServiceTooSlow(DujiangError):
    """The service took longer than the platform waits."""

    code: ClassVar[str] = "service_too_slow"
    http_status: ClassVar[int] = 504
    retryable: ClassVar[bool] = True
    title: ClassVar[str] = "The service took too long"


class ServiceFailed(DujiangError):
    """The model failed on this request for a reason of its own."""

    code: ClassVar[str] = "service_failed"
    http_status: ClassVar[int] = 502
    title: ClassVar[str] = "The model failed"


class ServiceBusy(Unavailable):
    """The service has more requests waiting than it takes."""

    code: ClassVar[str] = "service_busy"
    title: ClassVar[str] = "The service is busy"


class BadPrediction(DujiangError):
    """The service refuses the request: it does not fit the model."""

    code: ClassVar[str] = "bad_inference_request"
    http_status: ClassVar[int] = 400
    title: ClassVar[str] = "The request does not fit the model"


class BeingRemoved(Conflict):
    """The deployment is being removed."""

    code: ClassVar[str] = "being_removed"
    retryable: ClassVar[bool] = True
    title: ClassVar[str] = "The deployment is being removed"


def serve_command(python: str, model: str, version: str, path: str) -> str:
    """Return the shell text of the job that serves a version from a local file."""
    argument = shlex.quote(f"{model}={path},version={version}")
    return f'exec {shlex.quote(python)} -m dujiang.models.serving --model {argument} --port "$PORT"'


def model_url(base_url: str, model: str) -> str:
    """Return the address of a served model."""
    return f"{base_url}/v2/models/{quote(model, safe='')}"


def ready_url(base_url: str, model: str, version: str) -> str:
    """Return the address that says whether just this version is served: a port can have come to another program."""
    return f"{model_url(base_url, model)}/versions/{quote(version, safe='')}/ready"


def move(one: Deployment, service: Service, *, at: datetime) -> Judgement:
    """Return a deployment on its way to another service.

    While one answers it stays in use beside the new one; one that does not answer is replaced at once.

    Raises:
        BeingRemoved: it is being removed.
    """
    if one.state in (_S.STOPPING, _S.REMOVED):
        raise BeingRemoved(f'"{one.name}" is being removed; deploy again in a moment, or under another name.')
    dropped = (one.next.job_id,) if one.next else ()
    if one.state is _S.READY:
        return Judgement(replace(one, next=service, reason="Moving", sentence=f"Moving to {service.version}."), dropped)
    fresh = replace(one, service=service, next=None, url="", silent_since=None)
    fresh = _to(fresh, _S.PENDING, "Submitted", "", at)
    return Judgement(fresh, (*dropped, one.service.job_id))


def stay(one: Deployment) -> Judgement:
    """Return a deployment that was asked for what it serves already: a move under way is given up."""
    if one.next is None:
        return Judgement(one)
    kept = replace(one, next=None, reason=_reason_of(one.state), sentence="")
    return Judgement(kept, (one.next.job_id,))


def remove(one: Deployment, *, at: datetime) -> Judgement:
    """Return a deployment that is to go; asking again changes nothing."""
    if one.state in (_S.STOPPING, _S.REMOVED):
        return Judgement(one)
    jobs = (one.service.job_id, *((one.next.job_id,) if one.next else ()))
    return Judgement(_to(one, _S.STOPPING, "RemovalAsked", "", at), jobs)


def judge(
    one: Deployment, seen: Seen, following: Seen | None, *, now: datetime, patience_s: float = PATIENCE_S
) -> Judgement:
    """Decide what becomes of a deployment. The same look gives the same answer; a settled one comes back unchanged.

    Args:
        one: as it stands.
        seen: its service's job.
        following: the job that is to take over; None when it is not being moved.
        now: when they were looked at.
        patience_s: how long a service that answered may be silent before it counts as not answering.
    """
    if one.state in (_S.FAILED, _S.REMOVED):
        return Judgement(one)
    if one.state is _S.STOPPING:
        over = seen.ended and (following is None or following.ended)
        return Judgement(replace(_to(one, _S.REMOVED, "Removed", "", now), removed_at=now) if over else one)
    if one.next is not None and following is not None:
        if following.answers:
            return _taken_over(one, one.next, following, now)
        if following.ended:
            return _move_failed(one, following, seen, now, patience_s)
        if seen.ended:  # nothing left to stay in use
            state = _S.STARTING if following.running else _S.PENDING
            fresh = replace(one, service=one.next, next=None, url="", silent_since=None)
            return Judgement(_to(fresh, state, _reason_of(state), f"The service before ended: {seen.reason}.", now))
    return Judgement(_followed(one, seen, now, patience_s))


def _taken_over(one: Deployment, service: Service, seen: Seen, now: datetime) -> Judgement:
    url = model_url(seen.base_url, one.model)
    fresh = replace(one, service=service, next=None, url=url, silent_since=None)
    return Judgement(_to(fresh, _S.READY, "Ready", "", now), (one.service.job_id,), moved=True)


def _move_failed(one: Deployment, failed: Seen, seen: Seen, now: datetime, patience_s: float) -> Judgement:
    assert one.next is not None
    kept = _followed(replace(one, next=None), seen, now, patience_s)
    if kept.state is not _S.READY:
        return Judgement(kept, move_failed=failed.reason)
    why = f"{one.next.version} did not come up, so {one.service.version} stays: {failed.reason}. {failed.sentence}"
    return Judgement(replace(kept, reason="MoveFailed", sentence=why.strip()), move_failed=failed.reason)


def _followed(one: Deployment, seen: Seen, now: datetime, patience_s: float) -> Deployment:
    """Return the deployment as its own service's job has it."""
    if seen.ended:
        reason = seen.reason or "ServiceEnded"
        return _to(replace(one, url="", silent_since=None), _S.FAILED, reason, _ended(seen), now)
    if not seen.base_url:
        state = _S.STARTING if seen.running else _S.PENDING
        return _to(replace(one, url="", silent_since=None), state, seen.reason, seen.sentence, now)
    url = model_url(seen.base_url, one.model)
    if seen.answers:
        if one.state is _S.READY:
            return replace(one, url=url, silent_since=None)
        return _to(replace(one, url=url, silent_since=None), _S.READY, "Ready", "", now)
    if one.state is _S.READY and one.url == url:
        silent_since = one.silent_since or now
        if now - silent_since < timedelta(seconds=patience_s):
            return replace(one, silent_since=silent_since)
        sentence = f"The service runs and has not answered for {patience_s:g} s."
        return _to(replace(one, silent_since=None), _S.STARTING, "NotAnswering", sentence, now)
    if one.state is _S.STARTING and one.reason == "NotAnswering" and one.url == url:
        return one
    return _to(replace(one, url="", silent_since=None), _S.STARTING, "Starting", "", now)


def _ended(seen: Seen) -> str:
    return seen.sentence or "The job that served it has ended; `dujiang explain` of the job says why."


def _to(one: Deployment, state: DeploymentState, reason: str, sentence: str, at: datetime) -> Deployment:
    """Move the state by the table; the one place that does."""
    if state is one.state:
        return replace(one, reason=reason, sentence=sentence)
    DEPLOYMENT_STATES.check(f'"{one.name}"', one.state, state)
    return replace(one, state=state, reason=reason, sentence=sentence, state_since=at)


def _reason_of(state: DeploymentState) -> str:
    return {_S.PENDING: "Pending", _S.STARTING: "Starting", _S.READY: "Ready"}.get(state, str(state))
