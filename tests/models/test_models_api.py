"""The routes of models and deployments, asked as each role."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort

from dujiang.kit import journal
from dujiang.tenancy.domain import Role
from tests.models.serving.conftest import Serving
from tests.models.worlds import ModelWorld


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    """Return the JSON of an answer with that status."""
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_models_versions_and_lineage_are_listed_page_by_page(world: ModelWorld) -> None:
    for _ in range(3):
        await world.register(metrics={"accuracy": 0.5})
    await world.register(model="letters")
    async with world.app.client(Role.MEMBER) as client:
        page = await get(client, "/v1/models?limit=1")
        rest = await get(client, f"/v1/models?limit=5&cursor={page['next_cursor']}")
        models = [*page["items"], *rest["items"]]
        assert [(one["name"], one["versions"], one["latest_version"]) for one in models] == [
            ("digits", 3, "v1.2.0"),
            ("letters", 1, "v1.0.0"),
        ]
        assert {one["project"] for one in models} == {"own"}
        page = await get(client, "/v1/models/digits/versions?limit=2")
        rest = await get(client, f"/v1/models/digits/versions?limit=2&cursor={page['next_cursor']}")
        assert [one["version"] for one in page["items"] + rest["items"]] == ["v1.2.0", "v1.1.0", "v1.0.0"]
        assert rest["next_cursor"] is None
        found = await get(client, "/v1/models/digits/versions/latest")
        assert (found["version"], found["state"], found["metrics"]) == ("v1.2.0", "READY", {"accuracy": 0.5})
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        lineage = found["lineage"]
        assert (lineage["params"], lineage["job_name"]) == ({"learning_rate": 0.1, "layers": 2}, "train")
        assert lineage["job_id"] == found["job_id"]
        assert (await get(client, "/v1/models/digitz", 404))["detail"].endswith('Did you mean "digits"?')
        assert (await get(client, "/v1/models/digits/versions/v7.0.0", 404))["code"] == "no_such_version"
        assert (await get(client, "/v1/models?cursor=abc", 422))["code"] == "bad_cursor"


async def test_an_artifact_comes_back_byte_for_byte_or_not_at_all(world: ModelWorld) -> None:
    version = await world.register()
    file = world.output_of(version.job_id) / "model.onnx"
    async with world.app.client(Role.AUDITOR) as client:
        answer = await client.get("/v1/models/digits/versions/v1.0.0/artifact")
        assert answer.content == file.read_bytes()
        assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == version.digest
        assert answer.headers["etag"] == f'"{version.digest}"'
        assert 'filename="digits-v1.0.0.onnx"' in answer.headers["content-disposition"]
        stored = world.folder / "objects" / "sha256" / version.digest[7:9] / version.digest[9:]
        stored.chmod(0o644)
        stored.write_bytes(b"x" * version.bytes)
        assert (await get(client, "/v1/models/digits/versions/v1.0.0/artifact", 500))["code"] == "object_corrupt"
        stored.unlink()
        assert (await get(client, "/v1/models/digits/versions/v1.0.0/artifact", 404))["code"] == "object_missing"
        await world.register(file=b"broken")
        assert (await get(client, "/v1/models/digits/versions/v1.1.0/artifact", 409))["code"] == "version_not_ready"


async def test_aliases_are_set_and_removed_over_http(world: ModelWorld) -> None:
    await world.register()
    await world.register()
    async with world.app.client(Role.MEMBER) as client:
        for version in ("v1.1.0", "v1.0.0"):
            answer = await client.put("/v1/models/digits/aliases/production", json={"version": version})
            assert (answer.status_code, answer.json()["aliases"]) == (200, ["production"])
        assert (await get(client, "/v1/models/digits"))["aliases"] == {"production": "v1.0.0"}
        assert (await get(client, "/v1/models/digits/versions/production"))["version"] == "v1.0.0"
        for alias, version, status in (("v2", "v1.0.0", 422), ("a", "v3.0.0", 404), ("a", "", 422)):
            answer = await client.put(f"/v1/models/digits/aliases/{alias}", json={"version": version})
            assert answer.status_code == status, answer.text
        assert (await client.delete("/v1/models/digits/aliases/production")).status_code == 204
        assert (await client.delete("/v1/models/digits/aliases/production")).status_code == 404
    async with world.app.client(Role.AUDITOR) as client:
        answer = await client.put("/v1/models/digits/aliases/production", json={"version": "v1.0.0"})
        assert answer.status_code == 403


async def test_another_tenants_models_and_deployments_are_not_there(world: ModelWorld) -> None:
    other = world.app.projects["other"]
    await world.register(project_id=other)
    async with world.app.client(Role.ADMIN) as admin:
        made = await admin.post("/v1/deployments", json={"model": "digits"})
        assert made.status_code == 201, made.text
    dep, mdl = made.json()["id"], (await world.model()).id
    async with world.app.client(Role.MEMBER) as client:
        assert (await get(client, "/v1/models"))["items"] == (await get(client, "/v1/deployments"))["items"] == []
        for project in ("", "?project=other"):
            for path in (
                "/v1/models/digits", f"/v1/models/{mdl}", "/v1/models/digits/versions",
                "/v1/models/digits/versions/v1.0.0", "/v1/models/digits/versions/v1.0.0/artifact",
                "/v1/deployments/digits", f"/v1/deployments/{dep}",
            ):  # fmt: skip
                await get(client, path + project, 404)
            alias = f"/v1/models/digits/aliases/production{project}"
            assert (await client.put(alias, json={"version": "v1.0.0"})).status_code == 404
            assert (await client.delete(alias)).status_code == 404
            assert (await client.delete(f"/v1/deployments/digits{project}")).status_code == 404
            assert (await client.post(f"/v1/deployments/digits/predict{project}", json={})).status_code == 404
        for body in ({"model": "digits"}, {"model": "digits", "project": "other"}, {"model": mdl}):
            assert (await client.post("/v1/deployments", json=body)).status_code == 404
    async with world.app.client(Role.MANAGER) as client:  # sees it, and works only in projects of their own
        assert (await get(client, "/v1/deployments/digits"))["id"] == dep
        for call in (
            client.delete("/v1/deployments/digits"), client.post("/v1/deployments", json={"model": "digits"}),
            client.post("/v1/deployments/digits/predict", json={}),
            client.put("/v1/models/digits/aliases/a", json={"version": "v1.0.0"}),
        ):  # fmt: skip
            assert (await call).status_code == 403


async def test_of_several_projects_the_own_one_wins_and_otherwise_one_must_be_named(world: ModelWorld) -> None:
    await world.register(project_id=world.app.projects["other"])
    await world.register()
    async with world.app.client(Role.ADMIN) as client:
        assert (await get(client, "/v1/models/digits", 422))["code"] == "name_a_project"
        assert (await get(client, "/v1/models/digits?project=other"))["project"] == "other"
        assert len((await get(client, "/v1/models"))["items"]) == 2
        assert len((await get(client, "/v1/models?project=own"))["items"]) == 1
    async with world.app.client(Role.MEMBER) as client:
        assert (await get(client, "/v1/models/digits"))["project"] == "own"


async def test_a_deployment_is_made_once_for_one_key_and_bad_wishes_are_refused(world: ModelWorld) -> None:
    await world.register()
    async with world.app.client(Role.MEMBER) as client:
        body = {"model": "digits", "name": "d", "resources": {"cpu": "0.5"}}
        answers = [await client.post("/v1/deployments", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].json() == answers[1].json()
        assert len((await get(client, "/v1/deployments"))["items"]) == 1
        assert answers[0].json()["resources"] == {"cpu": 0.5, "memory": "1GiB", "disk": 0}
        for wrong, status, told in [
            ({"model": "digits", "version": "v9.0.0"}, 404, "has no version"),
            ({"model": "digits", "version": "v1.0.0", "alias": "a"}, 422, "either"),
            ({"model": "digits", "name": "No Name"}, 422, "name"),
            ({"model": "digits", "resources": {"cpu": "many"}}, 422, "resources.cpu"),
            ({"model": "digits", "resources": {"cpu": 5000}}, 422, "largest possible is 8"),
            ({"model": "digits", "resources": {"tpu": 1}}, 422, "there is no such field"),
            ({}, 422, "model"),
        ]:
            answer = await client.post("/v1/deployments", json=wrong)
            assert answer.status_code == status, answer.text
            assert told in answer.text
        assert len((await get(client, "/v1/deployments"))["items"]) == 1


async def test_with_the_object_store_away_a_first_deployment_says_so_and_can_be_tried_again(world: ModelWorld) -> None:
    await world.register()
    root = world.folder / "objects"
    root.rename(world.folder / "gone")
    async with world.app.client(Role.MEMBER) as client:
        answer = await client.post("/v1/deployments", json={"model": "digits"})
        assert (answer.status_code, answer.json()["retryable"]) == (503, True)
        (world.folder / "gone").rename(root)
        assert (await client.post("/v1/deployments", json={"model": "digits"})).status_code == 201


async def test_predictions_go_through_and_leave_no_record_each(
    world: ModelWorld, launch: Callable[..., Serving]
) -> None:
    version = await world.register()
    async with world.app.client(Role.MEMBER) as client:
        made = (await client.post("/v1/deployments", json={"model": "digits", "alias": None})).json()
        rows = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        refused = await client.post("/v1/deployments/digits/predict", json=rows)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_serving")
        assert refused.headers["retry-after"] == "1"
        job = await world.job(made["job_id"])
        serving = launch(*shlex.split(job.spec.run)[4:-2])
        await world.start(job.id, ports=(serving.port,))
        await world.deploying.tick()
        shown = await get(client, "/v1/deployments/digits")
        assert (shown["state"], shown["url"]) == ("READY", f"{serving.url}/v2/models/digits")
        async with world.db.reading() as tx:
            before = await journal.latest_seq(tx.connection)
        answers = await asyncio.gather(*(client.post("/v1/deployments/digits/predict", json=rows) for _ in range(5)))
        wanted = ort.InferenceSession(world.output_of(version.job_id) / "model.onnx").run(
            None, {"x": np.array([[1, 2, 3, 4]], dtype=np.float32)}
        )[0]
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert np.allclose(answer.json()["outputs"][0]["data"], wanted[0], atol=1e-6)
        async with world.db.reading() as tx:
            assert await journal.latest_seq(tx.connection) == before
        wrong = await client.post(
            "/v1/deployments/digits/predict", json={"inputs": [{**rows["inputs"][0], "name": "y"}]}
        )
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_inference_request")
        assert '"y"' in wrong.json()["detail"]
        removed = await client.delete("/v1/deployments/digits")
        assert (removed.status_code, removed.json()["state"]) == (202, "STOPPING")
        await world.end(job.id)
        await world.deploying.tick()
        await get(client, "/v1/deployments/digits", 404)
        assert (await get(client, f"/v1/deployments/{made['id']}"))["state"] == "REMOVED"
        assert [one["state"] for one in (await get(client, "/v1/deployments?all=true"))["items"]] == ["REMOVED"]
