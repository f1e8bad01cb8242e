"""Jobs that wait for others to end: told when they start, and their deadlines promised by that."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dujiang.scheduling.domain.deadlines import DeadlineNotPromised
from dujiang.tenancy.domain import Role
from tests.platforms import Scene

WHOLE: dict[str, Any] = {"resources": {"gpu": 2}, "nodes": 2, "grace": "10s"}


async def test_it_is_told_when_it_is_expected_to_start(both: Scene) -> None:
    first = await both.submit("#sim duration=600", time_limit="590s", **WHOLE)
    then = await both.submit("#sim duration=5", time_limit="50s", after=[first.id], **WHOLE)
    last = await both.submit("#sim duration=5", time_limit="50s", after=[then.id], **WHOLE)
    await both.until(first.id, "RUNNING")
    started = (await both.attempts(first.id))[0].started_at
    assert started is not None
    for job, after_s in ((then, 600), (last, 660)):
        answer = await both.platform.live.explain(job.id)
        assert answer is not None
        assert answer.is_held
        assert answer.expected is not None
        assert answer.expected.at == started + timedelta(seconds=after_s)
    async with both.client(Role.ADMIN) as client:
        told = (await client.get(f"/v1/jobs/{then.id}/explain")).json()
    assert told["wait"]["reason"] == "Dependency"
    assert f"{started + timedelta(seconds=600):%Y-%m-%d %H:%M:%S} UTC" in told["text"]


async def test_its_deadline_counts_what_it_waits_for(both: Scene) -> None:
    first = await both.submit("#sim duration=50", time_limit="90s", **WHOLE)
    later: dict[str, Any] = {"time_limit": "40s", "after": [first.id], **WHOLE}
    with pytest.raises(DeadlineNotPromised):
        await both.submit("#sim duration=30", deadline="145s", **later)
    job = await both.submit("#sim duration=30", deadline="160s", **later)
    ended = await both.until(job.id, "COMPLETED", most=400)
    assert ended.finished_at is not None
    assert ended.finished_at <= job.created_at + timedelta(seconds=160)


async def test_who_waits_for_a_failure_is_promised_nothing(scene: Scene) -> None:
    first = await scene.submit("#sim duration=50", time_limit="90s", **WHOLE)
    with pytest.raises(DeadlineNotPromised):
        await scene.submit("#sim", deadline="1h", time_limit="40s", after=[{"job": first.id, "when": "notok"}], **WHOLE)
