"""What the route of explanations gives; a saved snapshot is explained in the same form."""

from __future__ import annotations

from datetime import datetime

from dujiang.health.explain import Explanation, Topic, WaitView
from dujiang.jobs.diagnosis import Blame
from dujiang.kit.http import Model


class ExhibitOut(Model):
    """One line that supports the answer, exactly as it was read."""

    source: str
    line: str
    where: str


class OtherwiseOut(Model):
    """What else would start a job now; it has been tried."""

    way: str
    """`FewerRanks`, `FewerDevices`, `OtherModel`, `LooserPlace` or `OtherQueue`."""
    sentence: str


class WaitOut(Model):
    """What the scheduler says of a job that waits."""

    reason: str
    """Empty when there is room for it: it starts within moments."""
    detail: str
    blocking: str
    position: int | None
    earliest: datetime | None
    """Its reserved start."""
    suggestion: str
    """The smallest change of what it asks for that would start it now."""
    advice: str
    expected_start: datetime | None
    """By a plan of the future; null when that cannot be told, or takes long and was not asked for with `all`."""
    expected_after: datetime | None
    """It will not have started by then; null when `expected_start` is exact."""
    expected_is_certain: bool | None
    """Whether `expected_start` rests on time limits alone."""
    expected_cluster: str
    outlook: str
    """The same in words."""
    otherwise: list[OtherwiseOut]


class ExplanationOut(Model):
    """Why a job waits, or why it failed."""

    job_id: str
    topic: Topic
    headline: str
    why: list[str]
    cause: str
    blame: Blame | None
    confidence: float | None
    evidence: list[ExhibitOut]
    platform: list[str]
    advice: list[str]
    weighed: list[str]
    history: list[str]
    wait: WaitOut | None
    """What the scheduler says, while the job waits."""
    text: str
    """All of it as text for a terminal."""


def explanation_out(told: Explanation) -> ExplanationOut:
    """Return an explanation as the API gives it."""
    return ExplanationOut(
        job_id=told.job_id, topic=told.topic, headline=told.headline, why=list(told.why), cause=told.cause,
        blame=told.blame, confidence=told.confidence,
        evidence=[ExhibitOut(source=one.source, line=one.line, where=one.where) for one in told.evidence],
        platform=list(told.platform), advice=list(told.advice), weighed=list(told.weighed), history=list(told.history),
        wait=_wait_out(told.wait) if told.wait else None, text=told.text,
    )  # fmt: skip


def _wait_out(wait: WaitView) -> WaitOut:
    return WaitOut(
        reason=wait.reason, detail=wait.detail, blocking=wait.blocking, position=wait.position, earliest=wait.earliest,
        suggestion=wait.suggestion, advice=wait.advice, expected_start=wait.expected_at,
        expected_after=wait.expected_after, expected_is_certain=wait.is_certain, expected_cluster=wait.expected_on,
        outlook=wait.outlook, otherwise=[OtherwiseOut(way=way, sentence=told) for way, told in wait.otherwise],
    )  # fmt: skip
