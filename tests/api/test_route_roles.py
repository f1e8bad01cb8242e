"""Walks every route of the whole platform as every role, against the table in `route_roles`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dujiang.api.app import PUBLIC, exposed
from dujiang.jobs.spec import parse
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.models.artifacts import Taken
from dujiang.tenancy.domain import OWN_PROJECTS_ONLY, PERMISSIONS, Role
from tests.api.route_roles import ENDLESS, HIDDEN_FROM, ROLES, ROUTES
from tests.platforms import NODE, Scene, a_scene

BODIES: dict[str, Any] = {
    "POST /v1/jobs/{job_id}/metrics": {"points": [{"name": "score", "step": 1, "value": 1.0}]},
    "POST /v1/deployments/{name}/predict": {"inputs": []},
    "PUT /v1/models/{name}/aliases/{alias}": {"version": "latest"},
    "POST /v1/jobs/{job_id}/cancel": {},
    "POST /v1/arrays/{array_id}/cancel": {},
}
"""What a route needs so that it comes to look for its object."""
ABSENT = "job_" + "0" * 26


@dataclass
class Stage:
    """A platform with a job, a model with a version and an alias, and a deployment in each of two projects."""

    scene: Scene
    jobs: dict[str, str]
    """Ids by project; models and deployments are named `m-PROJECT`."""
    arrays: dict[str, str]

    def path(self, route: str, project: str) -> tuple[str, str]:
        """Return method and path with the names of a project's things; of `absent`, names of nothing."""
        method, path = route.split(" ")
        thing = NODE if path.startswith("/v1/nodes/") else f"m-{project}"
        values = {
            "project": project, "user": "nobody", "token": "tok_none", "job_id": self.jobs.get(project, ABSENT),
            "schedule": thing, "array_id": self.arrays.get(project, ABSENT.replace("job", "arr")),
            "name": thing, "version": "latest", "alias": "best", "reservation": "none",
        }  # fmt: skip
        return method, path.format(**values)

    async def ask(self, client: httpx.AsyncClient, route: str, project: str, body: Any = None) -> httpx.Response:
        """Call a route; a stream that never ends is ended as when the process stops."""
        method, path = self.path(route, project)
        closing = self.scene.platform.door.closing
        if route in ENDLESS:
            closing.set()
        try:
            return await client.request(method, path, json=None if method == "GET" else body)
        finally:
            closing.clear()


