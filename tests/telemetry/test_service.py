"""Storing and reading the metrics of jobs, on real databases."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

from dujiang.engines.contract import AttemptKey
from dujiang.engines.local.engine import LocalEngine
from dujiang.jobs.loop.figures import read_event_files
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.telemetry import store
from dujiang.telemetry.domain import FlagKind, Point
from dujiang.telemetry.service import Limits, Recorded, Telemetry
from tests.telemetry.test_eventfiles import Writer, _event

KEY = AttemptKey("job_1", 1)


def _points(*pairs: tuple[int, float], name: str = "loss") -> list[Point]:
    return [Point(name, step, value) for step, value in pairs]


async def test_points_are_read_back_and_told_again_change_nothing(database: Database, clock: ManualClock) -> None:
    telemetry = Telemetry()
    for _ in range(2):
        async with database.transaction() as tx:
            assert await telemetry.record(tx, "job_1", 1, _points((1, 0.5), (2, math.nan), (3, -math.inf))) == Recorded(
                3, 0
            )
        clock.advance(5)
    async with database.reading() as tx:
        curve = await telemetry.curve(tx, "job_1", "loss")
        (latest,) = await telemetry.latest(tx, "job_1")
        assert await telemetry.curve(tx, "job_1", "acc") is None
        assert await telemetry.latest(tx, "job_2") == []
    assert curve is not None
    assert [(one.step, str(one.value)) for one in curve.points] == [(1, "0.5"), (2, "nan"), (3, "-inf")]
    assert curve.points[0].at == clock.now() - timedelta(seconds=5)
    assert (latest.last_step, latest.last_value, latest.first_step) == (3, -math.inf, 1)
    assert [(flag.kind, flag.step) for flag in curve.flags] == [(FlagKind.NOT_A_NUMBER, 2)]


async def test_an_older_step_told_late_does_not_become_the_latest(database: Database) -> None:
    telemetry = Telemetry()
    async with database.transaction() as tx:
        await telemetry.record(tx, "job_1", 1, _points((10, 0.1)))
        await telemetry.record(tx, "job_1", 1, _points((2, 0.9)))
        (latest,) = await telemetry.latest(tx, "job_1")
    assert (latest.first_step, latest.last_step, latest.last_value, latest.points) == (2, 10, 0.1, 2)


async def test_attempts_are_joined_where_the_later_one_resumed(database: Database) -> None:
    telemetry = Telemetry()
    async with database.transaction() as tx:
        await telemetry.record(tx, "job_1", 1, _points((1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)))
        await telemetry.record(tx, "job_1", 2, _points((3, 30.0)))
        await telemetry.record(tx, "job_1", 3, _points((5, 50.0)))
        curve = await telemetry.curve(tx, "job_1", "loss")
        first = await telemetry.curve(tx, "job_1", "loss", attempt=1)
        (latest,) = await telemetry.latest(tx, "job_1")
    assert curve is not None
    assert first is not None
    assert [(one.attempt, one.step, one.value) for one in curve.points] == [
        (1, 1, 1.0), (1, 2, 2.0), (2, 3, 30.0), (3, 5, 50.0),
    ]  # fmt: skip
    assert len(first.points) == 4
    assert latest.attempt == 3


async def test_long_series_are_thinned_and_names_are_bounded(database: Database) -> None:
    telemetry = Telemetry(Limits(names=2, points=100))
    async with database.transaction() as tx:
        for begin in range(0, 1000, 10):
            await telemetry.record(tx, "job_1", 1, _points(*((step, float(step)) for step in range(begin, begin + 10))))
        steps = await store.steps_of(tx, "job_1", 1, "loss")
        more = [Point(name, 1, 1.0) for name in ("a", "b", "c", "loss")]
        assert await telemetry.record(tx, "job_1", 1, more) == Recorded(2, 2)
        curve = await telemetry.curve(tx, "job_1", "loss", most=10)
    assert len(steps) <= 100
    assert (steps[0], steps[-25:]) == (0, list(range(975, 1000)))
    assert curve is not None
    assert [one.step for one in curve.points][0::9] == [0, 999]
    assert len(curve.points) == 10


async def test_output_is_taken_in_pieces_with_the_place_kept_in_the_same_transaction(database: Database) -> None:
    telemetry = Telemetry()
    output = b"epoch=1 loss=0.5\nepoch=2 loss=0.4\nepoch=3 loss=0.3"
    async with database.transaction() as tx:
        assert await telemetry.output_offset(tx, "job_1", 1) == 0
        offset = await telemetry.ingest_output(tx, "job_1", 1, output[:25], offset=0)
        assert offset == 17
    try:
        async with database.transaction() as tx:
            await telemetry.ingest_output(tx, "job_1", 1, output[17:], offset=17, ended=True)
            raise RuntimeError("killed before the commit")
    except RuntimeError:
        pass
    async with database.transaction() as tx:
        offset = await telemetry.output_offset(tx, "job_1", 1)
        assert offset == 17
        assert await telemetry.ingest_output(tx, "job_1", 1, output[offset:], offset=offset) == 34
        assert await telemetry.ingest_output(tx, "job_1", 1, output[34:], offset=34, ended=True) == len(output)
        assert await telemetry.ingest_output(tx, "job_1", 1, output, offset=0, ended=True) == len(output)
        curve = await telemetry.curve(tx, "job_1", "loss")
    assert curve is not None
    assert [(one.step, one.value) for one in curve.points] == [(1, 0.5), (2, 0.4), (3, 0.3)]


async def test_event_files_are_read_on(database: Database, tmp_path: Path, clock: ManualClock) -> None:
    telemetry, engine = Telemetry(), LocalEngine(tmp_path, clock=clock)
    writer = Writer(str(tmp_path / "attempts" / "job_1" / "1" / "output" / "runs"))
    for steps in (range(3), range(3, 5), range(0)):
        for step in steps:
            writer.add_event(_event("loss", step, 1.0 / (step + 1)))
        writer.flush()
        async with database.transaction() as tx:
            offsets = await telemetry.event_offsets(tx, "job_1", 1)
            recorded = await telemetry.ingest_events(tx, "job_1", 1, await read_event_files(engine, KEY, offsets))
        assert recorded.kept == len(steps)
    writer.close()
    async with database.reading() as tx:
        (latest,) = await telemetry.latest(tx, "job_1")
    assert (latest.points, latest.last_step, latest.last_value) == (5, 4, 0.20000000298023224)
