"""Output that was read is removed when it is old, of nobody any more, and this platform's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.engines.kubernetes.clearing import Clearing, clear
from dujiang.engines.kubernetes.output import At, Writer
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import ManualClock

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = AttemptKey("job_a", 1)


def kept(folder: Path, key: AttemptKey, *, days: float, mark: str = "ours", ranks: int = 1) -> Path:
    """Keep a line of each rank, read so many days ago."""
    attempt = folder / key.job_id / str(key.number)
    for rank in range(ranks):
        writer = Writer(attempt / str(rank), At(uid="u", mark=mark))
        writer.take(b"2026-01-31T12:00:00.5Z a line\n")
        writer.close(is_whole=True)
        at_s = (NOW - timedelta(days=days)).timestamp()
        os.utime(attempt / str(rank) / "at.json", (at_s, at_s))
    return attempt


def cleared(folder: Path, *known: AttemptKey, days: float = 30.0) -> int:
    before_s = (NOW - timedelta(days=days)).timestamp()
    return clear(folder, "ours", {str(key) for key in known}, before_s)


def test_what_is_old_goes_with_the_folder_of_its_job(tmp_path: Path) -> None:
    old = kept(tmp_path, KEY, days=31.0, ranks=2)
    young = kept(tmp_path, AttemptKey("job_b", 1), days=29.0)
    beside = kept(tmp_path, AttemptKey("job_c", 2), days=1.0)
    gone = kept(tmp_path, AttemptKey("job_c", 1), days=40.0)
    assert cleared(tmp_path) == 2
    assert not old.parent.exists()
    assert not gone.exists()
    assert young.exists()
    assert beside.exists()
    assert cleared(tmp_path) == 0


def test_what_the_cluster_still_has_stays(tmp_path: Path) -> None:
    there = kept(tmp_path, KEY, days=90.0)
    assert cleared(tmp_path, KEY) == 0
    assert there.exists()


def test_one_rank_that_was_read_lately_keeps_all_of_an_attempt(tmp_path: Path) -> None:
    there = kept(tmp_path, KEY, days=90.0, ranks=2)
    os.utime(there / "1" / "at.json", (NOW.timestamp(), NOW.timestamp()))
    assert cleared(tmp_path) == 0
    assert (there / "0" / "at.json").exists()


def test_what_another_platform_has_read_stays_and_what_nobody_says_is_ours(tmp_path: Path) -> None:
    theirs = kept(tmp_path, KEY, days=90.0, mark="theirs")
    mixed = kept(tmp_path, AttemptKey("job_b", 1), days=90.0, ranks=2)
    at = orjson.loads((mixed / "1" / "at.json").read_bytes())
    (mixed / "1" / "at.json").write_bytes(orjson.dumps({**at, "mark": "theirs"}))
    os.utime(mixed / "1" / "at.json", (0, 0))
    before = kept(tmp_path, AttemptKey("job_c", 1), days=90.0)  # by a release that did not say
    (before / "0" / "at.json").write_bytes(orjson.dumps({k: v for k, v in asdict(At()).items() if k != "mark"}))
    os.utime(before / "0" / "at.json", (0, 0))
    foreign = tmp_path / "job_d" / "1"
    (foreign / "0").mkdir(parents=True)
    (foreign / "0" / "at.json").write_text("no JSON")
    (tmp_path / "readme").write_text("a file of somebody")
    (tmp_path / "link").symlink_to(kept(tmp_path / "elsewhere" / "deep", KEY, days=90.0).parent.parent)
    assert cleared(tmp_path) == 0
    for folder in (theirs, mixed, before, foreign, tmp_path / "link" / "job_a" / "1"):
        assert folder.exists(), folder


async def looked(clearing: Clearing, known: Collection[AttemptKey]) -> None:
    clearing.look(known)
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "kubernetes output"]
    await asyncio.gather(*tasks)


async def test_it_is_looked_through_at_the_start_and_once_a_day(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    clearing = Clearing(tmp_path, "ours", clock, kept_days=30.0)
    first = kept(tmp_path, KEY, days=31.0)
    await looked(clearing, [KEY])
    assert first.exists(), "the cluster has it"
    await looked(clearing, [])
    assert first.exists(), "not twice a day"
    clock.advance(86_400.0)
    await looked(clearing, [])
    assert not first.exists()
    await clearing.close()


async def test_nothing_goes_where_all_is_to_be_kept(tmp_path: Path) -> None:
    clearing = Clearing(tmp_path, "ours", ManualClock(NOW), kept_days=0.0)
    there = kept(tmp_path, KEY, days=9000.0)
    await looked(clearing, [])
    assert there.exists()
    await clearing.close()
    with pytest.raises(ValueError, match="0 keeps output for ever"):
        KubernetesSettings(image="i", output_days=-1.0)