@pytest.fixture
async def stage(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_scene(sqlite, clock, ids, tmp_path) as scene:
        jobs = {project: await _furnish(scene, project, tmp_path) for project in ("own", "other")}
        async with scene.db.transaction() as tx:
            for role in (Role.ADMIN, Role.OPERATOR, Role.MANAGER):  # as workers they reach their own projects alone
                await scene.platform.tenancy.add_member(tx, scene.projects["own"], scene.users[role])
        arrays = {project: await _array(scene, project) for project in ("own", "other")}
        yield Stage(scene, jobs, arrays)


async def _furnish(scene: Scene, project: str, folder: Path) -> str:
    """Let a job of a project make a model that is deployed there; return the job's id."""
    name = f"m-{project}"
    job = await scene.submit("#sim duration=1", project=project, outputs={"model": {"name": name, "path": "m.onnx"}})
    await scene.until(job.id)
    platform = scene.platform
    await platform.outbox.tick()
    async with scene.db.transaction() as tx:
        (spec,) = parse("name: x\nrun: '#sim'\n")
        await platform.schedules.create(
            tx, name, spec, project_id=scene.projects[project], by=scene.users[Role.ADMIN], cron="0 3 * * *",
        )  # fmt: skip
    file = folder / f"{name}.onnx"
    file.write_bytes(name.encode())
    stored = await platform.world.objects.put_file(file)
    async with scene.db.transaction() as tx:
        (version,) = [one for one in await platform.registry.pending(tx) if one.model == name]
        version = await platform.registry.settle(tx, version, None, Taken(stored.digest, stored.bytes, {}))
        model = await platform.registry.model(tx, name, [scene.projects[project]])
        await platform.registry.set_alias(tx, model, "best", "latest", by="usr_x")
        await platform.deployments.deploy(tx, model, version, by="usr_x", file=file)
    return job.id


async def _array(scene: Scene, project: str) -> str:
    async with scene.db.transaction() as tx:
        (array,) = await scene.platform.jobs.submit_many(
            tx, parse("name: many\nrun: '#sim'\narray: 3\n"), project_ids=[scene.projects[project]], submitted_by="u"
        )
    return array.id


async def test_every_route_has_a_row_and_every_row_a_route(stage: Stage) -> None:
    assert {f"{one.method} {one.path}" for one in exposed(stage.scene.platform.app)} == set(ROUTES)


async def test_the_table_says_what_the_permissions_say(stage: Stage) -> None:
    for one in exposed(stage.scene.platform.app):
        row = ROUTES[f"{one.method} {one.path}"]
        if one.permission is None:
            assert (one.method, one.path) in PUBLIC
            assert row == "A" * len(ROLES), one
            continue
        told = "".join("A" if one.permission in PERMISSIONS[Role(role)] else "d" for role in ROLES[:-1]) + "x"
        assert row == told, one


async def test_every_route_to_a_tenants_object_says_from_whom_it_is_hidden(stage: Stage) -> None:
    for one in exposed(stage.scene.platform.app):
        route = f"{one.method} {one.path}"
        of_tenant = any(
            part in one.path
            for part in ("{project}", "{job_id}", "{array_id}", "{schedule}", "/models/{name}", "/deployments/{name}")
        )
        if not of_tenant or one.permission is None:
            continue
        hidden = [
            str(role)
            for role in Role
            if one.permission in PERMISSIONS[role] and one.permission in OWN_PROJECTS_ONLY[role] and role is Role.MEMBER
        ]
        assert HIDDEN_FROM.get(route, "").split() == hidden, route


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_answers_every_role_as_the_table_says(stage: Stage, role: str) -> None:
    """An allowed call may fail later (422, 409 of what does not fit); what counts is that the door let it in."""
    column = ROLES.index(role)
    last = ("DELETE /v1/deployments/{name}", "DELETE /v1/projects/{project}", "POST /v1/logout")
    async with stage.scene.client(None if role == "nobody" else Role(role)) as client:
        for route, row in sorted(ROUTES.items(), key=lambda item: last.index(item[0]) if item[0] in last else -1):
            answer = await stage.ask(client, route, "own", {"surely": "unknown"})
            expected = row[column]
            if expected == "x":
                assert answer.status_code == 401, (route, answer.text)
            elif expected == "d":
                assert answer.status_code == 403, (route, answer.text)
            else:
                assert answer.status_code not in (401, 403, 405, 500), (route, answer.text)


async def test_another_tenants_objects_are_hidden_like_what_is_not_there(stage: Stage) -> None:
    for route, roles in HIDDEN_FROM.items():
        for role in roles.split():
            async with stage.scene.client(Role(role)) as client:
                foreign, absent = [
                    await stage.ask(client, route, project, BODIES.get(route)) for project in ("other", "absent")
                ]
                assert foreign.status_code == absent.status_code == 404, (route, foreign.text, absent.text)
                told = [answer.json() for answer in (foreign, absent)]
                assert told[0]["detail"].replace("other", "") == told[1]["detail"].replace("absent", ""), route
                assert told[0]["code"] == told[1]["code"], route
                known = {"detail", "code", "instance", "request_id", "job", "array"}
                assert {k: v for k, v in told[0].items() if k not in known} == {
                    k: v for k, v in told[1].items() if k not in known
                }
    for route, roles in HIDDEN_FROM.items():  # afterwards, as some of them change something
        for role in roles.split():
            async with stage.scene.client(Role(role)) as client:
                own = await stage.ask(client, route, "own", BODIES.get(route))
                assert own.status_code not in (401, 403, 404, 422, 500), (route, own.text)


async def test_ids_do_not_lead_where_names_do_not(stage: Stage) -> None:
    scene = stage.scene
    async with scene.client(Role.MEMBER) as client, scene.client(Role.AUDITOR) as auditor:
        ids = [scene.projects["other"]]
        paths = ["/v1/projects/{}", "/v1/projects/{}/members"]
        for kind in ("models", "deployments"):
            listed = (await auditor.get(f"/v1/{kind}")).json()["items"]
            (foreign,) = [one["id"] for one in listed if one["name"] == "m-other"]
            ids.append(foreign)
            paths.append(f"/v1/{kind}/{{}}")
            assert (await auditor.get(f"/v1/{kind}/{foreign}")).status_code == 200
        for ident in ids:
            for path in paths:
                assert (await client.get(path.format(ident))).status_code == 404, (path, ident)
        for query in ("project=other", f"project={scene.projects['other']}"):
            for path in ("models", "deployments", "jobs", "queue", "bills", "charges", "allocations", "models/m-other"):
                assert (await client.get(f"/v1/{path}?{query}")).status_code == 404, (path, query)


async def test_listings_show_members_what_is_theirs_alone(stage: Stage) -> None:
    scene = stage.scene
    async with scene.client(Role.MEMBER) as member, scene.client(Role.AUDITOR) as auditor:
        paths = (
            "jobs?all=true",
            "models",
            "deployments",
            "projects",
            "quotas",
            "allocations",
            "queue",
            "charges",
            "bills",
        )
        for path in paths:
            assert scene.projects["other"] not in (await member.get(f"/v1/{path}")).text, path
            assert "m-other" not in (await member.get(f"/v1/{path}")).text, path
        for path in ("jobs?all=true", "models", "deployments", "projects", "quotas", "allocations"):
            assert scene.projects["other"] in (await auditor.get(f"/v1/{path}")).text, path
