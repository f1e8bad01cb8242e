"""Journeys through the routes of tenancy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.journal import journal
from dujiang.tenancy.domain import Role
from tests.factories import Platform, a_platform

PASSWORD = "a river divided fairly"


@pytest.fixture
async def platform(database: Database, clock: ManualClock, ids: Ids) -> Platform:
    return await a_platform(database, clock, ids)


async def everything(client: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    """Follow the cursors of a listing to its end."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        asked = {"limit": 2, **params, **({"cursor": cursor} if cursor else {})}
        answer = await client.get(path, params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert 0 < len(page["items"]) <= 2 or not cursor
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


async def test_from_an_invitation_to_a_password_of_ones_own(platform: Platform) -> None:
    async with platform.client() as admin:
        answer = await admin.post(
            "/v1/users", json={"name": "lee", "password": PASSWORD, "projects": ["own", platform.projects["other"]]}
        )
        assert answer.status_code == 201, answer.text
        assert PASSWORD not in answer.text
        assert answer.json()["has_password"] is True
    async with platform.client(None) as lee:
        signed_in = (await lee.post("/v1/login", json={"name": "lee", "password": PASSWORD})).json()
        lee.headers["Authorization"] = f"Bearer {signed_in['token']}"
        me = (await lee.get("/v1/me")).json()
        assert (me["user"]["name"], me["user"]["role"]) == ("lee", "member")
        assert [one["name"] for one in me["projects"]] == ["other", "own"]
        assert "job:submit" in me["permissions"]
        assert me["everywhere"] == []
        assert [one["name"] for one in await everything(lee, "/v1/projects")] == ["other", "own"]
        new = {"current": PASSWORD, "new": "another phrase of mine"}
        assert (await lee.put("/v1/me/password", json=new)).status_code == 204
        assert (await lee.get("/v1/me")).status_code == 401  # this sign-in ended too
        answer = await lee.post("/v1/login", json={"name": "lee", "password": new["new"]})
        lee.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        assert (await lee.post("/v1/logout")).status_code == 204
        assert (await lee.get("/v1/me")).status_code == 401


async def test_a_user_half_made_is_not_there(platform: Platform) -> None:
    async with platform.client() as admin:
        answer = await admin.post("/v1/users", json={"name": "lee", "projects": ["own", "absent"]})
        assert (answer.status_code, answer.json()["code"]) == (404, "no_such_project")
        assert (await admin.get("/v1/users/lee")).status_code == 404


async def test_failed_sign_ins_close_the_account_with_a_header_that_says_for_how_long(platform: Platform) -> None:
    async with platform.client(None) as client:
        for _ in range(5):
            answer = await client.post("/v1/login", json={"name": "the-admin", "password": "wrong"})
            assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_refused")
        answer = await client.post("/v1/login", json={"name": "the-admin", "password": "wrong"})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_attempts")
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.json()["retryable"] is True


async def test_tokens_are_made_listed_and_revoked(platform: Platform, clock: ManualClock) -> None:
    async with platform.client(Role.MEMBER) as member:
        made = (await member.post("/v1/tokens", json={"name": "ci", "expires_in_s": 60})).json()
        listed = await everything(member, "/v1/tokens")
        assert [one["name"] for one in listed] == ["ci", "test"]
        assert "token" not in listed[0]
        held = {"Authorization": f"Bearer {made['token']}"}
        assert (await member.get("/v1/me", headers=held)).status_code == 200
        clock.advance(60)
        assert (await member.get("/v1/me", headers=held)).json()["code"] == "token_refused"
        forever = (await member.post("/v1/tokens", json={"name": "robot", "expires_in_s": None})).json()
        assert forever["expires_at"] is None
        assert (await member.delete(f"/v1/tokens/{forever['id']}")).status_code == 204
        assert (await member.delete(f"/v1/tokens/{forever['id']}")).status_code == 404
        assert (await member.get("/v1/tokens?user=the-admin")).status_code == 403
    async with platform.client() as admin:
        assert [one["name"] for one in await everything(admin, "/v1/tokens", user="the-member")] == ["ci", "test"]


async def test_projects_are_made_changed_archived_and_their_members_kept(platform: Platform) -> None:
    async with platform.client(Role.MANAGER) as manager:
        project = (await manager.post("/v1/projects", json={"name": "vision", "description": "eyes"})).json()
        assert (await manager.post("/v1/projects", json={"name": "vision"})).json()["code"] == "name_taken"
        assert (await manager.post("/v1/projects", json={"name": "Vision"})).json()["code"] == "bad_name"
        for user in ("the-member", "the-operator", platform.users[Role.AUDITOR]):
            answer = await manager.post("/v1/projects/vision/members", json={"user": user})
            assert answer.status_code == 201, answer.text
        assert (await manager.post("/v1/projects/vision/members", json={"user": "nobody"})).status_code == 404
        members = await everything(manager, f"/v1/projects/{project['id']}/members")
        assert [one["name"] for one in members] == ["the-auditor", "the-member", "the-operator"]
        assert (await manager.delete("/v1/projects/vision/members/the-member")).status_code == 204
        assert (await manager.delete("/v1/projects/vision")).status_code == 204
        assert "vision" not in [one["name"] for one in await everything(manager, "/v1/projects")]
        assert "vision" in [one["name"] for one in await everything(manager, "/v1/projects", archived=True)]
        answer = await manager.post("/v1/projects/vision/members", json={"user": "the-member"})
        assert (answer.status_code, answer.json()["code"]) == (409, "project_archived")
        back = (await manager.patch("/v1/projects/vision", json={"archived": False, "description": "more"})).json()
        assert (back["archived_at"], back["description"]) == (None, "more")


async def test_users_are_listed_changed_and_closed(platform: Platform) -> None:
    async with platform.client() as admin:
        names = [one["name"] for one in await everything(admin, "/v1/users")]
        assert names == sorted(f"the-{role}" for role in Role)
        changed = (await admin.patch("/v1/users/the-member", json={"role": "operator", "password": PASSWORD})).json()
        assert (changed["role"], changed["has_password"]) == ("operator", True)
        answer = await admin.patch("/v1/users/the-admin", json={"role": "member"})
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
        assert (await admin.patch("/v1/users/the-member", json={"password": "short"})).json()["code"] == "weak_password"
        assert (await admin.delete("/v1/users/the-member")).status_code == 204
    async with platform.client(Role.MEMBER) as closed:
        assert (await closed.get("/v1/me")).status_code == 401


async def test_the_trail_is_filtered_and_paged_both_ways(platform: Platform, clock: ManualClock) -> None:
    noon = clock.now() + timedelta(hours=1)
    clock.advance(3600)
    async with platform.client(Role.MANAGER) as manager:
        for name in ("a", "b", "c"):
            await manager.post("/v1/projects", json={"name": name})
        await manager.post("/v1/projects/a/members", json={"user": "the-member"})
    async with platform.client(Role.AUDITOR) as auditor:
        newest = await everything(auditor, "/v1/audit")
        oldest = await everything(auditor, "/v1/audit", order="oldest")
        assert [one["seq"] for one in newest] == list(range(len(newest), 0, -1))
        assert newest == oldest[::-1]
        by_name = await everything(auditor, "/v1/audit", actor="the-manager")
        assert by_name == await everything(auditor, "/v1/audit", actor=f"user:{platform.users[Role.MANAGER]}")
        assert {one["actor_name"] for one in by_name} == {"the-manager"}
        assert [one["type"] for one in by_name] == ["MemberAdded", "ProjectCreated", "ProjectCreated", "ProjectCreated"]
        assert by_name[0]["cause"].endswith("POST /v1/projects/{project}/members")
        kinds = await everything(auditor, "/v1/audit", type=["MemberAdded", "UserCreated"])
        assert {one["type"] for one in kinds} == {"MemberAdded", "UserCreated"}
        assert len(await everything(auditor, "/v1/audit", project="a")) == 2
        assert len(await everything(auditor, "/v1/audit", subject=platform.projects["own"])) == 2
        assert len(await everything(auditor, "/v1/audit", since=noon.isoformat())) == 4
        before = await everything(auditor, "/v1/audit", until=noon.isoformat())
        assert len(before) == len(newest) - 4
        assert await everything(auditor, "/v1/audit", actor="nobody-at-all") == []


async def test_the_proof_finds_a_row_changed_behind_our_back(platform: Platform) -> None:
    async with platform.client(Role.AUDITOR) as auditor:
        proof = (await auditor.get("/v1/audit/verify")).json()
        assert (proof["holds"], proof["breaks"]) == (True, [])
        assert proof["records"] == proof["seq"] > 5
        noted = {"seq": proof["seq"], "hash": proof["hash"]}
        assert (await auditor.get("/v1/audit/verify", params=noted)).json()["holds"] is True
        assert (await auditor.post("/v1/audit/verify", json=noted)).json()["holds"] is True
        after = (await auditor.get("/v1/audit/verify")).json()
        assert after["records"] == proof["records"] + 1  # the POST left its own record
        wrong = {"seq": proof["seq"], "hash": "0" * 64}
        assert (await auditor.get("/v1/audit/verify", params=wrong)).json()["holds"] is False
        async with platform.database.transaction() as tx:
            await tx.execute(update(journal).where(journal.c.seq == 3).values(actor="user:nobody"))
        broken = (await auditor.get("/v1/audit/verify")).json()
    assert broken["holds"] is False
    assert [one["seq"] for one in broken["breaks"]] == [3]
