"""What the scheduler is told of running attempts after a restart is what it was told before."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.jobs import store
from dujiang.jobs.loop.abouts import lasting_of
from tests.platforms import Scene

TEXTS: dict[str, Any] = {
    "setup": "pip install x", "env": {"A": "1"}, "labels": {"team": "vision"}, "workdir": "/data/own",
    "secrets": {"TOKEN": "s3cret"},
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"class": "core", "weight": 0.8, "time_limit": "1h", "grace": "45s"},
        {"nodes": {"min": 1, "max": 2}, "checkpoint": {"path": "/data/ck", "interval": "10m"}},
        {"resources": {"gpu": {"count": 1, "memory": "4GiB"}, "cpu": 2, "memory": "3GiB"}},
        {"retry": {"limit": 2, "on": ["infrastructure"]}, "placement": {"apart": "ring", "cluster": "sim"}},
        {"deadline": "2026-01-02T00:00:00Z", "time_limit": "1h"},
    ],
)
async def test_names_and_texts_change_nothing_of_what_lasts(scene: Scene, fields: dict[str, Any]) -> None:
    first = await scene.submit("#sim duration=5", **fields, **TEXTS)
    second = await scene.submit("#sim duration=9 print=else", **{**fields, "name": "another"})
    async with scene.db.reading() as tx:
        whole = await store.read_jobs(tx, [first.id, second.id])
        alike = await store.read_alike(tx, [first.id, second.id])
    assert {id: lasting_of(job) for id, job in alike.items()} == {id: lasting_of(job) for id, job in whole.items()}
    assert alike[first.id].spec is alike[second.id].spec, "what is alike is read once"
