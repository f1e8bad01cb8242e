"""Deployments as jobs of kind service, looked at by the loop, asked over HTTP; the services are real processes."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from dujiang.jobs.domain import JobState
from dujiang.jobs.spec import Kind, SpecInvalid
from dujiang.kit.errors import DujiangError, Stale
from dujiang.models.domain import (
    BadPrediction,
    BeingRemoved,
    Deployment,
    DeploymentState,
    ModelVersion,
    NotServing,
    ServiceGone,
    ServiceTooSlow,
)
from dujiang.models.loop import DeploymentLoop
from dujiang.models.predict import Predictor
from dujiang.models.service.deployments import DeploymentNameTaken
from dujiang.scheduling.domain import ImpossibleRequest
from tests.models.serving.conftest import Serving
from tests.models.worlds import ModelWorld

Launch = Callable[..., Serving]
S = DeploymentState
ROWS = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4, 1, 2, 3, 4]}]}


async def deploy(
    w: ModelWorld, version: ModelVersion, *, name: str | None = None, resources: dict[str, Any] | None = None
) -> Deployment:
    """Deploy a version as the route does."""
    file = await w.artifacts.local(version.digest)
    model = await w.model(version.model)
    async with w.db.transaction() as tx:
        return await w.deployments.deploy(tx, model, version, by="usr_ann", file=file, name=name, resources=resources)


async def serve(w: ModelWorld, launch: Launch, job_id: str) -> Serving:
    """Let a service's job run: the very command that the job has, on a port of its own."""
    job = await w.job(job_id)
    words = shlex.split(job.spec.run)
    serving = launch(*words[4:-2])
    await w.start(job_id, ports=(serving.port,))
    return serving


async def tick(w: ModelWorld, *, after_s: float = 3.0) -> Deployment:
    """Let some time pass and the loop look."""
    w.clock.advance(after_s)
    report = await w.deploying.tick()
    assert report.failed == ""
    return await w.deployment()


async def test_a_version_is_deployed_answers_is_moved_and_removed(world: ModelWorld, launch: Launch) -> None:
    first, second = await world.register(), await world.register()
    made = await deploy(world, first)
    assert (made.state, made.name, made.service.version, made.url) == (S.PENDING, "digits", "v1.0.0", "")
    job = await world.job(made.service.job_id)
    assert (job.spec.kind, job.spec.ports, job.spec.resources.cpu_milli) == (Kind.SERVICE, 1, 1000)
    assert (job.project_id, job.submitted_by) == (world.project_id, "usr_ann")
    assert job.labels == {"dujiang/deployment": made.id, "dujiang/model": "digits:v1.0.0"}
    assert (await tick(world)).state is S.PENDING

    await serve(world, launch, made.service.job_id)
    ready = await tick(world)
    assert ready.state is S.READY
    predictor = Predictor(world.http, within_s=10)
    answer = await ask(predictor, ready)
    assert np.allclose(answer, expected(world, first), atol=1e-6)

    moving = await deploy(world, second)
    assert (moving.state, moving.service.version) == (S.READY, "v1.0.0")
    assert moving.next is not None
    assert moving.next.version == "v1.1.0"
    assert np.allclose(await ask(predictor, moving), expected(world, first), atol=1e-6)
    assert (await tick(world)).service.version == "v1.0.0"
    await serve(world, launch, moving.next.job_id)
    moved = await tick(world)
    assert (moved.state, moved.service.version, moved.next) == (S.READY, "v1.1.0", None)
    assert np.allclose(await ask(predictor, moved), expected(world, second), atol=1e-6)
    assert (await world.job(made.service.job_id)).cancel_at is not None

    async with world.db.transaction() as tx:
        going = await world.deployments.remove(tx, moved)
    assert going.state is S.STOPPING
    assert (await tick(world)).state is S.STOPPING
    with pytest.raises(BeingRemoved):
        await deploy(world, first)
    await world.end(moved.service.job_id)
    await tick_until_gone(world, going.id)
    told = [
        record.type.removeprefix("Deployment")
        for record in await world.told(
            "DeploymentCreated", "DeploymentReady", "DeploymentMoving", "DeploymentMoved", "DeploymentRemovalAsked",
            "DeploymentRemoved",
        )
    ]  # fmt: skip
    assert told == ["Created", "Ready", "Moving", "Moved", "RemovalAsked", "Removed"]
    assert (await deploy(world, first)).id != going.id  # the name is free again


async def ask(predictor: Predictor, one: Deployment, body: dict[str, Any] | None = None) -> Any:
    """Ask a deployment and return what it says of the two rows."""
    request = httpx.Request("POST", "http://x", json=body or ROWS)
    answer = await predictor.ask(one, request.content, {})
    pieces = [piece async for piece in answer.body_iterator]  # type: ignore[attr-defined]
    document = httpx.Response(200, content=b"".join(pieces)).json()
    assert (document["model_name"], document["model_version"]) == ("digits", one.service.version)
    return np.array(document["outputs"][0]["data"]).reshape(2, -1)


