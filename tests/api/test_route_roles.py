"""Walks every route of the application as every role, against the table in `route_roles`."""

from __future__ import annotations

import pytest

from dujiang.api.app import PUBLIC, exposed
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.tenancy.domain import PERMISSIONS, Role
from tests.api.route_roles import HIDDEN_FROM, ROLES, ROUTES
from tests.factories import Platform, a_platform


@pytest.fixture
async def platform(sqlite: Database, clock: ManualClock, ids: Ids) -> Platform:
    return await a_platform(sqlite, clock, ids)


def path_of(route: str, platform: Platform, project: str) -> tuple[str, str]:
    """Return method and path with names of things that are there, or of none where the call would destroy something."""
    method, path = route.split(" ")
    return method, path.replace("{project}", project).replace("{user}", "nobody").replace("{token}", "tok_none")


async def test_every_route_has_a_row_and_every_row_a_route(platform: Platform) -> None:
    assert {f"{one.method} {one.path}" for one in exposed(platform.app)} == set(ROUTES)


async def test_the_table_says_what_the_permissions_say(platform: Platform) -> None:
    for one in exposed(platform.app):
        row = ROUTES[f"{one.method} {one.path}"]
        if one.permission is None:
            assert (one.method, one.path) in PUBLIC
            assert row == "A" * len(ROLES), one
            continue
        told = "".join("A" if one.permission in PERMISSIONS[Role(role)] else "d" for role in ROLES[:-1]) + "x"
        assert row == told, one


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_answers_every_role_as_the_table_says(platform: Platform, role: str) -> None:
    """An allowed call may fail later (422, 404 of what is not there); what counts is that the door let it in."""
    column = ROLES.index(role)
    async with platform.client(None if role == "nobody" else Role(role)) as client:
        for route, row in sorted(ROUTES.items(), key=lambda item: item[0] == "POST /v1/logout"):  # it ends the token
            method, path = path_of(route, platform, "own")
            answer = await client.request(method, path, json=None if method == "GET" else {"surely": "unknown"})
            expected = row[column]
            if expected == "x":
                assert answer.status_code == 401, (route, answer.text)
            elif expected == "d":
                assert answer.status_code == 403, (route, answer.text)
            else:
                assert answer.status_code not in (401, 403, 405, 500), (route, answer.text)


async def test_another_tenants_objects_are_hidden_like_what_is_not_there(platform: Platform) -> None:
    for route, roles in HIDDEN_FROM.items():
        for role in roles.split():
            async with platform.client(Role(role)) as client:
                method, path = path_of(route, platform, "own")
                assert (await client.request(method, path)).status_code == 200, route
                foreign = await client.request(*path_of(route, platform, "other"))
                absent = await client.request(*path_of(route, platform, "absent"))
                by_id = await client.request(*path_of(route, platform, platform.projects["other"]))
                assert foreign.status_code == absent.status_code == by_id.status_code == 404, route
                told = [answer.json() for answer in (foreign, absent)]
                assert told[0]["detail"].replace("other", "") == told[1]["detail"].replace("absent", "")
                assert told[0]["code"] == told[1]["code"]
