"""From a job that completed to a version with its file and lineage."""

from __future__ import annotations

import asyncio
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dujiang.engines.contract import AttemptKey
from dujiang.engines.lines import Lines
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.jobs.domain import JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError, Stale
from dujiang.kit.ids import Ids
from dujiang.models.domain import NoSuchAlias, VersionNotReady, VersionReason, VersionState
from tests.hanging import Hanging
from tests.models.serving import nets
from tests.models.worlds import ModelWorld, a_model_world
from tests.pool.worlds import CLUSTER

FACTS = {
    "inputs": {"digits": {"digest": "ab" * 32, "bytes": 1797, "method": "sha256", "path": "/data/digits.csv"}},
    "environment": {"python": "3.11.2", "packages": {"scikit-learn": "1.9.0"}},
}


async def test_a_completed_job_becomes_a_version_with_all_it_was_made_from(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_model_world(database, clock, ids, tmp_path) as w:
        metrics = {"accuracy": 0.97, "loss": float("nan")}
        job = await w.train(facts=FACTS, metrics=metrics)
        await w.outbox.tick()
        proposed = await w.version_of(job)
        assert (str(proposed.number), proposed.state, proposed.reason) == ("v1.0.0", "PENDING", "AwaitingFigures")
        assert (await w.registration.tick()).steps == {"registered": 1}
        version = await w.version_of(job)
        assert (version.state, version.reason, version.attempt) == (VersionState.READY, "Registered", 1)
        assert version.metrics == {"accuracy": 0.97}
        assert version.signature["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        file = w.output_of(job.id) / "model.onnx"
        assert (await w.objects.verify(version.digest)).bytes == version.bytes == file.stat().st_size
        async with w.db.reading() as tx:
            lineage = await w.registry.lineage(tx, version)
        assert lineage.params == {"learning_rate": 0.1, "layers": 2}
        assert lineage.inputs == {"digits": {"digest": "ab" * 32, "bytes": 1797, "method": "sha256"}}
        assert lineage.environment == FACTS["environment"]
        told = await w.told("ModelCreated", "ModelVersionProposed", "ModelVersionRegistered")
        assert [record.type for record in told] == ["ModelCreated", "ModelVersionProposed", "ModelVersionRegistered"]
        assert {record.project_id for record in told} == {w.project_id}
        assert (await w.registration.tick()).steps == {}
        second = await w.register()
        assert str(second.number) == "v1.1.0"
        async with w.db.reading() as tx:
            (listed,) = await w.registry.models(tx, [w.project_id])
            assert (listed.versions, str(listed.latest)) == (2, "v1.1.0")
            page = await w.registry.versions(tx, listed.model, before=second.number)
            assert [one.id for one in page] == [version.id]


async def test_an_event_handled_twice_makes_one_version(world: ModelWorld) -> None:
    job = await world.train()
    (record,) = [one for one in await world.told("JobEnded") if one.subject == job.id]
    for _ in range(2):
        async with world.db.transaction() as tx:
            await world.registry.job_ended(tx, record)
    async with world.db.reading() as tx:
        assert len(await world.registry.pending(tx)) == 1


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT])
async def test_a_job_that_did_not_complete_makes_none(world: ModelWorld, state: JobState) -> None:
    await world.train(state=state)
    await world.outbox.tick()
    async with world.db.reading() as tx:
        assert await world.registry.models(tx, None) == []


async def test_a_job_may_ask_for_its_number(world: ModelWorld) -> None:
    numbers = []
    for asked in ("v2.0.0", "patch", "", "v2.0.0", "major"):
        version = await world.register(labels={"model-version": asked} if asked else {})
        numbers.append(str(version.number))
    assert numbers == ["v2.0.0", "v2.0.1", "v2.1.0", "v2.2.0", "v3.0.0"]
    async with world.db.reading() as tx:
        taken = await world.registry.version(tx, await world.model(), "v2.2.0")
    assert taken.state is VersionState.READY
    assert "v2.0.0 already" in taken.sentence


def _folder(output: Path) -> None:
    (output / "model.onnx").mkdir()


def _link_out(output: Path) -> None:
    nets.mlp(output.parent / "elsewhere.onnx")
    (output / "model.onnx").symlink_to(output.parent / "elsewhere.onnx")