def expected(w: ModelWorld, version: ModelVersion) -> Any:
    """Return what ONNX Runtime itself says of the two rows."""
    session = ort.InferenceSession(w.output_of(version.job_id) / "model.onnx")
    rows = np.array(ROWS["inputs"][0]["data"], dtype=np.float32).reshape(2, 4)  # type: ignore[arg-type]
    return session.run(None, {"x": rows})[0]


async def tick_until_gone(w: ModelWorld, deployment_id: str) -> None:
    """Let the loop look once more; the deployment is gone."""
    await w.deploying.tick()
    async with w.db.reading() as tx:
        assert await w.deployments.deployments(tx, None) == []
        (gone,) = await w.deployments.deployments(tx, None, live=False)
        assert (gone.id, gone.state) == (deployment_id, S.REMOVED)
        assert (await w.deployments.deployment(tx, deployment_id, None)).removed_at is not None


async def test_a_service_that_is_started_again_answers_under_its_new_address(
    world: ModelWorld,
    launch: Launch,
) -> None:
    version = await world.register()
    made = await deploy(world, version)
    serving = await serve(world, launch, made.service.job_id)
    ready = await tick(world)
    serving.process.kill()
    serving.process.wait()
    with pytest.raises(ServiceGone, match="started again"):
        await ask(Predictor(world.http, within_s=5), ready)
    assert (await tick(world)).state is S.READY  # one silence is no fault yet
    silent = await tick(world, after_s=6)
    assert (silent.state, silent.reason) == (S.STARTING, "NotAnswering")
    (world.settings.cache_folder / f"{version.digest[7:]}.onnx").unlink()  # someone tidied up meanwhile
    await world.end(made.service.job_id, JobState.FAILED, retry=True)
    waiting = await tick(world)
    assert (waiting.state, waiting.reason, waiting.url) == (S.PENDING, "Retrying", "")
    with pytest.raises(NotServing, match="PENDING") as refused:
        await ask(Predictor(world.http, within_s=5), waiting)
    assert (refused.value.http_status, refused.value.retryable) == (503, True)
    again = await serve(world, launch, made.service.job_id)
    back = await tick(world)
    assert (back.state, back.url) == (S.READY, f"{again.url}/v2/models/digits")
    assert len(await world.told("DeploymentInterrupted")) == 1
    await world.end(made.service.job_id, JobState.FAILED, reason="OutOfMemory")
    failed = await tick(world)
    assert (failed.state, failed.reason) == (S.FAILED, "OutOfMemory")
    anew = await deploy(world, version)
    assert (anew.id, anew.state) == (made.id, S.PENDING)
    assert anew.service.job_id != made.service.job_id


async def test_another_program_on_the_port_is_not_taken_for_the_service(world: ModelWorld, launch: Launch) -> None:
    first, second = await world.register(), await world.register()
    made = await deploy(world, first)
    stranger = launch(f"--model=digits={await world.artifacts.local(second.digest)},version=v1.1.0")
    await world.start(made.service.job_id, ports=(stranger.port,))
    assert (await tick(world)).state is S.STARTING


async def test_a_move_that_fails_leaves_the_old_version_in_use(world: ModelWorld, launch: Launch) -> None:
    first, second = await world.register(), await world.register()
    made = await deploy(world, first)
    await serve(world, launch, made.service.job_id)
    await tick(world)
    moving = await deploy(world, second)
    assert (await deploy(world, second)).next == moving.next  # asked twice, one service
    assert moving.next is not None
    await world.start(moving.next.job_id, ports=(1,))
    await world.end(moving.next.job_id, JobState.FAILED, reason="NonZeroExit")
    kept = await tick(world)
    assert (kept.state, kept.service.version, kept.next, kept.reason) == (S.READY, "v1.0.0", None, "MoveFailed")
    assert "v1.1.0 did not come up" in kept.sentence
    (told,) = await world.told("DeploymentMoveFailed")
    assert (told.payload["version"], told.payload["reason"]) == ("v1.1.0", "NonZeroExit")
    again = await deploy(world, second)
    back = await deploy(world, first)  # rolled back before it came up
    assert (back.next, back.reason) == (None, "Ready")
    assert again.next is not None
    assert (await world.job(again.next.job_id)).state is JobState.CANCELLED


async def test_resources_are_read_like_a_jobs_and_kept_from_one_version_to_the_next(world: ModelWorld) -> None:
    first, second = await world.register(), await world.register()
    made = await deploy(world, first, resources={"cpu": "500m", "gpu": "1/8"})
    job = await world.job(made.service.job_id)
    assert (job.spec.resources.cpu_milli, job.spec.resources.gpu_milli) == (500, 125)
    assert job.spec.resources.memory_bytes == 2**30
    moved = await deploy(world, second)
    assert moved.service.resources == made.service.resources
    assert (await world.job(made.service.job_id)).state is JobState.CANCELLED  # it waited, and nobody needs it
    assert (await deploy(world, second)).service == moved.service
    larger = await deploy(world, second, resources={"memory": "2GiB"})
    assert (await world.job(larger.service.job_id)).spec.resources.memory_bytes == 2**31
    with pytest.raises(SpecInvalid, match=r"resources\.memory"):
        await deploy(world, second, resources={"memory": "much"})
    with pytest.raises(ImpossibleRequest):
        await deploy(world, second, resources={"cpu": 9999})
    assert (await world.deployment()).service == larger.service
    other = await world.register(model="letters")
    with pytest.raises(DeploymentNameTaken, match='serves the model "digits"'):
        await deploy(world, other, name="digits")


async def test_of_two_who_change_a_deployment_at_once_one_is_told(world: ModelWorld) -> None:
    version = await world.register()
    made = await deploy(world, version)
    async with world.db.transaction() as tx:
        await world.deployments.remove(tx, made)
    with pytest.raises(Stale):
        async with world.db.transaction() as tx:
            await world.deployments.remove(tx, made)


async def test_more_deployments_than_one_tick_looks_at(world: ModelWorld) -> None:
    version = await world.register()
    made = [await deploy(world, version, name=f"d{n}") for n in range(7)]
    loop = DeploymentLoop(
        db=world.db, clock=world.clock, deployments=world.deployments, artifacts=world.artifacts, http=world.http,
        settings=world.settings, most=3,
    )  # fmt: skip
    for one in made:
        await world.start(one.service.job_id)
    reports = [await loop.tick() for _ in range(4)]
    assert [report.again for report in reports] == [True, True, False, True]
    assert [report.steps for report in reports] == [{"starting": 3}, {"starting": 3}, {"starting": 1}, {}]


@pytest.fixture
async def odd() -> AsyncIterator[Callable[[bytes], Any]]:
    """Servers that answer every request with the bytes given, or not at all."""
    servers: list[asyncio.Server] = []

    async def start(said: bytes) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if not said:
                await reader.read()
            writer.write(said)
            writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


def _said(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.mark.parametrize(
    ("said", "status", "code", "told"),
    [
        (_said("400 Bad", b'{"error": "Input \\"x\\" is missing."}'), 400, "bad_inference_request", "is missing"),
        (_said("404 No", b"?"), 400, "bad_inference_request", "refused the request with status 404"),
        (_said("413 No", b'{"error": "Send fewer rows."}'), 413, "body_too_large", "fewer rows"),
        (_said("503 Busy", b'{"error": "256 requests wait."}'), 503, "service_busy", "256 requests wait"),
        (_said("500 Oh", b'{"error": "The model failed."}'), 502, "service_failed", "The model failed"),
        (_said("500 Oh", b"x" * 100_000), 502, "service_failed", "failed on this request with status 500"),
        (_said("302 Off", b""), 502, "service_failed", "status 302"),
        (b"gibberish\r\n\r\n", 502, "service_gone", "does not answer"),
        (b"", 504, "service_too_slow", "within 0.3 s"),
    ],
)
async def test_what_a_caller_is_told_when_the_service_does_not_answer_well(
    world: ModelWorld, odd: Callable[[bytes], Any], said: bytes, status: int, code: str, told: str
) -> None:
    made = await deploy(world, await world.register())
    url = f"http://127.0.0.1:{await odd(said)}/v2/models/digits"
    with pytest.raises(DujiangError) as refused:
        await Predictor(world.http, within_s=0.3).ask(replace(made, state=S.READY, url=url), b"{}", {})
    assert (refused.value.http_status, refused.value.code) == (status, code)
    assert told in refused.value.sentence


async def test_the_models_own_refusal_reaches_the_caller(world: ModelWorld, launch: Launch) -> None:
    made = await deploy(world, await world.register())
    await serve(world, launch, made.service.job_id)
    ready = await tick(world)
    with pytest.raises(BadPrediction, match='"inputs" must be a non-empty list'):
        await ask(Predictor(world.http, within_s=5), ready, {"inputs": []})


async def test_a_service_that_cannot_be_reached_is_told_at_once(world: ModelWorld) -> None:
    made = await deploy(world, await world.register())
    gone = replace(made, state=S.READY, url="http://127.0.0.1:9/v2/models/digits")
    with pytest.raises(ServiceGone):
        await Predictor(world.http, within_s=5).ask(gone, b"{}", {})
    assert ServiceTooSlow.retryable


async def test_files_of_services_that_are_gone_are_cleared(world: ModelWorld, tmp_path: Path) -> None:
    first, second = await world.register(), await world.register()
    made = await deploy(world, first)
    await world.artifacts.local(second.digest)
    world.clock.step(10 * 365 * 86400)
    await world.deploying.tick()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [f"{made.service.digest[7:]}.onnx"]