def _link_of_folder_out(output: Path) -> None:
    (output.parent / "far").mkdir()
    nets.mlp(output.parent / "far" / "model.onnx")
    (output / "deep").symlink_to(output.parent / "far")


def _loop(output: Path) -> None:
    (output / "model.onnx").symlink_to("model.onnx")


def _exchanged(output: Path) -> None:
    elsewhere = output.with_name("elsewhere")
    elsewhere.mkdir()
    nets.mlp(elsewhere / "model.onnx")
    output.rmdir()
    output.symlink_to(elsewhere)


def _pipe(output: Path) -> None:
    os.mkfifo(output / "model.onnx")


def _weights_elsewhere(output: Path) -> None:
    """A model whose weights are in a second file, which is no part of a version."""
    weights = numpy_helper.from_array(np.ones((4, 3), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "net",
        [nets.value("x", TensorProto.FLOAT, "n", 4)], [nets.value("y", TensorProto.FLOAT, "n", 3)], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, output / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)


def _enormous(output: Path) -> None:
    """A few hundred bytes that ONNX Runtime unfolds into gigabytes while it loads them."""
    shape = numpy_helper.from_array(np.array([2**27], dtype=np.int64), "shape")
    one = numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")
    nets.save(
        output / "model.onnx",
        [
            helper.make_node("Expand", ["one", "shape"], ["many"]), helper.make_node("Exp", ["many"], ["more"]),
            helper.make_node("Add", ["x", "more"], ["y"]),
        ],
        [nets.value("x", TensorProto.FLOAT, 1)], [nets.value("y", TensorProto.FLOAT, None)], [shape, one],
    )  # fmt: skip


REFUSED: list[tuple[Callable[[Path], None], str, VersionReason, str]] = [
    (lambda output: None, "model.onnx", VersionReason.FILE_MISSING, "The folder holds no file"),
    (
        lambda output: (output / "other.onnx").write_bytes(b"x") and None,
        "model.onnx",
        VersionReason.FILE_MISSING,
        "It holds other.onnx",
    ),
    (lambda output: (output / "model.onnx").touch(), "model.onnx", VersionReason.FILE_EMPTY, "is empty"),
    (_folder, "model.onnx", VersionReason.NOT_A_FILE, "no regular file"),
    (_pipe, "model.onnx", VersionReason.NOT_A_FILE, "no regular file"),
    (_link_out, "model.onnx", VersionReason.OUTSIDE_OUTPUT_FOLDER, "leads out"),
    (_link_of_folder_out, "deep/model.onnx", VersionReason.OUTSIDE_OUTPUT_FOLDER, "leads out"),
    (_loop, "model.onnx", VersionReason.OUTSIDE_OUTPUT_FOLDER, "too many links"),
    (_exchanged, "model.onnx", VersionReason.OUTSIDE_OUTPUT_FOLDER, "leads out"),
    (lambda output: output.rmdir(), "model.onnx", VersionReason.NO_OUTPUT_FOLDER, "has no output folder"),
    (
        lambda output: (output / "model.onnx").write_bytes(b"not a model at all") and None,
        "model.onnx",
        VersionReason.NOT_LOADABLE,
        "not a model that ONNX Runtime can load",
    ),
    (_weights_elsewhere, "model.onnx", VersionReason.NOT_LOADABLE, "with its weights inside"),
    (_enormous, "model.onnx", VersionReason.NOT_LOADABLE, "far more memory"),
]


@pytest.mark.parametrize(("make", "path", "reason", "told"), REFUSED)
async def test_what_cannot_be_a_version_fails_with_its_reason(
    world: ModelWorld, make: Callable[[Path], None], path: str, reason: VersionReason, told: str
) -> None:
    job = await world.train(b"", path=path)
    output = world.output_of(job.id)
    (output / "model.onnx").unlink()
    make(output)
    await world.outbox.tick()
    assert (await world.registration.tick()).steps == {"refused": 1}
    version = await world.version_of(job)
    assert (version.state, version.reason) == (VersionState.FAILED, reason)
    assert told in version.sentence
    assert str(world.folder) not in version.sentence  # a tenant is not told where the platform keeps things
    assert [record.payload["reason"] for record in await world.told("ModelVersionFailed")] == [reason]
    assert not list((world.folder / "objects").glob("staging/*"))
    with pytest.raises(VersionNotReady, match="could not be registered"):
        async with world.db.transaction() as tx:
            await world.registry.set_alias(tx, await world.model(), "production", "v1.0.0", by="usr_ann")


@pytest.mark.parametrize(
    ("script", "told"), [("sleep 30", "not loaded within 0.5 s"), ("kill -SEGV $$", "broke off by signal 11"),
                         ("echo '[]'", "broke off with status 0")],
)  # fmt: skip
async def test_a_check_that_hangs_dies_or_babbles_refuses_the_file(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, script: str, told: str
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    async with a_model_world(sqlite, clock, ids, tmp_path, python=str(interpreter), check_within_s=0.5) as w:
        version = await w.register()
        assert (version.state, version.reason) == (VersionState.FAILED, VersionReason.CHECK_BROKE_OFF)
        assert told in version.sentence


async def test_a_cluster_that_gives_no_files_or_is_gone_says_why(world: ModelWorld) -> None:
    simulated = await world.register(cluster="virtual")
    assert (simulated.state, simulated.reason) == (VersionState.FAILED, VersionReason.NO_OUTPUT_FOLDER)
    assert "Nothing real runs on a simulated cluster" in simulated.sentence
    gone = await world.register(cluster="sold")
    assert (gone.state, gone.reason) == (VersionState.FAILED, VersionReason.NO_OUTPUT_FOLDER)
    assert '"sold"' in gone.sentence


async def test_while_a_cluster_is_away_its_versions_wait_and_others_do_not(world: ModelWorld) -> None:
    world.clusters["away"] = SlurmEngine(SlurmSettings(work_dir=str(world.folder / "unmounted")), clock=world.clock)
    job, other = await world.train(cluster="away"), await world.train()
    await world.outbox.tick()
    assert (await world.registration.tick()).steps == {"delayed": 1, "registered": 1}
    version = await world.version_of(job)
    assert (version.state, version.reason) == (VersionState.PENDING, VersionReason.CLUSTER_AWAY)
    assert "mount it again" in version.sentence
    assert (await world.version_of(other)).state is VersionState.READY
    mounted = world.folder / "unmounted" / "attempts" / job.id / "1" / "output"
    mounted.mkdir(parents=True)
    nets.mlp(mounted / "model.onnx")
    assert (await world.registration.tick()).steps == {"registered": 1}
    assert (await world.version_of(job)).state is VersionState.READY


async def test_a_cluster_that_hangs_is_waited_for_once_a_tick(world: ModelWorld) -> None:
    hanging = Hanging(world.engine)
    hanging.hang("output")
    lines = Lines({"hung": hanging, CLUSTER: world.engine}, clock=world.clock, within_s=30.0)
    world.clusters.update(lines)
    jobs = [await world.train(cluster="hung"), await world.train(cluster="hung"), await world.train()]
    await world.outbox.tick()
    tick = asyncio.ensure_future(world.registration.tick())
    while not hanging.under_way["output"]:  # noqa: ASYNC110 - a thread makes the folder that it goes to first
        await asyncio.sleep(0)
    world.clock.advance(31)
    await lines.tick()
    assert (await tick).steps == {"delayed": 1}  # it took long enough for a tick
    assert hanging.made["output"] == 1
    assert (await world.registration.tick()).steps["registered"] == 1
    hanging.let_go()
    for _ in range(100):  # the answer that was held back comes in its own time
        await world.registration.tick()
        if {(await world.version_of(job)).state for job in jobs} == {VersionState.READY}:
            return
    raise AssertionError("it was never registered")


async def test_a_file_beyond_the_limit_is_refused(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_model_world(sqlite, clock, ids, tmp_path, largest_artifact_bytes=100) as w:
        version = await w.register()
        assert (version.state, version.reason) == (VersionState.FAILED, VersionReason.FILE_TOO_LARGE)
        assert "larger than 100B" in version.sentence


async def test_a_version_waits_for_the_figures_but_not_for_ever(world: ModelWorld) -> None:
    job = await world.train(read_all=False)
    await world.outbox.tick()
    assert (await world.registration.tick()).steps == {}
    world.clock.advance(59)
    assert (await world.registration.tick()).steps == {}
    world.clock.advance(1)
    assert (await world.registration.tick()).steps == {"registered": 1}
    assert (await world.version_of(job)).metrics == {"accuracy": 0.97}


async def test_while_the_object_store_is_away_versions_wait_and_say_so(world: ModelWorld) -> None:
    jobs = [await world.train(), await world.train()]
    await world.outbox.tick()
    root = world.folder / "objects"
    shutil.move(root, world.folder / "gone")
    for _ in range(2):
        report = await world.registration.tick()
        assert (report.steps, report.again) == ({"delayed": 2}, False)
        assert "is gone; mount it again" in report.failed
    for job in jobs:
        version = await world.version_of(job)
        assert (version.state, version.reason) == (VersionState.PENDING, VersionReason.OBJECT_STORE_AWAY)
        assert "mount it again" in version.sentence
        assert version.lock == 1  # saying the same again writes nothing
    shutil.move(world.folder / "gone", root)
    assert (await world.registration.tick()).steps == {"registered": 2}
    assert (await world.version_of(jobs[0])).sentence == ""


async def test_killed_between_storing_and_noting_it_registers_the_same_file_once(world: ModelWorld) -> None:
    job = await world.train()
    await world.outbox.tick()
    before = await world.version_of(job)
    taken = await world.artifacts.take(world.engine, AttemptKey(job.id, 1), "model.onnx")  # and then the power went
    assert (await world.registration.tick()).steps == {"registered": 1}
    version = await world.version_of(job)
    assert version.digest == taken.digest
    assert len([one async for one in world.objects.walk()]) == 1
    with pytest.raises(Stale):  # a second replica that took the same version comes too late
        async with world.db.transaction() as tx:
            await world.registry.settle(tx, before, None, taken)


async def test_more_versions_wait_than_one_tick_takes(world: ModelWorld) -> None:
    stuck = [await world.train(b"x" * 10, read_all=False) for _ in range(20)]
    fresh = await world.train()
    await world.outbox.tick()
    for _ in range(2):
        await world.registration.tick()
    assert (await world.version_of(fresh)).state is VersionState.READY
    assert (await world.version_of(stuck[0])).state is VersionState.PENDING


async def test_an_alias_names_one_version_and_moves_back(world: ModelWorld) -> None:
    first, second = await world.register(), await world.register()
    model = await world.model()
    for ref, expected in (("v1.0.0", first), ("latest", second), ("1.0.0", first), ("1.0.0", first)):
        async with world.db.transaction() as tx:
            assert (await world.registry.set_alias(tx, model, "production", ref, by="usr_ann")).id == expected.id
            assert (await world.registry.version(tx, model, "production")).id == expected.id
    moves = [(one.payload["version"], one.payload["previous"]) for one in await world.told("AliasSet")]
    assert moves == [("v1.0.0", ""), ("v1.1.0", "v1.0.0"), ("v1.0.0", "v1.1.0")]
    async with world.db.transaction() as tx:
        assert await world.registry.alias_map(tx, model) == {"production": "v1.0.0"}
        await world.registry.remove_alias(tx, model, "production")
        with pytest.raises(NoSuchAlias):
            await world.registry.remove_alias(tx, model, "production")
    async with world.db.reading() as tx:
        for ref in ("production", "v9.0.0", "", "../x", "x" * 500):
            with pytest.raises(DujiangError, match=r"it has v1\.1\.0, v1\.0\.0"):
                await world.registry.version(tx, model, ref)


async def test_copies_for_services_are_right_whatever_happened_to_them(world: ModelWorld) -> None:
    version = await world.register()
    path = await world.artifacts.local(version.digest)
    whole = path.read_bytes()
    assert zlib.crc32(whole) == zlib.crc32((world.output_of(version.job_id) / "model.onnx").read_bytes())
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert (await world.artifacts.local(version.digest)).read_bytes() == whole
    path.unlink()
    assert (await world.artifacts.local(version.digest)).read_bytes() == whole
    world.clock.step(10 * 365 * 86400)
    late = world.clock.now().timestamp()
    assert await world.artifacts.prune({version.digest}, before_timestamp=late) == 0
    assert await world.artifacts.prune(set(), before_timestamp=late) == 1
    assert (await world.artifacts.local(version.digest)).read_bytes() == whole
